"""Origins of web pages: scheme, host and port, as browsers send them in the header ``Origin`` (RFC 6454)."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Self
from urllib.parse import urlsplit

from app.domain.access import comparable_host, is_name_or_address

ANY: Final = "*"
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}
_ORIGIN: Final = re.compile(r"[a-z][a-z0-9+.-]*://[^/?#@\\\s]+", re.IGNORECASE)


def normalized_origin(text: str) -> str | None:
    """Return an origin in lower case and without the default port of its scheme, or None if it is none."""
    if not _ORIGIN.fullmatch(text) or not text.isascii():
        return None
    with suppress(ValueError):
        parts = urlsplit(text)
        host, port = comparable_host(parts.hostname or ""), parts.port
        if is_name_or_address(host):
            shown_port = "" if port in (None, _DEFAULT_PORTS.get(parts.scheme)) else f":{port}"
            return f"{parts.scheme}://{f'[{host}]' if ':' in host else host}{shown_port}"
    return None


@dataclass(frozen=True, slots=True)
class AllowedOrigins:
    """The origins whose pages can use the API. ``*`` stands for all of them."""

    origins: frozenset[str] = frozenset()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse origins separated by commas, or ``*``.

        Raises:
            ValueError: an entry is not an origin. The message quotes it.
        """
        return cls(frozenset(_parse(entry.strip()) for entry in text.split(",") if entry.strip()))

    def __bool__(self) -> bool:
        return bool(self.origins)

    @property
    def has_any(self) -> bool:
        """True if the pages of all origins are allowed."""
        return ANY in self.origins

    def covers(self, origin: str) -> bool:
        """Return whether pages of ``origin`` are allowed."""
        return self.has_any or normalized_origin(origin) in self.origins


def _parse(entry: str) -> str:
    origin = ANY if entry == ANY else normalized_origin(entry.removesuffix("/"))
    if origin is None:
        raise ValueError(
            "must be origins separated by commas, such as https://app.example.com or http://localhost:3000, without a "
            f"path, or * for all ({entry!r} is neither)"
        )
    return origin
