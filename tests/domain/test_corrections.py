"""Corrections of a transcript: what they change, and which are accepted."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.corrections import (
    MAX_SPEAKER_LENGTH,
    NO_CORRECTIONS,
    Corrections,
    checked,
    corrected,
    corrected_segments,
)
from app.domain.errors import InvalidRequest
from app.domain.transcript import TokenLogprob, Transcript, Turn, Word
from tests.domain.strategies import transcripts, unhurried
from tests.support.fake_transcriber import GREETING
from tests.support.segments import a_segment


def test_corrected_segment_keeps_only_what_is_still_true() -> None:
    first, second = GREETING.segments
    first = replace(first, uncertain=True, logprobs=(TokenLogprob(token=" Gr", logprob=-1.0, bytes=(32, 71, 114)),))
    original = replace(GREETING, segments=(first, second))
    transcript = corrected(original, Corrections(texts={0: " Hallo"}, edited_at=1.0))
    assert transcript.text == "Hallo an alle."
    assert transcript.segments[1] == second
    changed = transcript.segments[0]
    assert (changed.tokens, changed.logprobs, changed.uncertain) == ((), (), False)
    assert (changed.start, changed.end, changed.avg_logprob) == (first.start, first.end, first.avg_logprob)
    assert [word.word for word in changed.words] == [" Hallo"]


def test_empty_text_removes_its_segment() -> None:
    transcript = corrected(GREETING, Corrections(texts={0: ""}, edited_at=1.0))
    assert [segment.id for segment in transcript.segments] == [1]
    assert transcript.text == "an alle."


def test_segment_without_word_times_gets_none() -> None:
    (first, *_) = GREETING.segments
    original = replace(GREETING, segments=(replace(first, words=()),))
    assert corrected(original, Corrections(texts={0: " Hallo Welt"}, edited_at=1.0)).words == ()


@pytest.mark.parametrize(
    ("text", "stored"),
    [
        ("Hallo", " Hallo"),
        ("  Hallo\n\nWelt\t\x00!\u2028", " Hallo Welt !"),
        ("\u200fשלום\u00a0", " \u200fשלום"),
        ("😀", " 😀"),
        (" \n ", ""),
    ],
)
def test_text_is_one_line_with_the_space_of_its_segment(text: str, stored: str) -> None:
    assert checked(Corrections(texts={0: text}), GREETING).texts == {0: stored}


@pytest.mark.parametrize("text", [" Grüße", "Grüße", "Grüße \n"])
def test_same_text_is_no_correction(text: str) -> None:
    assert checked(Corrections(texts={0: text}), GREETING) == NO_CORRECTIONS


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ({7: "x"}, "There is no segment 7 in this transcript: use the `id` of one of its segments"),
        ({-1: "x"}, "There is no segment -1 in this transcript"),
        ({1: "x" * 2001}, "The text of segment 1 must have at most 2000 characters, got 2001"),
        ({1: "\ud83d"}, "The text of segment 1 has half of a surrogate pair"),
    ],
)
def test_impossible_corrections_are_rejected(texts: dict[int, str], message: str) -> None:
    with pytest.raises(InvalidRequest, match=message) as caught:
        checked(Corrections(texts=texts), GREETING)
    assert caught.value.param == "segments"


def test_longest_text_is_accepted() -> None:
    assert checked(Corrections(texts={1: "x" * 2000}), GREETING).texts == {1: " " + "x" * 2000}


#: Two people, of whom the second says a word in a segment of the first.
TALK = replace(
    GREETING,
    segments=(
        replace(
            a_segment(
                " Hello there, yes",
                0,
                3,
                words=(
                    Word(word=" Hello", start=0, end=1, probability=0.5, speaker="A"),
                    Word(word=" there,", start=1, end=2, probability=0.5, speaker="A"),
                    Word(word=" yes", start=2, end=3, probability=0.5, speaker="B"),
                ),
            ),
            speaker="A",
        ),
        replace(a_segment(" Fine.", 3, 4, number=1), speaker="B"),
    ),
    turns=(Turn(start=0, end=2, speaker="A"), Turn(start=2, end=4, speaker="B"), Turn(start=9, end=10, speaker="C")),
)


def test_names_are_those_of_segments_words_and_turns() -> None:
    transcript = corrected(TALK, Corrections(speakers={"A": "Anna", "C": "Anna"}, edited_at=1.0))
    assert [segment.speaker for segment in transcript.segments] == ["Anna", "B"]
    assert [word.speaker for word in transcript.words] == ["Anna", "Anna", "B"]
    assert [turn.speaker for turn in transcript.turns] == ["Anna", "B", "Anna"]


def test_corrected_text_keeps_the_speakers_of_its_words() -> None:
    corrections = Corrections(texts={0: " Hello all, YES", 1: ""}, speakers={"B": "Ben"}, edited_at=1.0)
    (segment,) = corrected(TALK, corrections).segments
    assert [(word.word, word.speaker) for word in segment.words] == [(" Hello", "A"), (" all,", "A"), (" YES", "Ben")]
    assert segment.speaker == "A"
    assert [(changed.text, changed.speaker) for changed in corrected_segments(TALK, corrections)] == [
        (" Hello all, YES", "A"),
        ("", "Ben"),
    ]


def test_segment_belongs_to_whoever_still_speaks_in_it() -> None:
    (segment, _) = corrected(TALK, Corrections(texts={0: " yes"}, edited_at=1.0)).segments
    assert [word.speaker for word in segment.words] == ["B"]
    assert segment.speaker == "B"


def test_channels_can_be_named() -> None:
    segments = tuple(replace(segment, channel=channel) for channel, segment in enumerate(GREETING.segments))
    call = replace(GREETING, segments=segments)
    corrections = checked(Corrections(speakers={"B": "Ben", "A": "A"}), call)
    assert corrections.speakers == {"B": "Ben"}
    assert [segment.speaker for segment in corrected(call, corrections).segments] == ["A", "Ben"]


@pytest.mark.parametrize(
    ("name", "stored"), [("Anna", "Anna"), ("  李 Lena ", "李 Lena"), ("x" * 64, "x" * 64), ("B", "B"), ("<&>", "<&>")]
)
def test_name_is_accepted_without_spaces_around_it(name: str, stored: str) -> None:
    assert checked(Corrections(speakers={"A": name}), TALK).speakers == {"A": stored}


def test_label_as_its_name_is_no_correction() -> None:
    assert checked(Corrections(speakers={"A": " A "}), TALK) == NO_CORRECTIONS


@pytest.mark.parametrize(
    ("speakers", "message"),
    [
        ({"D": "x"}, "There is no speaker D in this transcript: its speakers are A, B, C."),
        ({"": "x"}, "There is no speaker  in this transcript"),
        ({"\ud83d" * 999: "x"}, rf"There is no speaker \?{{{MAX_SPEAKER_LENGTH}}} in this transcript"),
        ({"A": ""}, "The name of speaker A must have 1 to 64 characters, got 0. Leave a speaker out"),
        ({"A": " \n"}, "must have 1 to 64 characters, got 0"),
        ({"A": "x" * 65}, "must have 1 to 64 characters, got 65"),
        ({"A": "x\ny"}, "The name of speaker A has a line break or another character that can't be shown"),
        ({"B": "x\u202ey"}, "The name of speaker B has a line break or another character"),
        ({"B": "x\ud83d"}, "The name of speaker B has a line break or another character"),
    ],
)
def test_impossible_names_are_rejected(speakers: dict[str, str], message: str) -> None:
    with pytest.raises(InvalidRequest, match=message) as caught:
        checked(Corrections(speakers=speakers), TALK)
    assert caught.value.param == "speakers"
    str(caught.value).encode()


def test_transcript_without_speakers_says_how_to_get_them() -> None:
    with pytest.raises(InvalidRequest, match="no speaker A in this transcript: submit the recording again with `diari"):
        checked(Corrections(speakers={"A": "Anna"}), GREETING)


EDITS = st.builds(
    Corrections, texts=st.dictionaries(st.integers(), st.text()), speakers=st.dictionaries(st.text(), st.text())
)


@unhurried
@given(EDITS, EDITS)
def test_versions_are_equal_for_equal_corrections(one: Corrections, other: Corrections) -> None:
    corrections = replace(one, edited_at=1.0)
    assert (corrections.version == replace(other, edited_at=2.0).version) is (one == other)
    assert Corrections.from_dict(json.loads(json.dumps(corrections.to_dict()))) == corrections
    assert (corrections.version == NO_CORRECTIONS.version == "0") is one.is_empty


def test_stored_corrections_of_older_versions_are_read() -> None:
    """They have no names, and their version is the same, so that pages that are open can go on with their edits."""
    stored = {"edited_at": 1.0, "segments": [{"id": 0, "text": " Hallo"}]}
    assert Corrections.from_dict(stored) == Corrections(texts={0: " Hallo"}, edited_at=1.0)
    assert Corrections.from_dict(stored).version == "fe029f9fa855e505"


@unhurried
@given(transcripts())
def test_no_corrections_change_nothing(transcript: Transcript) -> None:
    assert corrected(transcript, NO_CORRECTIONS) == transcript
