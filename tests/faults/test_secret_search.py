"""The redaction of secrets in texts, and the search for secrets that the other tests rely on."""

from __future__ import annotations

import base64
import html
import json
import logging
import time
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

import pytest

from app.delivery.url_rules import redacted
from app.domain.redaction import without_queries
from app.logs import ConsoleFormatter, JsonFormatter
from tests.support.marked_secrets import Secrets

if TYPE_CHECKING:
    from collections.abc import Callable

# Texts from which secrets once leaked.

MARK: Final = "Zq7k2m9xA"
QUERY: Final = f"X-Amz-Credential={MARK}%2F1&X-Amz-Signature={MARK}&token={MARK}"
URL: Final = f"http://127.0.0.1:9000/b/k?{QUERY}"


@pytest.mark.parametrize(
    "text",
    [
        quote(URL, safe=":/"),
        quote(URL, safe=""),
        quote(quote(URL, safe=""), safe=""),
        f"http://127.0.0.1/b/k#{MARK}",
        json.dumps(URL).replace("/", "\\/"),
        html.escape(URL),
        f"Max retries exceeded with url: /v1/traces?api_key={MARK} (Caused by a refusal)",
        f'Header format invalid! Values must be URL encoded: x-api-key="{MARK}"',
        quote(f"X-Amz-Signature={MARK}"),
    ],
)
def test_queries_are_removed_from_every_spelling_of_a_url(text: str) -> None:
    redacted_text = without_queries(f"It failed: {text}")
    assert MARK not in redacted_text
    assert without_queries(redacted_text) == redacted_text


def test_redacted_url_ends_before_a_doubly_encoded_query() -> None:
    assert redacted(quote(URL, safe=":/")) == "http://127.0.0.1:9000/b/k"
    assert redacted(f"http://127.0.0.1/a%20b%2523{MARK}") == "http://127.0.0.1/a%20b"


@pytest.mark.parametrize("text", ["http://", "http%3A%2F%2F", "%25", " /", "/", "Header format invalid!", "sig="])
def test_redaction_of_a_long_text_takes_linear_time(text: str) -> None:
    """Quadratic time would be minutes."""
    started = time.process_time()
    without_queries(text * (200_000 // len(text)))
    assert time.process_time() - started < 30


# The search.


@pytest.mark.parametrize(
    "write",
    [
        str,
        str.upper,
        repr,
        json.dumps,
        lambda text: json.dumps(json.dumps(text)),
        html.escape,
        lambda text: quote(text, safe=""),
        lambda text: quote(quote(text, safe=""), safe=""),
        lambda text: base64.b64encode(text.encode()).decode(),
        lambda text: base64.b64encode(f"u:{text}!".encode()).decode(),
        lambda text: base64.urlsafe_b64encode(f"?{text}".encode()).decode(),
        lambda text: text.encode().hex(),
        lambda text: text.encode("utf-16").decode("latin-1"),
        lambda text: text.encode("utf-16-be").decode("latin-1"),
    ],
)
@pytest.mark.parametrize("added", ["", "a/b+c=='\"<&\\"])
def test_secret_is_found_in_every_encoding(write: Callable[[str], str], added: str) -> None:
    secrets = Secrets()
    secret = secrets.make()
    if added:
        secrets.add(secret := added)
    assert secrets.hits("a document", f"before {write(secret)} behind".encode("latin-1"))
    assert secrets.hits("a document", b"before and behind") == []


@pytest.mark.parametrize("formatter", [ConsoleFormatter(), JsonFormatter()])
def test_secret_is_found_in_a_log_line(formatter: logging.Formatter) -> None:
    secrets = Secrets()
    record = logging.LogRecord("app", logging.INFO, __file__, 1, "The token is %r", (secrets.make("token"),), None)
    (hit,) = secrets.hits("the log", formatter.format(record).encode())
    assert hit.startswith("the log: ")
    assert "The token is" in hit
