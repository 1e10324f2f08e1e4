"""Word times beside their segment's."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from app.domain.transcript import Word
from app.transcription.word_times import held_within


def word(text: str, start: float, end: float) -> Word:
    return Word(word=text, start=start, end=end, probability=0.5)


def test_word_that_begins_in_the_silence_before_begins_with_the_segment() -> None:
    first, second = held_within([word(" good", 0.0, 1.2), word(" morning", 1.2, 1.8)], 0.9, 1.7)
    assert (first.start, first.end) == (0.9, 1.2)
    assert (second.start, second.end) == (1.2, 1.7)


def test_word_without_length_shares_the_next_one_by_letters() -> None:
    first, second = held_within([word(" a", 0.1, 0.5), word(" cat", 0.5, 1.4)], 1.0, 2.0)
    assert (first.start, first.end, second.start, second.end) == (1.0, 1.1, 1.1, 1.4)


def test_word_without_length_at_the_end_shares_the_one_before() -> None:
    first, second = held_within([word(" cat", 0.0, 1.4), word(" a", 1.4, 1.9)], 0.0, 1.0)
    assert (first.start, first.end, second.start, second.end) == (0.0, 0.75, 0.75, 1.0)


@given(
    st.lists(st.floats(0, 30, allow_nan=False), min_size=2, max_size=20),
    st.floats(0, 30, allow_nan=False),
    st.floats(0.01, 30, allow_nan=False),
)
def test_words_stay_in_order_inside_their_segment(times: list[float], start: float, length: float) -> None:
    edges = sorted(times)
    words = [word(f" w{index}", one, other) for index, (one, other) in enumerate(pairwise(edges))]
    held = held_within(words, start, start + length)
    assert [one.word for one in held] == [one.word for one in words]
    for one in held:
        assert start - 1e-6 <= one.start <= one.end <= start + length + 1e-6
    for one, other in pairwise(held):
        assert one.start <= other.start + 1e-6
        assert one.end <= other.end + 1e-6
