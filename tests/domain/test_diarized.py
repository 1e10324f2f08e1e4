"""Formats that change with the speaker: diarized_json, the text as a script, and RTTM; and `speaker` in the others."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import groupby
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.diarized import diarized_segments, segment_id
from app.domain.formats import Granularity, Rendering, ResponseFormat, placed_words, render
from app.domain.speakers import one_line, renamed
from app.domain.transcript import Transcript, Turn, Word
from app.jobs.serializers import to_json
from tests.domain.strategies import conversations, unhurried
from tests.domain.test_formats import a_transcript
from tests.support.segments import a_segment


def a_word(text: str, start: float, speaker: str | None = None, channel: int | None = None) -> Word:
    return Word(word=text, start=start, end=start + 0.5, probability=0.9, speaker=speaker, channel=channel)


HELLO = (a_word(" Hello.", 1.0, "A"), a_word(" Oh,", 2.0, "Ben"), a_word(" hi!", 2.5, "Ben"))
TALK = a_transcript(
    replace(a_segment(" Hello. Oh, hi!", 0.9, 3.1, words=HELLO), speaker="Ben"),
    replace(a_segment(" Well.", 4.0, 5.0, number=1), speaker="Ben"),
    replace(a_segment(" ", 5.0, 6.0, number=2), speaker="A"),
    replace(a_segment(" Bye.", 6.0, 7.0, number=3), speaker="A"),
)
CALL = a_transcript(
    a_segment(" Hello.", 0.5, 1.5, words=(a_word(" Hello.", 1.0, channel=0),), channel=0),
    a_segment(" Hi.", 0.8, 2.0, number=1, channel=1),
)


def rendered(transcript: Transcript, format_: ResponseFormat) -> str:
    content = render(transcript, Rendering(format=format_, granularities=frozenset(Granularity)), extras={})
    return content if isinstance(content, str) else to_json(content).decode()


def test_diarized_json_divides_segments_at_a_change_of_speaker() -> None:
    body = json.loads(rendered(TALK, ResponseFormat.DIARIZED_JSON))
    assert body["text"] == "Hello. Oh, hi! Well.  Bye."
    spoken = [[segment[name] for name in ("id", "start", "end", "text", "speaker")] for segment in body["segments"]]
    assert spoken == [
        ["seg_001", 0.9, 1.5, "Hello.", "A"],
        ["seg_001_2", 2.0, 3.1, "Oh, hi!", "Ben"],
        ["seg_002", 4.0, 5.0, "Well.", "Ben"],
        ["seg_003", 5.0, 6.0, "", "A"],
        ["seg_004", 6.0, 7.0, "Bye.", "A"],
    ]
    assert {segment["type"] for segment in body["segments"]} == {"transcript.text.segment"}


def test_channels_are_the_speakers_of_diarized_json_without_others() -> None:
    segments = json.loads(rendered(CALL, ResponseFormat.DIARIZED_JSON))["segments"]
    assert [(segment["id"], segment["speaker"]) for segment in segments] == [("seg_001", "A"), ("seg_002", "B")]


@unhurried
@given(conversations())
def test_ids_are_unique_and_begin_with_that_of_their_segment(transcript: Transcript) -> None:
    objects = [(segment, diarized_segments(segment)) for segment in transcript.segments]
    ids = [spoken["id"] for _, parts in objects for spoken in parts]
    assert len(set(ids)) == len(ids)
    assert all(parts[0]["id"] == segment_id(segment) for segment, parts in objects)


def test_speakers_of_segments_and_words_are_in_json() -> None:
    body = json.loads(rendered(TALK, ResponseFormat.VERBOSE_JSON))
    assert [segment["speaker"] for segment in body["segments"]] == ["Ben", "Ben", "A", "A"]
    assert [word["speaker"] for word in body["words"]] == ["A", "Ben", "Ben"]
    assert body["segments"][0]["tokens"] == [50364, 2425, 11]
    assert [word["speaker"] for word in placed_words(TALK.segments)] == ["A", "Ben", "Ben"]


def test_json_without_speakers_has_no_such_member() -> None:
    assert "speaker" not in rendered(CALL, ResponseFormat.VERBOSE_JSON)
    half = replace(TALK, segments=(replace(TALK.segments[0], words=(*HELLO[:2], a_word(" hi!", 2.5))),))
    words: list[dict[str, Any]] = json.loads(rendered(half, ResponseFormat.VERBOSE_JSON))["words"]
    assert [word.get("speaker") for word in words] == ["A", "Ben", None]
    assert "speaker" not in words[2]


def test_text_has_a_line_for_each_change_of_speaker() -> None:
    assert rendered(TALK, ResponseFormat.TEXT) == "A: Hello.\nBen: Oh, hi! Well.\nA: Bye.\n"
    assert rendered(renamed(TALK, {"A": "Ben"}), ResponseFormat.TEXT) == "Ben: Hello. Oh, hi! Well. Bye.\n"
    assert rendered(renamed(TALK, {"A": "An\nna"}), ResponseFormat.TEXT).startswith("An na: Hello.\n")
    assert rendered(CALL, ResponseFormat.TEXT) == "Hello. Hi.\n"
    assert rendered(renamed(CALL, {"A": "Anna"}), ResponseFormat.TEXT) == "Anna: Hello.\nB: Hi.\n"


def test_text_without_a_word_is_a_line_break() -> None:
    silent = replace(a_transcript(), turns=(Turn(start=0, end=1, speaker="A"),))
    assert rendered(silent, ResponseFormat.TEXT) == "\n"


@unhurried
@given(conversations(texts=st.sampled_from((" one", " two,", "你", "好。", " שלום"))))
def test_lines_of_the_text_have_the_words_of_each_speaker(transcript: Transcript) -> None:
    lines = [
        f"{one_line(speaker or '')}: {''.join(word.word for word in words).strip()}\n"
        for speaker, words in groupby(transcript.words, key=lambda word: word.speaker)
    ]
    assert rendered(transcript, ResponseFormat.TEXT) == ("".join(lines) or "\n")


def test_lrc_has_a_line_for_each_speaker_of_a_segment() -> None:
    assert rendered(TALK, ResponseFormat.LRC) == (
        "[00:00.90]A: Hello.\n[00:02.00]Ben: Oh, hi!\n[00:04.00]Ben: Well.\n[00:06.00]A: Bye.\n"
    )


def test_rttm_has_the_turns() -> None:
    turns = (
        Turn(start=0.25, end=2.0, speaker="A"),
        Turn(start=1.5, end=1.50001, speaker="A"),
        Turn(start=1.75, end=3.125, speaker="Anna  Lena\n"),
    )
    assert rendered(replace(TALK, turns=turns), ResponseFormat.RTTM) == (
        "SPEAKER <NA> 1 0.250 1.750 <NA> <NA> A <NA> <NA>\nSPEAKER <NA> 1 1.750 1.375 <NA> <NA> Anna_Lena <NA> <NA>\n"
    )


def test_rttm_without_turns_has_the_speakers_of_words_and_segments() -> None:
    assert rendered(TALK, ResponseFormat.RTTM) == (
        "SPEAKER <NA> 1 1.000 0.500 <NA> <NA> A <NA> <NA>\n"
        "SPEAKER <NA> 1 2.000 1.000 <NA> <NA> Ben <NA> <NA>\n"
        "SPEAKER <NA> 1 4.000 1.000 <NA> <NA> Ben <NA> <NA>\n"
        "SPEAKER <NA> 1 5.000 1.000 <NA> <NA> A <NA> <NA>\n"
        "SPEAKER <NA> 1 6.000 1.000 <NA> <NA> A <NA> <NA>\n"
    )
    assert rendered(CALL, ResponseFormat.RTTM) == (
        "SPEAKER <NA> 2 0.800 1.200 <NA> <NA> B <NA> <NA>\nSPEAKER <NA> 1 1.000 0.500 <NA> <NA> A <NA> <NA>\n"
    )


@unhurried
@given(conversations())
def test_rttm_has_ten_columns_and_lengths_above_zero(transcript: Transcript) -> None:
    rows = rendered(transcript, ResponseFormat.RTTM).splitlines()
    for row in rows:
        assert len(row.split(" ")) == 10
        assert float(row.split(" ")[4]) > 0
    starts = [float(row.split(" ")[3]) for row in rows]
    assert starts == sorted(starts)


@pytest.mark.parametrize("format_", [ResponseFormat.JSON, ResponseFormat.TSV])
def test_formats_without_a_place_for_speakers_stay_as_they_are(format_: ResponseFormat) -> None:
    plain = replace(
        TALK,
        segments=tuple(
            replace(segment, speaker=None, words=tuple(replace(word, speaker=None) for word in segment.words))
            for segment in TALK.segments
        ),
    )
    assert rendered(TALK, format_) == rendered(plain, format_)
