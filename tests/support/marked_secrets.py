"""Recognizable secrets, and the search for them in output and files."""

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

#: Bytes of the document that are shown on either side of a hit.
_CONTEXT_BYTES: Final = 90


class Secrets:
    """A factory of secrets that begin with one random mark, whose letters and digits survive every text encoding.

    ``made`` are all secrets, including those from ``add()``.
    """

    def __init__(self) -> None:
        self._mark = f"mk{secrets.token_hex(5)}"
        self._numbers = count(1)
        self.made: list[str] = []
        self._forms = _forms(self._mark)

    def make(self, purpose: str = "") -> str:
        """Return a new secret with its number and ``purpose``, which has letters and digits only."""
        secret = f"{self._mark}{purpose}{next(self._numbers):04}{secrets.token_hex(6)}"
        self.made.append(secret)
        return secret

    def webhook_secret(self) -> str:
        """Return a value for ``WEBHOOK_SECRET``."""
        return f"whsec_{base64.b64encode(self.make('webhooksecret').encode()).decode()}"

    def add(self, value: str) -> None:
        """Search for this secret too, as a whole."""
        self.made.append(value)
        self._forms |= _forms(value)

    def hits(self, name: str, document: bytes) -> list[str]:
        """Return the surroundings of secrets in a document, in any case and in all encodings."""
        lowered = document.lower()
        return [f"{name}: {_surroundings(document, lowered, form)}" for form in self._forms if form in lowered]

    def hits_below(self, folder: Path) -> list[str]:
        """Return the hits in all files below a folder. Files that vanish meanwhile have none."""
        hits: list[str] = []
        for path in sorted(folder.rglob("*")):
            try:
                content = path.read_bytes() if path.is_file() else b""
            except FileNotFoundError:
                continue
            hits += self.hits(str(path.relative_to(folder)), content)
        return hits


def _forms(text: str) -> frozenset[bytes]:
    """Return all encodings of a text, in lower case."""
    encodings = {
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
    encoded = {form.encode() for form in encodings} | {text.encode("utf-16-le")[:-1], text.encode().hex().encode()}
    return frozenset(form.lower() for form in encoded)


def _in_base64(content: bytes) -> Iterable[str]:
    """Yield the part of its base64 that depends on nothing before or after it, for each of three offsets."""
    for before, unknown in ((0, 0), (1, 2), (2, 3)):
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            known = (before + len(content)) * 8 // 6
            yield encode(b"\0" * before + content).decode()[unknown:known]


def _surroundings(document: bytes, lowered: bytes, form: bytes) -> str:
    at = lowered.index(form)
    return repr(document[max(0, at - _CONTEXT_BYTES) : at + len(form) + _CONTEXT_BYTES])
