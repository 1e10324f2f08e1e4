"""Subtitles of a transcript with speakers: each cue has one, also as other programs read it."""

from __future__ import annotations

import html
import re
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import srt as srt_library
import webvtt
from hypothesis import given
from hypothesis import strategies as st

from app.domain.characters import display_width
from app.domain.speakers import one_line, renamed
from app.domain.subtitles import CUE_PER_SEGMENT, SubtitleLayout, srt, vtt
from app.domain.transcript import Segment, Task, Transcript, Word
from tests.domain.strategies import conversations, unhurried
from tests.support.segments import a_segment

if TYPE_CHECKING:
    from collections.abc import Sequence

HIGHLIGHT = SubtitleLayout(highlight_words=True)
FLOWING = SubtitleLayout(max_line_width=30, max_line_count=2)


def a_conversation(*spoken: tuple[str, str], segments: int = 1) -> Transcript:
    """Return words of 1 s by their speakers, in this many segments of the same number of words."""
    words = [
        Word(word=text, start=float(start), end=start + 1.0, probability=0.9, speaker=speaker)
        for start, (speaker, text) in enumerate(spoken)
    ]
    size = len(words) // segments
    divided = [_segment(words[first : first + size]) for first in range(0, len(words), size)]
    return Transcript(task=Task.TRANSCRIBE, language="english", duration=60.0, segments=tuple(divided))


def _segment(words: Sequence[Word]) -> Segment:
    text = "".join(word.word for word in words)
    segment = a_segment(text, words[0].start, words[-1].end, words=tuple(words))
    return replace(segment, speaker=words[0].speaker)


def in_srt(transcript: Transcript, layout: SubtitleLayout = CUE_PER_SEGMENT) -> list[str]:
    return [cue.content for cue in srt_library.parse(srt(transcript, layout))]


def in_vtt(transcript: Transcript, layout: SubtitleLayout = CUE_PER_SEGMENT) -> list[tuple[str | None, str]]:
    """Return the speaker and the text of each cue, as ``webvtt-py`` reads them."""
    read = webvtt.from_string(vtt(transcript, layout), strict=True).captions
    return [(cue.voice and html.unescape(cue.voice), html.unescape(cue.text)) for cue in read]


TALK = a_conversation(
    *(("A", " Are"), ("A", " you"), ("A", " there?"), ("B", " Yes,")),
    *(("B", " I"), ("B", " am."), ("A", " Good"), ("A", " then.")),
    segments=2,
)


def test_cue_ends_at_a_change_of_speaker() -> None:
    assert srt(TALK) == (
        "1\n00:00:00,000 --> 00:00:03,000\nA: Are you there?\n\n2\n00:00:03,000 --> 00:00:04,000\nB: Yes,\n\n"
        "3\n00:00:04,000 --> 00:00:06,000\nB: I am.\n\n4\n00:00:06,000 --> 00:00:08,000\nA: Good then.\n\n"
    )
    assert vtt(TALK) == (
        "WEBVTT\n\n00:00.000 --> 00:03.000\n<v A>Are you there?\n\n00:03.000 --> 00:04.000\n<v B>Yes,\n\n"
        "00:04.000 --> 00:06.000\n<v B>I am.\n\n00:06.000 --> 00:08.000\n<v A>Good then.\n\n"
    )


def test_lines_of_one_speaker_flow_over_segments() -> None:
    assert in_srt(TALK, FLOWING) == ["A: Are you there?", "B: Yes, I am.", "A: Good then."]
    assert in_vtt(TALK, FLOWING) == [("A", "Are you there?"), ("B", "Yes, I am."), ("A", "Good then.")]


def test_each_cue_of_a_highlighted_word_has_its_speaker() -> None:
    transcript = a_conversation(("A", " one"), ("A", " two"), ("B", " six"))
    assert in_srt(transcript, HIGHLIGHT) == ["A: <u>one</u> two", "A: one <u>two</u>", "B: <u>six</u>"]
    assert "\n<v B><u>six</u>\n" in vtt(transcript, HIGHLIGHT)


def test_speaker_counts_in_the_width_of_each_first_line_that_shows_it() -> None:
    transcript = a_conversation(*(("Anna", f" {word}") for word in ("one", "two", "six", "ten", "and", "so on")))
    layout = SubtitleLayout(max_line_width=13, max_line_count=2)
    assert in_srt(transcript, layout) == ["Anna: one two\nsix ten and", "Anna: so on"]
    assert in_vtt(transcript, layout) == [("Anna", "one two six\nten and so on")]
    assert in_srt(transcript, SubtitleLayout(max_line_width=2, max_line_count=1))[:2] == ["Anna: one", "Anna: two"]
    wide = a_conversation(("李", "你好"), ("李", "世界"))
    assert in_srt(wide, SubtitleLayout(max_line_width=12)) == ["李: 你好世界"]
    assert in_srt(wide, SubtitleLayout(max_line_width=11)) == ["李: 你好\n世界"]


@pytest.mark.parametrize("layout", [CUE_PER_SEGMENT, FLOWING, HIGHLIGHT])
def test_name_cannot_leave_its_place(layout: SubtitleLayout) -> None:
    name = "A & B <b>-->\n\u2028C\r\n\n2"
    transcript = renamed(TALK, {"A": name, "B": "Ben > Bob"})
    assert {speaker for speaker, _ in in_vtt(transcript, layout)} == {"A & B <b>-> C 2", "Ben > Bob"}
    assert "<v A &amp; B &lt;b&gt;-&gt; C 2>" in vtt(transcript, layout)
    assert [text.partition(": ")[0] for text in in_srt(transcript, layout)] == [
        speaker for speaker, _ in in_vtt(transcript, layout)
    ]


def test_text_from_right_to_left_and_without_spaces_is_divided_between_words() -> None:
    hebrew = a_conversation(("A", " שלום"), ("A", " עולם,"), ("B", " מה"), ("B", " שלומך"))
    assert in_srt(hebrew) == ["A: שלום עולם,", "B: מה שלומך"]
    assert in_vtt(hebrew, HIGHLIGHT)[0] == ("A", "שלום עולם,")
    chinese = a_conversation(("A", "你"), ("A", "好。"), ("B", "你"), ("B", "好"), segments=2)
    for layout in (CUE_PER_SEGMENT, FLOWING):
        assert in_vtt(chinese, layout) == [("A", "你好。"), ("B", "你好")]


LAYOUT = st.builds(
    SubtitleLayout,
    max_line_width=st.none() | st.integers(min_value=1, max_value=30),
    max_line_count=st.none() | st.integers(min_value=1, max_value=3),
    highlight_words=st.booleans(),
)
CALM = conversations(texts=st.sampled_from((" one", " two,", " a&b", "你", "好。", " שלום", " 👍", "-op", " <b>")))


@unhurried
@given(CALM, LAYOUT)
def test_cues_have_the_words_of_each_speaker_in_order(transcript: Transcript, layout: SubtitleLayout) -> None:
    expected = [(one_line(word.speaker or ""), word.word.strip()) for word in _words(transcript)]
    if layout.highlight_words:
        spans = re.findall("<v ([^>]*)>([^<]*(?:<(?!v )[^<]*)*)", vtt(transcript, layout))
        shown = [(html.unescape(name), word) for name, cue in spans for word in re.findall("<u>(.*?)</u>", cue)]
        expected = [(name.replace("-->", "->"), html.escape(word, quote=False)) for name, word in expected]
        assert [(name, word) for name, word in shown] == expected
        return
    cues = re.findall("<v ([^>]*)>(.*?)\n\n", vtt(transcript, layout), re.DOTALL)
    shown_text = [(html.unescape(name), character) for name, text in cues for character in _characters(text)]
    assert shown_text == [
        (name.replace("-->", "->"), character)
        for name, word in expected
        for character in _characters(html.escape(word))
    ]


def _words(transcript: Transcript) -> list[Word]:
    """Return the words; a segment without words has no text here."""
    return [word for segment in transcript.segments for word in segment.words]


def _characters(text: str) -> str:
    return "".join(text.split())


@unhurried
@given(CALM, LAYOUT)
def test_lines_keep_their_width_and_number(transcript: Transcript, layout: SubtitleLayout) -> None:
    words = {word.word.strip() for word in _words(transcript)}
    for cue in in_srt(transcript, layout):
        first, *others = re.sub("</?u>", "", cue).split("\n")
        assert 1 + len(others) <= (layout.max_line_count or 1 + len(others))
        alone = first.partition(": ")[2] in words
        if layout.max_line_width is not None:
            assert alone or display_width(first) <= layout.max_line_width
            assert all(line in words or display_width(line) <= layout.max_line_width for line in others)


@unhurried
@given(conversations(), LAYOUT)
def test_cues_of_any_conversation_are_well_formed(transcript: Transcript, layout: SubtitleLayout) -> None:
    head, *cues = vtt(transcript, layout).split("\n\n")
    assert (head, cues.pop()) == ("WEBVTT", "")
    for cue in cues:
        times, first, *others = cue.split("\n")
        assert re.fullmatch(r"[\d:.]+ --> [\d:.]+", times)
        assert re.match("<v [^<>&]", first)
        assert "-->" not in cue.removeprefix(times)
        assert all(line == line.strip() != "" for line in (first, *others))
    assert len(srt(transcript, layout).split("\n\n")) == len(cues) + 1
