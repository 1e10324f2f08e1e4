"""A transcript in paragraphs of one speaker each, which end with sentences or with pauses.

Times are those of words. Where a segment has none, or a sentence begins inside a word, they are estimated: each
character takes the same time.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from dataclasses import dataclass, replace
from itertools import accumulate, groupby, pairwise
from operator import attrgetter
from typing import TYPE_CHECKING, Final

from app.domain.sentences import sentence_ends
from app.domain.speakers import parts

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from app.domain.transcript import Segment, Transcript, Word

#: A silence of at least this length between two words ends a paragraph.
PAUSE_SECONDS: Final = 2.0
#: A paragraph of this length ends with its sentence. A longer sentence, as in text without punctuation, ends with each
#: of its segments.
LONG_SECONDS: Final = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Sentence:
    """A sentence with its leading space. Times are seconds from the start of the audio."""

    start: float
    end: float
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Paragraph:
    """Sentences of one speaker. ``channel`` and ``speaker`` are None if they are not known."""

    sentences: tuple[Sentence, ...]
    channel: int | None = None
    speaker: str | None = None

    @property
    def start(self) -> float:
        return self.sentences[0].start

    @property
    def end(self) -> float:
        return self.sentences[-1].end

    @property
    def text(self) -> str:
        return "".join(sentence.text for sentence in self.sentences)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Piece:
    """A word, or a part of a segment without words, with the spaces before it."""

    text: str
    start: float
    end: float
    speaker: str | None
    begins_segment: bool


def paragraphs(transcript: Transcript) -> tuple[Paragraph, ...]:
    """Return the paragraphs in order of their starts.

    Those of one channel do not overlap, and their texts joined are its text.
    """
    by_channel: dict[int | None, list[Segment]] = {}
    for segment in transcript.segments:
        by_channel.setdefault(segment.channel, []).append(segment)
    found = (
        Paragraph(sentences=tuple(sentences), channel=channel, speaker=passage[0].speaker)
        for channel, segments in by_channel.items()
        for passage in _passages(_in_order(list(_pieces(segments))))
        for sentences in _grouped(_sentences(passage, language=transcript.written_language))
    )
    return tuple(sorted(found, key=attrgetter("start")))


def _pieces(segments: Iterable[Segment]) -> Iterator[_Piece]:
    """Yield what of the segments has times of its own. What is blank becomes a part of the next piece."""
    before = ""
    for segment in segments:
        begins_segment = True
        for part in parts(segment):
            timed: Sequence[Word | Segment] = part.words or (part,)
            for spoken, text in zip(timed, _texts(part), strict=True):
                before += text
                if before.strip():
                    yield _Piece(
                        text=before,
                        start=spoken.start,
                        end=spoken.end,
                        speaker=part.speaker,
                        begins_segment=begins_segment,
                    )
                    before = ""
                    begins_segment = False


def _texts(part: Segment) -> list[str]:
    """Return the text of each word with the spaces before it, or else the whole text."""
    begins = (len(part.text[:offset].rstrip()) for offset in part.word_offsets[1:])
    return [part.text[begin:end] for begin, end in pairwise([0, *accumulate(begins, max), len(part.text)])]


def _in_order(pieces: Sequence[_Piece]) -> list[_Piece]:
    """Return the pieces of a channel with times that neither go back nor overlap."""
    starts = list(accumulate((piece.start for piece in pieces), max))
    return [
        replace(piece, start=start, end=min(max(start, piece.end), following))
        for piece, start, following in zip(pieces, starts, [*starts, math.inf][1:], strict=True)
    ]


def _passages(pieces: Iterable[_Piece]) -> Iterator[list[_Piece]]:
    """Yield the pieces of one speaker without a long pause between them."""
    for _, spoken in groupby(pieces, key=attrgetter("speaker")):
        passage: list[_Piece] = []
        for piece in spoken:
            if passage and piece.start - passage[-1].end >= PAUSE_SECONDS:
                yield passage
                passage = []
            passage.append(piece)
        yield passage


def _sentences(passage: Sequence[_Piece], *, language: str) -> Iterator[Sentence]:
    """Yield the sentences of a passage, of which long ones are divided where segments begin."""
    text = "".join(piece.text for piece in passage)
    clock = _Clock(passage)
    ends = [0, *sentence_ends(text, language=language), len(text)]
    borders = clock.segment_begins
    for begin, end in pairwise(ends):
        sentence = clock.sentence(text, begin, end)
        if sentence.end - sentence.start <= LONG_SECONDS:
            yield sentence
            continue
        inside = borders[bisect_right(borders, begin) : bisect_left(borders, end)]
        after_spaces = [border for border in inside if text[begin:border].strip()]
        yield from (clock.sentence(text, *span) for span in pairwise([begin, *after_spaces, end]))


class _Clock:
    """The times of positions in the text of a passage."""

    def __init__(self, passage: Sequence[_Piece]) -> None:
        self._passage = passage
        self._ends = list(accumulate(len(piece.text) for piece in passage))
        begins = [0, *self._ends[:-1]]
        self.segment_begins = [
            begin for begin, piece in zip(begins, passage, strict=True) if piece.begins_segment and begin
        ]

    def sentence(self, text: str, begin: int, end: int) -> Sentence:
        """Return what is written from one position to another, which is not blank."""
        sentence = text[begin:end]
        first = begin + len(sentence) - len(sentence.lstrip())
        last = begin + len(sentence.rstrip())
        return Sentence(start=self._seconds(first, first), end=self._seconds(last, last - 1), text=sentence)

    def _seconds(self, position: int, within: int) -> float:
        """Return the time of a position as that of the piece that holds the character ``within``."""
        index = bisect_right(self._ends, within)
        piece = self._passage[index]
        written = piece.text.strip()
        offset = position - (self._ends[index] - len(piece.text.lstrip()))
        if offset <= 0:
            return piece.start
        if offset >= len(written):
            return piece.end
        estimate = round(piece.start + (piece.end - piece.start) * offset / len(written), 3)
        return min(max(piece.start, estimate), piece.end)


def _grouped(sentences: Iterable[Sentence]) -> Iterator[list[Sentence]]:
    group: list[Sentence] = []
    for sentence in sentences:
        group.append(sentence)
        if group[-1].end - group[0].start >= LONG_SECONDS:
            yield group
            group = []
    if group:
        yield group
