"""The log probabilities that a request is given are those of Whisper's equations, computed apart in numpy."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from faster_whisper.audio import decode_audio
from faster_whisper.feature_extractor import FeatureExtractor

from app.domain.transcript import Task
from app.transcription.loading import DEMO_MODEL, ModelChoice, load
from app.transcription.vad import Span
from app.transcription.whisper import Accepted
from app.transcription.window import Window
from tests.support.audio import SAMPLES
from tests.support.numpy_whisper import NumpyWhisper
from tests.support.recording_model import Written, recording
from tests.support.service import serving

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import numpy.typing as npt

    from app.transcription.whisper import WhisperModel

    #: ln P of each token, given the name of a sample, the start of the transcript and the tokens.
    Score = Callable[[str, list[int], list[int]], list[float]]

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def exact() -> WhisperModel:
    """The demo model in float32."""
    (loaded,) = load(ModelChoice(name="demo", device="cpu", compute_type="float32"))
    return loaded


@cache
def spectrogram(sample: str) -> npt.NDArray[np.float32]:
    """That of the whole recording, as faster-whisper decodes it and computes it."""
    audio = np.asarray(decode_audio(str(SAMPLES / sample)), np.float32)
    found: npt.NDArray[np.float32] = FeatureExtractor()(audio)[:, : len(audio) // 160]
    return found


@pytest.fixture(scope="module")
def score(exact: WhisperModel) -> Score:
    whisper = NumpyWhisper(DEMO_MODEL)
    tokenizer = exact._hf_tokenizer
    encoded = cache(lambda sample: whisper.encode(spectrogram(sample)))

    def scored(sample: str, start: list[int], tokens: list[int]) -> list[float]:
        start = [*start, tokenizer.token_to_id("<|notimestamps|>")]
        vocabulary = tokenizer.token_to_id("<|endoftext|>")
        return whisper.log_probabilities(encoded(sample), start, tokens, vocabulary=vocabulary)

    return scored


def start_of(model: WhisperModel, language: str, task: str = "transcribe") -> list[int]:
    return [model._hf_tokenizer.token_to_id(f"<|{name}|>") for name in ("startoftranscript", language, task)]


def text_tokens(model: WhisperModel, tokens: list[int]) -> list[int]:
    return [token for token in tokens if token < model._hf_tokenizer.token_to_id("<|endoftext|>")]


def assert_equal(found: list[float], expected: list[float]) -> None:
    """But for what float32 leaves, and six decimals: the model is so sure that some values are above -0.0001."""
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=3e-6)


@pytest.mark.parametrize("sample", ["hello.wav", "numbers.mp3"])
@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({}, id="language-heard"),
        pytest.param({"language": "de", "timestamp_granularities[]": "word", "prompt": "my room"}, id="german-words"),
    ],
)
async def test_request_is_given_the_probabilities_of_numpy(
    tmp_path: Path, exact: WhisperModel, score: Score, sample: str, fields: dict[str, str]
) -> None:
    wrapped, notebook = recording(exact)
    fields = {"vad_filter": "false", "response_format": "verbose_json", "include[]": "logprobs", **fields}
    async with serving(tmp_path, lambda: wrapped) as running:
        answer = await running.transcribe(SAMPLES / sample, **fields)
    body = answer.json()
    (heard,) = notebook.spectrograms  # the whole recording is one window
    frames = spectrogram(sample).shape[1]
    np.testing.assert_allclose(heard[:, :frames], spectrogram(sample), rtol=0, atol=1e-3)
    assert not heard[:, frames:].any()
    (call,) = notebook.generations
    tokens = text_tokens(exact, call.texts[0])
    expected = score(sample, start_of(exact, fields.get("language", "en")), tokens)
    assert [one["bytes"] for one in body["logprobs"]] == [
        list(exact._hf_tokenizer.decode([token]).encode()) for token in tokens
    ]
    assert_equal([one["logprob"] for one in body["logprobs"]], expected)


async def test_text_that_is_not_said_is_improbable(tmp_path: Path, exact: WhisperModel, score: Score) -> None:
    tokenizer = exact._hf_tokenizer
    tokens = tokenizer.encode(" my number is forty two thank you", add_special_tokens=False).ids
    text = [tokenizer.token_to_id("<|0.40|>"), *tokens, tokenizer.token_to_id("<|4.00|>")]
    wrapped, _ = recording(exact, results=[Written(sequences_ids=[text], scores=[-0.1], no_speech_prob=0.0)])
    async with serving(tmp_path, lambda: wrapped) as running:
        answer = await running.transcribe(SAMPLES / "hello.wav", **{"vad_filter": "false", "include[]": "logprobs"})
    found = [one["logprob"] for one in answer.json()["logprobs"]]
    assert_equal(found, score("hello.wav", start_of(exact, "en"), tokens))
    assert min(found) < -5


def test_texts_of_several_lengths_languages_and_tasks_keep_their_own_in_a_batch(
    exact: WhisperModel, score: Score
) -> None:
    wanted = [
        ("numbers.mp3", "en", Task.TRANSCRIBE),
        ("hello.wav", "en", Task.TRANSCRIBE),
        ("numbers.mp3", "fr", Task.TRANSLATE),
    ]
    windows = [_window(sample, language, task) for sample, language, task in wanted]
    outcomes = exact.decode(windows)
    for (sample, language, task), outcome in zip(wanted, outcomes, strict=True):
        assert isinstance(outcome, Accepted)
        found = [one.logprob for segment in outcome.segments for one in segment.logprobs]
        tokens = text_tokens(exact, [token for segment in outcome.segments for token in segment.tokens])
        expected = score(sample, start_of(exact, language, task.value), tokens)
        assert_equal(found, expected)


def _window(sample: str, language: str, task: Task) -> Window:
    features = spectrogram(sample)
    return Window(
        channel=0,
        number=0,
        spans=(Span(0, features.shape[1] * 160),),
        features=features,
        task=task,
        beam_size=5,
        temperatures=(0.0,),
        token_logprobs=True,
        language=language,
    )


def test_token_that_the_model_holds_for_impossible_has_openais_number(exact: WhisperModel) -> None:
    token: Any = exact._hf_tokenizer.encode(" hello", add_special_tokens=False).ids[0]
    assert exact._logprob(token, 0.0).logprob == -9999.0
    assert exact._logprob(token, 1.0).logprob == 0.0
