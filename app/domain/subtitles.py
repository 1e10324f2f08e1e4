"""A transcript as subtitles, in SubRip and WebVTT.

The layout follows ``SubtitlesWriter`` in OpenAI's ``whisper/utils.py``, the text of cues
https://www.w3.org/TR/webvtt1/.
"""

from __future__ import annotations

import html
import math
import re
from dataclasses import dataclass, replace
from itertools import chain
from typing import TYPE_CHECKING, Final

from app.domain.characters import continues_character, display_width

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from app.domain.transcript import Segment, Transcript

#: Dashes to remove so that ``-->``, which separates the times of a cue, becomes ``->`` in its text.
_SPARE_DASH: Final = re.compile("-(?=-+>)")
#: The longest time between the starts of two words in one cue, when lines flow over segments.
_MAX_PAUSE_SECONDS: Final = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SubtitleLayout:
    """The layout of words in cues; by default each segment is a cue.

    ``max_line_width`` is in columns (see :func:`~app.domain.characters.display_width`); a wider word has its own line.
    ``max_line_count`` is the number of lines in a cue. Each segment starts a new cue unless both are set.
    ``highlight_words`` underlines each word while it is spoken.
    """

    max_line_width: int | None = None
    max_line_count: int | None = None
    highlight_words: bool = False

    @property
    def needs_words(self) -> bool:
        """True if the layout depends on the times of words."""
        return self.max_line_width is not None or self.max_line_count is not None or self.highlight_words

    @property
    def flows_over_segments(self) -> bool:
        return self.max_line_width is not None and self.max_line_count is not None


#: A cue for each segment.
CUE_PER_SEGMENT: Final = SubtitleLayout()


@dataclass(frozen=True, slots=True)
class _Timed:
    """A word, the whole text of a segment, or a cue. Times are seconds from the start of the audio."""

    text: str
    start: float
    end: float


def srt(transcript: Transcript, layout: SubtitleLayout = CUE_PER_SEGMENT) -> str:
    """Return the transcript in SubRip format, which is empty if there is no text."""
    cues = (
        f"{number}\n{timestamp(cue.start, point=',', hours_always=True)} --> "
        f"{timestamp(cue.end, point=',', hours_always=True)}\n{cue.text}\n\n"
        for number, cue in enumerate(_cues(transcript, layout, escape=str), start=1)
    )
    return "".join(cues)


def vtt(transcript: Transcript, layout: SubtitleLayout = CUE_PER_SEGMENT) -> str:
    """Return the transcript in WebVTT format, with tags and character references in the text escaped.

    Times only include hours from the first hour on.
    """
    cues = (
        f"{timestamp(cue.start, point='.')} --> {timestamp(cue.end, point='.')}\n{cue.text}\n\n"
        for cue in _cues(transcript, layout, escape=_escaped)
    )
    return "WEBVTT\n\n" + "".join(cues)


def timestamp(seconds: float, *, point: str, hours_always: bool = False) -> str:
    """Return ``HH:MM:SS`` with ``point`` and milliseconds, rounded first so that 59.9996 s is a whole minute."""
    minutes, milliseconds = divmod(_milliseconds(seconds), 60_000)
    hours, minutes = divmod(minutes, 60)
    whole, milliseconds = divmod(milliseconds, 1000)
    prefix = f"{hours:02d}:" if hours or hours_always else ""
    return f"{prefix}{minutes:02d}:{whole:02d}{point}{milliseconds:03d}"


def _milliseconds(seconds: float) -> int:
    return round(max(seconds, 0.0) * 1000)


def _escaped(text: str) -> str:
    return html.escape(text, quote=False)


def _cues(transcript: Transcript, layout: SubtitleLayout, *, escape: Callable[[str], str]) -> Iterator[_Timed]:
    for words in _laid_out(transcript, layout):
        escaped = [replace(word, text=escape(word.text)) for word in _without_arrows(words)]
        if layout.highlight_words:
            yield from _highlighted(escaped)
        else:
            yield _cue(escaped, escaped[0].start, escaped[-1].end)


def _laid_out(transcript: Transcript, layout: SubtitleLayout) -> Iterator[list[_Timed]]:
    """Yield the words of each cue; the first word of each line after the first begins with the line break."""
    for passage in _passages(transcript, layout):
        lines = list(_lines(passage, layout.max_line_width or math.inf))
        count = layout.max_line_count or max(len(lines), 1)
        for first in range(0, len(lines), count):
            yield _with_line_breaks(lines[first : first + count])


def _passages(transcript: Transcript, layout: SubtitleLayout) -> Iterator[Iterable[_Timed]]:
    """Return groups of words that can share a cue."""
    segments = (_words(segment, layout) for segment in transcript.segments)
    if layout.flows_over_segments:
        return _between_pauses(_normalized(chain.from_iterable(segments)))
    return (_normalized(words) for words in segments)


def _words(segment: Segment, layout: SubtitleLayout) -> list[_Timed]:
    """Return the words of a segment, or its whole text as one word if they are missing or not needed."""
    words = [_Timed(word.word, word.start, word.end) for word in segment.words if layout.needs_words]
    has_text = any(word.text.strip() for word in words)
    return words if has_text else [_Timed(segment.text, segment.start, segment.end)]


def _between_pauses(words: Iterable[_Timed]) -> Iterator[list[_Timed]]:
    passage: list[_Timed] = []
    for word in words:
        if passage and word.start - passage[-1].start > _MAX_PAUSE_SECONDS:
            yield passage
            passage = []
        passage.append(word)
    if passage:
        yield passage


def _normalized(words: Iterable[_Timed]) -> Iterator[_Timed]:
    """Yield the words that are not blank, with at most one space before each and between their parts."""
    space = ""
    for word in words:
        parts = word.text.split()
        if word.text[:1].isspace():
            space = " "
        if parts:
            yield replace(word, text=space + " ".join(parts))
            space = " " if word.text[-1].isspace() else ""


def _lines(words: Iterable[_Timed], max_width: float) -> Iterator[list[_Timed]]:
    line: list[_Timed] = []
    width = 0
    for word in words:
        if line and width + display_width(word.text) > max_width and not continues_character(line[-1].text, word.text):
            yield line
            line, width = [], 0
        fitted = word if line else replace(word, text=word.text.lstrip())
        line.append(fitted)
        width += display_width(fitted.text)
    if line:
        yield line


def _with_line_breaks(lines: Sequence[list[_Timed]]) -> list[_Timed]:
    first, *others = lines
    return [*first, *chain.from_iterable([replace(line[0], text="\n" + line[0].text), *line[1:]] for line in others)]


def _without_arrows(words: Sequence[_Timed]) -> list[_Timed]:
    """Return the words with ``->`` for each ``-->``, even if it is spread over several of them."""
    cleaned: list[_Timed] = []
    following = ""
    for word in reversed(words):
        text = _SPARE_DASH.sub("", word.text + following)
        cleaned.append(replace(word, text=text.removesuffix(following)))
        following = text[:2]
    return cleaned[::-1]


def _highlighted(words: Sequence[_Timed]) -> Iterator[_Timed]:
    """Yield a cue for each word, in which it is underlined, and one for each gap between words."""
    previous_end = words[0].start
    for index, word in enumerate(words):
        if _milliseconds(word.start) > _milliseconds(previous_end):
            yield _cue(words, previous_end, word.start)
        marked = [*words[:index], replace(word, text=_underlined(word.text)), *words[index + 1 :]]
        yield _cue(marked, word.start, word.end)
        previous_end = max(previous_end, word.start, word.end)


def _underlined(text: str) -> str:
    word = text.lstrip()
    return f"{text.removesuffix(word)}<u>{word}</u>"


def _cue(words: Iterable[_Timed], start: float, end: float) -> _Timed:
    return _Timed("".join(word.text for word in words), start, max(start, end))
