"""Recordings to measure with: speech of the samples, again and again, as 16 kHz WAV."""

from __future__ import annotations

import wave
from typing import TYPE_CHECKING

import av
import numpy as np

from benchmarks.serving import SAMPLES

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

RATE = 16_000


def speech() -> npt.NDArray[np.int16]:
    """76 s of a voice, shape ``(samples,)``."""
    resampler = av.AudioResampler(format="s16", layout="mono", rate=RATE)
    with av.open(str(SAMPLES / "long.opus")) as container:
        frames = [part for frame in container.decode(audio=0) for part in resampler.resample(frame)]
    return np.concatenate([frame.to_ndarray()[0] for frame in frames])


def recording(path: Path, *, seconds: float, offset_seconds: float = 0.0) -> Path:
    """A WAV file of so many seconds of speech, that begins at ``offset_seconds`` of it."""
    said = np.roll(speech(), -round(offset_seconds * RATE))
    left = round(seconds * RATE)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        while left > 0:
            part = said[:left]
            file.writeframes(part.tobytes())
            left -= len(part)
    return path
