"""The log-mel spectrogram of audio, which Whisper's encoder takes.

The values are those of OpenAI's ``whisper/audio.py`` and of faster-whisper's ``FeatureExtractor``. Those hold the whole
spectrum in memory at once, 70 MB for 30 s; computing it block by block takes 5 MB.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

if TYPE_CHECKING:
    import numpy.typing as npt

    Array = npt.NDArray[np.float32]

#: Samples from one frame to the next: 10 ms.
HOP_SAMPLES: Final = 160
_FRAME_SAMPLES: Final = 400
_BLOCK_FRAMES: Final = 500
#: Power below this is raised to it, as is power below the loudest by more than this many powers of ten.
_FLOOR: Final = 1e-10
_RANGE: Final = 8.0


class LogMel:
    """Computes spectrograms with the mel ``filters`` of a model, shape ``(mels, 201)``."""

    def __init__(self, filters: Array) -> None:
        self._filters = filters
        self._window = np.hanning(_FRAME_SAMPLES + 1)[:-1].astype(np.float32)

    def __call__(self, audio: Array) -> Array:
        """Return the spectrogram of samples (16 kHz, -1 to 1), shape ``(mels, frames)``, one frame per full 10 ms."""
        count = len(audio) // HOP_SAMPLES
        # A frame is centred on its time, so half a frame is mirrored at both ends of the audio.
        padded = np.pad(np.pad(audio, (0, HOP_SAMPLES)), _FRAME_SAMPLES // 2, mode="reflect")
        frames = sliding_window_view(padded, _FRAME_SAMPLES)[::HOP_SAMPLES][:count]
        log_mel = np.empty((len(self._filters), count), np.float32)
        for start in range(0, count, _BLOCK_FRAMES):
            block = frames[start : start + _BLOCK_FRAMES] * self._window
            power = np.abs(np.fft.rfft(block).astype(np.complex64)) ** 2
            log_mel[:, start : start + _BLOCK_FRAMES] = np.log10(np.maximum(self._filters @ power.T, _FLOOR))
        log_mel = np.maximum(log_mel, log_mel.max(initial=np.log10(_FLOOR)) - _RANGE)
        scaled: Array = ((log_mel + 4.0) / 4.0).astype(np.float32, copy=False)
        return scaled
