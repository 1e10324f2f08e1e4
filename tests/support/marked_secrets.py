"""Secrets that nobody mistakes for other text, and the search for them in whatever the service has said or kept."""

from __future__ import annotations

import base64
import html
import json
import secrets
from itertools import count
from typing import TYPE_CHECKING, Final
from urllib.parse import quote, quote_plus

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

#: So much of a document is shown around what was found in it.
_AROUND: Final = 90


class Secrets:
    """Makes secrets that all begin with one random mark, of letters and digits that no encoding of text changes.

    ``made`` are all secrets so far, those included that others made and that were ``added``.
    """

    def __init__(self) -> None:
        self._mark = f"mk{secrets.token_hex(5)}"
        self._numbers = count(1)
        self.made: list[str] = []
        self._forms = _forms(self._mark)

    def make(self, purpose: str = "") -> str:
        """A further one, told from the others by its ``purpose``, which is of letters and digits, and its number."""
        made = f"{self._mark}{purpose}{next(self._numbers):04}{secrets.token_hex(6)}"
        self.made.append(made)
        return made

    def webhook_secret(self) -> str:
        """One as ``WEBHOOK_SECRET`` is to be."""
        return f"whsec_{base64.b64encode(self.make('webhooksecret').encode()).decode()}"

    def add(self, value: str) -> None:
        """Has one that was made elsewhere searched for as well, as a whole."""
        self.made.append(value)
        self._forms |= _forms(value)

    def hits(self, name: str, document: bytes) -> list[str]:
        """Where secrets stand in a document, in upper or lower case and in whichever encoding, with what is around."""
        lowered = document.lower()
        return [f"{name}: {_surroundings(document, lowered, form)}" for form in self._forms if form in lowered]

    def hits_below(self, folder: Path) -> list[str]:
        """The same for every file in a folder. A file that is removed meanwhile holds nothing."""
        found: list[str] = []
        for path in sorted(folder.rglob("*")):
            try:
                content = path.read_bytes() if path.is_file() else b""
            except FileNotFoundError:
                continue
            found += self.hits(str(path.relative_to(folder)), content)
        return found


def _forms(text: str) -> frozenset[bytes]:
    """How a text may be written, in lower case."""
    written = {
        text,
        quote(text, safe=""),
        quote(quote(text, safe=""), safe=""),
        quote_plus(text),
        json.dumps(text)[1:-1],
        json.dumps(json.dumps(text))[3:-3],
        html.escape(text),
        repr(text)[1:-1],
        *_in_base64(text.encode()),
    }
    encoded = {form.encode() for form in written} | {text.encode("utf-16-le")[:-1], text.encode().hex().encode()}
    return frozenset(form.lower() for form in encoded)


def _in_base64(content: bytes) -> Iterable[str]:
    """What is the same of it in base64 whatever stands before and after it, for each of three places to begin."""
    for before, unknown in ((0, 0), (1, 2), (2, 3)):
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            known = (before + len(content)) * 8 // 6
            yield encode(b"\0" * before + content).decode()[unknown:known]


def _surroundings(document: bytes, lowered: bytes, form: bytes) -> str:
    at = lowered.index(form)
    return repr(document[max(0, at - _AROUND) : at + len(form) + _AROUND])
