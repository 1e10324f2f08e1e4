"""WebVTT subtitles in a browser: every cue is shown at its time with its text."""

from __future__ import annotations

import asyncio
import html
import re
from typing import TYPE_CHECKING, Any

import pytest
import webvtt

from app.domain.subtitles import SubtitleLayout, vtt
from app.domain.transcript import Segment, Task, Transcript, Word
from tests.browser.video_page import Cue, VideoPage
from tests.support.segments import a_segment
from tests.support.service import serving

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from selenium.webdriver import Chrome

    from app.transcription.whisper import WhisperModel

pytestmark = pytest.mark.full(reason="starts a browser")

MARKUP = " a < b & c --> d"


@pytest.fixture
def video(browser: Chrome) -> Iterator[VideoPage]:
    with VideoPage(browser) as page:
        yield page


def parsed_cues(text: str) -> list[Cue]:
    """Return the cues as ``webvtt-py`` parses them."""
    return [
        Cue(
            caption.start_time.in_milliseconds(),
            caption.end_time.in_milliseconds(),
            html.unescape(caption.text),
            tuple(html.unescape(marked) for marked in re.findall("<u>(.*?)</u>", caption.raw_text)),
        )
        for caption in webvtt.from_string(text, strict=True).captions
    ]


def shown(video: VideoPage, text: str) -> list[Cue]:
    """Return the cues that the browser shows. Check that they equal the parsed ones."""
    cues = video.cues(text)
    assert cues == parsed_cues(text)
    return cues


def a_transcript(*spoken: tuple[float, float, str]) -> Transcript:
    """Return a transcript with a segment for each start, end and text, and words of equal length."""
    segments = tuple(_segment(number, *passage) for number, passage in enumerate(spoken))
    return Transcript(task=Task.TRANSCRIBE, language="english", duration=4000.0, segments=segments)


def _segment(number: int, start: float, end: float, text: str) -> Segment:
    parts = re.findall(r"\s*\S+", text)
    times = [start + (end - start) * index / len(parts) for index in range(len(parts) + 1)]
    return a_segment(
        text,
        start,
        end,
        number=number,
        words=tuple(
            Word(word=part, start=times[index], end=times[index + 1], probability=0.9)
            for index, part in enumerate(parts)
        ),
    )


@pytest.mark.anyio
async def test_browser_shows_transcribed_subtitles(
    video: VideoPage, tmp_path: Path, model: WhisperModel, samples: Path, references: dict[str, dict[str, Any]]
) -> None:
    lines = {"max_line_width": 16, "max_line_count": 2}
    requests: list[tuple[str, dict[str, Any]]] = [
        *((name, {}) for name in references),
        ("long.opus", lines),
        ("hello.wav", {"highlight_words": "true"}),
    ]
    async with serving(tmp_path / "data", lambda: model) as running:
        responses = await asyncio.gather(
            *(running.transcribe(samples / name, response_format="vtt", **fields) for name, fields in requests)
        )
    for (name, fields), response in zip(requests, responses, strict=True):
        assert response.status_code == 200, response.text
        cues = await asyncio.to_thread(shown, video, response.text)
        assert bool(cues) == bool(references[name]["text"]), (name, fields)
        assert any("\n" in cue.text for cue in cues) == (fields == lines), (name, fields)
        assert any(cue.underlined for cue in cues) == ("highlight_words" in fields), (name, fields)


def test_markup_and_arrows_are_shown_as_text(video: VideoPage) -> None:
    transcript = a_transcript((1.0, 2.0, MARKUP), (3.0, 4.0, " <i>not</i> &lt; tilted &amp; <00:03.500>"))
    assert shown(video, vtt(transcript)) == [
        Cue(1000, 2000, "a < b & c -> d"),
        Cue(3000, 4000, "<i>not</i> &lt; tilted &amp; <00:03.500>"),
    ]


def test_times_after_an_hour_and_rounded_up_are_shown(video: VideoPage) -> None:
    transcript = a_transcript((58.5, 59.9996, " one"), (59.9996, 61.0, " two"), (3599.9996, 3661.5, " three"))
    assert shown(video, vtt(transcript)) == [
        Cue(58_500, 60_000, "one"),
        Cue(60_000, 61_000, "two"),
        Cue(3_600_000, 3_661_500, "three"),
    ]


def test_each_word_is_underlined_even_if_it_is_markup(video: VideoPage) -> None:
    cues = shown(video, vtt(a_transcript((1.0, 8.0, MARKUP)), SubtitleLayout(highlight_words=True)))
    assert {cue.text for cue in cues} == {"a < b & c -> d"}
    assert [cue.underlined for cue in cues] == [("a",), ("<",), ("b",), ("&",), ("c",), ("->",), ("d",)]


def test_line_breaks_are_shown(video: VideoPage) -> None:
    text = vtt(a_transcript((1.0, 8.0, MARKUP)), SubtitleLayout(max_line_width=5))
    assert shown(video, text) == [Cue(1000, 8000, "a < b\n& c\n-> d")]


def test_empty_transcript_shows_no_cue(video: VideoPage) -> None:
    assert shown(video, vtt(a_transcript())) == []
