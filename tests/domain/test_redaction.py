"""Queries of presigned URLs are removed from any text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.redaction import without_queries
from tests.domain.strategies import TEXTS, unhurried

QUERY = "X-Amz-Credential=secret&X-Amz-Signature=secret"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"https://b.example/key?{QUERY}", "https://b.example/key?…"),
        (f"HTTPS://b.example/key?{QUERY}", "HTTPS://b.example/key?…"),
        (f"http://127.0.0.1:9000/key?{QUERY}#part", "http://127.0.0.1:9000/key?…"),
        (f"https://b.example?{QUERY}", "https://b.example?…"),
        (f"PUT 'https://b.example/key?{QUERY}' failed", "PUT 'https://b.example/key?…' failed"),
        (f'{{"url": "https://b.example/key?{QUERY}"}}', '{"url": "https://b.example/key?…"}'),
        (f"<https://b.example/key?{QUERY}>", "<https://b.example/key?…>"),
        (f"https://a.example/?{QUERY} and https://b.example/?{QUERY}", "https://a.example/?… and https://b.example/?…"),
        (f"https://b.example/key?{QUERY}?secret", "https://b.example/key?…"),
        ("https://b.example/key without a query", "https://b.example/key without a query"),
        ("Why? Because.", "Why? Because."),
        ("", ""),
    ],
)
def test_query_of_each_url_is_removed(text: str, expected: str) -> None:
    assert without_queries(text) == expected


@pytest.mark.parametrize("before", ["", "'", "url=", "(", "\n", repr("\n")[1:-1], "url_"])
def test_query_is_removed_whatever_precedes_the_url(before: str) -> None:
    assert "secret" not in without_queries(f"{before}https://b.example/key?{QUERY}")


@unhurried
@given(TEXTS, st.text(alphabet="aZ09-._~%&=+?/:#…ü"))
def test_removing_queries_twice_changes_nothing(before: str, query: str) -> None:
    once = without_queries(f"{before} https://b.example/key?{query}&sig=secret")
    assert "secret" not in once
    assert without_queries(once) == once


@pytest.mark.parametrize("before", ["GET /v1/jobs/1/audio?", "", "url=%2Fv1%2Fjobs%2F1%2Faudio%3F"])
def test_tickets_are_removed(before: str) -> None:
    for equals in ("=", "%3D"):
        redacted = without_queries(f"{before}ticket{equals}1790043200.c2VjcmV0-_ and so on")
        assert "c2VjcmV0" not in redacted
        assert redacted.endswith("… and so on")
