"""Transcripts as the bytes that clients get."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given

from app.domain.formats import MEDIA_TYPES, Granularity, Rendering, ResponseFormat, render, srt, timestamp, vtt
from app.domain.transcript import Segment, Task, Transcript, Word
from tests.domain.strategies import transcripts, unhurried

SEGMENT, WORD = Granularity


def a_segment(
    text: str, start: float = 0.0, end: float = 1.0, *, number: int = 0, words: tuple[Word, ...] = ()
) -> Segment:
    return Segment(
        id=number,
        seek=0,
        start=start,
        end=end,
        text=text,
        tokens=(50364, 2425, 11),
        temperature=0.0,
        avg_logprob=-0.25,
        compression_ratio=1.5,
        no_speech_prob=0.01,
        words=words,
    )


def a_transcript(*segments: Segment, duration: float = 8.25) -> Transcript:
    return Transcript(task=Task.TRANSCRIBE, language="english", duration=duration, segments=segments)


GREETING = a_transcript(
    a_segment(
        " Grüße,",
        0.5,
        1.25,
        words=(Word(word=" Grüße,", start=0.5, end=1.25, probability=0.9),),
    ),
    a_segment(" 你好.", 2.0, 3.5, number=1, words=(Word(word=" 你好.", start=2.0, end=3.5, probability=0.8),)),
)


def rendered(
    format_: ResponseFormat, *granularities: Granularity, transcript: Transcript = GREETING, **extras: Any
) -> bytes:
    rendering = Rendering(format=format_, granularities=frozenset(granularities or {SEGMENT}))
    return render(transcript, rendering, extras=extras)


def test_json_is_the_text_and_the_billed_seconds() -> None:
    assert json.loads(rendered(ResponseFormat.JSON)) == {
        "text": "Grüße, 你好.",
        "usage": {"type": "duration", "seconds": 9},
    }


def test_verbose_json_has_the_keys_of_the_contract_in_their_order() -> None:
    body = json.loads(rendered(ResponseFormat.VERBOSE_JSON))
    assert list(body) == ["task", "language", "duration", "text", "segments", "usage"]
    assert body["task"] == "transcribe"
    assert body["language"] == "english"
    assert body["duration"] == 8.25
    assert body["text"] == "Grüße, 你好."
    assert body["usage"] == {"type": "duration", "seconds": 9}


def test_segment_has_all_ten_keys_with_numbers_where_numbers_belong() -> None:
    (first, second) = json.loads(rendered(ResponseFormat.VERBOSE_JSON))["segments"]
    assert first == {
        "id": 0,
        "seek": 0,
        "start": 0.5,
        "end": 1.25,
        "text": " Grüße,",
        "tokens": [50364, 2425, 11],
        "temperature": 0.0,
        "avg_logprob": -0.25,
        "compression_ratio": 1.5,
        "no_speech_prob": 0.01,
    }
    assert second["id"] == 1


def test_words_stand_at_the_top_level_and_without_their_space() -> None:
    body = json.loads(rendered(ResponseFormat.VERBOSE_JSON, WORD, SEGMENT))
    assert body["words"] == [
        {"word": "Grüße,", "start": 0.5, "end": 1.25, "probability": 0.9},
        {"word": "你好.", "start": 2.0, "end": 3.5, "probability": 0.8},
    ]
    assert all("words" not in segment for segment in body["segments"])


def test_words_alone_leave_the_segments_out() -> None:
    body = json.loads(rendered(ResponseFormat.VERBOSE_JSON, WORD))
    assert "words" in body
    assert "segments" not in body


@unhurried
@given(transcripts())
def test_what_was_not_asked_for_is_absent_and_nothing_is_null(transcript: Transcript) -> None:
    for granularities in ({SEGMENT}, {WORD}, {SEGMENT, WORD}):
        text = rendered(ResponseFormat.VERBOSE_JSON, *granularities, transcript=transcript).decode()
        body = json.loads(text)
        assert {"words", "segments"} & body.keys() == {f"{granularity}s" for granularity in granularities}
        assert None not in _leaves(body)


def _leaves(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [leaf for item in value.values() for leaf in _leaves(item)]
    if isinstance(value, list):
        return [leaf for item in value for leaf in _leaves(item)]
    return [value]


@pytest.mark.parametrize("format_", [ResponseFormat.JSON, ResponseFormat.VERBOSE_JSON])
def test_json_bodies_spell_other_alphabets_out_and_carry_the_extras(format_: ResponseFormat) -> None:
    body = rendered(format_, warnings=["Überhört."])
    assert "Grüße" in body.decode()
    assert "你好" in body.decode()
    assert json.loads(body)["warnings"] == ["Überhört."]


def test_text_is_the_text_and_a_newline_without_quotes() -> None:
    assert rendered(ResponseFormat.TEXT, warnings=["unheard"]).decode() == "Grüße, 你好.\n"


def test_srt_is_exactly_this() -> None:
    assert rendered(ResponseFormat.SRT, warnings=["unheard"]).decode() == (
        "1\n00:00:00,500 --> 00:00:01,250\nGrüße,\n\n2\n00:00:02,000 --> 00:00:03,500\n你好.\n\n"
    )


def test_vtt_is_exactly_this() -> None:
    assert rendered(ResponseFormat.VTT, warnings=["unheard"]).decode() == (
        "WEBVTT\n\n00:00.500 --> 00:01.250\nGrüße,\n\n00:02.000 --> 00:03.500\n你好.\n\n"
    )


def test_transcript_without_speech_is_empty_in_every_format() -> None:
    silent = a_transcript(duration=3.0)
    assert rendered(ResponseFormat.TEXT, transcript=silent) == b"\n"
    assert rendered(ResponseFormat.SRT, transcript=silent) == b""
    assert rendered(ResponseFormat.VTT, transcript=silent) == b"WEBVTT\n\n"
    assert json.loads(rendered(ResponseFormat.JSON, transcript=silent))["text"] == ""
    assert json.loads(rendered(ResponseFormat.VERBOSE_JSON, SEGMENT, WORD, transcript=silent))["segments"] == []


def test_document_is_not_made_of_a_transcript_alone() -> None:
    with pytest.raises(ValueError, match="job"):
        rendered(ResponseFormat.DOCUMENT)


def test_every_format_has_a_media_type() -> None:
    assert set(MEDIA_TYPES) == set(ResponseFormat)
    assert MEDIA_TYPES[ResponseFormat.VTT] == "text/vtt; charset=utf-8"
    assert MEDIA_TYPES[ResponseFormat.SRT] == MEDIA_TYPES[ResponseFormat.TEXT] == "text/plain; charset=utf-8"


@pytest.mark.parametrize(
    ("seconds", "in_srt", "in_vtt"),
    [
        (0.0, "00:00:00,000", "00:00.000"),
        (59.9994, "00:00:59,999", "00:59.999"),
        (59.9996, "00:01:00,000", "01:00.000"),
        (3599.9996, "01:00:00,000", "01:00:00.000"),
        (3900.0, "01:05:00,000", "01:05:00.000"),
        (360_000.5, "100:00:00,500", "100:00:00.500"),
        (-0.02, "00:00:00,000", "00:00.000"),
    ],
)
def test_times_are_rounded_before_they_are_split(seconds: float, in_srt: str, in_vtt: str) -> None:
    assert timestamp(seconds, point=",", hours_always=True) == in_srt
    assert timestamp(seconds, point=".") == in_vtt


def test_empty_cues_are_left_out_and_the_others_counted_without_a_gap() -> None:
    transcript = a_transcript(
        a_segment(" one", 0, 1), a_segment("  \n", 1, 2), a_segment("", 2, 3), a_segment(" two", 3, 4)
    )
    assert srt(transcript) == "1\n00:00:00,000 --> 00:00:01,000\none\n\n2\n00:00:03,000 --> 00:00:04,000\ntwo\n\n"
    assert vtt(transcript).count("-->") == 2


@pytest.mark.parametrize("text", ["a --> b", "a ---> b", "a -----> b", "-->-->", "a\n-->\nb", "--\n>", "->", "<!-->"])
def test_arrow_never_stands_in_a_cue(text: str) -> None:
    transcript = a_transcript(a_segment(text))
    assert srt(transcript).count("-->") == 1
    assert vtt(transcript).count("-->") == 1


def test_line_breaks_of_every_kind_become_spaces() -> None:
    transcript = a_transcript(a_segment(" a\nb\r\nc\u2028d\x85e\x0bf\n\n2\n"))
    assert srt(transcript).splitlines()[2:] == ["a b c d e f 2", ""]


def test_cue_that_would_end_before_it_begins_ends_where_it_begins() -> None:
    assert "00:00:02,000 --> 00:00:02,000" in srt(a_transcript(a_segment("x", 2.0, 1.5)))


_TIME = re.compile(r"(?:(\d{2,}):)?([0-5]\d):([0-5]\d)[,.](\d{3})")


def _parsed(text: str) -> float:
    match = _TIME.fullmatch(text)
    assert match, text
    hours, minutes, seconds, milliseconds = (int(part or 0) for part in match.groups())
    return hours * 3600 + minutes * 60 + seconds + milliseconds / 1000


def _check_cues(blocks: list[list[str]], transcript: Transcript) -> None:
    spoken = [segment for segment in transcript.segments if segment.text.split()]
    assert len(blocks) == len(spoken)
    times: list[float] = []
    for (arrow, text), segment in zip(blocks, spoken, strict=True):
        start, end = (_parsed(part) for part in arrow.split(" --> "))
        assert start == pytest.approx(segment.start, abs=0.000_51)
        assert end == pytest.approx(segment.end, abs=0.000_51)
        assert "-->" not in text
        assert text == " ".join(text.split()) != ""
        times += [start, end]
    assert all(before <= after for before, after in pairwise(times))


@unhurried
@given(transcripts())
def test_srt_can_be_read_back(transcript: Transcript) -> None:
    blocks = [block.split("\n") for block in srt(transcript).split("\n\n")]
    assert blocks.pop() == [""]
    assert [block[0] for block in blocks] == [str(number) for number in range(1, len(blocks) + 1)]
    _check_cues([block[1:] for block in blocks], transcript)


@unhurried
@given(transcripts())
def test_vtt_can_be_read_back(transcript: Transcript) -> None:
    head, *blocks = [block.split("\n") for block in vtt(transcript).split("\n\n")]
    assert head == ["WEBVTT"]
    assert blocks.pop() == [""]
    _check_cues(blocks, transcript)
