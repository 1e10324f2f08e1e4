"""Certain and uncertain languages, and the choice between texts in several."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from app.domain.languages import LANGUAGES
from app.transcription.device import Device
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


@pytest.mark.parametrize(
    ("probabilities", "candidates", "expected"),
    [
        ({"la": 0.7, "en": 0.2, "de": 0.05}, ["de", "en"], [("en", 0.8), ("de", 0.2)]),
        ({"la": 0.5, "en": 0.2, "de": 0.18}, ["en", "de"], [("en", 0.526), ("de", 0.474)]),
        (
            {"la": 0.6, "ru": 0.2, "en": 0.1, "de": 0.06, "fr": 0.05},
            ["fr", "de", "en"],
            [("en", 0.476), ("de", 0.286), ("fr", 0.238)],
        ),
        ({"la": 1.0, "en": 0.0, "de": 0.0}, ["de", "en"], [("en", 0.0), ("de", 0.0)]),
    ],
)
def test_only_candidates_are_tried_with_the_probability_among_them(
    probabilities: dict[str, float], candidates: list[str], expected: list[tuple[str, float]]
) -> None:
    guesses = plausible_languages(ranking(**probabilities), candidates)
    first = expected[0][1]
    plausible = expected[:1] if first >= 0.6 else expected
    assert [(guess.code, round(guess.probability, 3)) for guess in guesses] == plausible


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
    (loaded,) = load(ModelChoice(name=str(DEMO_MODEL), device="cpu", cpu_threads=1))
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


@pytest.mark.anyio
@pytest.mark.full(reason="transcribes a long recording")
async def test_each_window_has_its_own_language_among_the_candidates(
    tmp_path: Path, model: WhisperModel, samples: Path
) -> None:
    languages = [{"la": 0.9, "fr": 0.07, "de": 0.01}, {"en": 0.5, "de": 0.3}, {"fr": 0.9}]
    wrapped, recorder = recording(model, languages=languages, device=Device("cuda", "int8"))
    fields = {
        "response_format": "verbose_json",
        "languages[]": ["de", "french"],
        "timestamp_granularities[]": ["word", "segment"],
    }
    async with serving(tmp_path, lambda: wrapped, whisper_batch_size="8") as running:
        body = (await running.transcribe(samples / "long.opus", **fields)).json()
    segments = body["segments"]
    written = {segment["language"] for segment in segments}
    assert written == {"de", "fr"}
    seconds = {code: sum(s["end"] - s["start"] for s in segments if s["language"] == code) for code in written}
    ordered = sorted(written, key=seconds.__getitem__, reverse=True)
    assert body["languages"] == [{"code": code} for code in ordered]
    assert body["language"] == LANGUAGES[ordered[0]]
    tokens = {model._hf_tokenizer.token_to_id(f"<|{code}|>"): code for code in written}
    for call in recorder.generations:
        assert all(prompt[1] in tokens for prompt in call.prompts)
    aligned = {tokens.get(alignment.start[1]) for alignment in recorder.alignments}
    assert aligned - {None} == written  # the lag of the alignment is measured in English
    assert max(len(call.prompts) for call in recorder.generations) > 1, "windows don't wait for each other's language"


@pytest.mark.anyio
async def test_one_candidate_is_the_language(tmp_path: Path, model: WhisperModel, samples: Path) -> None:
    wrapped, recorder = recording(model, languages=["fr"])
    async with serving(tmp_path, lambda: wrapped) as running:
        response = await running.transcribe(samples / "hello.wav", **{"languages[]": "german"})
        silent = await running.transcribe(samples / "silence.wav", **{"languages[]": "german"})
    assert recorder.detections == []
    assert [prompt[1] for prompt in recorder.prompts] == [model._hf_tokenizer.token_to_id("<|de|>")]
    assert response.json()["languages"] == [{"code": "de"}]
    assert silent.json()["languages"] == []
