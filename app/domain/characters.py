"""Characters as readers see them: their widths, and where a text can't be divided."""

from __future__ import annotations

import re
import unicodedata
from functools import cache
from typing import Final

_JOINER: Final = "\u200d"
#: Vowel signs of Thai and Lao that Unicode does not classify as marks.
_VOWEL_SIGNS: Final = ("\u0e33", "\u0eb3")
_SKIN_TONES: Final = tuple(map(chr, range(0x1F3FB, 0x1F400)))
#: Characters of scripts without spaces between words: Thai, Lao, Burmese, Chinese and Japanese. Each is a word, as in
#: Whisper.
_UNSPACED: Final = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u2e80-\u9fff\ua9e0-\ua9ff\uaa60-\uaa7f\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff]"
)
#: The categories of opening punctuation, which belongs to the word after it, and of marks, joiners and other
#: punctuation, which belong to the word before them.
_OPENING: Final = frozenset({"Ps", "Pi"})
_CONTINUING: Final = frozenset({"Mn", "Mc", "Me", "Cf", "Pe", "Pf", "Po", "Pc", "Pd"})


def display_width(text: str) -> int:
    """Return the columns that a text takes on a screen.

    Wide characters, such as Chinese ones and emoji, take two, and marks that combine with the one before take none
    (Unicode Standard Annex 11).
    """
    return sum(map(_columns, text))


@cache
def _columns(character: str) -> int:
    if unicodedata.category(character) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def continues_character(before: str, text: str) -> bool:
    """Return True if a line break between two texts would divide a character as readers see it.

    Whisper can end a word within one: before a vowel sign of Thai or Devanagari, or between joined emoji (Unicode
    Standard Annex 29, rules GB9, GB9a and GB11).
    """
    joins = before.endswith(_JOINER) or text.startswith((_JOINER, *_SKIN_TONES, *_VOWEL_SIGNS))
    return joins or unicodedata.category(text[0]).startswith("M")


def is_unspaced(character: str) -> bool:
    """Return True if a character is of a script without spaces between words."""
    return _UNSPACED.match(character) is not None


def continues_word(before: str, character: str) -> bool:
    """Return True if a character after a word, without a space, is a part of it."""
    category = unicodedata.category(character)
    if category in _CONTINUING or unicodedata.category(before[-1]) in _OPENING:
        return True
    return _UNSPACED.search(before) is None and _UNSPACED.match(character) is None
