"""The peaks of a recording, collected from the samples that are read to find its windows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from app.domain.waveform import PEAKS_PER_SECOND, Waveform
from app.transcription.decoding import SAMPLE_RATE

if TYPE_CHECKING:
    import numpy.typing as npt

    Samples = npt.NDArray[np.int16]

_SAMPLES_PER_PEAK: Final = SAMPLE_RATE // PEAKS_PER_SECOND
_LOUDEST: Final = 255


class Peaks:
    """The peaks of each channel so far: 144 kB for an hour of a channel.

    Samples of different channels can be added in different threads.
    """

    def __init__(self, channels: int) -> None:
        self._channels: list[list[npt.NDArray[np.uint16]]] = [[] for _ in range(channels)]

    def add(self, channel: int, samples: Samples) -> None:
        """Add a block of whole peaks, or the last block of a channel."""
        frames = np.pad(samples, (0, -len(samples) % _SAMPLES_PER_PEAK)).reshape(-1, _SAMPLES_PER_PEAK)
        peaks = np.maximum(frames.max(axis=1), -frames.min(axis=1).astype(np.int32))  # -32,768 has no int16
        self._channels[channel].append(peaks.astype(np.uint16))

    def waveform(self, duration: float) -> Waveform:
        """Return the peaks as shares of the loudest one. ``duration`` is in seconds."""
        channels = [np.concatenate([np.zeros(0, np.uint16), *blocks]) for blocks in self._channels]
        loudest = max((int(peaks.max(initial=0)) for peaks in channels), default=0) or 1
        scaled = ((peaks.astype(np.uint32) * _LOUDEST + loudest // 2) // loudest for peaks in channels)
        return Waveform(duration=duration, channels=tuple(peaks.astype(np.uint8).tobytes() for peaks in scaled))
