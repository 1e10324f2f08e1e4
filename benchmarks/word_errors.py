"""Word errors of texts, compared without case and punctuation, and the references that recordings come with."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

#: Counts are digits of one number, which is compared and added at once: all, substituted, inserted, deleted.
_BASE: Final = 1_000_000
_DELETED: Final = _BASE**3 + 1
_INSERTED: Final = _BASE**3 + _BASE
_SUBSTITUTED: Final = _BASE**3 + _BASE**2


@dataclass(frozen=True, slots=True)
class WordErrors:
    """The fewest differences between a text and a reference of ``words`` words."""

    words: int
    substituted: int
    inserted: int
    deleted: int

    @property
    def percent(self) -> float:
        return 100 * (self.substituted + self.inserted + self.deleted) / max(1, self.words)

    def __str__(self) -> str:
        return f"{self.percent:.1f} ({self.substituted}, {self.inserted}, {self.deleted})"


def words(text: str) -> list[str]:
    """Return the words of a text without case and punctuation."""
    return re.findall(r"[^\W_]+(?:['’][^\W_]+)*", text.casefold())


def word_errors(reference: Sequence[str], text: Sequence[str]) -> WordErrors:
    """Return the errors of the words of a text."""
    return _errors(len(reference), _distances(reference, text)[-1])


def beginning_said(reference: Sequence[str], text: Sequence[str]) -> list[str]:
    """Return the beginning of a reference that ends where a text does, which has no more than that."""
    distances = _distances(reference, text)
    return list(reference[: min(range(len(distances)), key=distances.__getitem__)])


def references(manifest: Path, files: Sequence[Path]) -> str:
    """Return what is said in files, from JSON lines with a ``path``, relative to theirs, and a ``reference``.

    Raises:
        ValueError: A file has none.
    """
    rows = [json.loads(line) for line in manifest.read_text().splitlines()]
    texts = {manifest.parent.joinpath(row["path"]).resolve(): row.get("reference") for row in rows}
    missing = [str(file) for file in files if not texts.get(file.resolve())]
    if missing:
        raise ValueError(f"{manifest} has no reference for {', '.join(missing)}.")
    return " ".join(texts[file.resolve()] for file in files)


def _distances(reference: Sequence[str], text: Sequence[str]) -> list[int]:
    """Return the differences of a text to the first 0, 1, … words of a reference."""
    row = [count * _INSERTED for count in range(len(text) + 1)]
    distances = [row[-1]]
    for expected in reference:
        diagonal, row[0] = row[0], row[0] + _DELETED
        for index, word in enumerate(text, 1):
            replaced = diagonal if word == expected else diagonal + _SUBSTITUTED
            diagonal = row[index]
            row[index] = min(replaced, row[index - 1] + _INSERTED, diagonal + _DELETED)
        distances.append(row[-1])
    return distances


def _errors(count: int, distance: int) -> WordErrors:
    return WordErrors(count, distance // _BASE**2 % _BASE, distance // _BASE % _BASE, distance % _BASE)
