"""Which texts are believed, and how tokens become phrases."""

from __future__ import annotations

import pytest

from app.transcription.fallback import Attempt, Thresholds, best
from app.transcription.segments import Phrase, phrases

THRESHOLDS = Thresholds()
FIRST = 1000


def attempt(text: str = "hello", *, logprob: float = -0.3, no_speech: float = 0.0, temperature: float = 0.0) -> Attempt:
    return Attempt(tokens=(1, 2), text=text, temperature=temperature, avg_logprob=logprob, no_speech_prob=no_speech)


@pytest.mark.parametrize(
    ("one", "acceptable", "silence"),
    [
        (attempt(), True, False),
        (attempt(logprob=-1.01), False, False),
        (attempt("la " * 100), False, False),
        (attempt(logprob=-1.5, no_speech=0.9), True, True),
        (attempt(logprob=-0.5, no_speech=0.9), True, False),
        (attempt(""), True, False),
    ],
)
def test_improbable_and_repetitive_text_is_doubted_unless_nobody_speaks(
    one: Attempt, *, acceptable: bool, silence: bool
) -> None:
    assert one.is_acceptable(THRESHOLDS) is acceptable
    assert one.is_silence(THRESHOLDS) is silence


def test_when_all_fail_the_most_probable_coherent_text_is_kept() -> None:
    repeating = attempt("la " * 100, logprob=-0.1)
    attempts = [repeating, attempt("one", logprob=-1.4), attempt("two", logprob=-1.2), attempt("three", logprob=-1.9)]
    assert best(attempts, THRESHOLDS).text == "two"
    assert best([repeating], THRESHOLDS) is repeating


def test_acceptable_text_is_kept_whatever_was_tried_before() -> None:
    good = attempt("good", logprob=-0.9, temperature=0.4)
    assert best([attempt("bad", logprob=-1.1), good], THRESHOLDS) is good


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
def test_timestamps_divide_phrases_and_what_is_cut_off_is_left(
    tokens: list[int], expected: list[Phrase], done: int
) -> None:
    found, frames_done = phrases(tokens, first_timestamp=FIRST, frames=1000)
    assert frames_done == done
    assert found == expected
