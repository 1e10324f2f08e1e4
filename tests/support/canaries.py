"""Canary files, which no decoder may read, and ways to find out if one was opened or its content was decoded."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import struct
import sys
from typing import TYPE_CHECKING, Final

import numpy as np

from tests.support.audio import RATE, Samples, encode, likeness

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SECRET: Final = "The password of the canary file is correct horse battery staple.\n"

_SECONDS: Final = 2
_BLOCK: Final = 1 << 17
#: The likeness of other audio is below 0.03, that of a quarter of a second of the noise above 0.3.
_MIN_LIKENESS: Final = 0.1
_IN_OPEN: Final = 0x20
_EVENT: Final = struct.Struct("iIII")


def canary_noise() -> Samples:
    """Return noise that no other audio resembles."""
    noise = np.random.default_rng(20_250_101).normal(0, 8_000, _SECONDS * RATE)
    return np.clip(noise, -32_768, 32_767).astype(np.int16)


def canary_wav(seconds: float) -> bytes:
    """Return a wav file with the beginning of the noise."""
    sound = canary_noise()[: round(seconds * RATE)].tobytes()
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, RATE, 2 * RATE, 2, 16)
    return (
        b"RIFF" + struct.pack("<I", 36 + len(sound)) + b"WAVE" + form + struct.pack("<4sI", b"data", len(sound)) + sound
    )


def write_canaries(folder: Path) -> list[Path]:
    """Write the noise in several formats, and a text, and return the paths."""
    kinds = [
        ("loud.ts", "mpegts", "mp2", 48_000),
        ("loud.mp3", "mp3", "libmp3lame", 44_100),
        ("loud.mov", "mov", "pcm_s16be", RATE),
    ]
    written = [
        encode(folder / name, canary_noise(), container=container, codec=codec, rate=rate, bit_rate=192_000)
        for name, container, codec, rate in kinds
    ]
    for name, content in (("loud.wav", canary_wav(_SECONDS)), ("secret.txt", SECRET.encode())):
        (folder / name).write_bytes(content)
        written.append(folder / name)
    return written


def contains_canary(pcm: Path) -> bool:
    """Return True if these samples hold a part of a canary file."""
    with pcm.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        if content.find(SECRET[:40].encode()) >= 0:
            return True
    samples, noise = np.memmap(pcm, dtype="<i2", mode="r"), canary_noise()
    starts = range(0, len(samples), _BLOCK - len(noise))
    return any(likeness(np.asarray(samples[at : at + _BLOCK]), noise) > _MIN_LIKENESS for at in starts)


class Watch:
    """Counts how often the watched files are opened, by any process, on Linux."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._opened = 0

    @property
    def opened(self) -> int:
        with contextlib.suppress(BlockingIOError):
            while events := os.read(self._descriptor, 1 << 16):
                self._opened += len(events) // _EVENT.size  # an event about a file itself carries no name
        return self._opened


@contextlib.contextmanager
def watch_opens(files: list[Path]) -> Iterator[Watch | None]:
    """Watch files while the context lasts. Yields None if the platform can't."""
    if sys.platform != "linux":
        yield None
        return
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    assert descriptor >= 0
    try:
        for file in files:
            assert libc.inotify_add_watch(descriptor, os.fsencode(file), _IN_OPEN) >= 0
        yield Watch(descriptor)
    finally:
        os.close(descriptor)
