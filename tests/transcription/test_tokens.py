"""Tokens as bytes, also when a character is split between two tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st
from tokenizers.pre_tokenizers import ByteLevel

from app.transcription.segments import token_bytes
from tests.domain.strategies import unhurried

if TYPE_CHECKING:
    from app.transcription.whisper import WhisperModel


def gpt2_alphabet() -> dict[int, str]:
    """Return the characters for bytes, computed as ``bytes_to_unicode`` in GPT-2's ``encoder.py``."""
    alphabet = {
        ord(character): character for first, last in ("!~", "¡¬", "®ÿ") for character in _characters(first, last)
    }
    others = [byte for byte in range(256) if byte not in alphabet]
    return alphabet | {byte: chr(256 + number) for number, byte in enumerate(others)}


def _characters(first: str, last: str) -> str:
    return "".join(map(chr, range(ord(first), ord(last) + 1)))


ALPHABET = gpt2_alphabet()


def test_alphabet_matches_the_tokenizers_library() -> None:
    assert set(ALPHABET.values()) == set(ByteLevel.alphabet())
    assert b"".join(token_bytes(ALPHABET[byte]) for byte in range(256)) == bytes(range(256))


@unhurried
@given(st.binary(max_size=40))
def test_bytes_survive_a_round_trip_through_the_alphabet(content: bytes) -> None:
    assert token_bytes("".join(ALPHABET[byte] for byte in content)) == content


@unhurried
@given(st.text(max_size=20), st.integers(min_value=0, max_value=80))
def test_text_split_anywhere_is_whole_when_joined(text: str, position: int) -> None:
    written = "".join(ALPHABET[byte] for byte in text.encode())
    assert (token_bytes(written[:position]) + token_bytes(written[position:])).decode() == text


def test_multibyte_characters_are_split_between_tokens(model: WhisperModel) -> None:
    tokenizer = model._hf_tokenizer
    tokens = tokenizer.encode(" über 你好 😀", add_special_tokens=False).ids
    parts = [token_bytes(tokenizer.id_to_token(token)) for token in tokens]
    assert b"".join(parts).decode() == " über 你好 😀"
    assert b"\xc3" in parts
    assert "\ufffd" in {part.decode(errors="replace") for part in parts}


def test_bytes_of_all_tokens_are_the_text(model: WhisperModel) -> None:
    """The text is compared as the tokenizer normalizes it: the demo model is lower-case."""

    @unhurried
    @given(st.text(max_size=20))
    def check(text: str) -> None:
        encoding = model._hf_tokenizer.encode(text, add_special_tokens=False)
        assert b"".join(map(token_bytes, encoding.tokens)).decode() == model._hf_tokenizer.decode(encoding.ids)

    check()


def test_special_tokens_are_encoded_as_they_are() -> None:
    assert token_bytes("<|endoftext|>") == b"<|endoftext|>"
    assert token_bytes("with a space – and a dash") == "with a space – and a dash".encode()
