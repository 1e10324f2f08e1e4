"""Texts that stop before the end of the speech, or leave some of it out."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.transcript import Task
from app.transcription.continuation import before_skipped_speech, continued, unfinished_phrase
from app.transcription.fallback import Decoding, Thresholds
from app.transcription.vad import SAMPLE_RATE, Span
from app.transcription.window import Window

THRESHOLDS = Thresholds()
FIRST = 1000


def at(seconds: float) -> int:
    """Return the token of a timestamp."""
    return FIRST + round(seconds * 50)


def a_window(seconds: float = 20.0, *, pauses: tuple[tuple[float, float], ...] = (), has_speech: bool = True) -> Window:
    return Window(
        channel=0,
        number=0,
        spans=(Span(0, round(seconds * SAMPLE_RATE)),),
        pauses=tuple(Span(round(start * SAMPLE_RATE), round(end * SAMPLE_RATE)) for start, end in pauses),
        features=np.zeros((80, round(seconds * 100)), np.float32),
        task=Task.TRANSCRIBE,
        beam_size=5,
        temperatures=(0.0,),
        has_speech=has_speech,
    )


def a_decoding(*tokens: int, logprob: float = -0.3, temperature: float = 0.0) -> Decoding:
    return Decoding(tokens=tokens, text="hello", temperature=temperature, avg_logprob=logprob, no_speech_prob=0.0)


def unfinished(window: Window, decoding: Decoding) -> tuple[int, ...] | None:
    return unfinished_phrase(window, decoding, first_timestamp=FIRST, thresholds=THRESHOLDS)


STOPPED = (at(0), 1, 2, at(8), at(8), 3, 4, at(15), at(15))


def test_the_last_phrase_is_continued_if_somebody_goes_on_speaking() -> None:
    assert unfinished(a_window(), a_decoding(*STOPPED)) == (at(8), 3, 4, at(15), at(15))


@pytest.mark.parametrize(
    ("window", "decoding"),
    [
        (a_window(), a_decoding(at(0), 1, 2, at(8), at(8), 3, 4, at(15))),  # the model says that this is all
        (a_window(15.3), a_decoding(*STOPPED)),  # less than half a second is left
        (a_window(pauses=((14.9, 20.0),)), a_decoding(*STOPPED)),  # of silence
        (a_window(has_speech=False), a_decoding(*STOPPED)),
        (a_window(), a_decoding(*STOPPED, logprob=-1.2)),
        (a_window(), a_decoding(*STOPPED, temperature=0.4)),
        (a_window(), a_decoding(at(0), at(0))),
        (a_window(), a_decoding()),
    ],
)
def test_other_texts_are_not_continued(window: Window, decoding: Decoding) -> None:
    assert unfinished(window, decoding) is None


def test_what_follows_is_added_with_its_probability() -> None:
    decoding = a_decoding(*STOPPED, logprob=-0.2)
    result = continued(decoding, (5, at(17)), -0.9, first_timestamp=FIRST, thresholds=THRESHOLDS, decode=str)
    assert result is not None
    assert result.tokens == (*STOPPED, 5, at(17))
    assert result.total_logprob == pytest.approx(-0.2 * (len(STOPPED) + 1) - 0.9)
    assert result.text == str(result.tokens)


@pytest.mark.parametrize(
    ("tokens", "logprob"),
    [
        ((at(17),), -0.1),  # no text
        ((5, at(14)), -0.1),  # back in time
        ((5, at(17)), -3.1),  # improbable
        ((5,) * 200, -0.1),  # a loop
    ],
)
def test_what_can_not_be_trusted_is_not_added(tokens: tuple[int, ...], logprob: float) -> None:
    decoding = a_decoding(*STOPPED)
    assert continued(decoding, tokens, logprob, first_timestamp=FIRST, thresholds=THRESHOLDS, decode=str) is None


def test_text_is_cut_before_speech_that_was_skipped() -> None:
    skipped_within = (at(0), 1, 2, at(4), at(12), 3, 4, at(19.5))
    assert before_skipped_speech(a_window(), skipped_within, first_timestamp=FIRST) == (at(0), 1, 2, at(4), at(4))
    skipped_at_end = (at(0), 1, 2, at(4), at(4), 3, at(9))
    assert before_skipped_speech(a_window(), skipped_at_end, first_timestamp=FIRST) == (*skipped_at_end, at(9))


@pytest.mark.parametrize(
    ("window", "tokens"),
    [
        (a_window(pauses=((4.2, 11.9),)), (at(0), 1, 2, at(4), at(12), 3, 4, at(19.5))),  # nobody spoke
        (a_window(), (at(0), 1, 2, at(4), at(6.5), 3, 4, at(19.5))),  # a short while
        (a_window(), STOPPED),  # the model says itself that there is more
        (a_window(), (at(0), 1, 2, at(8), at(8), 3, 4)),  # until the end
        (a_window(has_speech=False), (at(0), 1, 2, at(4))),
    ],
)
def test_other_texts_are_kept_whole(window: Window, tokens: tuple[int, ...]) -> None:
    assert before_skipped_speech(window, tokens, first_timestamp=FIRST) == tokens


@given(
    phrases=st.lists(st.tuples(st.integers(0, 1400), st.integers(1, 3)), max_size=8),
    pauses=st.lists(st.tuples(st.floats(0, 30), st.floats(0, 30)), max_size=5),
)
def test_what_is_kept_is_a_beginning_that_ends_with_a_phrase(
    phrases: list[tuple[int, int]], pauses: list[tuple[float, float]]
) -> None:
    times = sorted(FIRST + time for time, _ in phrases)
    tokens = [
        token
        for (start, end), (_, length) in zip(pairwise(times), phrases, strict=False)
        for token in (start, *[1] * length, end)
    ]
    window = a_window(28.0, pauses=tuple(pause for pause in sorted(pauses) if pause[0] < pause[1]))
    kept = before_skipped_speech(window, tuple(tokens), first_timestamp=FIRST)
    if kept != tuple(tokens):
        assert kept[:-1] == tuple(tokens[: len(kept) - 1])
        assert kept[-1] == kept[-2] >= FIRST
