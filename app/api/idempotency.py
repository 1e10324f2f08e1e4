"""When two requests are the same: for clients that send one again, by its ``Idempotency-Key`` or after a time-out."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Final

from app.api.headers import read_number
from app.domain.errors import InvalidRequest

if TYPE_CHECKING:
    from starlette.datastructures import Headers

    from app.api.multipart import ReceivedForm
    from app.domain.transcript import Task

_MAX_KEY_LENGTH: Final = 255
#: Clients sign these anew for each try, which changes their queries.
_URLS: Final = frozenset({"s3_presigned_url", "url", "audio_url", "upload_presigned_url", "webhook_url"})


def form_digest(form: ReceivedForm, task: Task, *, with_queries: bool = False) -> str:
    """The same for two forms with the same fields, in any order, and the same bytes in their files.

    URLs are compared without their queries, which another signature changes, unless ``with_queries``.
    """
    fields: dict[str, list[str]] = {}
    for name, values in form.fields.items():
        is_cut = name in _URLS and not with_queries
        fields.setdefault(name.removesuffix("[]"), []).extend(
            value.partition("?")[0] if is_cut else value for value in values
        )
    written = json.dumps([task.value, form.file_digest, fields], sort_keys=True)
    return hashlib.blake2b(written.encode(), digest_size=32).hexdigest()


def idempotency_key(headers: Headers) -> str | None:
    """The client's name for the request.

    Raises:
        InvalidRequest: it is empty or too long.
    """
    key = headers.get("idempotency-key")
    if key is not None and not 1 <= len(key) <= _MAX_KEY_LENGTH:
        raise InvalidRequest(
            f"Idempotency-Key has {len(key)} characters: 1 to {_MAX_KEY_LENGTH} are allowed; a UUID will do.",
            code="invalid_idempotency_key",
        )
    return key


def is_resent(headers: Headers) -> bool:
    """Whether OpenAI's SDK says that it has sent the same before."""
    return bool(read_number(headers.get("x-stainless-retry-count")))
