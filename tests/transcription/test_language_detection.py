"""Certain and uncertain languages, and the choice between texts in several."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from app.transcription.fallback import Decoding, Thresholds
from app.transcription.language_detection import ChannelLanguage, LanguageGuess, likeliest, plausible_languages
from app.transcription.loading import DEMO_MODEL, ModelChoice, load
from tests.support.recording_model import ScriptedResult, recording
from tests.support.service import serving

if TYPE_CHECKING:
    from pathlib import Path

    from app.transcription.whisper import WhisperModel

THRESHOLDS = Thresholds()


def ranking(**probabilities: float) -> list[tuple[str, float]]:
    return [(f"<|{code}|>", probability) for code, probability in probabilities.items()]


def a_decoding(total: float, *, tokens: int = 10, text: str = "hello") -> Decoding:
    """Return a decoding with this sum of log probabilities."""
    return Decoding(
        tokens=tuple(range(tokens)), text=text, temperature=0.0, avg_logprob=total / (tokens + 1), no_speech_prob=0.0
    )


@pytest.mark.parametrize(
    ("probabilities", "expected"),
    [
        ({"en": 0.99, "de": 0.01}, ["en"]),
        ({"en": 0.6, "la": 0.3}, ["en"]),
        ({"la": 0.51, "en": 0.32, "de": 0.06, "fr": 0.05}, ["la", "en", "de"]),
        ({"pt": 0.42, "en": 0.32, "ar": 0.04}, ["pt", "en"]),
        ({"en": 0.3}, ["en"]),
    ],
)
def test_only_plausible_languages_are_tried(probabilities: dict[str, float], expected: list[str]) -> None:
    assert [guess.code for guess in plausible_languages(ranking(**probabilities))] == expected


def test_most_probable_text_decides() -> None:
    guesses = [LanguageGuess("de", 0.5), LanguageGuess("en", 0.48)]
    assert likeliest(guesses, [a_decoding(-18.8, tokens=19), a_decoding(-2.9, tokens=8)], THRESHOLDS) == 1


def test_probability_of_the_language_counts_as_one_token() -> None:
    guesses = [LanguageGuess("en", 0.5), LanguageGuess("la", 0.05)]
    assert likeliest(guesses, [a_decoding(-8.0), a_decoding(-7.0)], THRESHOLDS) == 0
    assert likeliest(guesses, [a_decoding(-8.0), a_decoding(-5.0)], THRESHOLDS) == 1


def test_repetition_does_not_win_by_being_probable() -> None:
    guesses = [LanguageGuess("bn", 0.3), LanguageGuess("en", 0.2)]
    loop = a_decoding(-39.0, tokens=224, text="kun " * 200)
    assert likeliest(guesses, [loop, a_decoding(-9.0)], THRESHOLDS) == 1
    assert likeliest(guesses, [loop, loop], THRESHOLDS) == 0


def test_windows_without_text_hardly_count() -> None:
    language = ChannelLanguage()
    language.add_uncertain(LanguageGuess("nn", 0.5), has_text=False)
    language.add_uncertain(LanguageGuess("en", 0.3), has_text=True)
    assert language.code is None
    assert language.best == "en"


def test_several_uncertain_windows_settle_the_language() -> None:
    language = ChannelLanguage()
    for code, probability in (("en", 0.3), ("la", 0.4), ("en", 0.3)):
        assert language.code is None
        language.add_uncertain(LanguageGuess(code, probability), has_text=True)
    assert language.code == "en"
    language.settle("de")
    assert language.code == "en"


def test_many_windows_without_text_settle_the_language() -> None:
    language = ChannelLanguage()
    for _ in range(8):
        assert language.code is None
        language.add_uncertain(LanguageGuess("en", 0.3), has_text=False)
    assert language.code == "en"


@pytest.fixture(scope="module")
def model() -> WhisperModel:
    (loaded,) = load(ModelChoice(name=str(DEMO_MODEL), device="cpu"))
    return loaded


def improbable(model: WhisperModel, text: str) -> ScriptedResult:
    tokens: list[int] = model._hf_tokenizer.encode(text, add_special_tokens=False).ids
    return ScriptedResult(sequences_ids=[tokens], scores=[-4.0], no_speech_prob=0.0)


@pytest.mark.anyio
async def test_uncertain_language_is_the_one_whose_text_is_more_probable(
    tmp_path: Path, model: WhisperModel, samples: Path
) -> None:
    wrapped, recorder = recording(model, languages=[{"fr": 0.5, "en": 0.4}], results=[improbable(model, " report")])
    async with serving(tmp_path, lambda: wrapped) as running:
        response = await running.transcribe(samples / "hello.wav", response_format="verbose_json")
    body: dict[str, Any] = response.json()
    assert [prompt[1] for prompt in recorder.prompts] == [
        model._hf_tokenizer.token_to_id(token) for token in ("<|fr|>", "<|en|>")
    ]
    assert body["language"] == "english"
    assert "hello" in body["text"]


@pytest.mark.anyio
async def test_first_guess_is_kept_if_its_text_is_more_probable(
    tmp_path: Path, model: WhisperModel, samples: Path
) -> None:
    wrapped, recorder = recording(model, languages=[{"fr": 0.5, "en": 0.4}])
    async with serving(tmp_path, lambda: wrapped) as running:
        response = await running.transcribe(samples / "hello.wav", response_format="verbose_json")
    assert response.json()["language"] == "french"
    assert len(recorder.prompts) == 2
