"""Transcripts as response bodies."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given

from app.domain.formats import MEDIA_TYPES, Granularity, Rendering, ResponseFormat, render, token_usage
from app.domain.subtitles import SubtitleLayout
from app.domain.transcript import Segment, Task, Transcript, Word
from app.jobs.serializers import to_json
from tests.domain.strategies import transcripts, unhurried
from tests.support.segments import a_segment

SEGMENT, WORD = Granularity


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
    content = render(transcript, rendering, extras=extras)
    return content.encode() if isinstance(content, str) else to_json(content)


def test_json_has_the_text_and_the_usage() -> None:
    assert json.loads(rendered(ResponseFormat.JSON)) == {
        "text": "Grüße, 你好.",
        "usage": {"type": "duration", "seconds": 9},
    }


def test_languages_are_those_of_gpt_transcribe() -> None:
    first, second = GREETING.segments
    several = replace(
        GREETING, segments=(replace(first, language="de"), replace(second, language="zh")), languages=("zh", "de")
    )
    languages = [{"code": "zh"}, {"code": "de"}]
    assert json.loads(rendered(ResponseFormat.JSON, transcript=several))["languages"] == languages
    verbose = json.loads(rendered(ResponseFormat.VERBOSE_JSON, transcript=several))
    assert verbose["languages"] == languages
    assert [segment["language"] for segment in verbose["segments"]] == ["de", "zh"]
    silent = replace(GREETING, segments=(), languages=())
    assert json.loads(rendered(ResponseFormat.JSON, transcript=silent))["languages"] == []


def test_audio_tokens_are_tenths_of_a_second_rounded_up() -> None:
    counted = replace(GREETING, duration=8.26, prompt_tokens=7, output_tokens=5)
    assert token_usage(counted) == {
        "type": "tokens",
        "input_tokens": 90,
        "input_token_details": {"audio_tokens": 83, "text_tokens": 7},
        "output_tokens": 5,
        "total_tokens": 95,
    }


def test_verbose_json_has_its_keys_in_order() -> None:
    body = json.loads(rendered(ResponseFormat.VERBOSE_JSON))
    assert list(body) == ["task", "language", "duration", "text", "segments", "usage"]
    assert body["task"] == "transcribe"
    assert body["language"] == "english"
    assert body["duration"] == 8.25
    assert body["text"] == "Grüße, 你好."
    assert body["usage"] == {"type": "duration", "seconds": 9}


def test_segment_object_has_all_ten_keys() -> None:
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


def test_words_are_at_the_top_level_without_spaces() -> None:
    body = json.loads(rendered(ResponseFormat.VERBOSE_JSON, WORD, SEGMENT))
    assert body["words"] == [
        {"word": "Grüße,", "start": 0.5, "end": 1.25, "probability": 0.9},
        {"word": "你好.", "start": 2.0, "end": 3.5, "probability": 0.8},
    ]
    assert all("words" not in segment for segment in body["segments"])


def test_word_granularity_alone_has_no_segments() -> None:
    body = json.loads(rendered(ResponseFormat.VERBOSE_JSON, WORD))
    assert "words" in body
    assert "segments" not in body


@unhurried
@given(transcripts())
def test_granularities_not_requested_are_absent_and_nothing_is_null(transcript: Transcript) -> None:
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
def test_json_bodies_are_unescaped_utf8_with_extras(format_: ResponseFormat) -> None:
    body = rendered(format_, warnings=["Überhört."])
    assert "Grüße" in body.decode()
    assert "你好" in body.decode()
    assert json.loads(body)["warnings"] == ["Überhört."]


def test_text_is_unquoted_and_ends_with_a_newline() -> None:
    assert rendered(ResponseFormat.TEXT, warnings=["unheard"]).decode() == "Grüße, 你好.\n"


def test_srt_body() -> None:
    assert rendered(ResponseFormat.SRT, warnings=["unheard"]).decode() == (
        "1\n00:00:00,500 --> 00:00:01,250\nGrüße,\n\n2\n00:00:02,000 --> 00:00:03,500\n你好.\n\n"
    )


def test_vtt_body() -> None:
    assert rendered(ResponseFormat.VTT, warnings=["unheard"]).decode() == (
        "WEBVTT\n\n00:00.500 --> 00:01.250\nGrüße,\n\n00:02.000 --> 00:03.500\n你好.\n\n"
    )


def test_tsv_body() -> None:
    """The same as that of OpenAI's whisper."""
    assert rendered(ResponseFormat.TSV, warnings=["unheard"]).decode() == (
        "start\tend\ttext\n500\t1250\tGrüße,\n2000\t3500\t你好.\n"
    )


def test_lrc_body() -> None:
    assert rendered(ResponseFormat.LRC, warnings=["unheard"]).decode() == "[00:00.50]Grüße,\n[00:02.00]你好.\n"


def test_lrc_has_minutes_beyond_99_and_rounds_to_whole_ones() -> None:
    late = a_transcript(a_segment(" Late.", 7384.096, 7390.0), a_segment(" Later.", 7439.996, 7450.0, number=1))
    assert rendered(ResponseFormat.LRC, transcript=late).decode() == "[123:04.10]Late.\n[124:00.00]Later.\n"


def test_lrc_has_no_brackets_and_breaks_inside_its_lines() -> None:
    text = a_transcript(
        a_segment(" [00:01.00] [Music]\nla\u2028la\x0b ", 0.0, 1.0), a_segment(" \n", 2.0, 3.0, number=1)
    )
    assert rendered(ResponseFormat.LRC, transcript=text).decode() == "[00:00.00](00:01.00) (Music) la la\n"


@unhurried
@given(transcripts())
def test_lrc_has_a_line_with_its_time_for_each_segment_with_text(transcript: Transcript) -> None:
    lines = rendered(ResponseFormat.LRC, transcript=transcript).decode().splitlines()
    for line, segment in zip(lines, (each for each in transcript.segments if each.text.strip()), strict=True):
        match = re.fullmatch(r"\[(\d{2,}):([0-5]\d\.\d\d)]([^\[\]]+)", line)
        assert match is not None
        assert 60 * int(match[1]) + float(match[2]) == pytest.approx(segment.start, abs=0.0051)
        assert match[3].split() == segment.text.replace("[", "(").replace("]", ")").split()


@unhurried
@given(transcripts())
def test_tsv_has_three_columns_in_each_row(transcript: Transcript) -> None:
    header, *rows = rendered(ResponseFormat.TSV, transcript=transcript).decode().removesuffix("\n").splitlines()
    assert header == "start\tend\ttext"
    for row, segment in zip(rows, transcript.segments, strict=True):
        start, end, text = row.split("\t")
        assert (int(start), int(end)) == (round(1000 * segment.start), round(1000 * segment.end))
        assert text.split() == segment.text.split()


@pytest.mark.parametrize("format_", [ResponseFormat.SRT, ResponseFormat.VTT])
def test_subtitles_follow_the_layout_of_the_rendering(format_: ResponseFormat) -> None:
    rendering = Rendering(format=format_, subtitles=SubtitleLayout(highlight_words=True))
    assert "\n<u>Grüße,</u>\n" in str(render(GREETING, rendering, extras={}))
    assert "<u>" not in rendered(format_).decode()


def test_transcript_without_speech_is_empty_in_every_format() -> None:
    silent = a_transcript(duration=3.0)
    assert rendered(ResponseFormat.TEXT, transcript=silent) == b"\n"
    assert rendered(ResponseFormat.SRT, transcript=silent) == b""
    assert rendered(ResponseFormat.VTT, transcript=silent) == b"WEBVTT\n\n"
    assert rendered(ResponseFormat.LRC, transcript=silent) == b""
    assert rendered(ResponseFormat.TSV, transcript=silent) == b"start\tend\ttext\n"
    assert json.loads(rendered(ResponseFormat.JSON, transcript=silent))["text"] == ""
    assert json.loads(rendered(ResponseFormat.VERBOSE_JSON, SEGMENT, WORD, transcript=silent))["segments"] == []


def test_document_needs_a_job() -> None:
    with pytest.raises(ValueError, match="job"):
        rendered(ResponseFormat.DOCUMENT)


def test_every_format_has_a_media_type() -> None:
    assert set(MEDIA_TYPES) == set(ResponseFormat)
    assert MEDIA_TYPES[ResponseFormat.VTT] == "text/vtt; charset=utf-8"
    assert MEDIA_TYPES[ResponseFormat.SRT] == MEDIA_TYPES[ResponseFormat.TEXT] == "text/plain; charset=utf-8"
