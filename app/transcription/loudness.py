"""The level of a recording, and the gain that a very quiet one needs to be understood.

Measured with Silero VAD and Whisper base on speech at -20 to -70 dB: Silero finds speech whose peaks are at -50 dB of
full scale as well as loud speech, and none with peaks at -60 dB. Amplified, it is found again, with nearly the same
text. In quiet music, machines, animals and hum, Silero finds as little after amplification as in loud ones.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    Samples = npt.NDArray[np.int16]

_FULL_SCALE: Final = 32_768
#: The frames of 32 ms whose peaks are compared.
_FRAME_SAMPLES: Final = 512
#: A recording is very quiet below this (-40 dB). Every other recording is left as it is.
_QUIET: Final = _FULL_SCALE // 100
#: Below this (-72 dB) samples have two or three bits: the noise of a converter, or speech that is beyond recognition.
_SILENT: Final = 8
#: The level (-20 dB) that very quiet recordings are amplified to.
_TARGET: Final = _FULL_SCALE // 10
#: Up to this many of the loudest frames of a block are clicks: 0.2 s, less than a short word.
_CLICKS: Final = 6


class Loudness:
    """The level of the loudest block so far, in units of a sample.

    The level of a block is the peak of a frame that few others exceed, so that a click does not count as speech.
    """

    def __init__(self) -> None:
        self._level = 0

    def add(self, samples: Samples) -> None:
        """Measure a further block, of which all samples are needed to measure any."""
        if not len(samples):
            return
        frames = np.pad(samples, (0, -len(samples) % _FRAME_SAMPLES)).reshape(-1, _FRAME_SAMPLES)
        peaks = np.sort(np.maximum(frames.max(axis=1), -frames.min(axis=1).astype(np.int32)))
        self._level = max(self._level, int(peaks[-1 - min(_CLICKS, len(peaks) // 10)]))

    @property
    def gain(self) -> float:
        """The factor for the samples of the recording."""
        return _TARGET / self._level if _SILENT <= self._level < _QUIET else 1.0

    @property
    def quiet_decibels(self) -> float | None:
        """The level relative to full scale of a very quiet recording, or None for all others."""
        return 20 * math.log10(self._level / _FULL_SCALE) if 0 < self._level < _QUIET else None
