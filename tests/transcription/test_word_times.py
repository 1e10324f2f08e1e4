"""Times of words: from the alignment without its lag, outside of pauses, and in order."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
from faster_whisper.tokenizer import Tokenizer
from hypothesis import given
from hypothesis import strategies as st

from app.domain.transcript import Word
from app.transcription.alignment_lag import known_words, lag_of
from app.transcription.word_times import AlignedToken, place_words, split_words, without_pauses, words_of_phrases
from tests.domain.strategies import unhurried

if TYPE_CHECKING:
    from collections.abc import Sequence

    from app.transcription.whisper import WhisperModel


def word(text: str, start: float, end: float) -> Word:
    return Word(word=text, start=start, end=end, probability=0.5)


def placed(
    words: Sequence[Word], pauses: Sequence[tuple[float, float]] = (), lag: float = 0.0, *, phrase_start: float = 0.0
) -> list[tuple[float, float]]:
    """Return the times of the words of one phrase, rounded to a millisecond."""
    (phrase,) = place_words([words], [phrase_start], pauses, lag)
    assert [moved.word for moved in phrase] == [original.word for original in words]
    return [(round(moved.start, 3), round(moved.end, 3)) for moved in phrase]


def test_word_that_covers_a_pause_is_spoken_after_it() -> None:
    words = [word(" some", 0.2, 0.5), word(" words", 0.5, 0.9), word(" and", 0.9, 3.0), word(" so", 3.0, 3.4)]
    assert placed(words, [(1.1, 2.7)]) == [(0.2, 0.5), (0.5, 1.1), (2.7, 3.0), (3.0, 3.4)]


def test_word_before_a_pause_is_extended_to_a_plausible_length_only() -> None:
    words = [word(" a", 0.2, 0.5), word(" b", 0.5, 0.8), word(" c", 0.8, 1.1), word(" d", 1.1, 9.0)]
    assert placed(words, [(4.0, 8.7)])[2:] == [(0.8, 1.4), (8.7, 9.0)]


def test_last_word_before_a_pause_ends_with_it() -> None:
    words = [word(" the", 0.2, 0.5), word(" end.", 0.5, 1.2)]
    assert placed(words, [(0.9, 2.0)]) == [(0.2, 0.5), (0.5, 0.9)]


def test_first_word_after_a_pause_starts_with_speech() -> None:
    assert placed([word(" and", 0.3, 1.5)], [(0.0, 1.2)]) == [(1.2, 1.5)]


def test_word_in_the_last_of_several_pauses_is_spoken_after_all() -> None:
    words = [word(" so", 0.2, 0.5), word(" and", 0.5, 3.0)]
    assert placed(words, [(0.6, 1.0), (1.5, 2.8)]) == [(0.2, 0.6), (2.8, 3.0)]


@pytest.mark.parametrize(
    ("lag", "expected"),
    [(-0.01, [(0.01, 0.6), (2.0, 2.103), (2.103, 2.31)]), (0.01, [(0.0, 0.39), (0.39, 0.6), (2.0, 2.29)])],
)
def test_word_that_reaches_far_into_a_pause_follows_it_if_the_alignment_is_early(
    lag: float, expected: list[tuple[float, float]]
) -> None:
    words = [word(" about", 0.0, 0.4), word(" to", 0.4, 1.4), word(" them", 1.4, 2.3)]
    assert placed(words, [(0.6, 2.0)], lag) == expected


def test_quiet_word_within_a_pause_stays_there_and_is_short() -> None:
    words = [word(" hm.", 0.0, 5.0), word(" one", 6.0, 6.3), word(" two", 6.3, 6.6), word(" three", 6.6, 6.9)]
    assert placed(words, [(0.0, 5.8)], phrase_start=5.9)[0] == (4.4, 5.0)


def test_early_word_within_a_pause_shares_the_time_of_the_one_that_it_adjoins() -> None:
    words = [word(" go", 0.0, 0.4), word(" to", 0.5, 0.8), word(" them", 0.8, 2.3)]
    assert placed(words, [(0.45, 2.0)], -0.01) == [(0.01, 0.41), (2.0, 2.103), (2.103, 2.31)]
    assert placed(words, [(0.45, 2.0)], 0.01)[1] == (0.49, 0.79)


def test_phrase_that_starts_in_a_pause_is_spoken_after_it() -> None:
    phrases = [[word(" ready.", 0.0, 0.8)], [word(" please", 0.8, 1.4), word(" stop", 1.4, 2.3)]]
    _, (please, stop) = place_words(phrases, [0.0, 1.7], [(1.1, 2.0)], 0.0)
    assert [round(time, 3) for time in (please.start, please.end, stop.end)] == [2.0, 2.18, 2.3]


def test_phrase_without_any_speech_stays_where_it_is_aligned() -> None:
    words = [word(" so", 1.01, 1.41), word(" quiet", 1.41, 1.91)]
    assert placed(words, [(0.0, 30.0)], 0.01) == [(1.0, 1.4), (1.4, 1.9)]
    assert placed(words, [(0.0, 30.0)], -0.01) == [(1.02, 1.42), (1.42, 1.92)]


def test_last_word_of_a_phrase_does_not_follow_the_pause_after_it() -> None:
    phrases = [[word(" ready", 0.0, 0.4), word(" now", 0.4, 1.4)], [word(" please", 1.4, 2.3)]]
    first, second = place_words(phrases, [0.0, 0.0], [(0.7, 2.0)], -0.01)
    assert [(round(part.start, 2), round(part.end, 2)) for part in [*first, *second]] == [
        (0.01, 0.41),
        (0.41, 0.7),
        (2.0, 2.31),
    ]


def test_words_are_moved_by_the_lag() -> None:
    words = [word(" one", 0.05, 0.5), word(" two", 0.5, 1.0)]
    assert placed(words, lag=0.1) == [(0.0, 0.4), (0.4, 0.9)]
    assert placed(words, lag=-0.1) == [(0.15, 0.6), (0.6, 1.1)]


def test_first_words_of_a_phrase_are_not_stretched_over_speech_that_was_left_out() -> None:
    words = [word(" he", 0.0, 4.0), word(" was", 4.0, 8.0), *(word(" so", 8.0 + n / 5, 8.2 + n / 5) for n in range(7))]
    assert placed(words)[:3] == [(7.2, 7.6), (7.6, 8.0), (8.0, 8.2)]


def test_pauses_do_not_make_the_first_words_of_a_phrase_long() -> None:
    words = [word(" well", 0.0, 0.4), word(" we", 0.4, 4.0), *(word(" so", 4.0 + n / 5, 4.2 + n / 5) for n in range(7))]
    assert placed(words, [(0.5, 3.9)])[:2] == [(0.0, 0.4), (3.9, 4.0)]


def test_word_without_length_shares_the_time_of_the_next_by_letters() -> None:
    assert placed([word(" a", 1.0, 1.0), word(" cat", 1.0, 1.4)]) == [(1.0, 1.1), (1.1, 1.4)]


def test_last_word_without_length_shares_the_time_of_the_previous() -> None:
    assert placed([word(" cat", 0.0, 1.0), word(" a", 1.0, 1.0)]) == [(0.0, 0.75), (0.75, 1.0)]


def test_word_without_length_is_heard_in_its_punctuation() -> None:
    tokens = [AlignedToken(start, 0.5) for start in (0.0, 1.0, 1.0, 1.4)]
    (words,) = words_of_phrases([([" so", " okay", "."], [1, 1, 1])], tokens)
    assert [(part.word, part.start, part.end) for part in words] == [(" so", 0.0, 1.0), (" okay.", 1.0, 1.4)]


@pytest.mark.parametrize(
    ("phrase", "expected"),
    [((0.5, 4.0), (1.0, 3.0)), ((1.0, 3.0), (1.0, 3.0)), ((0.2, 0.8), (0.2, 0.8)), ((2.0, 2.5), (2.0, 2.5))],
)
def test_phrase_begins_and_ends_with_speech(phrase: tuple[float, float], expected: tuple[float, float]) -> None:
    assert without_pauses(*phrase, [(0.0, 1.0), (3.0, 5.0)]) == expected


@given(
    st.lists(st.floats(0, 30, allow_nan=False), min_size=2, max_size=20),
    st.lists(st.floats(0, 30, allow_nan=False), max_size=8),
    st.floats(-0.2, 0.2),
    st.floats(0, 30),
)
def test_words_keep_clear_of_pauses_unless_they_lie_within_one(
    times: list[float], borders: list[float], lag: float, phrase_start: float
) -> None:
    edges, borders = sorted(times), sorted(set(borders))
    pauses = list(zip(borders[::2], borders[1::2], strict=False))
    words = [word(f" w{index}", start, end) for index, (start, end) in enumerate(pairwise(edges))]
    for start, end in ((part.start, part.end) for part in place_words([words], [phrase_start], pauses, lag)[0]):
        assert start <= end
        overlapping = [(first, last) for first, last in pauses if first < end and start < last]
        assert all(first <= start and end <= last for first, last in overlapping)


def text_tokens(tokenizer: Any, text: str) -> list[int]:
    tokens: list[int] = tokenizer.encode(text)
    return tokens


@pytest.mark.parametrize(
    ("language", "text", "expected"),
    [
        ("zh", "天气好", ["天", "气", "好"]),
        ("yue", "天氣好", ["天", "氣", "好"]),
        ("ja", "いい天気", ["い", "い", "天", "気"]),
        ("th", "ดี", ["ด", "ี"]),
        ("lo", "ດີ", ["ດ", "ີ"]),
        ("my", "ဒီ", ["ဒ", "ီ"]),
        ("km", "ថ្ងៃ នេះ", ["ថ្ងៃ", " នេះ"]),
        ("ko", "날씨 오늘", ["날씨", " 오늘"]),
        ("en", " hello there", [" hello", " there"]),
    ],
)
def test_words_are_split_as_whisper_does(language: str, text: str, expected: list[str], model: WhisperModel) -> None:
    tokenizer = Tokenizer(model._hf_tokenizer, multilingual=False)
    tokenizer.language_code = language  # the bundled vocabulary has no token for some of them
    words, counts = split_words(tokenizer, text_tokens(tokenizer, text))
    assert words == expected
    assert sum(counts) == len(text_tokens(tokenizer, text))


def test_translation_is_split_at_spaces(model: WhisperModel) -> None:
    tokenizer = Tokenizer(model._hf_tokenizer, multilingual=True, task="translate", language="zh")
    assert split_words(tokenizer, text_tokens(tokenizer, " wonderful weather"))[0] == [" wonderful", " weather"]


@unhurried
@given(st.lists(st.integers(0, 1900), max_size=12))
def test_words_are_the_text_even_if_characters_are_broken(model: WhisperModel, tokens: list[int]) -> None:
    tokenizer = Tokenizer(model._hf_tokenizer, multilingual=True, task="transcribe", language="en")
    tokens = [token for token in tokens if token < tokenizer.eot]
    words, counts = split_words(tokenizer, tokens)
    assert "".join(words) == tokenizer.decode(tokens)
    assert sum(counts) == len(tokens)


def test_lag_of_the_model_is_measured_with_bundled_speech(model: WhisperModel) -> None:
    assert -0.12 < model._alignment_lag < -0.02


@pytest.mark.parametrize(("shift", "expected"), [(-0.06, -0.04), (0.1, 0.08), (0.01, 0.0), (0.0, 0.0), (0.5, 0.0)])
def test_lag_is_the_median_of_plausible_ones(shift: float, expected: float) -> None:
    words = known_words()
    late = [word(known.word, known.start + shift, known.end + shift) for known in words]
    assert lag_of(late, words) == pytest.approx(expected)


def test_lag_of_another_text_is_unknown() -> None:
    words = known_words()
    assert lag_of([word(" else", known.start + 0.1, known.end + 0.1) for known in words], words) == 0
