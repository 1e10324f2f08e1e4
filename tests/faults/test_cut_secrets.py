"""What was once shown of secrets is cut out of texts, and the search for them finds them in whatever form."""

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

# What once was said.

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
def test_no_secret_stays_in_a_text_however_its_url_is_written(text: str) -> None:
    cut = without_queries(f"It failed: {text}")
    assert MARK not in cut
    assert without_queries(cut) == cut


def test_shown_url_ends_before_a_query_that_was_encoded_once_too_often() -> None:
    assert redacted(quote(URL, safe=":/")) == "http://127.0.0.1:9000/b/k"
    assert redacted(f"http://127.0.0.1/a%20b%2523{MARK}") == "http://127.0.0.1/a%20b"


@pytest.mark.parametrize("text", ["http://", "http%3A%2F%2F", "%25", " /", "/", "Header format invalid!", "sig="])
def test_long_text_is_searched_for_secrets_in_no_time(text: str) -> None:
    started = time.process_time()
    without_queries(text * (200_000 // len(text)))
    assert time.process_time() - started < 2


# The search itself.


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
def test_secret_is_found_however_it_is_written(write: Callable[[str], str], added: str) -> None:
    secrets = Secrets()
    secret = secrets.make()
    if added:
        secrets.add(secret := added)
    assert secrets.hits("a document", f"before {write(secret)} behind".encode("latin-1"))
    assert secrets.hits("a document", b"before and behind") == []


@pytest.mark.parametrize("formatter", [ConsoleFormatter(), JsonFormatter()])
def test_secret_is_found_in_a_line_that_should_not_have_been_logged(formatter: logging.Formatter) -> None:
    secrets = Secrets()
    record = logging.LogRecord("app", logging.INFO, __file__, 1, "The token is %r", (secrets.make("token"),), None)
    (hit,) = secrets.hits("the log", formatter.format(record).encode())
    assert hit.startswith("the log: ")
    assert "The token is" in hit
