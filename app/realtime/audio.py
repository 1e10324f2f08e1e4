"""Audio as clients send it, in pieces of any size, becomes 16 kHz PCM.

PyAV could do the same, but FFmpeg is kept out of this process: importing it takes 0.15 s of a core and 40 MB. G.711 is
a table of 256 values, and the ratios of the sample rates are those of small whole numbers.
"""

from __future__ import annotations

from enum import StrEnum
from functools import cache
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

if TYPE_CHECKING:
    import numpy.typing as npt

    Samples = npt.NDArray[np.int16]

#: The sample rate of everything after this module.
RATE: Final = 16_000
#: The filter's length in input samples: what aliases is 70 dB lower, and 1 s of audio takes 1 ms of a core.
_TAPS: Final = 48
#: The shape of its Kaiser window.
_BETA: Final = 7.0
#: The share of the band that is kept.
_CUTOFF: Final = 0.94


class AudioFormat(StrEnum):
    """The formats of OpenAI's protocol, one channel each."""

    PCM = "audio/pcm"
    PCMU = "audio/pcmu"
    PCMA = "audio/pcma"

    @property
    def rate(self) -> int:
        """The samples in a second."""
        return 24_000 if self is AudioFormat.PCM else 8_000


class AudioDecoder:
    """Decodes the bytes of one stream. A sample may be divided between two pieces."""

    def __init__(self, audio_format: AudioFormat) -> None:
        self._format = audio_format
        self._resampler = Resampler(audio_format.rate)
        self._rest = b""

    def feed(self, content: bytes) -> Samples:
        """Return the samples at 16 kHz that are complete with these bytes."""
        if self._format is not AudioFormat.PCM:
            return self._resampler.feed(_g711_table(self._format)[np.frombuffer(content, np.uint8)])
        content = self._rest + content
        even = len(content) - len(content) % 2
        self._rest = content[even:]
        return self._resampler.feed(np.frombuffer(content[:even], "<i2"))


class Resampler:
    """Converts a stream of samples from ``rate``, 24 or 8 kHz, to 16 kHz with a polyphase filter."""

    def __init__(self, rate: int) -> None:
        divisor = np.gcd(rate, RATE)
        self._up, self._down = int(RATE // divisor), int(rate // divisor)
        self._phases = _filter_phases(self._up, self._down)
        self._input: npt.NDArray[np.float32] = np.zeros(_TAPS - 1, np.float32)
        self._position = (_TAPS // 2 - 1) * self._up  # of the next output, in steps of 1 / up input samples

    def feed(self, samples: npt.NDArray[np.int16]) -> Samples:
        """Return the output that is complete with these samples, delayed by half the length of the filter."""
        available = np.concatenate([self._input, samples.astype(np.float32)])
        positions = np.arange(self._position, (len(available) - _TAPS + 1) * self._up, self._down)
        starts, phases = positions // self._up, positions % self._up
        if not len(positions):
            self._input = available
            return np.zeros(0, np.int16)
        output = np.einsum("ij,ij->i", sliding_window_view(available, _TAPS)[starts], self._phases[phases])
        following = int(positions[-1]) + self._down
        consumed = min(following // self._up, len(available))
        self._input = available[consumed:]
        self._position = following - consumed * self._up
        resampled: Samples = np.clip(np.rint(output), -32768, 32767).astype(np.int16)
        return resampled


@cache
def _filter_phases(up: int, down: int) -> npt.NDArray[np.float32]:
    """Return the filter's taps for each phase, shape ``(up, taps)``: a windowed sinc at the lower of both rates."""
    times = np.arange(_TAPS)[np.newaxis, :] - (_TAPS / 2 - 1) - np.arange(up)[:, np.newaxis] / up
    cutoff = _CUTOFF * min(1.0, up / down)
    window = np.i0(_BETA * np.sqrt(np.clip(1 - (times / (_TAPS / 2)) ** 2, 0, 1))) / np.i0(_BETA)
    taps = np.sinc(times * cutoff) * window
    phases: npt.NDArray[np.float32] = (taps / taps.sum(axis=1, keepdims=True)).astype(np.float32)
    return phases


@cache
def _g711_table(audio_format: AudioFormat) -> Samples:
    """Return the sample for each byte of G.711 (ITU-T G.711; µ-law with 14 bits, A-law with 13, both scaled to 16)."""
    codes = np.arange(256)
    if audio_format is AudioFormat.PCMU:
        inverted = ~codes & 0xFF
        magnitude = (((inverted & 0x0F) << 3) + 0x84 << ((inverted & 0x70) >> 4)) - 0x84
        return np.where(inverted & 0x80, -magnitude, magnitude).astype(np.int16)
    inverted = codes ^ 0x55
    exponent = (inverted & 0x70) >> 4
    mantissa = ((inverted & 0x0F) << 4) + 8
    magnitude = np.where(exponent > 0, mantissa + 0x100 << np.maximum(exponent - 1, 0), mantissa)
    return np.where(inverted & 0x80, magnitude, -magnitude).astype(np.int16)
