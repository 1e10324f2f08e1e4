"""The log probabilities in a response equal those that numpy computes from Whisper's equations."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import pytest
from faster_whisper.audio import decode_audio
from faster_whisper.feature_extractor import FeatureExtractor

from app.domain.transcript import Task
from app.transcription.accepted_decoding import AcceptedDecoding
from app.transcription.loading import DEMO_MODEL, ModelChoice, load
from app.transcription.segments import token_logprob
from app.transcription.vad import Span
from app.transcription.window import Window
from tests.support.audio import SAMPLES
from tests.support.numpy_whisper import NumpyWhisper
from tests.support.recording_model import ScriptedResult, recording
from tests.support.service import serving

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import numpy.typing as npt

    from app.transcription.whisper import WhisperModel

    #: ln P of each token, given the name of a sample, the start of the transcript and the tokens.
    Score = Callable[[str, list[int], list[int]], list[float]]

pytestmark = [pytest.mark.anyio, pytest.mark.full(reason="compares with a slow model in NumPy")]


@pytest.fixture(scope="module")
def exact() -> WhisperModel:
    """The demo model in float32."""
    (loaded,) = load(ModelChoice(name="demo", device="cpu", compute_type="float32", cpu_threads=1))
    return loaded


@cache
def spectrogram(sample: str) -> npt.NDArray[np.float32]:
    """Return faster-whisper's spectrogram of a whole sample, shape ``(n_mels, frames)``."""
    audio = np.asarray(decode_audio(str(SAMPLES / sample)), np.float32)
    features: npt.NDArray[np.float32] = FeatureExtractor()(audio)[:, : len(audio) // 160]
    return features


@pytest.fixture(scope="module")
def score(exact: WhisperModel) -> Score:
    whisper = NumpyWhisper(DEMO_MODEL)
    tokenizer = exact._hf_tokenizer

    @cache
    def encoded(sample: str) -> npt.NDArray[np.float64]:
        return whisper.encode(spectrogram(sample))

    def scored(sample: str, start: list[int], tokens: list[int]) -> list[float]:
        start = [*start, tokenizer.token_to_id("<|notimestamps|>")]
        vocabulary = tokenizer.token_to_id("<|endoftext|>")
        return whisper.log_probabilities(encoded(sample), start, tokens, vocabulary=vocabulary)

    return scored


def start_of(model: WhisperModel, language: str, task: str = "transcribe") -> list[int]:
    return [model._hf_tokenizer.token_to_id(f"<|{name}|>") for name in ("startoftranscript", language, task)]


def text_tokens(model: WhisperModel, tokens: list[int]) -> list[int]:
    return [token for token in tokens if token < model._hf_tokenizer.token_to_id("<|endoftext|>")]


def assert_equal(logprobs: list[float], expected: list[float]) -> None:
    """Compare up to float32 and six decimals: the model is so sure that some values are above -0.0001."""
    np.testing.assert_allclose(logprobs, expected, rtol=1e-5, atol=3e-6)


@pytest.mark.parametrize("sample", ["hello.wav", "numbers.mp3"])
@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({}, id="detected-language"),
        pytest.param({"language": "de", "timestamp_granularities[]": "word", "prompt": "my room"}, id="german-words"),
    ],
)
async def test_response_has_the_log_probabilities_of_numpy(
    tmp_path: Path, exact: WhisperModel, score: Score, sample: str, fields: dict[str, str]
) -> None:
    wrapped, recorder = recording(exact)
    fields = {"vad_filter": "false", "response_format": "verbose_json", "include[]": "logprobs", **fields}
    async with serving(tmp_path, lambda: wrapped) as running:
        response = await running.transcribe(SAMPLES / sample, **fields)
    body = response.json()
    encoded, *_ = recorder.spectrograms  # the recording is one window; with words, that of known speech follows
    frames = spectrogram(sample).shape[1]
    np.testing.assert_allclose(encoded[:, :frames], spectrogram(sample), rtol=0, atol=1e-3)
    assert not encoded[:, frames:].any()
    (call,) = recorder.generations
    tokens = text_tokens(exact, call.texts[0])
    expected = score(sample, start_of(exact, fields.get("language", "en")), tokens)
    assert [entry["bytes"] for entry in body["logprobs"]] == [
        list(exact._hf_tokenizer.decode([token]).encode()) for token in tokens
    ]
    assert_equal([entry["logprob"] for entry in body["logprobs"]], expected)


async def test_text_that_is_not_spoken_is_improbable(tmp_path: Path, exact: WhisperModel, score: Score) -> None:
    tokenizer = exact._hf_tokenizer
    tokens = tokenizer.encode(" my number is forty two thank you", add_special_tokens=False).ids
    text = [tokenizer.token_to_id("<|0.40|>"), *tokens, tokenizer.token_to_id("<|4.00|>")]
    wrapped, _ = recording(exact, results=[ScriptedResult(sequences_ids=[text], scores=[-0.1], no_speech_prob=0.0)])
    async with serving(tmp_path, lambda: wrapped) as running:
        response = await running.transcribe(SAMPLES / "hello.wav", **{"vad_filter": "false", "include[]": "logprobs"})
    logprobs = [entry["logprob"] for entry in response.json()["logprobs"]]
    assert_equal(logprobs, score("hello.wav", start_of(exact, "en"), tokens))
    assert min(logprobs) < -5


def test_batch_of_several_languages_and_tasks_keeps_logprobs_apart(exact: WhisperModel, score: Score) -> None:
    """The texts also have different lengths."""
    cases = [
        ("numbers.mp3", "en", Task.TRANSCRIBE),
        ("hello.wav", "en", Task.TRANSCRIBE),
        ("numbers.mp3", "fr", Task.TRANSLATE),
    ]
    windows = [_window(sample, language, task) for sample, language, task in cases]
    outcomes = exact.decode(windows)
    for (sample, language, task), outcome in zip(cases, outcomes, strict=True):
        assert isinstance(outcome, AcceptedDecoding)
        logprobs = [entry.logprob for segment in outcome.segments() for entry in segment.logprobs]
        tokens = text_tokens(exact, [token for segment in outcome.segments() for token in segment.tokens])
        expected = score(sample, start_of(exact, language, task.value), tokens)
        assert_equal(logprobs, expected)


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


@pytest.mark.smoke
def test_impossible_token_has_openais_number() -> None:
    assert token_logprob("hello", 0.0).logprob == -9999.0
    assert token_logprob("hello", 1.0).logprob == 0.0
