"""PCM on disk that can be read while the decoder still writes it."""

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


class Recording:
    """16 kHz s16 samples of interleaved channels in the file ``path``. ``samples`` counts those of one channel.

    It grows on the event loop; ``read`` may be called in any thread. What is read is copied: pages of a mapped file
    would count as this process's memory.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.samples = 0
        self.channels = 1
        self.ended = False
        self._grown = asyncio.Event()

    @property
    def duration(self) -> float | None:
        """In seconds, once it is known."""
        return self.samples / SAMPLE_RATE if self.ended else None

    def grow(self, samples: int, channels: int) -> None:
        """So many samples can be read now."""
        self.samples = samples
        self.channels = channels
        self._grown.set()
        self._grown = asyncio.Event()

    def end(self, samples: int, channels: int) -> None:
        """There are so many samples, and no more will come."""
        self.ended = True
        self.grow(samples, channels)

    async def beyond(self, position: int) -> int:
        """How many samples can be read, once these are more than ``position`` or all that there are."""
        while self.samples <= position and not self.ended:
            await self._grown.wait()
        return self.samples

    def read(self, channel: int, start: int, end: int) -> Samples:
        """The samples of one channel, shape ``(end - start,)``."""
        size = self.channels * _BYTES_PER_SAMPLE
        with self.path.open("rb", buffering=0) as file:
            content = os.pread(file.fileno(), (end - start) * size, start * size)
        return np.frombuffer(content, "<i2").reshape(-1, self.channels)[:, channel]

    def discard(self) -> None:
        """Removes the file."""
        self.path.unlink(missing_ok=True)
