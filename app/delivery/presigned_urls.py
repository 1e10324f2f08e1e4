"""What a presigned URL's query says: who signed it, until when it holds, and which headers it fixes.

Sources: AWS Signature Version 2 and 4 (query authentication), Google Cloud Storage signed URLs (V2 and V4),
Azure service and account SAS.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum, auto
from types import MappingProxyType
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote

from app.domain.errors import RefusedUrl

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


_URL: Final = "upload_presigned_url"
_HEADERS: Final = "upload_headers"
_UNSIGNED: Final = "UNSIGNED-PAYLOAD"
_CONTENT_HASHES: Final = frozenset({"x-amz-content-sha256", "x-goog-content-sha256"})
_V2_KEYS: Final = frozenset({"awsaccesskeyid", "googleaccessid"})


class Scheme(Enum):
    """How a URL is signed. V2 signs the Content-Type whether there is one or not; V4 names what it signs."""

    NONE = auto()
    V2 = auto()
    V4_AMZ = auto()
    V4_GOOG = auto()
    AZURE = auto()


@dataclass(frozen=True, slots=True)
class Signature:
    """A URL's scheme and its query parameters, names in lower case."""

    scheme: Scheme
    parameters: Mapping[str, str]

    @property
    def signed_headers(self) -> frozenset[str]:
        """The headers, besides the host, that a V4 URL names as signed; lower case."""
        prefix = self.vendor_prefix
        names = self.parameters.get(f"{prefix}signedheaders", "") if prefix else ""
        return frozenset(name.strip().lower() for name in names.split(";") if name.strip()) - {"host"}

    @property
    def vendor_prefix(self) -> str:
        """What the names of a V4 scheme's own headers begin with; those are never sent unsigned."""
        return {Scheme.V4_AMZ: "x-amz-", Scheme.V4_GOOG: "x-goog-"}.get(self.scheme, "")


def read_signature(url: str) -> Signature:
    """The signature in a URL's query; names are compared without case, the first of two equal ones counts."""
    query = url.partition("#")[0].partition("?")[2]
    parameters: dict[str, str] = {}
    for pair in query.split("&"):
        name, _, value = pair.partition("=")
        parameters.setdefault(unquote(name).lower(), unquote(value))
    return Signature(_scheme(parameters.keys()), MappingProxyType(parameters))


def expires_at(url: str, *, param: str = _URL) -> float | None:
    """When the URL's signature ends, in Unix seconds; None if it does not say.

    Raises:
        RefusedUrl: it says so in a form that can't be read.
    """
    return expiry_in(read_signature(url).parameters, param=param)


def check_download_url(url: str, *, now: float, param: str = "s3_presigned_url") -> None:
    """Raise RefusedUrl if the URL has expired by ``now``, in Unix seconds."""
    check_not_expired(expires_at(url, param=param), now=now, param=param)


def check_upload_url(url: str, *, headers: Mapping[str, str], now: float) -> None:
    """Raise RefusedUrl if a PUT of a body that is not known yet to ``url``, with ``headers``, can't succeed.

    ``headers`` are the user's ``upload_headers``; ``now`` is in Unix seconds.
    """
    signature = read_signature(url)
    check_header_syntax(headers, param=_HEADERS)
    given = {name.lower(): value for name, value in headers.items()}
    _check_checksum_in_query(signature)
    _check_content_signed(signature, given)
    _check_all_given(signature, given)
    _check_type_agrees(signature, given)
    check_not_expired(expiry_in(signature.parameters, param=_URL), now=now, param=_URL)


def put_headers(url: str, *, headers: Mapping[str, str], media_type: str) -> dict[str, str]:
    """The headers to send with the PUT: the user's, and those that the kind of URL asks for.

    A type that the user names, or that is signed into the URL, goes before ``media_type``. Without one, a V2
    signature covers an empty type, so that none may be sent.
    """
    signature = read_signature(url)
    wanted = {}
    signed_type = _type_in_query(signature)
    if signed_type is not None:
        wanted["Content-Type"] = signed_type
    elif signature.scheme is not Scheme.V2:
        wanted["Content-Type"] = media_type
    if signature.scheme is Scheme.AZURE:
        wanted["x-ms-blob-type"] = "BlockBlob"
    given = {name.lower() for name in headers}
    return {**{name: value for name, value in wanted.items() if name.lower() not in given}, **headers}


def _scheme(names: Iterable[str]) -> Scheme:
    present = frozenset(names)
    if present & {"x-amz-signature", "x-amz-signedheaders"}:
        return Scheme.V4_AMZ
    if present & {"x-goog-signature", "x-goog-signedheaders"}:
        return Scheme.V4_GOOG
    if "signature" in present and present & _V2_KEYS:
        return Scheme.V2
    if {"sig", "sv"} <= present and present & {"sr", "srt"}:
        return Scheme.AZURE
    return Scheme.NONE


def _type_in_query(signature: Signature) -> str | None:
    return signature.parameters.get("content-type") if signature.scheme is Scheme.V2 else None


def _check_checksum_in_query(signature: Signature) -> None:
    checksums = sorted(name for name in signature.parameters if name.startswith("x-amz-checksum-"))
    if checksums:
        raise RefusedUrl(
            f"{_URL} has a checksum of an empty body signed into it ({', '.join(checksums)}), so no"
            " transcript can be stored there: sign it again with requestChecksumCalculation:"
            ' "WHEN_REQUIRED" in the options of the S3 client.',
            param=_URL,
        )
    if signature.scheme is Scheme.V2 and "content-md5" in signature.parameters:
        raise _content_refusal(["content-md5"], param=_URL)
    for name in sorted(_CONTENT_HASHES & signature.parameters.keys()):
        if signature.parameters[name].upper() != _UNSIGNED:
            raise _content_refusal([name], param=_URL)


def _check_content_signed(signature: Signature, given: Mapping[str, str]) -> None:
    signed = sorted(name for name in signature.signed_headers if _describes_content(name))
    if signed:
        raise _content_refusal(signed, param=_URL)
    sent = sorted(name for name in given if _describes_content(name))
    if sent:
        raise _content_refusal(sent, param=_HEADERS)
    for name in sorted(_CONTENT_HASHES & given.keys()):
        if given[name] != _UNSIGNED:
            raise _content_refusal([name], param=_HEADERS)


def _describes_content(name: str) -> bool:
    return name in {"content-length", "content-md5", "x-amz-sdk-checksum-algorithm"} or name.startswith(
        "x-amz-checksum-"
    )


def _content_refusal(names: Iterable[str], *, param: str) -> RefusedUrl:
    listed = ", ".join(names)
    return RefusedUrl(
        f"{param} fixes {listed}, but the transcript is not known yet: sign the URL without it"
        f" (a content hash may be {_UNSIGNED}).",
        param=param,
    )


def _check_all_given(signature: Signature, given: Mapping[str, str]) -> None:
    missing = sorted(signature.signed_headers - {"content-type"} - given.keys())
    if missing:
        raise RefusedUrl(
            f"{_URL} was signed together with the headers {', '.join(missing)}: give them, with the values"
            f" that were signed, in {_HEADERS} (a JSON object), or sign the URL without them.",
            param=_HEADERS,
        )
    prefix = signature.vendor_prefix
    unsigned = sorted(
        name for name in given.keys() - signature.signed_headers - _CONTENT_HASHES if prefix and name.startswith(prefix)
    )
    if unsigned:
        raise RefusedUrl(
            f"{_HEADERS} has {', '.join(unsigned)}, which {_URL} was not signed with, so the store would"
            " refuse the upload: sign the URL with these headers, or leave them out.",
            param=_HEADERS,
        )


def _check_type_agrees(signature: Signature, given: Mapping[str, str]) -> None:
    signed = _type_in_query(signature)
    if signed is not None:
        check_header_syntax({"Content-Type": signed}, param=_URL)
    if signed is not None and given.get("content-type", signed) != signed:
        raise RefusedUrl(
            f"{_HEADERS} has another Content-Type than {_URL} was signed with: leave it out, or sign the URL"
            " with this one.",
            param=_HEADERS,
        )


_BASIC_DATE: Final = re.compile(r"[0-9]{8}T[0-9]{6}Z")
_SECONDS: Final = re.compile(r"[0-9]{1,12}")
_SIGNERS: Final = frozenset({"awsaccesskeyid", "googleaccessid", "key-pair-id"})


def expiry_in(parameters: Mapping[str, str], *, param: str) -> float | None:
    """The end in Unix seconds; None if there is none.

    Raises:
        RefusedUrl: a date or number of a signed URL can't be read.
    """
    for prefix in ("X-Amz-", "X-Goog-"):
        if parameters.keys() & {f"{prefix}Date".lower(), f"{prefix}Expires".lower()}:
            return _v4_expiry(parameters, prefix, param=param)
    if "expires" in parameters:
        return _v2_expiry(parameters, param=param)
    if "se" in parameters and "sig" in parameters:
        return _azure_expiry(parameters["se"], param=param)
    return None


def check_not_expired(end: float | None, *, now: float, param: str) -> None:
    """Raise RefusedUrl if ``end`` is not after ``now``, both in Unix seconds."""
    if end is not None and end <= now:
        raise RefusedUrl(
            f"{param} expired at {_readable(max(end, 0.0))}: sign a new one that holds long enough.",
            param=param,
        )


def _v4_expiry(parameters: Mapping[str, str], prefix: str, *, param: str) -> float:
    date = parameters.get(f"{prefix}Date".lower(), "")
    lifetime = parameters.get(f"{prefix}Expires".lower(), "")
    start = _basic_date(date)
    if start is None:
        raise _unreadable(f"{prefix}Date", "a date like 20260131T235959Z", param=param)
    if not _SECONDS.fullmatch(lifetime):
        raise _unreadable(f"{prefix}Expires", "a number of seconds", param=param)
    return start + float(lifetime)


def _v2_expiry(parameters: Mapping[str, str], *, param: str) -> float | None:
    value = parameters["expires"]
    if "signature" in parameters and parameters.keys() & _SIGNERS:
        if not _SECONDS.fullmatch(value):
            raise _unreadable("Expires", "a number of Unix seconds", param=param)
        return float(value)
    # In a scheme that is not known here it may be a duration: only what must be a date is taken for one.
    return float(value) if re.fullmatch(r"[0-9]{10}", value) else None


def _azure_expiry(value: str, *, param: str) -> float:
    try:
        date = datetime.fromisoformat(value)
        return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        raise _unreadable("se", "a date like 2026-01-31T23:59:59Z", param=param) from None


def _basic_date(text: str) -> float | None:
    if not _BASIC_DATE.fullmatch(text):
        return None
    try:
        return datetime.strptime(text, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC).timestamp()
    except ValueError:
        return None


def _unreadable(name: str, form: str, *, param: str) -> RefusedUrl:
    return RefusedUrl(
        f"{param} has no readable {name}: it must be {form}. Pass the URL on as it was signed, all of it.",
        param=param,
    )


def _readable(end: float) -> str:
    return datetime.fromtimestamp(end, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


#: RFC 9110, section 5.6.2.
_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,256}")
_VALUE: Final = re.compile(r"([\x21-\x7e]([\x20-\x7e\t]*[\x21-\x7e])?)?")

#: They belong to the connection, or are made from the body and the URL.
_OURS: Final = frozenset(
    {
        "connection",
        "content-length",
        "cookie",
        "expect",
        "host",
        "http2-settings",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)


def check_header_syntax(headers: Mapping[str, str], *, param: str) -> None:
    """Raise RefusedUrl, naming ``param``, for a header that can't be sent; no value is quoted."""
    seen: set[str] = set()
    for name, value in headers.items():
        problem = _problem(name, value, seen)
        if problem is not None:
            raise RefusedUrl(f"{param} {problem}", param=param)
        seen.add(name.lower())


def _problem(name: str, value: str, seen: set[str]) -> str | None:
    if not _NAME.fullmatch(name):
        return "has a name that is not an HTTP header's: use letters, digits and hyphens."
    if not _VALUE.fullmatch(value):
        return (
            f"has a value for {name} that can't be sent: use printable ASCII characters, in one line, without"
            " space around them."
        )
    if name.lower() in _OURS:
        return f"has {name}, which this service sets itself: leave it out, and sign the URL without it."
    if name.lower() in seen:
        return f"has {name} twice: give it once."
    return None
