"""Ends of sentences, found by the punctuation of the languages that Whisper writes.

A period also ends abbreviations, initials and, in German, ordinal numbers. If both are possible, as in "the U.S. Army"
and "in the U.S. Then", the sentence goes on.
"""

from __future__ import annotations

import re
from typing import Final

from app.domain.characters import is_unspaced

#: Signs that end sentences of Latin, Greek and Cyrillic scripts, and in the second line those of others: Chinese,
#: Japanese, Arabic, Urdu, Indic scripts, Armenian, Amharic, Burmese, Khmer and Tibetan.
_SPACED_TERMINATORS: Final = ".!?‼⁇⁈⁉…"
_OTHER_TERMINATORS: Final = "。！？｡．؟۔।॥։።፧။។៕།༎"
TERMINATORS: Final = _SPACED_TERMINATORS + _OTHER_TERMINATORS
#: Quotation marks and brackets that can follow them, for a set in a regular expression.
CLOSING: Final = "\"'”’»›)\\]}」』）》〉】］"
#: Closing quotation marks of German and other languages, with which quotations begin in others.
_ALSO_CLOSING: Final = "“‘«‹"
#: The signs of an end, and what closes after them. The Greek question mark is a semicolon, and French has a space
#: before ``»``.
_END: Final = re.compile(
    rf"(?P<signs>(?:[{TERMINATORS}]|(?<=[\u0370-\u03ff\u1f00-\u1fff])[;\u037e])+)"
    rf"(?:(?<=[{_SPACED_TERMINATORS}])[{CLOSING}{_ALSO_CLOSING}]*|[{CLOSING}]*)(?:\s»(?!\w))?"
)
#: What can stand before the first letter of a sentence.
_OPENING: Final = re.compile("[\\s\"'“”„‚‘’«»‹›(\\[{「『（《〈【［¿¡—–♪*-]*")
_LAST_WORD: Final = re.compile("[^\\s\"'“”„‚‘’«»‹›(\\[{/-]*$")
#: No abbreviation is longer than this, nor what stands between two sentences.
_NEARBY: Final = 24
#: Letters with periods between them: U.S, z.B, p.m, Ph.D, m.in.
_DOTTED: Final = re.compile(r"(?:[^\W\d_]{1,2}\.)+[^\W\d_]{1,2}")
#: The only ones of these that rather end a sentence if a capital letter follows.
_HALVES_OF_DAY: Final = frozenset({"a.m", "p.m"})
_SINGLE_LETTER: Final = re.compile(r"[^\W\d_]\.")
_ORDINAL: Final = re.compile(r"\d{1,2}")


def _listed(*lines: str) -> frozenset[str]:
    return frozenset(" ".join(lines).split())


#: Abbreviations of titles, which begin with a capital letter and are followed by a name, in lower case.
_TITLES: Final = _listed(
    "mr mrs ms messrs st jr sr rev hon gen col maj capt cmdr lt sgt gov sen rep pres mt ft",  # English
    "hr fr dipl ing",  # German
    "mme mmes mlle mlles mgr ste",  # French
    "sra srta srs dra dras ud uds vd vds av avda exmo exma eng ee",  # Spanish and Portuguese
    "dhr mevr drs",  # Dutch
    "inż św mec mudr judr phdr rndr",  # Polish and Czech
    "проф акад тов гр",  # Russian and Ukrainian
    "sn doç yrd",  # Turkish
    "ts ths gs pgs ir bpk",  # Vietnamese and Indonesian
    "डॉ प्रो पं",  # Hindi
)
#: Other abbreviations inside of sentences.
_ABBREVIATIONS: Final = _listed(
    "vs approx prof dr",  # English and others
    "bzw ca evtl ggf inkl exkl vgl sog bspw str tel",  # German
    "sig sigg dott avv geom",  # Italian
    "bijv blz",  # Dutch
    "np tzn tzw ul např tj tzv resp",  # Polish and Czech
    "г гг ул им стр рис напр вул",  # Russian and Ukrainian
)
#: Abbreviations before a number: "No. 5", but not "No. Never."
_BEFORE_NUMBERS: Final = _listed("no nos nr nrs num núm nº № fig figs vol art ch sec p pp pág págs s str eq")


def sentence_ends(text: str, *, language: str) -> list[int]:
    """Return the positions in ``text`` at which a sentence ends and another follows, in code points.

    Closing quotation marks and brackets belong to the sentence, spaces after them to the next. ``language`` is a full
    lowercase English name.
    """
    stop = len(text.rstrip())
    has_capitals = text != text.lower()
    return [
        match.end()
        for match in _END.finditer(text)
        if match.end() < stop and _is_end(match, language=language, has_capitals=has_capitals)
    ]


def _is_end(match: re.Match[str], *, language: str, has_capitals: bool) -> bool:
    text, start, end = match.string, match.start(), match.end()
    signs = match["signs"]
    if any(sign in _OTHER_TERMINATORS for sign in signs):
        return not _is_between_digits(text, start, end) and not (text[end - 1] in "」』" and text[end] in "とっ")
    if not text[end].isspace():
        return "…" not in signs and ".." not in signs and start > 0 and is_unspaced(text[start - 1] + text[end])
    following = _OPENING.sub("", text[end : end + _NEARBY], count=1)
    if has_capitals and following[:1].islower():
        return False
    word = _LAST_WORD.findall(text[max(0, start - _NEARBY) : start])[0]
    is_period = match[0] == "." and word != ""
    return not (is_period and _is_abbreviation(word, following, language=language, has_capitals=has_capitals))


def _is_between_digits(text: str, start: int, end: int) -> bool:
    return text[start:end] == "．" and text[max(0, start - 1) : start].isdigit() and text[end].isdigit()


def _is_abbreviation(word: str, following: str, *, language: str, has_capitals: bool) -> bool:
    """Return True if a period after a word rather belongs to it than to a sentence, which ``following`` continues."""
    lowered = word.lower()
    if _DOTTED.fullmatch(word):
        return lowered not in _HALVES_OF_DAY
    if lowered in _BEFORE_NUMBERS and following[:1].isdigit():
        return True
    if len(word) == 1 and lowered != word.upper():
        is_initial = word.isupper() and not (word == "I" and language == "english")
        return is_initial or lowered in _ABBREVIATIONS or _SINGLE_LETTER.match(following) is not None
    if _ORDINAL.fullmatch(word):
        return language == "german" and following[:1].isalpha()
    is_title = lowered in _TITLES and (word[0].isupper() or word == word.upper() or not has_capitals)
    return is_title or lowered in _ABBREVIATIONS
