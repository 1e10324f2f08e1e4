"""Origins of web pages, as browsers write them and as people do."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.origins import AllowedOrigins, normalized_origin


@pytest.mark.parametrize(
    ("written", "origin"),
    [
        ("https://App.Example", "https://app.example"),
        ("https://app.example:443", "https://app.example"),
        ("http://app.example:80", "http://app.example"),
        ("http://app.example:443", "http://app.example:443"),
        ("http://[::1]:3000", "http://[::1]:3000"),
        ("http://[0:0::1]", "http://[::1]"),
        ("app://obsidian.md", "app://obsidian.md"),
        ("https://xn--bcher-kva.example", "https://xn--bcher-kva.example"),
    ],
)
def test_origin_is_written_in_one_way(written: str, origin: str) -> None:
    assert normalized_origin(written) == origin
    assert AllowedOrigins.parse(written) == AllowedOrigins.parse(f" {origin}/ ,")
    assert AllowedOrigins.parse(origin).covers(written)


@pytest.mark.parametrize(
    "text",
    [
        *("", "null", "*.example", "app.example", "https://", "https://a b", "https://user@a.example", "https://a/b"),
        *("https://a?b", "https://a#b", "https://a:0x50", "https://a:99999", "http://[", "https://b\u00fccher.example"),
    ],
)
def test_anything_else_is_no_origin(text: str) -> None:
    assert normalized_origin(text) is None
    assert not AllowedOrigins.parse("https://a.example").covers(text)
    if text:
        with pytest.raises(ValueError, match="must be origins separated by commas"):
            AllowedOrigins.parse(f"https://a.example,{text}")


def test_star_covers_every_origin_and_nothing_covers_none() -> None:
    assert AllowedOrigins.parse("https://a.example, *").has_any
    assert AllowedOrigins.parse("*").covers("null")
    assert not AllowedOrigins.parse("").covers("https://a.example")
    assert not AllowedOrigins.parse("")


@given(st.text())
def test_normal_form_is_stable(text: str) -> None:
    origin = normalized_origin(text)
    assert origin is None or normalized_origin(origin) == origin
