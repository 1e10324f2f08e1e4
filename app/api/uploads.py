"""The uploads that a request asks for: the URLs, each with its format and its headers."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, TypeVar

from app.api.forms import SIGNED_HEADERS, UPLOAD_FORMAT, UPLOAD_HEADERS, UPLOAD_URL
from app.api.renderings import default_upload_format, upload_formats
from app.api.requests import parse_json_object
from app.delivery.presigned_urls import PresignedUrl
from app.domain.errors import InvalidRequest, RefusedUrl
from app.domain.job import Upload

if TYPE_CHECKING:
    from collections.abc import Sequence

    from app.api.fields import Field, Form
    from app.delivery.url_rules import UrlRules
    from app.domain.formats import Rendering, ResponseFormat
    from app.domain.job import Job

T = TypeVar("T")


class UploadReader:
    """Reads uploads and checks their URLs by the rules of this server."""

    def __init__(self, rules: UrlRules) -> None:
        self._rules = rules

    def requested(self, form: Form, rendering: Rendering, *, has_speakers: bool) -> tuple[Upload, ...]:
        """Return the uploads of a form whose response has this rendering. Without ``has_speakers`` none has speakers.

        Raises:
            InvalidRequest: a field is not allowed; ``param`` names it.
        """
        urls = form[UPLOAD_URL]
        headers = form[UPLOAD_HEADERS]
        formats = upload_formats(form, rendering, has_speakers=has_speakers)
        if urls:
            return self._checked_uploads(urls, formats, headers)
        fields: tuple[Field[Any], ...] = (UPLOAD_HEADERS, UPLOAD_FORMAT)
        for field in fields:
            if form.has(field):
                raise _needs_upload_url(field.name)
        return ()

    def fresh(self, body: bytes, job: Job) -> tuple[Upload, ...]:
        """Return the uploads that the JSON body of a redelivery describes, none if it has no URL.

        Raises:
            InvalidRequest: a member is not allowed; ``param`` names it.
        """
        if not body.strip():
            return ()
        value = parse_json_object(body, example=f'{{"{UPLOAD_URL.name}": "https://…"}}, or empty')
        url, headers = value.get(UPLOAD_URL.name), value.get(UPLOAD_HEADERS.name, {})
        if url is None and not headers:
            return ()
        if url is None:
            raise _needs_upload_url(UPLOAD_HEADERS.name)
        urls, signed = (item if isinstance(item, list) else [item] for item in (url, headers))
        if not all(isinstance(item, str) for item in urls):
            raise InvalidRequest(
                f"`{UPLOAD_URL.name}` must be a string, or an array of strings.", param=UPLOAD_URL.name
            )
        formats = [upload.format for upload in job.uploads] or [default_upload_format(job.rendering)]
        if len(urls) != len(formats):
            raise InvalidRequest(
                f"`{UPLOAD_URL.name}` must have a URL for each upload of the job, {len(formats)} in all "
                f"({', '.join(formats)}), got {len(urls)}.",
                param=UPLOAD_URL.name,
            )
        return self._checked_uploads(urls, formats, [SIGNED_HEADERS.check(item) for item in signed])

    def _checked_uploads(
        self, urls: list[str], formats: list[ResponseFormat], headers: list[dict[str, str]]
    ) -> tuple[Upload, ...]:
        formats = _for_each(urls, formats, UPLOAD_FORMAT.name)
        headers = _for_each(urls, headers, UPLOAD_HEADERS.name) if headers else [{} for _ in urls]
        uploads = []
        for number, (url, chosen, signed) in enumerate(zip(urls, formats, headers, strict=True), start=1):
            try:
                uploads.append(self._checked_upload(url, chosen, signed))
            except RefusedUrl as exc:
                if len(urls) == 1:
                    raise
                raise RefusedUrl(f"{exc} This is URL {number} of {len(urls)}.", param=exc.param) from exc
        if len({upload.url for upload in uploads}) < len(uploads):
            raise InvalidRequest(
                f"`{UPLOAD_URL.name}` has the same URL twice, where one result would replace the other: send a "
                "different URL for each format.",
                param=UPLOAD_URL.name,
            )
        return tuple(uploads)

    def _checked_upload(self, text: str, chosen: ResponseFormat, headers: dict[str, str]) -> Upload:
        url = PresignedUrl.parse(self._rules.check(text, param=UPLOAD_URL.name), param=UPLOAD_URL.name)
        url.check_upload(headers, now=time.time())
        return Upload(url=url.url, headers=tuple(headers.items()), format=chosen, expires_at=url.expiry())


def upload_warnings(uploads: Sequence[Upload]) -> list[str]:
    """Return a warning for each store that will probably refuse an upload."""
    warnings = (PresignedUrl.parse(upload.url, param=UPLOAD_URL.name).upload_warning() for upload in uploads)
    return list(dict.fromkeys(warning for warning in warnings if warning is not None))


def _needs_upload_url(name: str) -> InvalidRequest:
    return InvalidRequest(f"`{name}` requires `{UPLOAD_URL.name}`: send both or neither.", param=name)


def _for_each(urls: Sequence[str], values: list[T], name: str) -> list[T]:
    """Return the value of each URL: the only one there is, or that of the same place.

    A value can be repeated for a single URL, as with any field.

    Raises:
        InvalidRequest: there are more or fewer values than URLs.
    """
    if len(values) == len(urls):
        return values
    if len(values) > 1 and (len(urls) > 1 or any(value != values[0] for value in values)):
        raise InvalidRequest(
            f"`{name}` must be sent once for all uploads, or once for each `{UPLOAD_URL.name}`, got {len(values)} for "
            f"{len(urls)} of these.",
            param=name,
        )
    return values[:1] * len(urls)
