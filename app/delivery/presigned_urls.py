"""Presigned URLs: who signed them, when they expire, and which headers they require.

Sources: AWS Signature Version 2 and 4 (query authentication), Google Cloud Storage signed URLs (V2 and V4),
Azure service and account SAS.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum, auto
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Self
from urllib.parse import unquote, urlsplit

from app.domain.errors import RefusedUrl

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

#: Azure's clocks and this one may differ by this much.
_CLOCK_SKEW_SECONDS: Final = 300
#: The end of the year 9999, after which there are no dates: a time zone can put a date of that year behind it.
_LAST_SECOND: Final = 253_402_300_799
#: Stores that nobody can write to without a signature.
_KNOWN_STORES: Final = re.compile(
    r"(.*\.)?(amazonaws\.com|amazonaws\.com\.cn|storage\.googleapis\.com|(storage|console)\.cloud\.google\.com"
    r"|blob\.core\.windows\.net|r2\.cloudflarestorage\.com|backblazeb2\.com|digitaloceanspaces\.com|wasabisys\.com)"
)
_URL_FIELD: Final = "upload_presigned_url"
_HEADERS_FIELD: Final = "upload_headers"
_UNSIGNED_PAYLOAD: Final = "UNSIGNED-PAYLOAD"
_CONTENT_HASHES: Final = frozenset({"x-amz-content-sha256", "x-goog-content-sha256"})
_CONTENT_HEADERS: Final = frozenset({"content-length", "content-md5", "x-amz-sdk-checksum-algorithm"})
_V2_KEYS: Final = frozenset({"awsaccesskeyid", "googleaccessid"})
_SIGNERS: Final = frozenset({*_V2_KEYS, "key-pair-id"})

_BASIC_DATE: Final = re.compile(r"[0-9]{8}T[0-9]{6}Z")
_SECONDS: Final = re.compile(r"[0-9]{1,12}")
_UNIX_TIME: Final = re.compile(r"[0-9]{10}")

#: RFC 9110, sections 5.6.2 and 5.5.
_HEADER_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,256}")
_HEADER_VALUE: Final = re.compile(r"([\x21-\x7e]([\x20-\x7e\t]*[\x21-\x7e])?)?")
#: Headers that belong to the connection, or that follow from the body and the URL.
_RESERVED_HEADERS: Final = frozenset(
    {
        *("connection", "content-length", "cookie", "expect", "host", "http2-settings", "keep-alive"),
        *("proxy-authenticate", "proxy-authorization", "proxy-connection", "te", "trailer", "transfer-encoding"),
        "upgrade",
    }
)


class Signature(Enum):
    """A kind of signature. V2 always signs the Content-Type, even an empty one; V4 lists the headers it signs."""

    NONE = auto()
    V2 = auto()
    V4_AWS = auto()
    V4_GOOGLE = auto()
    AZURE = auto()

    @property
    def vendor_prefix(self) -> str:
        """The prefix of a V4 vendor's own headers, which stores refuse if they are not signed. Empty for others."""
        return {Signature.V4_AWS: "x-amz-", Signature.V4_GOOGLE: "x-goog-"}.get(self, "")


@dataclass(frozen=True, slots=True)
class PresignedUrl:
    """A presigned URL, parsed once. Its text and query parameters are secrets and excluded from ``repr``.

    ``param`` is the form field that the URL came from, which error messages name. ``parameters`` are those of the
    query, with names in lower case; the first of several equal names counts.
    """

    url: str = field(repr=False)
    param: str
    signature: Signature
    parameters: Mapping[str, str] = field(repr=False)

    @classmethod
    def parse(cls, url: str, *, param: str = _URL_FIELD) -> Self:
        """Parse ``url``, which can be any text."""
        query = url.partition("#")[0].partition("?")[2]
        parameters: dict[str, str] = {}
        for pair in query.split("&"):
            name, _, value = pair.partition("=")
            parameters.setdefault(unquote(name).lower(), unquote(value))
        return cls(url, param=param, signature=_signature(parameters.keys()), parameters=MappingProxyType(parameters))

    @property
    def signed_headers(self) -> frozenset[str]:
        """The headers, except the host, that a V4 URL names as signed; in lower case."""
        prefix = self.signature.vendor_prefix
        names = self.parameters.get(f"{prefix}signedheaders", "") if prefix else ""
        return frozenset(name.strip().lower() for name in names.split(";") if name.strip()) - {"host"}

    @property
    def content_type(self) -> str | None:
        """The Content-Type in the query of a V2 URL, or None."""
        return self.parameters.get("content-type") if self.signature is Signature.V2 else None

    def expiry(self) -> float | None:
        """Return the time at which the URL expires, in Unix seconds, or None if the URL does not contain it.

        Raises:
            RefusedUrl: the date or the number of seconds in a signed URL can't be read.
        """
        for prefix in ("X-Amz-", "X-Goog-"):
            if self.parameters.keys() & {f"{prefix}Date".lower(), f"{prefix}Expires".lower()}:
                return _v4_expiry(self.parameters, prefix, param=self.param)
        if "expires" in self.parameters:
            return _v2_expiry(self.parameters, param=self.param)
        if "se" in self.parameters and "sig" in self.parameters:
            return _azure_date(self.parameters["se"], "se", param=self.param)
        return None

    def check_not_expired(self, *, now: float) -> None:
        """Raise RefusedUrl if the URL has expired at ``now``, in Unix seconds, or if its expiry can't be read."""
        check_not_expired(self.expiry(), now=now, param=self.param)

    def check_upload(self, headers: Mapping[str, str], *, now: float) -> None:
        """Raise RefusedUrl if a body that is not known yet can't be PUT to this URL with ``headers``.

        ``headers`` are the client's ``upload_headers``; ``now`` is in Unix seconds.
        """
        _check_header_syntax(headers, param=_HEADERS_FIELD)
        sent = {name.lower(): value for name, value in headers.items()}
        self._check_checksums()
        self._check_content_headers(sent)
        self._check_signed_headers(sent)
        self._check_content_type(sent)
        self.check_not_expired(now=now)
        if self.signature is Signature.AZURE:
            self._check_azure(now)

    def upload_warning(self) -> str | None:
        """Return a warning if the URL names a store that takes no uploads without a signature, and has none."""
        host = urlsplit(self.url).hostname or ""
        if self.signature is not Signature.NONE or not _KNOWN_STORES.fullmatch(host):
            return None
        return (
            f"`{self.param}` has no signature, so {host} will probably refuse the upload: presign a PUT of the object, "
            "not a POST, and send the whole URL."
        )

    def put_headers(self, headers: Mapping[str, str], *, media_type: str) -> dict[str, str]:
        """Return the headers to send with the PUT: the client's ``headers``, and those that the URL requires.

        The Content-Type is the client's, or else the one signed into the URL, or else ``media_type``. A V2 URL without
        a type was signed for an empty one, so none is sent.
        """
        required = {}
        if self.content_type is not None:
            required["Content-Type"] = self.content_type
        elif self.signature is not Signature.V2:
            required["Content-Type"] = media_type
        if self.signature is Signature.AZURE:
            required["x-ms-blob-type"] = "BlockBlob"
        sent = {name.lower() for name in headers}
        return {**{name: value for name, value in required.items() if name.lower() not in sent}, **headers}

    def _check_azure(self, now: float) -> None:
        """Raise RefusedUrl if a SAS does not allow a blob to be written now."""
        permissions = self.parameters.get("sp")
        if permissions is not None and not {"c", "w"} & set(permissions):
            raise RefusedUrl(
                f"{self.param} allows no upload, because its permissions are sp={permissions[:20]}: create a SAS with "
                "sp=cw.",
                param=self.param,
            )
        start = _azure_date(self.parameters["st"], "st", param=self.param) if "st" in self.parameters else now
        if start > now + _CLOCK_SKEW_SECONDS:
            raise RefusedUrl(
                f"{self.param} is valid only from {_readable(start)} on: create a SAS without a start time, or with "
                "one in the past.",
                param=self.param,
            )
        names = [name for name in urlsplit(self.url).path.split("/") if name]
        if self.parameters.get("sr") != "b" and len(names) < len(("container", "blob")):
            raise RefusedUrl(
                f"{self.param} names a container and no blob in it: add /NAME to the path, before the question mark.",
                param=self.param,
            )

    def _check_checksums(self) -> None:
        checksums = sorted(name for name in self.parameters if name.startswith("x-amz-checksum-"))
        if checksums:
            raise RefusedUrl(
                f"{_URL_FIELD} was signed with the checksum of an empty body ({', '.join(checksums)}), so the store"
                " would refuse the transcript: sign it again with requestChecksumCalculation:"
                ' "WHEN_REQUIRED" in the options of the S3 client.',
                param=_URL_FIELD,
            )
        if self.signature is Signature.V2 and "content-md5" in self.parameters:
            raise _content_signed(["content-md5"], param=_URL_FIELD)
        for name in sorted(_CONTENT_HASHES & self.parameters.keys()):
            if self.parameters[name].upper() != _UNSIGNED_PAYLOAD:
                raise _content_signed([name], param=_URL_FIELD)

    def _check_content_headers(self, sent: Mapping[str, str]) -> None:
        for names, param in ((self.signed_headers, _URL_FIELD), (sent.keys(), _HEADERS_FIELD)):
            content_headers = sorted(filter(_describes_content, names))
            if content_headers:
                raise _content_signed(content_headers, param=param)
        for name in sorted(_CONTENT_HASHES & sent.keys()):
            if sent[name] != _UNSIGNED_PAYLOAD:
                raise _content_signed([name], param=_HEADERS_FIELD)

    def _check_signed_headers(self, sent: Mapping[str, str]) -> None:
        missing = sorted(self.signed_headers - {"content-type"} - sent.keys())
        if missing:
            raise RefusedUrl(
                f"{_URL_FIELD} was signed with the headers {', '.join(missing)}: send them in {_HEADERS_FIELD} (a JSON"
                " object) with the values that were signed, or sign the URL without them.",
                param=_HEADERS_FIELD,
            )
        prefix = self.signature.vendor_prefix
        unsigned = sorted(
            name for name in sent.keys() - self.signed_headers - _CONTENT_HASHES if prefix and name.startswith(prefix)
        )
        if unsigned:
            raise RefusedUrl(
                f"{_HEADERS_FIELD} has {', '.join(unsigned)}, which {_URL_FIELD} was not signed with, so the store"
                " would refuse the upload: sign the URL with these headers, or leave them out.",
                param=_HEADERS_FIELD,
            )

    def _check_content_type(self, sent: Mapping[str, str]) -> None:
        if self.content_type is None:
            return
        _check_header_syntax({"Content-Type": self.content_type}, param=_URL_FIELD)
        if sent.get("content-type", self.content_type) != self.content_type:
            raise RefusedUrl(
                f"{_HEADERS_FIELD} has a different Content-Type than {_URL_FIELD} was signed with: leave it out, or"
                " sign the URL with this one.",
                param=_HEADERS_FIELD,
            )


def check_not_expired(expires_at: float | None, *, now: float, param: str) -> None:
    """Raise RefusedUrl, which names the form field ``param``, if ``expires_at`` is not after ``now`` (Unix seconds)."""
    if expires_at is not None and expires_at <= now:
        raise RefusedUrl(
            f"{param} expired at {_readable(expires_at)}: sign a new URL that is valid for longer.", param=param
        )


def _readable(unix_seconds: float) -> str:
    date = datetime.fromtimestamp(min(max(unix_seconds, 0.0), _LAST_SECOND), UTC)
    return date.strftime("%Y-%m-%d %H:%M:%S UTC")


def _signature(names: Iterable[str]) -> Signature:
    present = frozenset(names)
    if present & {"x-amz-signature", "x-amz-signedheaders"}:
        return Signature.V4_AWS
    if present & {"x-goog-signature", "x-goog-signedheaders"}:
        return Signature.V4_GOOGLE
    if "signature" in present and present & _V2_KEYS:
        return Signature.V2
    if {"sig", "sv"} <= present and present & {"sr", "srt"}:
        return Signature.AZURE
    return Signature.NONE


def _describes_content(header: str) -> bool:
    return header in _CONTENT_HEADERS or header.startswith("x-amz-checksum-")


def _content_signed(headers: Iterable[str], *, param: str) -> RefusedUrl:
    return RefusedUrl(
        f"{param} fixes {', '.join(headers)}, but the transcript is not known yet: sign the URL without it (a content"
        f" hash can be {_UNSIGNED_PAYLOAD}).",
        param=param,
    )


def _v4_expiry(parameters: Mapping[str, str], prefix: str, *, param: str) -> float:
    start = _basic_date(parameters.get(f"{prefix}Date".lower(), ""))
    lifetime = parameters.get(f"{prefix}Expires".lower(), "")
    if start is None:
        raise _unreadable(f"{prefix}Date", "a date such as 20260131T235959Z", param=param)
    if not _SECONDS.fullmatch(lifetime):
        raise _unreadable(f"{prefix}Expires", "a number of seconds", param=param)
    return start + float(lifetime)


def _v2_expiry(parameters: Mapping[str, str], *, param: str) -> float | None:
    value = parameters["expires"]
    if "signature" in parameters and parameters.keys() & _SIGNERS:
        if not _SECONDS.fullmatch(value):
            raise _unreadable("Expires", "a number of Unix seconds", param=param)
        return float(value)
    # In an unknown scheme the value can be a duration, so only what must be a Unix time is read as one.
    return float(value) if _UNIX_TIME.fullmatch(value) else None


def _azure_date(value: str, name: str, *, param: str) -> float:
    try:
        date = datetime.fromisoformat(value)
        return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        raise _unreadable(name, "a date such as 2026-01-31T23:59:59Z", param=param) from None


def _basic_date(text: str) -> float | None:
    if not _BASIC_DATE.fullmatch(text):
        return None
    try:
        return datetime.strptime(text, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC).timestamp()
    except ValueError:
        return None


def _unreadable(name: str, form: str, *, param: str) -> RefusedUrl:
    return RefusedUrl(
        f"{param} has no readable {name}, which must be {form}: send the whole URL exactly as it was signed.",
        param=param,
    )


def _check_header_syntax(headers: Mapping[str, str], *, param: str) -> None:
    """Raise RefusedUrl, which names ``param``, for a header that can't be sent. No value is quoted."""
    seen: set[str] = set()
    for name, value in headers.items():
        problem = _header_problem(name, value, seen)
        if problem is not None:
            raise RefusedUrl(f"{param} {problem}", param=param)
        seen.add(name.lower())


def _header_problem(name: str, value: str, seen: set[str]) -> str | None:
    if not _HEADER_NAME.fullmatch(name):
        return "has a name that is not valid for an HTTP header: use letters, digits and hyphens."
    if not _HEADER_VALUE.fullmatch(value):
        return (
            f"has a value for {name} that can't be sent: use printable ASCII characters on one line, without leading or"
            " trailing spaces."
        )
    if name.lower() in _RESERVED_HEADERS:
        return f"has {name}, which this service sets itself: leave it out, and sign the URL without it."
    if name.lower() in seen:
        return f"has {name} twice: send it once."
    return None
