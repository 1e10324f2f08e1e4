"""Speakers: their labels and names, their words, and the parts of a segment in which several speak."""

from __future__ import annotations

from dataclasses import replace
from itertools import groupby, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.speakers import (
    one_line,
    parts,
    renamed,
    speaker_label,
    speaker_of,
    speakers_of,
    with_channels,
    with_speakers,
)
from app.domain.transcript import Segment, Task, Transcript, Turn, Word
from tests.domain.strategies import conversations, transcripts, turns, unhurried
from tests.support.segments import a_segment


def a_word(text: str, start: float, end: float, speaker: str | None = None) -> Word:
    return Word(word=text, start=start, end=end, probability=0.9, speaker=speaker)


def a_transcript(*segments: Segment) -> Transcript:
    return Transcript(task=Task.TRANSCRIBE, language="english", duration=60.0, segments=segments)


def spoken(*texts: str, number: int = 0, start: float = 0.0) -> Segment:
    """Return a segment whose words last 1 s each."""
    words = tuple(a_word(text, start + index, start + index + 1) for index, text in enumerate(texts))
    return a_segment("".join(texts), start, start + len(texts), number=number, words=words)


def a_turn(speaker: str, start: float, end: float) -> Turn:
    return Turn(start=start, end=end, speaker=speaker)


def named(*turns: Turn, segments: tuple[Segment, ...]) -> list[str]:
    """Return the speakers of all words, one letter each, by segment."""
    transcript = with_speakers(a_transcript(*segments), turns)
    assert transcript.turns == turns
    return ["".join(word.speaker or "?" for word in segment.words) for segment in transcript.segments]


@pytest.mark.parametrize(("number", "label"), [(0, "A"), (25, "Z"), (26, "AA"), (31, "AF"), (52, "BA"), (702, "AAA")])
def test_labels_are_letters_like_the_columns_of_a_table(number: int, label: str) -> None:
    assert speaker_label(number) == label


def test_word_belongs_to_the_turn_that_it_overlaps_most() -> None:
    segment = spoken(" one", " two", " three", " four")
    assert named(a_turn("A", 0, 1.4), a_turn("B", 1.4, 4), segments=(segment,)) == ["ABBB"]
    assert named(a_turn("A", 0, 1.6), a_turn("B", 1.6, 4), segments=(segment,)) == ["AABB"]


def test_word_of_two_who_speak_at_once_belongs_to_the_one_who_goes_on() -> None:
    segment = spoken(" one", " two", " three", " four")
    assert named(a_turn("B", 0, 1), a_turn("A", 0.5, 4), a_turn("B", 1, 2), segments=(segment,)) == ["BBAA"]
    assert named(a_turn("A", 0, 4), a_turn("B", 2, 4), segments=(segment,)) == ["AAAA"]


def test_word_without_a_turn_belongs_to_the_nearest_one_or_the_speaker_before() -> None:
    segments = (
        a_segment(" one two", 0, 3, words=(a_word(" one", 0, 1), a_word(" two", 2, 3))),
        a_segment(" three.", 9, 10, number=1, words=(a_word(" three.", 9, 10),)),
        a_segment(" four", 20.5, 21, number=2, words=(a_word(" four", 20.5, 21),)),
    )
    assert named(a_turn("A", 1, 1.4), a_turn("B", 3.3, 5), a_turn("C", 22, 23), segments=segments) == ["AB", "B", "C"]


def test_words_before_every_turn_belong_to_the_first_speaker() -> None:
    assert named(a_turn("B", 30, 31), a_turn("A", 40, 41), segments=(spoken(" one", " two"),)) == ["BB"]


def test_word_of_no_length_is_in_its_turn() -> None:
    segment = a_segment(" one two", 0, 3, words=(a_word(" one", 0, 1), a_word(" two", 2, 2)))
    assert named(a_turn("A", 0, 1.5), a_turn("B", 1.5, 3), segments=(segment,)) == ["AB"]


def test_single_word_between_words_of_another_speaker_is_theirs() -> None:
    turns = (a_turn("A", 0, 2), a_turn("B", 2, 3), a_turn("A", 3, 5))
    assert named(*turns, segments=(spoken(" so", " we", " go", " home", " now"),)) == ["AAAAA"]
    assert named(*turns, segments=(spoken(" so", " go.", " Yes.", " home", " now"),)) == ["AABAA"]
    assert named(*turns, segments=(spoken("我", "去。", "对。", "回", "家"),)) == ["AABAA"]
    two = (a_turn("A", 0, 1), a_turn("B", 1, 3), a_turn("A", 3, 5))
    assert named(*two, segments=(spoken(" so", " we", " go", " home", " now"),)) == ["ABBAA"]


def test_single_word_at_the_edge_of_a_segment_keeps_its_speaker() -> None:
    segments = (spoken(" one", " two"), spoken(" three", number=1, start=2.0), spoken(" four", number=2, start=3.0))
    assert named(a_turn("A", 0, 2), a_turn("B", 2, 3), a_turn("A", 3, 4), segments=segments) == ["AA", "B", "A"]


@pytest.mark.parametrize(
    "texts",
    [
        pytest.param((" co", "-op"), id="hyphen"),
        pytest.param((" it", "'s"), id="apostrophe"),
        pytest.param(("น", "ำ"), id="thai vowel sign"),
        pytest.param(("क", "ा"), id="devanagari vowel sign"),
        pytest.param(("👩", "\u200d", "💻"), id="joined emoji"),
        pytest.param((" (", "yes"), id="bracket"),
        pytest.param((" one", ""), id="empty"),
        pytest.param(("", " one"), id="empty at the beginning"),
    ],
)
def test_pieces_of_a_word_have_one_speaker(texts: tuple[str, ...]) -> None:
    turns = (a_turn("A", 0, 1.2), a_turn("B", 1.2, 10))
    (speakers,) = named(*turns, segments=(spoken(*texts),))
    assert len(set(speakers)) == 1


def test_characters_of_chinese_can_have_different_speakers() -> None:
    assert named(a_turn("A", 0, 2), a_turn("B", 2, 4), segments=(spoken("你", "好", "你", "好"),)) == ["AABB"]


def test_segment_belongs_to_the_one_who_speaks_most_of_it() -> None:
    segment = a_segment(" a b long", 0, 9, words=(a_word(" a", 0, 1), a_word(" b", 1, 2), a_word(" long", 4, 9)))
    (spoken_by,) = with_speakers(a_transcript(segment), (a_turn("A", 0, 2), a_turn("B", 4, 9))).segments
    assert [word.speaker for word in spoken_by.words] == ["A", "A", "B"]
    assert spoken_by.speaker == "B"


def test_segment_without_words_has_the_speaker_of_its_time() -> None:
    transcript = with_speakers(a_transcript(a_segment(" Hm.", 3, 4)), (a_turn("A", 0, 2), a_turn("B", 2, 9)))
    assert transcript.segments == (replace(a_segment(" Hm.", 3, 4), speaker="B"),)


def test_transcript_without_turns_stays_as_it_is() -> None:
    transcript = a_transcript(spoken(" one"))
    assert with_speakers(transcript, ()) == transcript


@unhurried
@given(transcripts(), turns(min_size=1))
def test_every_word_and_segment_gets_a_speaker_and_nothing_else(
    transcript: Transcript, turns: tuple[Turn, ...]
) -> None:
    told_apart = with_speakers(transcript, turns)
    assert set(speakers_of(told_apart)) == {turn.speaker for turn in turns}
    assert all(segment.speaker for segment in told_apart.segments)
    assert all(word.speaker for word in told_apart.words)
    plain = (
        replace(segment, speaker=None, words=tuple(replace(word, speaker=None) for word in segment.words))
        for segment in told_apart.segments
    )
    assert replace(told_apart, segments=tuple(plain), turns=()) == transcript


@unhurried
@given(st.lists(st.floats(0.01, 5), min_size=1, max_size=12), turns(min_size=1, seconds=st.floats(0, 40)))
def test_words_that_are_sentences_have_the_closest_speaker(lengths: list[float], turns: tuple[Turn, ...]) -> None:
    words: list[Word] = []
    for length in lengths:
        start = words[-1].end if words else 0.0
        words.append(a_word(" Yes.", start, start + length))
    segment = a_segment(" Yes." * len(words), 0.0, words[-1].end, words=tuple(words))
    (spoken_by,) = with_speakers(a_transcript(segment), turns).segments
    for word in spoken_by.words:
        overlaps = [(min(word.end, turn.end) - max(word.start, turn.start), turn.speaker) for turn in turns]
        most = max(overlap for overlap, _ in overlaps)
        assert most < -1.0 or word.speaker in {speaker for overlap, speaker in overlaps if overlap == most}


def test_channels_have_names_or_labels() -> None:
    word = replace(a_word(" one", 0, 1), channel=1)
    transcript = a_transcript(
        a_segment(" zero", channel=0),
        a_segment(" one", number=1, words=(word,), channel=1),
        a_segment(" two", number=2, channel=2),
    )
    assert [segment.speaker for segment in with_channels(transcript).segments] == ["A", "B", "C"]
    named = with_channels(transcript, ("Anna", "Ben"))
    assert [segment.speaker for segment in named.segments] == ["Anna", "Ben", "C"]
    assert named.segments[1].words == (replace(word, speaker="Ben"),)
    assert [speaker_of(segment) for segment in transcript.segments] == ["A", "B", "C"]
    assert speakers_of(transcript) == ()


def test_names_replace_labels_all_at_once() -> None:
    words = (a_word(" one", 0, 1, "A"), a_word(" two", 1, 2, "B"))
    transcript = replace(
        a_transcript(replace(a_segment(" one two", words=words), speaker="A")),
        turns=(a_turn("A", 0, 1), a_turn("B", 1, 2), a_turn("C", 5, 6)),
    )
    swapped = renamed(transcript, {"A": "B", "B": "A", "C": "A"})
    assert [word.speaker for word in swapped.words] == ["B", "A"]
    assert swapped.segments[0].speaker == "B"
    assert [turn.speaker for turn in swapped.turns] == ["B", "A", "A"]
    assert renamed(transcript, {}) == transcript


def test_names_of_channels_give_every_segment_and_word_a_speaker() -> None:
    word = replace(a_word(" one", 0, 1), channel=1)
    transcript = a_transcript(a_segment(" zero", channel=0), a_segment(" one", words=(word,), channel=1))
    first, second = renamed(transcript, {"B": "Ben"}).segments
    assert (first.speaker, second.speaker, second.words[0].speaker) == ("A", "Ben", "Ben")


def test_segment_is_divided_where_the_speaker_changes() -> None:
    words = (
        a_word(" How", 1, 2, "A"),
        a_word(" so?", 2, 3, "A"),
        a_word(" Well,", 5, 6, "B"),
        a_word(" hm.", 7, 8, "A"),
    )
    segment = replace(a_segment(" How so?  Well, hm.", 0.5, 8.5, number=3, words=words), speaker="A")
    assert [(part.id, part.speaker, part.start, part.end, part.text) for part in parts(segment)] == [
        (3, "A", 0.5, 3, " How so?"),
        (3, "B", 5, 6, "  Well,"),
        (3, "A", 7, 8.5, " hm."),
    ]
    assert [part.tokens for part in parts(segment)] == [(), (), ()]


def test_segment_of_one_speaker_is_its_only_part() -> None:
    for segment in (spoken(" one", " two"), replace(a_segment(" one"), speaker="B"), a_segment("", words=())):
        assert parts(segment) == (segment,)


def test_character_that_several_words_share_is_in_one_part() -> None:
    words = (a_word(" \ufffd", 0, 1, "A"), a_word("\ufffd", 1, 2, "B"), a_word(" end", 2, 3, "A"))
    divided = parts(a_segment(" 😀 end", 0, 3, words=words))
    assert "".join(part.text for part in divided) == " 😀 end"
    assert all(part.text.strip() for part in divided)


@unhurried
@given(conversations())
def test_parts_hold_the_text_and_the_words_in_order(transcript: Transcript) -> None:
    for segment in transcript.segments:
        divided = parts(segment)
        assert "".join(part.text for part in divided) == segment.text
        assert tuple(word for part in divided for word in part.words) == segment.words
        assert (divided[0].start, divided[-1].end) == (segment.start, segment.end)
        if len(divided) > 1:
            assert all(part.text.strip() for part in divided)


@given(conversations(texts=st.sampled_from((" one", " two,", "你", "好。", " שלום", " 👍", "-op"))))
def test_each_part_has_the_words_of_one_speaker(transcript: Transcript) -> None:
    for segment in transcript.segments:
        divided = parts(segment)
        assert all({word.speaker for word in part.words} <= {part.speaker} for part in divided)
        assert all(one.speaker != other.speaker for one, other in pairwise(divided))
        assert len(divided) == max(1, len(list(groupby(segment.words, key=lambda word: word.speaker))))


def test_name_is_on_one_line() -> None:
    assert one_line(" Anna\u2028\n Lena\x85M. ") == "Anna Lena M."
