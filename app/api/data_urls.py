"""Data URLs of audio (RFC 2397), decoded as they arrive."""

from __future__ import annotations

import binascii
import re
from typing import Final

_SPACE: Final = b" \t\r\n\f"
#: Far more than a media type with its parameters takes.
_MAX_HEAD_BYTES: Final = 1024
_HEAD: Final = re.compile(rb"data:([^;]*)(;.*)?", re.IGNORECASE | re.DOTALL)
_AUDIO_TYPES: Final = ("audio/", "video/", "application/ogg", "application/octet-stream")
_EXAMPLE: Final = "such as data:audio/wav;base64,UklGR…"
_BASE64_LENGTH: Final = 4  # characters for three bytes


class InvalidDataUrl(ValueError):
    """The URL can't be decoded. The message says what it must be, after "must"."""


class DataUrlDecoder:
    """Decodes one data URL in pieces of any size. At most a few hundred bytes are held back.

    As browsers do, it ignores white space in the base64, and the padding at its end can be missing.
    """

    def __init__(self) -> None:
        self._head: bytearray | None = bytearray()
        self._rest = b""
        self._is_padded = False

    def decode(self, piece: bytes) -> bytes:
        """Return the bytes that another piece of the URL completes.

        Raises:
            InvalidDataUrl: the URL is malformed, not in base64, or not of audio.
        """
        if self._head is not None:
            self._head += piece
            head, comma, piece = bytes(self._head).partition(b",")
            if not comma:
                if len(head) > _MAX_HEAD_BYTES:
                    raise _not_a_data_url()
                return b""
            _check_head(head.strip(_SPACE))
            self._head = None
        text = self._rest + piece.translate(None, _SPACE)
        whole = len(text) - len(text) % _BASE64_LENGTH
        self._rest = text[whole:]
        return self._decoded(text[:whole])

    def end(self) -> bytes:
        """Return the last bytes, once the whole URL has arrived.

        Raises:
            InvalidDataUrl: the URL is incomplete or malformed.
        """
        if self._head is not None:
            raise _not_a_data_url()
        return self._decoded(self._rest + b"=" * (-len(self._rest) % _BASE64_LENGTH))

    def _decoded(self, text: bytes) -> bytes:
        if not text:
            return b""
        if self._is_padded:
            raise _not_base64()
        self._is_padded = text.endswith(b"=")
        try:
            return binascii.a2b_base64(text, strict_mode=True)
        except binascii.Error as exc:
            raise _not_base64() from exc


def _check_head(head: bytes) -> None:
    match = _HEAD.fullmatch(head)
    if match is None:
        raise _not_a_data_url()
    if not (match[2] or b"").lower().rstrip().endswith(b";base64"):
        raise InvalidDataUrl(f"be encoded in base64, {_EXAMPLE}")
    media_type = match[1].decode("latin-1").strip().lower()
    if media_type and not media_type.startswith(_AUDIO_TYPES):
        raise InvalidDataUrl(f"be audio, {_EXAMPLE}, got the type {media_type[:60]}")


def _not_base64() -> InvalidDataUrl:
    return InvalidDataUrl("have valid base64 after its comma")


def _not_a_data_url() -> InvalidDataUrl:
    return InvalidDataUrl(f"be a data URL, {_EXAMPLE}, or a file")
