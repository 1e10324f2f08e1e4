"""Whisper's tokens as bytes: its vocabulary writes each byte as a printable character (GPT-2's byte-level BPE)."""

from __future__ import annotations

from functools import cache


@cache
def _bytes_by_character() -> dict[str, int]:
    """Printable characters stand for themselves, the other bytes for those from U+0100 on."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = (byte for byte in range(256) if byte not in printable)
    return {chr(byte): byte for byte in printable} | {chr(256 + number): byte for number, byte in enumerate(others)}


def token_bytes(written: str) -> bytes:
    """The bytes that a token of the vocabulary stands for; it may end in the middle of a character."""
    by_character = _bytes_by_character()
    if all(character in by_character for character in written):
        return bytes(by_character[character] for character in written)
    return written.encode()  # a special token, which stands for itself
