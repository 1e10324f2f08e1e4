"""Data URLs in pieces of any size, and those that can't be decoded."""

from __future__ import annotations

import base64
from itertools import pairwise
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.api.data_urls import DataUrlDecoder, InvalidDataUrl
from tests.domain.strategies import unhurried

HEAD: Final = b"data:audio/wav;base64,"
AUDIO: Final = bytes(range(256)) * 3


def decoded(*pieces: bytes) -> bytes:
    decoder = DataUrlDecoder()
    return b"".join([*(decoder.decode(piece) for piece in pieces), decoder.end()])


def requirement(*pieces: bytes) -> str:
    with pytest.raises(InvalidDataUrl) as caught:
        decoded(*pieces)
    return str(caught.value)


@unhurried
@given(st.binary(max_size=100), st.lists(st.integers(0, 200), max_size=10).map(sorted))
def test_url_is_decoded_alike_however_it_is_split(audio: bytes, cuts: list[int]) -> None:
    url = HEAD + base64.b64encode(audio)
    assert decoded(*(url[start:end] for start, end in pairwise([0, *cuts, len(url)]))) == audio


@pytest.mark.parametrize("length", [0, 1, 2, 3, 4])
def test_url_can_arrive_byte_by_byte(length: int) -> None:
    url = HEAD + base64.b64encode(AUDIO[:length])
    assert decoded(*(bytes([byte]) for byte in url)) == AUDIO[:length]


@pytest.mark.parametrize("length", [1, 2, 3])
@pytest.mark.parametrize("missing", [0, 1, 2])
def test_padding_can_be_missing(length: int, missing: int) -> None:
    text = base64.b64encode(AUDIO[:length])
    padding = text.count(b"=")
    assert decoded(HEAD + text[: len(text) - min(missing, padding)]) == AUDIO[:length]


def test_white_space_is_ignored() -> None:
    lines = base64.encodebytes(AUDIO).replace(b"\n", b"\r\n")
    assert decoded(b" \r\n" + HEAD + lines[:50], lines[50:] + b"\r\n\t ") == AUDIO


@pytest.mark.parametrize(
    "head",
    [
        b"data:audio/mpeg;base64,",
        b"DATA:Audio/X-M4A;BASE64,",
        b"data:audio/webm;codecs=opus;base64,",
        b"data:video/mp4; codecs=mp4a.40.2 ; base64,".replace(b" base64", b"base64"),
        b"data:application/octet-stream;base64,",
        b"data:;base64,",
    ],
)
def test_types_of_recordings_are_accepted(head: bytes) -> None:
    assert decoded(head + base64.b64encode(AUDIO)) == AUDIO


@pytest.mark.parametrize("media_type", ["text/plain", "image/png", "application/json", "None"])
def test_other_types_are_rejected(media_type: str) -> None:
    assert requirement(f"data:{media_type};base64,AAAA".encode()) == (
        f"be audio, such as data:audio/wav;base64,UklGR…, got the type {media_type.lower()}"
    )


@pytest.mark.parametrize("url", [b"data:audio/wav,RIFF", b"data:,", b"data:audio/wav;charset=utf-8,abc"])
def test_encoding_must_be_base64(url: bytes) -> None:
    assert requirement(url) == "be encoded in base64, such as data:audio/wav;base64,UklGR…"


@pytest.mark.parametrize(
    "text",
    [
        b"A",
        b"AAAAA",
        b"AA-_",
        b"AA%3D",
        b"\xff\xfe\xfd\xfc",
        b"=AAA",
        b"AA==AAAA",
        b"AA=A",
        b"AA==A",
        b"AAA=====",
        b"AAAA,AAAA",
    ],
)
@pytest.mark.parametrize("size", [1, 4, 1000])
def test_invalid_base64_is_rejected(text: bytes, size: int) -> None:
    pieces = (text[start : start + size] for start in range(0, len(text), size))
    assert requirement(HEAD, *pieces) == "have valid base64 after its comma"


@pytest.mark.parametrize("url", [b"", b"data", HEAD[:-1], b"https://a.example/voice.wav", b"@voice.wav", b"a,b"])
def test_text_that_is_no_data_url_is_rejected(url: bytes) -> None:
    assert requirement(url) == "be a data URL, such as data:audio/wav;base64,UklGR…, or a file"


def test_endless_head_is_rejected() -> None:
    decoder = DataUrlDecoder()
    decoder.decode(b"x" * 600)
    with pytest.raises(InvalidDataUrl, match="be a data URL"):
        decoder.decode(b"x" * 600)
