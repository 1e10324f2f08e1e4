"""Test audio of any kind, made with PyAV, so that no ffmpeg program is needed."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any, Final

import av
import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.int16]

RATE: Final = 16_000
SAMPLES: Final = Path(__file__).parents[2] / "samples"


def sine(seconds: float, *, frequency: float = 440.0, amplitude: float = 0.5) -> Samples:
    """Return a tone, 16 kHz mono."""
    return _as_samples(amplitude * np.sin(2 * np.pi * frequency * _clock(seconds)))


def silence(seconds: float) -> Samples:
    return np.zeros(round(seconds * RATE), dtype=np.int16)


def sweep(seconds: float, *, low: float = 300.0, high: float = 1_500.0) -> Samples:
    """Return a tone that rises through the band of speech, 16 kHz mono. It resembles itself at one alignment only."""
    clock = _clock(seconds)
    phase = 2 * np.pi * (low * clock + (high - low) * clock**2 / (2 * seconds))
    return _as_samples(0.5 * np.sin(phase))


def _clock(seconds: float) -> NDArray[np.float64]:
    return np.arange(round(seconds * RATE), dtype=np.float64) / RATE


def _as_samples(signal: NDArray[np.float64]) -> Samples:
    return (signal * 32_767).astype(np.int16)


def encode(
    path: Path,
    pcm: Samples,
    *,
    container: str,
    codec: str,
    rate: int = RATE,
    layout: str = "mono",
    bit_rate: int | None = None,
    video: str | None = None,
    delay: float = 0.0,
    options: dict[str, str] | None = None,
) -> Path:
    """Write ``pcm`` in a container and codec, at this rate and with these channels, and return the path.

    ``pcm`` has 16 kHz and the shape ``(samples,)`` for the same sound in all channels, or ``(samples, channels)``.
    ``video`` is the codec of an additional small video stream, ``delay`` the seconds by which the sound begins later
    than that. ``options`` are those of the container.
    """
    with av.open(str(path), "w", format=container, container_options=options or {}) as output:
        pictures: Any = output.add_stream(video, rate=10) if video else None
        if pictures is not None:
            pictures.width, pictures.height, pictures.pix_fmt = 64, 48, "yuv420p"
        sound: Any = output.add_stream(codec, rate=rate, layout=layout, options={"strict": "experimental"})
        if bit_rate:
            sound.bit_rate = bit_rate
        if pictures is not None:
            for _ in range(len(pcm) * 10 // RATE):
                output.mux(pictures.encode(av.VideoFrame(64, 48, "yuv420p")))
            output.mux(pictures.encode(None))
        for frame in _frames(pcm, layout, delay):
            output.mux(sound.encode(frame))
        output.mux(sound.encode(None))
    return path


def two_tracks(
    path: Path, first: Samples, second: Samples, *, container: str = "matroska", codec: str = "pcm_s16le"
) -> Path:
    """Write a file with two audio tracks (16 kHz mono); the first one is the default. Return the path."""
    with av.open(str(path), "w", format=container) as output:
        streams: list[Any] = [output.add_stream(codec, rate=RATE, layout="mono") for _ in range(2)]
        packets = []
        for stream, sound in zip(streams, (first, second), strict=True):
            packets += [packet for frame in _frames(sound, "mono", 0.0) for packet in stream.encode(frame)]
            packets += stream.encode(None)
        output.mux(packets)  # once both encoders are open
    return path


def _frames(pcm: Samples, layout: str, delay: float) -> list[av.AudioFrame]:
    channels = av.AudioLayout(layout).nb_channels
    frames = []
    for start in range(0, len(pcm), RATE):
        block = pcm[start : start + RATE]
        interleaved = np.repeat(block, channels) if block.ndim == 1 else block.ravel()
        frame = av.AudioFrame.from_ndarray(interleaved[np.newaxis], "s16", layout)
        frame.sample_rate = RATE
        frame.pts = start + round(delay * RATE)
        frame.time_base = Fraction(1, RATE)
        frames.append(frame)
    return frames


def read_samples(path: Path) -> Samples:
    """Read raw little-endian s16 samples, as the decoder writes them."""
    return np.fromfile(path, dtype="<i2").astype(np.int16)


def likeness(found: Samples, expected: Samples) -> float:
    """Return the normalised cross-correlation at the best alignment: 1 for the same audio, 0 for any other."""
    size = 1 << (len(found) + len(expected)).bit_length()
    a, b = (np.fft.rfft(signal.astype(np.float64), size) for signal in (found, expected))
    peak = float(np.abs(np.fft.irfft(a * np.conj(b), size)).max())
    power = float(np.sqrt(np.sum(np.square(found, dtype=np.float64)) * np.sum(np.square(expected, dtype=np.float64))))
    return peak / power if power else 0.0
