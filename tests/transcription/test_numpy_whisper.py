"""CTranslate2 gives the probabilities that Whisper's equations give, and the reference of other tests is right."""

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
    """The demo model in float32: all that is left between it and numpy is rounding."""
    (loaded,) = load(ModelChoice(name="demo", device="cpu", compute_type="float32"))
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
        pytest.param("hello.wav", HELLO, id="what-is-said"),
        pytest.param("numbers.mp3", HELLO, id="what-is-not-said"),
        # Here the end of text has nearly all of the probability, unless it is ruled out.
        pytest.param("silence.wav", HELLO, id="nothing-is-said"),
    ],
)
def test_probabilities_of_words_are_those_of_numpy_among_text_tokens(
    exact: WhisperModel, reference: NumpyWhisper, recording: str, text: str
) -> None:
    tokenizer = exact._tokenizer("en", "transcribe")
    tokens = tokenizer.encode(text)
    features = _features(exact, recording)
    encoded = _encoded(exact, features)
    (aligned,) = exact._model.align(encoded, list(tokenizer.sot_sequence), [tokens], [features.shape[1]])
    start = [*tokenizer.sot_sequence, tokenizer.no_timestamps]
    own = reference.encode(features)
    found = reference.log_probabilities(own, start, tokens, vocabulary=tokenizer.eot)
    np.testing.assert_allclose(np.asarray(encoded)[0], own, atol=1e-4)
    np.testing.assert_allclose(np.log(aligned.text_token_probs), found, rtol=0, atol=1e-4)


@pytest.mark.parametrize("recording", ["hello.wav", "numbers.mp3"])
def test_score_of_a_text_is_that_of_numpy_with_its_end(
    exact: WhisperModel, reference: NumpyWhisper, recording: str
) -> None:
    tokenizer = exact._tokenizer("en", "transcribe")
    start = [*tokenizer.sot_sequence, tokenizer.no_timestamps]
    features = _features(exact, recording)
    options = {"beam_size": 1, "return_scores": True, "suppress_tokens": [], "suppress_blank": False}
    (written,) = exact._model.generate(_encoded(exact, features), [start], **options)
    tokens = written.sequences_ids[0]
    found = reference.log_probabilities(reference.encode(features), start, [*tokens, tokenizer.eot])
    assert written.scores[0] * len(tokens) == pytest.approx(sum(found), abs=1e-4)
