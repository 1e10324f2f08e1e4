"""Audio on its way into the spool and out of it, wherever the spool keeps it."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Protocol, Self


@dataclass(frozen=True, slots=True)
class ReceivedAudio:
    """The bytes of audio that has arrived completely, and the BLAKE2b of them in hexadecimal digits."""

    size: int
    digest: str


def new_hash() -> hashlib.blake2b:
    """Return the hash of audio of which nothing has arrived."""
    return hashlib.blake2b(digest_size=32)


class ArrivingAudio(Protocol):
    """Audio, or a reference, that arrives; it is kept once it is complete. All methods block."""

    @property
    def digest(self) -> str:
        """The BLAKE2b of everything written, in hexadecimal digits, if it was asked for."""

    def write(self, data: bytes | bytearray) -> None:
        """Append to it.

        Raises:
            DiskFull, SpoolUnavailable: it can't be kept.
        """

    def close(self) -> None:
        """End the writing, also of something incomplete."""


class StoredAudio(ABC):
    """Audio as it was received, opened for reading. All methods block.

    ``size`` is in bytes. ``version`` is the same as long as the bytes are.
    """

    size: int
    version: str

    @abstractmethod
    def read(self, size: int = -1, /) -> bytes:
        """Return the next bytes, at most ``size`` if it is not negative; none at the end."""

    @abstractmethod
    def read_range(self, start: int, end: int) -> bytes:
        """Return the bytes from ``start`` up to ``end``, wherever `read` is."""

    @abstractmethod
    def close(self) -> None: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
