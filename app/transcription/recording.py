"""Decoded audio in a file, readable while the decoder is still writing it."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

import numpy as np

from app.transcription.decoding import SAMPLE_RATE

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

    Samples = npt.NDArray[np.int16]

_BYTES_PER_SAMPLE = 2
#: Read at once, however many channels there are: a minute of 32 channels is 61 MB, and many threads read.
_READ_BYTES = 1 << 20


class Recording:
    """The file ``path`` with 16 kHz s16 samples of interleaved channels.

    ``samples`` counts those of one channel. ``warnings`` are sentences about the file for the person who sent it. Once
    complete, it is the audio track ``track``, from 1, of the file's ``tracks``.

    Call ``read`` in any thread and everything else on the event loop. Reading copies the samples, because the pages of
    a memory-mapped file would count as memory of this process.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.samples = 0
        self.channels = 1
        self.is_complete = False
        self.warnings: list[str] = []
        self.track = self.tracks = 1
        self._grown = asyncio.Event()

    @property
    def duration(self) -> float | None:
        """The duration in seconds, or None while it is unknown."""
        return self.samples / SAMPLE_RATE if self.is_complete else None

    def grow(self, samples: int, channels: int) -> None:
        """Announce that this many samples of each channel can be read."""
        self.samples = samples
        self.channels = channels
        self._grown.set()
        self._grown = asyncio.Event()

    def complete(self, samples: int, channels: int) -> None:
        """Announce the final number of samples."""
        self.is_complete = True
        self.grow(samples, channels)

    async def wait_beyond(self, position: int) -> int:
        """Wait until more than ``position`` samples can be read or the recording is complete. Return their number."""
        while self.samples <= position and not self.is_complete:
            await self._grown.wait()
        return self.samples

    def read(self, channel: int, start: int, end: int) -> Samples:
        """Return the samples of one channel, shape ``(end - start,)``. Blocks."""
        frame_bytes = self.channels * _BYTES_PER_SAMPLE
        step = _READ_BYTES // frame_bytes
        samples = np.empty(end - start, np.int16)
        with self.path.open("rb", buffering=0) as file:
            for position in range(start, end, step):
                size = min(step, end - position)
                content = os.pread(file.fileno(), size * frame_bytes, position * frame_bytes)
                interleaved = np.frombuffer(content, "<i2").reshape(-1, self.channels)
                samples[position - start : position - start + size] = interleaved[:, channel]
        return samples

    def discard(self) -> None:
        """Delete the file, if it exists."""
        self.path.unlink(missing_ok=True)
