"""CTranslate2 computes the same probabilities as the reference in numpy that other tests rely on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from faster_whisper.audio import decode_audio

from app.transcription.loading import DEMO_MODEL, ModelChoice, load
from app.transcription.whisper import _storage
from tests.support.audio import SAMPLES
from tests.support.numpy_whisper import NumpyWhisper

if TYPE_CHECKING:
    import numpy.typing as npt

    from app.transcription.whisper import WhisperModel

HELLO = " hello this is a test the job is complete now"


@pytest.fixture(scope="module")
def exact() -> WhisperModel:
    """The demo model in float32, which differs from numpy only by rounding."""
    (loaded,) = load(ModelChoice(name="demo", device="cpu", compute_type="float32", cpu_threads=1))
    return loaded


@pytest.fixture(scope="module")
def reference() -> NumpyWhisper:
    return NumpyWhisper(DEMO_MODEL)


def _features(model: WhisperModel, recording: str) -> npt.NDArray[np.float32]:
    return model.features(np.asarray(decode_audio(str(SAMPLES / recording)), np.float32))


def _encoded(model: WhisperModel, features: npt.NDArray[np.float32]) -> Any:
    padded = np.zeros((1, len(features), 3000), np.float32)
    padded[0, :, : features.shape[1]] = features
    return model._model.encode(_storage(padded))


@pytest.mark.parametrize(
    ("recording", "text"),
    [
        pytest.param("hello.wav", HELLO, id="spoken-text"),
        pytest.param("numbers.mp3", HELLO, id="other-text"),
        # In silence the end of text has almost all of the probability, unless it is excluded.
        pytest.param("silence.wav", HELLO, id="silence"),
    ],
)
@pytest.mark.full(reason="compares with a slow model in NumPy")
def test_probabilities_of_words_match_numpy(
    exact: WhisperModel, reference: NumpyWhisper, recording: str, text: str
) -> None:
    tokenizer = exact._tokenizer("en", "transcribe")
    tokens = tokenizer.encode(text)
    features = _features(exact, recording)
    encoded = _encoded(exact, features)
    (aligned,) = exact._model.align(encoded, list(tokenizer.sot_sequence), [tokens], [features.shape[1]])
    start = [*tokenizer.sot_sequence, tokenizer.no_timestamps]
    reference_encoded = reference.encode(features)
    expected = reference.log_probabilities(reference_encoded, start, tokens, vocabulary=tokenizer.eot)
    np.testing.assert_allclose(np.asarray(encoded)[0], reference_encoded, atol=1e-4)
    np.testing.assert_allclose(np.log(aligned.text_token_probs), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("recording", ["hello.wav", "numbers.mp3"])
@pytest.mark.full(reason="compares with a slow model in NumPy")
def test_score_of_a_text_matches_numpy(exact: WhisperModel, reference: NumpyWhisper, recording: str) -> None:
    tokenizer = exact._tokenizer("en", "transcribe")
    start = [*tokenizer.sot_sequence, tokenizer.no_timestamps]
    features = _features(exact, recording)
    options = {"beam_size": 1, "return_scores": True, "suppress_tokens": [], "suppress_blank": False}
    (result,) = exact._model.generate(_encoded(exact, features), [start], **options)
    tokens = result.sequences_ids[0]
    expected = reference.log_probabilities(reference.encode(features), start, [*tokens, tokenizer.eot])
    assert result.scores[0] * len(tokens) == pytest.approx(sum(expected), abs=1e-4)
