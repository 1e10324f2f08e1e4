"""Names of jobs, for people: from a form field, a file name or a URL."""

from __future__ import annotations

import re
import unicodedata
from typing import Final
from urllib.parse import unquote, urlsplit

from app.domain.redaction import without_queries

MAX_NAME_LENGTH: Final = 255
#: Characters that break a line or reverse the text around them, and halves of a character.
_REMOVED_CATEGORIES: Final = frozenset({"Cc", "Cs", "Zl", "Zp"})
_REMOVED_CHARACTERS: Final = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
#: The beginning of a query or a fragment, encoded once or several times.
_ENCODED_QUERY: Final = re.compile("%(?:25)*(?:3f|23)", re.IGNORECASE)
_LAST_FOLDER: Final = re.compile(r".*[/\\]", re.DOTALL)


def clean_name(text: str) -> str | None:
    """Return the text as a name of at most 255 characters, or None if nothing is left of it.

    Control characters and those that change the direction of text are removed, and longer names are cut.
    """
    kept = (
        character
        for character in text
        if character not in _REMOVED_CHARACTERS and unicodedata.category(character) not in _REMOVED_CATEGORIES
    )
    return "".join(kept).strip()[:MAX_NAME_LENGTH].rstrip() or None


def name_of_file(file_name: str) -> str | None:
    """Return the name for a file, without the folders that some clients send along."""
    return clean_name(_LAST_FOLDER.sub("", file_name))


def name_of_url(url: str) -> str | None:
    """Return the name for a URL: the last segment of its path.

    Careless programs encode a whole URL, its query included, once or several times, and queries are secrets.
    """
    segment = urlsplit(url).path.rstrip("/").rpartition("/")[2]
    path = without_queries(_ENCODED_QUERY.split(segment, maxsplit=1)[0])
    return clean_name(unquote(path, errors="replace"))
