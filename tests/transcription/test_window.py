"""The conversion of times in a window to times of the recording."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from app.transcription.vad import SAMPLE_RATE, Span
from app.transcription.window import Timeline


def timeline(*spans: tuple[float, float]) -> Timeline:
    return Timeline(tuple(Span(round(start * SAMPLE_RATE), round(end * SAMPLE_RATE)) for start, end in spans))


#: Spans of 10 s from 5 s on, 4 s from 60 s on and 6 s from 120 s on.
THREE_SPANS = timeline((5, 15), (60, 64), (120, 126))


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [
        (1.0, 2.0, (6.0, 7.0)),
        (11.0, 13.0, (61.0, 63.0)),
        (0.0, 10.0, (5.0, 15.0)),
        (10.0, 14.0, (60.0, 64.0)),
        (9.7, 13.0, (60.0, 63.0)),
        (8.0, 10.3, (13.0, 15.0)),
        (9.0, 13.0, (14.0, 63.0)),
        (14.0, 25.0, (120.0, 131.0)),
    ],
)
def test_phrases_exclude_the_silence_at_the_edges_of_spans(
    start: float, end: float, expected: tuple[float, float]
) -> None:
    assert THREE_SPANS.phrase_times(start, end) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [(1.0, 2.0, (6.0, 7.0)), (9.9, 10.5, (60.0, 60.5)), (9.5, 10.1, (14.5, 15.0)), (14.0, 14.0, (120.0, 120.0))],
)
def test_word_is_held_within_one_span(start: float, end: float, expected: tuple[float, float]) -> None:
    assert THREE_SPANS.word_times(start, end) == pytest.approx(expected)


def rounded(pauses: list[tuple[float, float]]) -> list[tuple[float, float]]:
    return [(round(start, 6), round(end, 6)) for start, end in pauses]


def test_pauses_are_seconds_of_the_window_after_a_time() -> None:
    pauses = [
        Span(second * SAMPLE_RATE, end * SAMPLE_RATE)
        for second, end in ((0, 6), (8, 9), (14, 61), (70, 80), (125, 130))
    ]
    with_pauses = Timeline(THREE_SPANS.spans, tuple(pauses))
    assert rounded(with_pauses.pauses_after(0)) == [(0, 1), (3, 4), (9, 11), (19, 20)]
    assert rounded(with_pauses.pauses_after(3.5)) == [(0, 0.5), (5.5, 7.5), (15.5, 16.5)]


def test_pause_at_the_end_of_a_span_only_ends_with_it() -> None:
    with_pause = Timeline(THREE_SPANS.spans, (Span(14 * SAMPLE_RATE, 20 * SAMPLE_RATE),))
    assert rounded(with_pause.pauses_after(0)) == [(9, 10)]


@settings(max_examples=1000)
@given(st.floats(0, 20), st.floats(0, 20))
@example(10.0, 10.0)
@example(9.8, 10.0)
@example(10.0, 10.2)
def test_times_keep_their_order(first: float, second: float) -> None:
    start, end = sorted((first, second))
    methods = [THREE_SPANS.phrase_times, THREE_SPANS.word_times, *([THREE_SPANS.times] if start < end else [])]
    for converted in (method(start, end) for method in methods):
        assert 5.0 <= converted[0] <= converted[1] + 1e-9
        assert converted[1] <= 126.0 + 1e-9
