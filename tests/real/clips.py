"""The recordings in ``recordings/``, described in its ``manifest.json``."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Final

RECORDINGS: Final = Path(__file__).with_name("recordings")


@dataclass(frozen=True, slots=True, kw_only=True)
class Clip:
    """A recording and what is known of it.

    ``reference`` is the spoken text in lower case without punctuation, ``words`` the spoken words with their start and
    end in seconds, ``text_has`` a part of the text. ``source`` is a repository, a commit and a path, ``credit`` names
    the authors.
    """

    file: str
    group: str
    source: str
    licence: str
    credit: str
    changes: str
    language: str | None = None
    reference: str | None = None
    words: tuple[tuple[str, float, float], ...] = ()
    text_has: str | None = None

    @property
    def path(self) -> Path:
        return RECORDINGS / self.file

    def __str__(self) -> str:
        return self.file


CLIPS: Final = tuple(Clip(**entry) for entry in json.loads((RECORDINGS / "manifest.json").read_text(encoding="utf-8")))
