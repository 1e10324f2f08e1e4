"""Recordings of any length, made of repeated speech from the samples, as 16 kHz WAV files."""

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
    """Return 76 s of speech at 16 kHz, shape ``(samples,)``."""
    resampler = av.AudioResampler(format="s16", layout="mono", rate=RATE)
    with av.open(str(SAMPLES / "long.opus")) as container:
        frames = [part for frame in container.decode(audio=0) for part in resampler.resample(frame)]
    return np.concatenate([frame.to_ndarray()[0] for frame in frames])


def recording(path: Path, *, seconds: float, offset_seconds: float = 0.0) -> Path:
    """Write a WAV file of speech, starting at ``offset_seconds`` of the sample, and return its path."""
    samples = np.roll(speech(), -round(offset_seconds * RATE))
    left = round(seconds * RATE)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        while left > 0:
            part = samples[:left]
            file.writeframes(part.tobytes())
            left -= len(part)
    return path
