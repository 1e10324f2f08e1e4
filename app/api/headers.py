"""Headers of requests that are numbers."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from starlette.datastructures import Headers

#: So many digits always fit into 64 bits.
_NUMBER: Final = re.compile(r"[0-9]{1,18}")


def content_length(headers: Headers) -> int | None:
    """The length of the body in bytes, where it was announced."""
    return read_number(headers.get("content-length"))


def read_number(text: str | None) -> int | None:
    """A header that is a number; None where it is another thing, or there is none."""
    return int(text) if text is not None and _NUMBER.fullmatch(text) else None
