"""Word times within the times of their phrase."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from app.domain.transcript import Word
from app.transcription.word_times import hold_within


def word(text: str, start: float, end: float) -> Word:
    return Word(word=text, start=start, end=end, probability=0.5)


def test_word_that_starts_in_silence_is_moved_to_the_phrase_start() -> None:
    first, second = hold_within([word(" good", 0.0, 1.2), word(" morning", 1.2, 1.8)], 0.9, 1.7)
    assert (first.start, first.end) == (0.9, 1.2)
    assert (second.start, second.end) == (1.2, 1.7)


def test_word_without_length_shares_the_time_of_the_next_by_letters() -> None:
    first, second = hold_within([word(" a", 0.1, 0.5), word(" cat", 0.5, 1.4)], 1.0, 2.0)
    assert (first.start, first.end, second.start, second.end) == (1.0, 1.1, 1.1, 1.4)


def test_last_word_without_length_shares_the_time_of_the_previous() -> None:
    first, second = hold_within([word(" cat", 0.0, 1.4), word(" a", 1.4, 1.9)], 0.0, 1.0)
    assert (first.start, first.end, second.start, second.end) == (0.0, 0.75, 0.75, 1.0)


@given(
    st.lists(st.floats(0, 30, allow_nan=False), min_size=2, max_size=20),
    st.floats(0, 30, allow_nan=False),
    st.floats(0.01, 30, allow_nan=False),
)
def test_words_stay_in_order_within_their_phrase(times: list[float], start: float, length: float) -> None:
    edges = sorted(times)
    words = [word(f" w{index}", word_start, end) for index, (word_start, end) in enumerate(pairwise(edges))]
    held = hold_within(words, start, start + length)
    assert [moved.word for moved in held] == [original.word for original in words]
    for moved in held:
        assert start - 1e-6 <= moved.start <= moved.end <= start + length + 1e-6
    for earlier, later in pairwise(held):
        assert earlier.start <= later.start + 1e-6
        assert earlier.end <= later.end + 1e-6
