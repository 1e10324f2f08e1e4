"""Which headers a user may have sent along with an upload."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from app.domain.errors import RefusedUrl

if TYPE_CHECKING:
    from collections.abc import Mapping

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
