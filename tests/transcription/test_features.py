"""The spectrogram is the same as faster-whisper's, computed block by block."""

from __future__ import annotations

import numpy as np
import pytest
from faster_whisper.audio import decode_audio
from faster_whisper.feature_extractor import FeatureExtractor

from app.transcription.features import LogMel
from tests.support.audio import SAMPLES

EXTRACTOR = FeatureExtractor(feature_size=80)


@pytest.mark.parametrize("samples", [1, 159, 160, 161, 400, 5_000, 79_999, 80_000, 80_001, 83_520, 480_000])
def test_spectrogram_is_the_same_as_faster_whispers(samples: int) -> None:
    audio = np.tile(np.asarray(decode_audio(str(SAMPLES / "hello.wav")), np.float32), 6)[:samples]
    expected = EXTRACTOR(audio)[:, :-1]
    found = LogMel(EXTRACTOR.mel_filters)(audio)
    assert found.dtype == np.float32
    assert found.shape[1] == samples // 160
    np.testing.assert_allclose(found, expected[:, : found.shape[1]], atol=1e-4)


def test_spectrogram_of_silence_is_constant() -> None:
    np.testing.assert_allclose(LogMel(EXTRACTOR.mel_filters)(np.zeros(16_000, np.float32)), -1.5, atol=1e-6)
