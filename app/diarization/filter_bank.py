"""The log-mel spectrogram that the embedding model takes: Kaldi's filter bank.

The values are those of ``torchaudio.compliance.kaldi.fbank`` with 80 bands and no dither, as in the model's training.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from app.diarization.models import BANDS, SAMPLE_RATE

if TYPE_CHECKING:
    import numpy.typing as npt

    Array = npt.NDArray[np.float32]

#: Samples from one frame to the next: 10 ms.
HOP_SAMPLES: Final = 160
_FRAME_SAMPLES: Final = 400
_FFT_SAMPLES: Final = 512
_LOWEST_HZ: Final = 20.0
_PREEMPHASIS: Final = 0.97
_FLOOR: Final = np.finfo(np.float32).eps


def log_mel(samples: Array) -> Array:
    """Return the spectrogram of samples (16 kHz, -1 to 1), shape ``(frames, 80)``: frames of 25 ms, 10 ms apart."""
    if len(samples) < _FRAME_SAMPLES:
        return np.zeros((0, BANDS), np.float32)
    frames = sliding_window_view(samples, _FRAME_SAMPLES)[::HOP_SAMPLES]
    frames = frames - frames.mean(axis=1, keepdims=True)
    emphasized = frames - _PREEMPHASIS * np.concatenate([frames[:, :1], frames[:, :-1]], axis=1)
    power = np.abs(np.fft.rfft(emphasized * _window(), _FFT_SAMPLES)).astype(np.float32) ** 2
    spectrogram: Array = np.log(np.maximum(power @ _filters(), _FLOOR))
    return spectrogram


@cache
def _window() -> Array:
    """Return Kaldi's window, named after Povey."""
    window: Array = (np.hanning(_FRAME_SAMPLES) ** 0.85).astype(np.float32)
    return window


@cache
def _filters() -> Array:
    """Return triangles that are equally wide on the mel scale, shape ``(257, 80)``."""
    edges = np.linspace(_mel(_LOWEST_HZ), _mel(SAMPLE_RATE / 2), BANDS + 2)
    left, centre, right = edges[:-2], edges[1:-1], edges[2:]
    bins = _mel(np.arange(_FFT_SAMPLES // 2 + 1) * SAMPLE_RATE / _FFT_SAMPLES)[:, np.newaxis]
    triangles = np.minimum((bins - left) / (centre - left), (right - bins) / (right - centre))
    return np.maximum(triangles, 0.0).astype(np.float32)


def _mel(hertz: npt.ArrayLike) -> npt.NDArray[np.float64]:
    return 1127.0 * np.log1p(np.asarray(hertz, np.float64) / 700.0)
