"""One script for the Chinese of a transcript: Whisper writes each window in simplified or in traditional characters."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Final

from app.domain.transcript import Script

if TYPE_CHECKING:
    from opencc import OpenCC

    from app.domain.transcript import Segment

#: OpenCC's names of the conversions to each script, which choose no other words. Whisper writes Taiwan's characters.
_CONVERSIONS: Final[dict[Script, str]] = {Script.SIMPLIFIED: "tw2s", Script.TRADITIONAL: "s2tw"}
#: By this many characters one script must outnumber the other. A sentence has about as many that differ.
_ENOUGH: Final = 5


class ChineseScript:
    """Converts the segments of one transcript to a ``script``, else to that of its prompt or of its first sentences.

    Until these have enough characters that differ between the scripts, segments stay as they are.
    """

    def __init__(self, script: Script | None = None, *, prompt: str | None = None) -> None:
        self._script = script
        self._prompt = prompt or ""
        self._lead = 0

    def unify(self, segment: Segment) -> Segment:
        """Return the next segment of the transcript in its script. The tokens remain those of the model."""
        if self._script is None:
            self._script = self._choose(segment.text)
        return segment if self._script is None else in_script(segment, self._script)

    def _choose(self, text: str) -> Script | None:
        """Return the script of the prompt, or else that of all texts so far, or None if neither has one."""
        lead = traditional_lead(self._prompt)
        if not lead:
            self._lead += traditional_lead(text)
            lead = self._lead if abs(self._lead) >= _ENOUGH else 0
        if not lead:
            return None
        return Script.TRADITIONAL if lead > 0 else Script.SIMPLIFIED


def traditional_lead(text: str) -> int:
    """Return by how many characters that are only traditional outnumber those that are only simplified."""
    return _changes(text, Script.SIMPLIFIED) - _changes(text, Script.TRADITIONAL)


def _changes(text: str, script: Script) -> int:
    return sum(before != after for before, after in zip(text, convert(text, script), strict=False))


def in_script(segment: Segment, script: Script) -> Segment:
    """Return the segment with its text and its words in a script."""
    text = convert(segment.text, script)
    written = "".join(word.word for word in segment.words)
    converted = convert(written, script)
    if len(converted) == len(written):
        ends = [0, *accumulate(len(word.word) for word in segment.words)]
        texts = [converted[start:end] for start, end in pairwise(ends)]
    else:
        texts = [convert(word.word, script) for word in segment.words]
    words = tuple(replace(word, word=text) for word, text in zip(segment.words, texts, strict=True))
    return replace(segment, text=text, words=words)


def convert(text: str, script: Script) -> str:
    """Return ``text`` in a script; the context decides where a character has several counterparts."""
    converted: str = _converter(_CONVERSIONS[script]).convert(text)
    return converted


def load_dictionaries() -> None:
    """Load OpenCC's dictionaries, which takes 50 ms the first time."""
    for name in _CONVERSIONS.values():
        _converter(name)


@cache
def _converter(name: str) -> OpenCC:
    from opencc import OpenCC

    return OpenCC(name)
