"""Words of corrected texts: which keep their times, and where the others go."""

from __future__ import annotations

from dataclasses import replace
from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.realignment import realigned
from app.domain.transcript import Segment, Word
from tests.domain.strategies import unhurried

#: Words of English, Arabic, Hebrew, Korean and Hindi, and emoji, which are surrogate pairs in UTF-16.
SPACED = (
    *(" the", " cat,", " cat", " sat", " ÇA", " co-op", ' "no"', " (yes)"),
    *(" مرحبا", " שלום,", " 안녕", " नमस्ते", " 😀", " 👩‍👩‍👧"),
)
#: Words of Chinese, Japanese, Thai, Lao and Burmese, some of more than one character.
UNSPACED = ("你", "好,", "我们", "。", "「す", "し」", "コ", "สวัส", "ดี", "ສະ", "မြန်", "GPT", "𠀀")


def a_segment(words: list[str], *, times: list[tuple[float, float]] | None = None, text: str | None = None) -> Segment:
    """Return a segment whose words last 1 s each without gaps, if there are no ``times``."""
    times = times or [(10.0 + number, 11.0 + number) for number in range(len(words))]
    return Segment(
        id=0,
        seek=0,
        start=times[0][0] if times else 10.0,
        end=times[-1][1] if times else 12.0,
        text="".join(words) if text is None else text,
        tokens=(1,),
        temperature=0.0,
        avg_logprob=0.0,
        compression_ratio=1.0,
        no_speech_prob=0.0,
        words=tuple(
            Word(word=word, start=start, end=end, probability=0.5)
            for word, (start, end) in zip(words, times, strict=True)
        ),
    )


def shown(words: tuple[Word, ...]) -> list[tuple[str, float, float]]:
    return [(word.word, word.start, word.end) for word in words]


def test_replaced_word_takes_the_time_of_the_old_one() -> None:
    segment = a_segment([" hello", " wrold", " again"])
    words = realigned(segment, " hello world again")
    assert shown(words) == [(" hello", 10.0, 11.0), (" world", 11.0, 12.0), (" again", 12.0, 13.0)]
    assert [word.probability for word in words] == [0.5, 1.0, 0.5]


def test_words_that_replace_others_take_their_times_one_by_one() -> None:
    segment = a_segment([" a", " b", " c"], times=[(0.0, 0.2), (5.0, 5.5), (6.0, 7.0)])
    assert shown(realigned(segment, " x y c")) == [(" x", 0.0, 0.2), (" y", 5.0, 5.5), (" c", 6.0, 7.0)]


def test_more_words_share_the_time_of_those_that_they_replace() -> None:
    segment = a_segment([" to", " gether", " we"], times=[(0.0, 1.0), (4.0, 6.0), (7.0, 8.0)])
    assert shown(realigned(segment, " to get her we")) == [
        (" to", 0.0, 1.0),
        (" get", 4.0, 5.0),
        (" her", 5.0, 6.0),
        (" we", 7.0, 8.0),
    ]
    assert shown(realigned(segment, " together we")) == [(" together", 0.0, 6.0), (" we", 7.0, 8.0)]


def test_added_word_takes_the_gap_that_it_stands_in() -> None:
    segment = a_segment([" a", " b"], times=[(0.0, 1.0), (3.0, 4.0)])
    assert shown(realigned(segment, " a new b")) == [(" a", 0.0, 1.0), (" new", 1.0, 3.0), (" b", 3.0, 4.0)]


def test_word_before_gives_up_half_its_time_if_there_is_no_gap() -> None:
    segment = a_segment([" is", " good"])
    assert shown(realigned(segment, " is very good")) == [
        (" is", 10.0, 10.5),
        (" very", 10.5, 11.0),
        (" good", 11.0, 12.0),
    ]
    assert shown(realigned(segment, " It is good")) == [(" It", 10.0, 10.5), (" is", 10.5, 11.0), (" good", 11.0, 12.0)]
    assert shown(realigned(segment, " is good too")) == [
        (" is", 10.0, 11.0),
        (" good", 11.0, 11.5),
        (" too", 11.5, 12.0),
    ]


def test_removed_words_leave_the_others_as_they_are() -> None:
    segment = a_segment([" uh", " hello", " uh", " world"])
    assert realigned(segment, " hello world") == (segment.words[1], segment.words[3])


def test_new_text_without_a_common_word_spans_the_segment() -> None:
    assert shown(realigned(a_segment([" one", " two"]), " something")) == [(" something", 10.0, 12.0)]


def test_words_between_hyphens_are_kept_together() -> None:
    segment = a_segment([" twenty", "-five", " men"])
    assert realigned(segment, " twenty-five women")[:2] == segment.words[:2]
    assert shown(realigned(segment, " twenty-six men")) == [(" twenty-six", 10.0, 12.0), (" men", 12.0, 13.0)]


def test_characters_of_scripts_without_spaces_are_words() -> None:
    segment = a_segment(["我们", "是", "朋", "友。"])
    assert shown(realigned(segment, "我们是好朋友。")) == [
        ("我们", 10.0, 11.0),
        ("是", 11.0, 11.5),
        ("好", 11.5, 12.0),
        ("朋", 12.0, 13.0),
        ("友。", 13.0, 14.0),
    ]
    assert [word.word for word in realigned(segment, "「我」们用GPT，朋友。")] == [
        "「我」",
        "们",
        "用",
        "GPT，",
        "朋",
        "友。",
    ]


def test_marks_stay_with_their_characters() -> None:
    assert [word.word for word in realigned(a_segment(["ก"]), "ที่นี่")] == ["ที่", "นี่"]
    assert [word.word for word in realigned(a_segment([" x"]), " é 👩‍👩‍👧 नमस्ते")] == [" é", " 👩‍👩‍👧", " नमस्ते"]


def test_times_that_overlap_are_not_kept() -> None:
    segment = a_segment([" a", " b"], times=[(0.0, 3.0), (2.0, 4.0)])
    assert shown(realigned(segment, " a c")) == [(" a", 0.0, 2.0), (" c", 2.0, 4.0)]


@st.composite
def edits(draw: st.DrawFn) -> tuple[Segment, str]:
    """Draw a segment with words in order, and its text with words removed, replaced, added and moved."""
    vocabulary = draw(st.sampled_from([SPACED, UNSPACED, SPACED + UNSPACED]))
    words = draw(st.lists(st.sampled_from(vocabulary), min_size=1, max_size=8))
    steps = draw(st.lists(st.integers(0, 300), min_size=2 * len(words), max_size=2 * len(words)))
    borders = [
        round(20.0 + step / 100, 2) for step in accumulate(step + number % 2 for number, step in enumerate(steps))
    ]
    segment = a_segment(words, times=list(zip(borders[::2], borders[1::2], strict=True)))
    kept = [word for word in words if draw(st.integers(0, 3))]
    added = draw(st.lists(st.sampled_from(vocabulary), max_size=4))
    for word in added:
        kept.insert(draw(st.integers(0, len(kept))), word)
    return segment, "".join(kept)


@unhurried
@given(edits())
def test_words_are_in_order_within_the_segment_and_have_a_length(edit: tuple[Segment, str]) -> None:
    segment, text = edit
    words = realigned(segment, text)
    times = [segment.start, *(time for word in words for time in (word.start, word.end)), segment.end]
    assert times == sorted(times)
    assert all(word.start < word.end for word in words)


@unhurried
@given(edits())
def test_words_are_the_whole_text_in_order(edit: tuple[Segment, str]) -> None:
    segment, text = edit
    words = realigned(segment, text)
    assert "".join(word.word for word in words) == text.rstrip()
    corrected = replace(segment, text=text, words=words)
    for word, offset in zip(words, corrected.word_offsets, strict=True):
        assert text[offset:].startswith(word.word.strip())


@unhurried
@given(edits())
def test_words_of_an_unchanged_text_stay_as_they_are(edit: tuple[Segment, str]) -> None:
    segment, text = edit
    assert realigned(segment, segment.text) == segment.words
    corrected = replace(segment, text=text, words=realigned(segment, text))
    if corrected.words:
        assert realigned(corrected, text) == corrected.words


@unhurried
@given(edits(), st.data())
def test_one_replaced_word_changes_no_other(edit: tuple[Segment, str], data: st.DataObject) -> None:
    segment, _ = edit
    if any(not word.word.startswith(" ") for word in segment.words):
        return
    at = data.draw(st.integers(0, len(segment.words) - 1))
    texts = [word.word for word in segment.words]
    texts[at] = " entirely-other"
    words = realigned(segment, "".join(texts))
    assert words[:at] + words[at + 1 :] == segment.words[:at] + segment.words[at + 1 :]
    old, new = segment.words[at], words[at]
    assert (new.start, new.end) == (old.start, old.end)


@pytest.mark.parametrize("text", ["", "   "])
def test_text_without_a_word_has_none(text: str) -> None:
    assert realigned(a_segment([" a", " b"]), text) == ()


@unhurried
@given(st.text(max_size=40), st.text(max_size=40))
def test_any_text_can_replace_any_other(old: str, new: str) -> None:
    """The words of the model need not be in the text."""
    segment = a_segment([" a", "你"], text=old)
    words = realigned(segment, new)
    times = [segment.start, *(time for word in words for time in (word.start, word.end)), segment.end]
    assert times == sorted(times)
    assert all(word.start < word.end for word in words)
    assert "".join(word.word for word in words) == new.rstrip()


def test_long_repetitions_are_compared_from_both_ends() -> None:
    segment = a_segment(["你", "我"] * 112)
    words = realigned(segment, "你我" + "我你你" * 660 + "你我")
    assert words[:2] == segment.words[:2]
    assert words[-2:] == segment.words[-2:]
    assert len(words) == 1984


def with_speakers(segment: Segment, speakers: str) -> Segment:
    words = (replace(word, speaker=speaker) for word, speaker in zip(segment.words, speakers, strict=True))
    return replace(segment, words=tuple(words), speaker=speakers[0])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param(" how are you ? fine thanks", "AAAABB", id="punctuation that was a word's"),
        pytest.param(" who are you? fine danke", "AAABB", id="replaced one by one"),
        pytest.param(" how are you? fine thanks indeed", "AAABBB", id="added at the end"),
        pytest.param(" how are you now? fine thanks", "AAAABB", id="more than before"),
        pytest.param(" well how are you? fine thanks", "AAAABB", id="added at the beginning"),
        pytest.param(" fine thanks", "BB", id="removed"),
        pytest.param(" x y z u v w", "AAAABB", id="all others"),
    ],
)
def test_new_words_have_the_speaker_of_those_that_they_replace(text: str, expected: str) -> None:
    segment = with_speakers(a_segment([" how", " are", " you?", " fine", " thanks"]), "AAABB")
    assert "".join(word.speaker or "-" for word in realigned(segment, text)) == expected


def test_added_word_between_speakers_belongs_to_the_one_before() -> None:
    segment = with_speakers(a_segment([" a", " b"], times=[(0.0, 1.0), (3.0, 4.0)]), "AB")
    assert [word.speaker for word in realigned(segment, " a new b")] == ["A", "A", "B"]


def test_words_of_a_text_where_there_was_none_have_the_speaker_of_the_segment() -> None:
    segment = replace(a_segment([], text=""), speaker="B")
    assert [word.speaker for word in realigned(segment, " new words")] == ["B", "B"]
