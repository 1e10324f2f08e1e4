"""API keys: which ones open the service, and whose a request is. Only their digests are kept."""

from __future__ import annotations

import hashlib
import hmac
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Self

from app.domain.errors import Unauthorized

if TYPE_CHECKING:
    from collections.abc import Iterator

_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_KEY: Final = re.compile(r"[\x21-\x7e]+")
#: Shorter ones can be guessed.
_SAFE_LENGTH: Final = 16


@dataclass(frozen=True, slots=True)
class ApiKey:
    """One key. ``name`` stands in logs; ``digest`` is the key's SHA-256, ``is_short`` says that it can be guessed."""

    name: str
    digest: bytes = field(repr=False)
    is_short: bool = False

    @property
    def fingerprint(self) -> str:
        """What jobs know their owner by."""
        return self.digest.hex()[:16]


@dataclass(frozen=True, slots=True)
class ApiKeys:
    """All keys; without any whatever they guard is open."""

    keys: tuple[ApiKey, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Reads ``key`` or ``name:key`` entries, separated by commas.

        Raises:
            ValueError: with a sentence that quotes no key.
        """
        entries = [entry.strip() for entry in text.split(",") if entry.strip()]
        keys = tuple(_parse_entry(entry, place) for place, entry in enumerate(entries, 1))
        for what, given in (("key", [key.digest for key in keys]), ("name", [key.name for key in keys])):
            if len(set(given)) < len(given):
                raise ValueError(f"must give each {what} once")
        return cls(keys)

    def __iter__(self) -> Iterator[ApiKey]:
        return iter(self.keys)

    def __bool__(self) -> bool:
        return bool(self.keys)

    def required(self, authorization: str, *, setting: str) -> ApiKey:
        """The key that a request brings in its header ``Authorization``. It takes as long for one as for the other.

        Raises:
            Unauthorized: none, or a wrong one; the sentence names ``setting``.
        """
        scheme, _, given = authorization.partition(" ")
        digest = _digest(given.strip())
        found = None
        for key in self.keys:
            if hmac.compare_digest(key.digest, digest) and scheme.lower() == "bearer":
                found = key
        if found is None:
            problem = "The API key is wrong" if given else "There is no API key"
            raise Unauthorized(
                f"{problem}: send the header 'Authorization: Bearer KEY' with one of the keys in {setting}."
            )
        return found


def _parse_entry(entry: str, place: int) -> ApiKey:
    name, colon, key = entry.rpartition(":")
    if colon and not _NAME.fullmatch(name):
        raise ValueError(
            "must be keys, or name:key with a name of letters, digits, '.', '_' and '-', separated by commas; no key "
            "has a colon in it"
        )
    if not _KEY.fullmatch(key):
        raise ValueError("must be keys of printable ASCII characters without spaces, separated by commas")
    return ApiKey(name or f"#{place}", _digest(key), is_short=len(key) < _SAFE_LENGTH)


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "replace")).digest()
