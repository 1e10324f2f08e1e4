"""Replacement of terms in a transcript, such as names that the model spells wrong each time.

Rules match whole words, in any case. Where several match, the longest does, and what it puts in is not matched again.
"""

from __future__ import annotations

import unicodedata
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Final

from app.domain.characters import continues_character, is_unspaced
from app.domain.errors import InvalidRequest
from app.domain.names import clean_name
from app.domain.realignment import realigned

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from app.domain.transcript import Segment

#: The most rules of a request.
MAX_RULES: Final = 500
#: The most characters of a replacement.
MAX_LENGTH: Final = 200
_PARAM: Final = "replace"
_MAX_SHOWN: Final = 60
_APOSTROPHES: Final = str.maketrans("’", "'")
#: What keeps letters of Persian and Indic words apart without ending the word.
_NON_JOINER: Final = "\u200c"

#: A term as rules compare it: its words, signs and, as one space each, what is between them.
_Term = tuple[str, ...]


class Replacements:
    """Rules for the texts of segments: terms and what to write in their place."""

    def __init__(self, rules: Iterable[tuple[str, str]] = ()) -> None:
        self._replacements = {_term(old): new for old, new in rules}
        self._by_first: dict[str, list[_Term]] = {}
        for term in sorted(self._replacements, key=len, reverse=True):
            self._by_first.setdefault(term[0], []).append(term)

    def apply(self, segment: Segment) -> Segment:
        """Return the segment with its terms replaced in the text and the words. The tokens remain the model's."""
        text = self.replaced(segment.text)
        if text == segment.text:
            return segment
        words = realigned(segment, text, is_certain=False) if segment.words else ()
        return replace(segment, text=text, words=words)

    def replaced(self, text: str) -> str:
        """Return a text with its terms replaced."""
        if not self._by_first:
            return text
        pieces = list(_pieces(text))
        compared = tuple(map(_compared, pieces))
        written: list[str] = []
        index = 0
        while index < len(pieces):
            term = self._term_at(compared, index)
            written.append(self._replacements[term] if term else pieces[index])
            index += len(term) or 1
        return "".join(written)

    def _term_at(self, compared: _Term, index: int) -> _Term:
        """Return the longest term that begins at an index, or an empty one."""
        terms = self._by_first.get(compared[index], ())
        return next((term for term in terms if compared[index : index + len(term)] == term), ())


def checked_rules(rules: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Return the rules of a request, each replacement on one line.

    Raises:
        InvalidRequest: there are too many, or one can't be used.
    """
    if len(rules) > MAX_RULES:
        raise InvalidRequest(
            f"`{_PARAM}` must have at most {MAX_RULES} rules, got {len(rules)}: leave some out.", param=_PARAM
        )
    checked: dict[_Term, tuple[str, str]] = {}
    for old, new in rules.items():
        term = _term(old)
        if not term:
            raise InvalidRequest(
                f"`{_PARAM}` has a rule without words: write what to replace as its key.", param=_PARAM
            )
        rule = " ".join(old.split()), _checked_replacement(old, new)
        if checked.setdefault(term, rule)[1] != rule[1]:
            raise InvalidRequest(
                f"`{_PARAM}` has two rules for {_shown(old)}, and case makes no difference: send one of them.",
                param=_PARAM,
            )
    return tuple(checked.values())


def _checked_replacement(old: str, new: str) -> str:
    """Return a replacement on one line."""
    text = " ".join(new.split())
    if not 1 <= len(text) <= MAX_LENGTH:
        raise InvalidRequest(
            f"`{_PARAM}` must replace {_shown(old)} with 1 to {MAX_LENGTH} characters, got {len(text)}.", param=_PARAM
        )
    if clean_name(text) != text:
        raise InvalidRequest(
            f"`{_PARAM}` must replace {_shown(old)} with text that can be shown: send it without control characters.",
            param=_PARAM,
        )
    return text


def _shown(old: str) -> str:
    return " ".join(old.split())[:_MAX_SHOWN]


def _term(text: str) -> _Term:
    return tuple(map(_compared, _pieces(text.strip())))


def _compared(piece: str) -> str:
    if piece.isspace():
        return " "
    return unicodedata.normalize("NFC", piece.translate(_APOSTROPHES)).casefold()


def _pieces(text: str) -> Iterator[str]:
    """Yield the words, the spaces between them and each other sign; joined, they are the text.

    In scripts without spaces, each character is a word.
    """
    start = 0
    for position in range(1, len(text)):
        if not _continues(text[position - 1], text[position]):
            yield text[start:position]
            start = position
    if text:
        yield text[start:]


def _continues(before: str, character: str) -> bool:
    if before.isspace() or character.isspace():
        return before.isspace() and character.isspace()
    return continues_character(before, character) or (_is_letter(before) and _is_letter(character))


@cache
def _is_letter(character: str) -> bool:
    """Return True for letters, digits and marks of scripts with spaces between words."""
    if is_unspaced(character):
        return False
    return character.isalnum() or character in ("_", _NON_JOINER) or unicodedata.category(character).startswith("M")
