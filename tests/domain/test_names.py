"""Names of jobs from hostile and ordinary file names and URLs."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.names import clean_name, name_of_file, name_of_url


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("  Interview 7.mp3 ", "Interview 7.mp3"),
        ("a\x00b\r\nc\x7f\x85d\u2028e\u2029f", "abcdef"),
        ("photo\u202egpj.mp3", "photogpj.mp3"),
        ("\u2066a\u2069", "a"),
        ("<img src=x onerror=alert(1)>", "<img src=x onerror=alert(1)>"),
        ("עברית.mp3", "עברית.mp3"),
        ("\ud800", None),
        ("\r\n\t ", None),
        ("", None),
        ("x" * 300, "x" * 255),
        ("x" * 254 + " y", "x" * 254),
    ],
)
def test_name_has_no_control_characters_and_a_bounded_length(text: str, name: str | None) -> None:
    assert clean_name(text) == name


@given(st.text())
def test_any_text_becomes_a_name_that_stays_as_it_is(text: str) -> None:
    name = clean_name(text)
    if name is not None:
        assert clean_name(name) == name
        assert 1 <= len(name) <= 255
        assert name.encode().decode() == name
        assert "Cc" not in map(unicodedata.category, name)


@pytest.mark.parametrize(
    "path", ["call.mp3", "/home/me/call.mp3", "C:\\calls\\call.mp3", "../call.mp3", "a\n/call.mp3"]
)
def test_folders_of_a_file_are_left_out(path: str) -> None:
    assert name_of_file(path) == "call.mp3"


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://bucket.example/folder/call%201.mp3?X-Amz-Signature=secret", "call 1.mp3"),
        ("https://bucket.example/b%C3%BCcher.mp3#t", "bücher.mp3"),
        ("https://bucket.example/calls/?key=secret", "calls"),
        ("https://bucket.example/call.mp3%3FX-Amz-Signature=secret", "call.mp3"),
        ("https://bucket.example/%2Fetc%2Fpasswd", "/etc/passwd"),
        ("https://bucket.example", None),
        ("https://bucket.example/call.mp3%3FX-Amz-Signature%3Dsecret", "call.mp3"),
        ("https://bucket.example/call.mp3%253Fsig%253Dsecret", "call.mp3"),
        ("https://bucket.example/call.mp3%23secret", "call.mp3"),
        ("https://bucket.example/call.mp3&sig=secret", "call.mp3&sig=…"),
        ("https://bucket.example/%00%FF", "\ufffd"),
    ],
)
def test_name_of_a_url_is_the_last_part_of_its_path(url: str, name: str | None) -> None:
    assert name_of_url(url) == name
