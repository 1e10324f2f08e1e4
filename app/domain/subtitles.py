"""A transcript as subtitles, in SubRip and WebVTT. A cue never has two speakers.

The layout follows ``SubtitlesWriter`` in OpenAI's ``whisper/utils.py``, the text of cues
https://www.w3.org/TR/webvtt1/.
"""

from __future__ import annotations

import html
import math
import re
from dataclasses import dataclass, replace
from itertools import chain, groupby
from operator import attrgetter
from typing import TYPE_CHECKING, Final

from app.domain.characters import continues_character, display_width
from app.domain.speakers import one_line, parts

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
    ``highlight_words`` underlines each word while it is spoken. ``always_include_hours`` is about WebVTT.
    """

    max_line_width: int | None = None
    max_line_count: int | None = None
    highlight_words: bool = False
    always_include_hours: bool = False

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
    """A word, the text of a part of a segment, or a cue. Times are seconds from the start of the audio."""

    text: str
    start: float
    end: float
    speaker: str | None = None


@dataclass(frozen=True, slots=True)
class _Notation:
    """The spelling of texts in a format, and of the speaker before the text of a cue, whom some players show."""

    text: Callable[[str], str]
    speaker: Callable[[str], str]
    shows_speakers: bool

    def before_cue(self, speaker: str | None) -> str:
        return "" if speaker is None else self.speaker(_SPARE_DASH.sub("", one_line(speaker)))

    def width_before_cue(self, speaker: str | None) -> int:
        return display_width(self.before_cue(speaker)) if self.shows_speakers else 0


def srt(transcript: Transcript, layout: SubtitleLayout = CUE_PER_SEGMENT) -> str:
    """Return the transcript in SubRip format, which is empty if there is no text. A cue begins with its speaker."""
    cues = (
        f"{number}\n{timestamp(cue.start, point=',', hours_always=True)} --> "
        f"{timestamp(cue.end, point=',', hours_always=True)}\n{cue.text}\n\n"
        for number, cue in enumerate(_cues(transcript, layout, _SRT), start=1)
    )
    return "".join(cues)


def vtt(transcript: Transcript, layout: SubtitleLayout = CUE_PER_SEGMENT) -> str:
    """Return the transcript in WebVTT format, with tags and character references in the text escaped.

    Times only include hours from the first hour on, unless the layout always has them. A cue with a speaker is a voice
    span, without the end tag that it doesn't need.
    """
    hours = layout.always_include_hours
    cues = (
        f"{timestamp(cue.start, point='.', hours_always=hours)} --> "
        f"{timestamp(cue.end, point='.', hours_always=hours)}\n{cue.text}\n\n"
        for cue in _cues(transcript, layout, _VTT)
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


_SRT: Final = _Notation(text=str, speaker="{}: ".format, shows_speakers=True)
_VTT: Final = _Notation(text=_escaped, speaker=lambda name: f"<v {_escaped(name)}>", shows_speakers=False)


def _cues(transcript: Transcript, layout: SubtitleLayout, notation: _Notation) -> Iterator[_Timed]:
    for words in _laid_out(transcript, layout, notation):
        spelled = [replace(word, text=notation.text(word.text)) for word in _without_arrows(words)]
        before = notation.before_cue(words[0].speaker)
        whole = _cue(spelled, spelled[0].start, spelled[-1].end)
        for cue in _highlighted(spelled) if layout.highlight_words else (whole,):
            yield replace(cue, text=before + cue.text)


def _laid_out(transcript: Transcript, layout: SubtitleLayout, notation: _Notation) -> Iterator[list[_Timed]]:
    """Yield the words of each cue; the first word of each line after the first begins with the line break."""
    for passage in _passages(transcript, layout):
        for speaker, words in groupby(passage, key=attrgetter("speaker")):
            for lines in _lines(words, layout, width_before=notation.width_before_cue(speaker)):
                yield _with_line_breaks(lines)


def _passages(transcript: Transcript, layout: SubtitleLayout) -> Iterator[Iterable[_Timed]]:
    """Return groups of words that can share a cue, if they have the same speaker."""
    segments = (_words(segment, layout) for segment in transcript.segments)
    if layout.flows_over_segments:
        return _between_pauses(_normalized(chain.from_iterable(segments)))
    return (_normalized(words) for words in segments)


def _words(segment: Segment, layout: SubtitleLayout) -> list[_Timed]:
    """Return the words of a segment, or the whole text of each speaker if they are missing or not needed."""
    spoken = segment.words if layout.needs_words else ()
    words = [_Timed(word.word, word.start, word.end, word.speaker) for word in spoken]
    has_text = any(word.text.strip() for word in words)
    return words if has_text else [_Timed(part.text, part.start, part.end, part.speaker) for part in parts(segment)]


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
    """Yield the words that are not blank, with at most one space before each and between their pieces."""
    space = ""
    for word in words:
        pieces = word.text.split()
        if word.text[:1].isspace():
            space = " "
        if pieces:
            yield replace(word, text=space + " ".join(pieces))
            space = " " if word.text[-1].isspace() else ""


def _lines(words: Iterable[_Timed], layout: SubtitleLayout, *, width_before: int) -> Iterator[list[list[_Timed]]]:
    """Yield the lines of each cue. Its first line begins after ``width_before`` columns."""
    max_width, max_count = layout.max_line_width or math.inf, layout.max_line_count or math.inf
    lines: list[list[_Timed]] = []
    width = width_before
    for word in words:
        fits = width + display_width(word.text) <= max_width
        if lines and (fits or continues_character(lines[-1][-1].text, word.text)):
            lines[-1].append(word)
            width += display_width(word.text)
            continue
        if len(lines) == max_count:
            yield lines
            lines = []
        first = replace(word, text=word.text.lstrip())
        width = display_width(first.text) + (0 if lines else width_before)
        lines.append([first])
    if lines:
        yield lines


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
