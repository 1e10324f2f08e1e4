"""Times and speakers of the words of a corrected text, from those of the words that the model heard.

Words that are still there keep their times, probability and speaker. New ones take the times of the words that they
replace, or share the gap that they stand in. Only if there is none does a neighbour give up half of its time.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass, replace
from difflib import SequenceMatcher
from itertools import accumulate, pairwise, takewhile
from typing import TYPE_CHECKING, Final

from app.domain.characters import continues_word
from app.domain.transcript import Word

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from app.domain.transcript import Segment

#: The probability of a word that a person wrote.
_CERTAIN: Final = 1.0
#: A new word gets at least this much time, if it is there.
_SHORTEST_SECONDS: Final = 0.02
#: Texts of more pairs of words are only compared from both ends: a segment of 30 s has some hundred characters even in
#: Chinese, and repetitions of a few words would take seconds.
_MOST_COMPARISONS: Final = 40_000


@dataclass(frozen=True, slots=True)
class _Unit:
    """A word of a text, by its spaces and scripts: the characters from ``start`` up to ``end``."""

    text: str
    start: int
    end: int


@dataclass(slots=True)
class _Group:
    """Words of the model that cover whole units of the text, from ``first`` up to ``end``; often one of each."""

    words: list[Word]
    first: int
    end: int

    def covers(self, text: str, units: Sequence[_Unit]) -> bool:
        """Return True if the words are what the units of ``text`` say, and not something broken."""
        spelled = "".join(word.word for word in self.words).strip()
        return spelled == text[units[self.first].start : units[self.end - 1].end]


@dataclass(frozen=True, slots=True)
class _Run:
    """Texts of new words, the words that they replace, and the words after them that are kept."""

    added: list[str]
    replaced: list[Word]
    kept: list[Word]


def realigned(segment: Segment, text: str, *, is_certain: bool = True) -> tuple[Word, ...]:
    """Return the words of ``text``, which replaces that of the segment.

    A new word has the speaker of the words that it replaces, or else of the word before it. It has the probability 1 if
    the text ``is_certain``, or else the lowest of the same words.

    They are in order and within the segment, and each has a length if the segment has one.
    """
    words: list[Word] = []
    for run in _runs(segment, text):
        if run.added:
            times = [(word.start, word.end) for word in run.replaced]
            if len(times) != len(run.added):
                times = _shared(run.added, *_room(run, words, segment))
            near = run.replaced or words[-1:] or run.kept[:1]
            words += [
                Word(
                    word=added,
                    start=start,
                    end=end,
                    probability=_CERTAIN if is_certain else min((word.probability for word in near), default=_CERTAIN),
                    channel=segment.channel,
                    speaker=_speaker((start + end) / 2, near) or segment.speaker,
                )
                for added, (start, end) in zip(run.added, times, strict=True)
            ]
        words += run.kept
    return tuple(words)


def _runs(segment: Segment, text: str) -> Iterator[_Run]:
    """Yield the corrected text as runs, each of which ends with words that are kept, except the last."""
    old, new = _units(segment.text), _units(text)
    groups = _groups(segment, old) if _is_in_order(segment) else []
    matches = _matches(old, new)
    texts = [text[start:end] for start, end in pairwise([0, *(unit.end for unit in new)])]  # with the spaces before
    position = 0
    replaced: list[Word] = []
    for group in groups:
        at = _kept_at(group, matches)
        if at is None or not group.covers(segment.text, old):
            replaced += group.words
            continue
        space = texts[at][: len(texts[at]) - len(new[at].text)]
        first, *rest = group.words
        kept = [replace(first, word=space + first.word.lstrip()), *rest]
        yield _Run(texts[position:at], replaced, kept)
        replaced, position = [], at + group.end - group.first
    yield _Run(texts[position:], replaced, [])


def _is_in_order(segment: Segment) -> bool:
    times = [segment.start, *(time for word in segment.words for time in (word.start, word.end)), segment.end]
    return times == sorted(times) and all(word.start < word.end for word in segment.words)


def _units(text: str) -> list[_Unit]:
    starts: list[int] = []
    ends: list[int] = []
    for position, character in enumerate(text):
        if character.isspace():
            continue
        if ends and ends[-1] == position and continues_word(text[starts[-1] : position], character):
            ends[-1] = position + 1
        else:
            starts.append(position)
            ends.append(position + 1)
    return [_Unit(text[start:end], start, end) for start, end in zip(starts, ends, strict=True)]


def _groups(segment: Segment, units: Sequence[_Unit]) -> list[_Group]:
    starts, ends = [unit.start for unit in units], [unit.end for unit in units]
    groups: list[_Group] = []
    for word, offset in zip(segment.words, segment.word_offsets, strict=True):
        first = bisect_right(ends, offset)
        end = bisect_left(starts, offset + len(word.word.strip()))
        if groups and (first < groups[-1].end or end <= first):
            groups[-1].words.append(word)
            groups[-1].end = max(groups[-1].end, end)
        elif first < end:
            groups.append(_Group([word], first, end))
    return groups


def _matches(old: Sequence[_Unit], new: Sequence[_Unit]) -> dict[int, int]:
    """Return the indexes of the new units that are equal to old ones in the same order, by those of the old ones.

    The texts begin and end as before if they can: of repeated words, those beside the change are the changed ones.
    """
    before, after = [unit.text for unit in old], [unit.text for unit in new]
    head = _common(before, after)
    tail = _common(before[head:][::-1], after[head:][::-1])
    matches = {index: index for index in range(head)}
    matches |= {len(old) - index: len(new) - index for index in range(1, tail + 1)}
    if (len(old) - head - tail) * (len(new) - head - tail) <= _MOST_COMPARISONS:
        middle = SequenceMatcher(None, before[head : len(old) - tail], after[head : len(new) - tail], autojunk=False)
        for block in middle.get_matching_blocks():
            matches |= {head + block.a + index: head + block.b + index for index in range(block.size)}
    return matches


def _common(one: Sequence[str], other: Sequence[str]) -> int:
    """Return how many texts both begin with."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


def _kept_at(group: _Group, matches: Mapping[int, int]) -> int | None:
    """Return the index of the new unit at which a group begins that is there as a whole, or None."""
    at = matches.get(group.first)
    if at is None or any(matches.get(unit) != at + unit - group.first for unit in range(group.first, group.end)):
        return None
    return at


def _speaker(seconds: float, words: Sequence[Word]) -> str | None:
    """Return the speaker of the word at a time, or of the nearest one."""
    nearest = min(words, key=lambda word: max(word.start - seconds, seconds - word.end), default=None)
    return None if nearest is None else nearest.speaker


def _room(run: _Run, before: list[Word], segment: Segment) -> tuple[float, float]:
    """Return the start and end of the new words of a run; a neighbour is shortened if there is no room for them."""
    needed = len(run.added) * _SHORTEST_SECONDS
    if run.replaced and run.replaced[-1].end - run.replaced[0].start >= needed:
        return run.replaced[0].start, run.replaced[-1].end
    start = before[-1].end if before else segment.start
    end = run.kept[0].start if run.kept else segment.end
    if end - start >= needed:
        return start, end
    if before:
        start = (before[-1].start + before[-1].end) / 2
        before[-1] = replace(before[-1], end=start)
    elif run.kept:
        end = (run.kept[0].start + run.kept[0].end) / 2
        run.kept[0] = replace(run.kept[0], start=end)
    return start, end


def _shared(texts: Sequence[str], start: float, end: float) -> list[tuple[float, float]]:
    """Return the times of words that share a span by their lengths, in milliseconds if those are short enough."""
    lengths = list(accumulate(len(text) for text in texts))
    borders = [start, *(start + (end - start) * length / lengths[-1] for length in lengths[:-1]), end]
    rounded = [start, *(round(border, 3) for border in borders[1:-1]), end]
    is_fine_enough = all(before < after for before, after in pairwise(rounded))
    return list(pairwise(rounded if is_fine_enough else borders))
