"""Acceptable decodings, fallbacks, and phrases."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from app.domain.transcript import Task, TranscriptionOptions
from app.transcription.fallback import (
    TEMPERATURES,
    Decoding,
    Thresholds,
    best_decoding,
    temperatures_after,
    without_loop,
)
from app.transcription.loading import ModelChoice, load
from app.transcription.segments import Phrase, split_phrases
from app.transcription.vad import Span
from app.transcription.whisper import _max_length
from app.transcription.window import Window
from tests.support.recording_model import ScriptedResult, recording
from tests.support.service import serving

if TYPE_CHECKING:
    from pathlib import Path

    from app.transcription.whisper import WhisperModel

THRESHOLDS = Thresholds()
FIRST = 1000


def a_decoding(text: str = "hello", *, logprob: float = -0.3, no_speech: float = 0.0) -> Decoding:
    return Decoding(tokens=(1, 2), text=text, temperature=0.0, avg_logprob=logprob, no_speech_prob=no_speech)


@pytest.mark.parametrize(
    ("decoding", "acceptable", "silence"),
    [
        (a_decoding(), True, False),
        (a_decoding(logprob=-1.01), False, False),
        (a_decoding("la " * 100), False, False),
        (a_decoding(logprob=-1.5, no_speech=0.9), True, True),
        (a_decoding(logprob=-0.5, no_speech=0.9), True, False),
        (a_decoding(""), True, False),
    ],
)
def test_improbable_or_repetitive_text_is_unacceptable_unless_silent(
    decoding: Decoding, *, acceptable: bool, silence: bool
) -> None:
    assert decoding.is_acceptable(THRESHOLDS) is acceptable
    assert decoding.is_silence(THRESHOLDS) is silence


ANNOUNCEMENT = " ".join(
    f"Нажмите {key}, если вы хотите, чтобы звонящий абонент {action}."
    for key, action in {
        "один": "был соединён с вами прямо сейчас",
        "два": "был направлен на голосовую почту",
        "три": "услышал отказ",
        "четыре": "подождал",
    }.items()
)


def test_repetition_is_measured_in_characters_of_any_script() -> None:
    assert a_decoding(ANNOUNCEMENT).compression_ratio > THRESHOLDS.compression_ratio_threshold
    assert not a_decoding(ANNOUNCEMENT).is_repetitive(THRESHOLDS)
    assert a_decoding("раз " * 50).is_repetitive(THRESHOLDS)
    assert a_decoding("我" * 100).is_repetitive(THRESHOLDS)
    assert not a_decoding("".join(map(chr, range(0x4E00, 0x5000)))).is_repetitive(THRESHOLDS)


def test_most_probable_coherent_text_is_kept_when_all_are_unacceptable() -> None:
    repeating = a_decoding("la " * 100, logprob=-0.1)
    coherent = [a_decoding("one", logprob=-1.4), a_decoding("two", logprob=-1.2), a_decoding("three", logprob=-1.9)]
    assert best_decoding([repeating, *coherent], THRESHOLDS).text == "two"
    assert best_decoding([repeating], THRESHOLDS) is repeating


def test_acceptable_fallback_is_kept() -> None:
    good = a_decoding("good", logprob=-0.9)
    assert best_decoding([a_decoding("bad", logprob=-1.1), good], THRESHOLDS) is good


def test_temperature_after_a_repetition_is_skipped() -> None:
    def left(decoding: Decoding, temperatures: tuple[float, ...] = TEMPERATURES) -> tuple[float, ...]:
        return temperatures_after(decoding, temperatures, THRESHOLDS)

    repeating, improbable = a_decoding("la " * 100), a_decoding(logprob=-2.0)
    assert left(a_decoding()) == ()
    assert left(improbable) == (0.2, 0.4, 0.6, 0.8, 1.0)
    assert left(repeating) == (0.4, 0.6, 0.8, 1.0)
    assert left(repeating, (0.8, 1.0)) == ()
    assert left(improbable, (1.0,)) == ()


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        ((), ()),
        ((5,), (5,)),
        ((1, 2, 3, 4, 5), (1, 2, 3, 4, 5)),
        ((1, 1, 2, 3), (1, 1, 2, 3)),
        ((7,) * 100, (7,)),
        ((FIRST, 9, 8, 1, 2, 1, 2, 1, 2, 1), (FIRST, 9, 8, 1, 2)),
        ((FIRST, 5, FIRST + 5, FIRST + 5, 5, FIRST + 9, FIRST + 9, 5, FIRST + 12), (FIRST, 5, FIRST + 5)),
    ],
)
def test_loop_at_the_end_of_a_text_is_left_out(tokens: tuple[int, ...], expected: tuple[int, ...]) -> None:
    assert without_loop(tokens, first_timestamp=FIRST) == expected


@pytest.mark.parametrize(
    ("seconds", "prompt", "most"), [(1, 0, 56), (3, 0, 136), (30, 0, 224), (1, 224, 56), (30, 224, 221)]
)
def test_text_is_no_longer_than_fast_speech(seconds: int, prompt: int, most: int) -> None:
    """CTranslate2 generates half of its ``max_length``, or what the prompt leaves of it."""
    window = Window(
        channel=0,
        number=0,
        spans=(Span(0, seconds * 16_000),),
        features=np.zeros((80, seconds * 100), np.float32),
        task=Task.TRANSCRIBE,
        beam_size=5,
        temperatures=(0.0,),
        prompt=(1,) * prompt,
    )
    length = _max_length([window])
    assert min(length // 2, length - prompt - 3) == most


def at(seconds: float) -> int:
    return FIRST + round(seconds * 50)


@pytest.mark.parametrize(
    ("tokens", "expected", "done"),
    [
        ([at(0.4), 1, at(1.8)], [Phrase(0.4, 1.8, (at(0.4), 1, at(1.8)))], 1000),
        ([1, 2], [Phrase(0.0, 10.0, (1, 2))], 1000),
        ([at(0.4), 1], [Phrase(0.4, 10.0, (at(0.4), 1))], 1000),
        (
            [at(0), 1, at(2), at(2), 2, at(4)],
            [Phrase(0.0, 2.0, (at(0), 1, at(2))), Phrase(2.0, 4.0, (at(2), 2, at(4)))],
            1000,
        ),
        ([at(0), 1, at(2), at(2), 2], [Phrase(0.0, 2.0, (at(0), 1, at(2)))], 200),
        ([at(0), 1, at(2), at(2)], [Phrase(0.0, 2.0, (at(0), 1, at(2)))], 200),
        (
            [at(0), 1, at(9.8), at(9.8), 2],
            [Phrase(0.0, 9.8, (at(0), 1, at(9.8))), Phrase(9.8, 10.0, (at(9.8), 2))],
            1000,
        ),
        ([at(0), at(0)], [], 1000),
        ([], [], 1000),
        ([at(29), 1, at(29.9)], [Phrase(0.0, 10.0, (at(29), 1, at(29.9)))], 1000),
    ],
)
def test_timestamps_divide_phrases_and_leave_a_cut_off_rest(
    tokens: list[int], expected: list[Phrase], done: int
) -> None:
    phrases, frames_done = split_phrases(tokens, first_timestamp=FIRST, frames=1000)
    assert frames_done == done
    assert phrases == expected


@pytest.fixture(scope="module")
def model() -> WhisperModel:
    (loaded,) = load(ModelChoice(name="demo", device="cpu", cpu_threads=1))
    return loaded


@pytest.mark.anyio
async def test_text_that_is_never_acceptable_is_marked_and_written_once(
    tmp_path: Path, samples: Path, model: WhisperModel
) -> None:
    text: list[int] = model._hf_tokenizer.encode(" hello", add_special_tokens=False).ids
    loop = ScriptedResult(sequences_ids=[text * 60], scores=[-0.1], no_speech_prob=0.0)
    wrapped, recorder = recording(model, results=[loop] * 3)
    async with serving(tmp_path, lambda: wrapped) as running:
        response = await running.transcribe(samples / "hello.wav", response_format="verbose_json")
    body = response.json()
    assert body["text"] == "hello"
    assert [segment["uncertain"] for segment in body["segments"]] == [True]
    assert [sentence for sentence in body["warnings"] if "`uncertain`" in sentence]
    assert [call.options.get("sampling_temperature", 0) for call in recorder.generations] == [0, 0.4, 0.8]


@pytest.mark.anyio
async def test_improbable_text_without_speech_is_dropped_at_once(
    tmp_path: Path, samples: Path, model: WhisperModel
) -> None:
    text: list[int] = model._hf_tokenizer.encode(" hello", add_special_tokens=False).ids
    invented = ScriptedResult(sequences_ids=[text], scores=[-5.0], no_speech_prob=0.0)
    wrapped, recorder = recording(model, results=[invented])
    async with serving(tmp_path, lambda: wrapped) as running:
        response = await running.transcribe(samples / "silence.wav", language="en", vad_filter="false")
    assert response.json()["text"] == ""
    assert len(recorder.generations) == 1


@pytest.mark.anyio
async def test_punctuation_alone_is_no_text(tmp_path: Path, samples: Path, model: WhisperModel) -> None:
    dots: list[int] = model._hf_tokenizer.encode(" ...", add_special_tokens=False).ids
    wrapped, _ = recording(model, results=[ScriptedResult(sequences_ids=[dots], scores=[-0.5], no_speech_prob=0.0)])
    async with serving(tmp_path, lambda: wrapped) as running:
        response = await running.transcribe(samples / "hello.wav", response_format="verbose_json")
    assert (response.json()["text"], response.json()["segments"]) == ("", [])


@pytest.mark.anyio
async def test_acceptable_text_is_not_marked(tmp_path: Path, samples: Path, model: WhisperModel) -> None:
    async with serving(tmp_path, lambda: model) as running:
        response = await running.transcribe(samples / "hello.wav", response_format="verbose_json")
    assert not any("uncertain" in segment for segment in response.json()["segments"])


def test_limits_of_a_request_replace_those_of_the_model() -> None:
    limits = Thresholds(log_prob_threshold=-1.6)
    assert limits.of(TranscriptionOptions()) == limits
    assert limits.of(TranscriptionOptions(no_speech_threshold=0.0, compression_ratio_threshold=3.0)) == Thresholds(
        log_prob_threshold=-1.6, no_speech_threshold=0.0, compression_ratio_threshold=3.0
    )
