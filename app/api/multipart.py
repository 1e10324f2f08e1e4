"""A form body, straight from the socket: the file into the spool, the fields into memory."""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qsl

from python_multipart import MultipartParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header

from app.domain.errors import BodyTooLarge, InvalidRequest, UnusableAudio

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from python_multipart.multipart import MultipartCallbacks

    from app.jobs.spool import AudioFile, Spool

_MAX_PARTS: Final = 256
_MAX_NAME_BYTES: Final = 256
_MAX_TEXT_BYTES: Final = 1024 * 1024
#: So much is written at once. Less is kept in memory, of each client that sends.
_WRITE_BYTES: Final = 256 * 1024

_HOW_TO: Final = "send audio as multipart/form-data, as curl -F file=@audio.mp3 does"


@dataclass(slots=True)
class ReceivedForm:
    """``fields`` holds every value of every name in order; ``file_bytes`` is None when no file came.

    ``file_digest`` is the same for the same bytes, and empty where there is no file.
    """

    fields: dict[str, list[str]] = field(default_factory=dict)
    file_bytes: int | None = None
    file_digest: str = ""


async def read_form(
    body: AsyncIterator[bytes], content_type: str | None, *, spool: Spool, job_id: str, max_file_bytes: int
) -> ReceivedForm:
    """Reads a whole form, writing its ``file`` as the audio of ``job_id``, which is still to be kept.

    Raises:
        InvalidRequest: it is no form, or a broken one.
        BodyTooLarge: the file exceeds ``max_file_bytes``.
        DiskFull: there is no space for it.
    """
    kind, options = parse_options_header(content_type)
    if kind == b"application/x-www-form-urlencoded":
        return await _read_urlencoded(body)
    if kind != b"multipart/form-data" or not options.get(b"boundary"):
        raise InvalidRequest(f"The body is not a form: {_HOW_TO}.")
    writer = _Writer(spool, job_id, max_file_bytes)
    try:
        parts = _Parts(options[b"boundary"])
        async for chunk in _bounded(body, max_file_bytes):
            parts.feed(chunk)
            await writer.take(parts)
        parts.finish()
        await writer.flush(parts)
    finally:
        writer.close()
    if not parts.has_file:
        return ReceivedForm(fields=parts.fields)
    return ReceivedForm(fields=parts.fields, file_bytes=writer.written, file_digest=writer.digest)


async def _bounded(body: AsyncIterator[bytes], max_file_bytes: int) -> AsyncIterator[bytes]:
    """The body; an end to it where it does not say how long it is, or holds what is no audio."""
    received = 0
    async for chunk in body:
        received += len(chunk)
        if received > max_file_bytes + FORM_OVERHEAD_BYTES:
            raise body_too_large(max_file_bytes)
        yield chunk


class _Writer:
    """Takes the file's bytes from the parser to the disk, a quarter of a megabyte at a time, in a thread."""

    def __init__(self, spool: Spool, job_id: str, max_bytes: int) -> None:
        self._spool = spool
        self._job_id = job_id
        self._max_bytes = max_bytes
        self._file: AudioFile | None = None
        self._hash = hashlib.blake2b(digest_size=32)
        self.written = 0

    @property
    def digest(self) -> str:
        """Of all that was written."""
        return self._hash.hexdigest()

    async def take(self, parts: _Parts) -> None:
        if self.written + parts.pending_bytes > self._max_bytes:
            raise body_too_large(self._max_bytes)
        if parts.pending_bytes >= _WRITE_BYTES:
            await self.flush(parts)

    async def flush(self, parts: _Parts) -> None:
        data = parts.take_pending()
        if data:
            await asyncio.to_thread(self._write, data)

    def _write(self, data: bytearray) -> None:
        if self._file is None:
            self._file = self._spool.create_audio(self._job_id)
        self._file.write(data)
        self._hash.update(data)
        self.written += len(data)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


class _Parts:
    """Hears the parser. Bytes of the part ``file`` collect in ``pending`` until they are taken."""

    def __init__(self, boundary: bytes) -> None:
        self.fields: dict[str, list[str]] = {}
        self.has_file = False
        self._pending = bytearray()
        self._header = (bytearray(), bytearray())
        self._disposition = b""
        self._name: str | None = None  # of a text part; None while in a file
        self._in_audio = False
        self._text = bytearray()
        self._text_bytes = 0
        self._parts = 0
        self._ended = False
        callbacks: MultipartCallbacks = {
            "on_part_begin": self._part_begins,
            "on_header_field": lambda data, start, end: self._header[0].extend(data[start:end]),
            "on_header_value": lambda data, start, end: self._header[1].extend(data[start:end]),
            "on_header_end": self._header_ends,
            "on_headers_finished": self._headers_finished,
            "on_part_data": self._data,
            "on_part_end": self._part_ends,
            "on_end": self._end,
        }
        try:
            self._parser = MultipartParser(boundary, callbacks)
        except FormParserError as exc:
            raise _broken() from exc

    def feed(self, chunk: bytes) -> None:
        try:
            self._parser.write(chunk)
        except FormParserError as exc:
            raise _broken() from exc

    def finish(self) -> None:
        if not self._ended:
            raise InvalidRequest(f"The form ends before its last boundary: send it whole ({_HOW_TO}).")

    @property
    def pending_bytes(self) -> int:
        return len(self._pending)

    def take_pending(self) -> bytearray:
        data, self._pending = self._pending, bytearray()
        return data

    def _part_begins(self) -> None:
        self._parts += 1
        if self._parts > _MAX_PARTS:
            raise InvalidRequest(f"The form has more than {_MAX_PARTS} parts: send fewer.")
        self._disposition, self._name, self._in_audio = b"", None, False
        self._text = bytearray()

    def _header_ends(self) -> None:
        name, value = (bytes(part) for part in self._header)
        self._header = (bytearray(), bytearray())
        if name.lower() == b"content-disposition":
            self._disposition = value

    def _headers_finished(self) -> None:
        _, options = parse_options_header(self._disposition)
        name = _checked_name(options.get(b"name", b"").decode("utf-8", "replace"))
        if b"filename" not in options:
            self._name = name
        elif name == "file":
            if self.has_file:
                raise InvalidRequest("The form has more than one file: send exactly one in each request.", param="file")
            self.has_file = self._in_audio = True

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._in_audio:
            self._pending += data[start:end]
        elif self._name is not None:
            self._text_bytes += end - start
            if self._text_bytes > _MAX_TEXT_BYTES:
                raise InvalidRequest(
                    f"The form's fields have more than {_MAX_TEXT_BYTES} bytes of text: send audio as the part "
                    "'file' with a file name.",
                    param=self._name,
                )
            self._text += data[start:end]

    def _part_ends(self) -> None:
        if self._name is not None:
            self.fields.setdefault(self._name, []).append(_decoded(bytes(self._text), self._name))

    def _end(self) -> None:
        self._ended = True


async def _read_urlencoded(body: AsyncIterator[bytes]) -> ReceivedForm:
    text = bytearray()
    async for chunk in body:
        text += chunk
        if len(text) > _MAX_TEXT_BYTES:
            raise InvalidRequest(f"The form is too large for this encoding: {_HOW_TO}.")
    form = ReceivedForm()
    try:
        pairs = parse_qsl(
            _decoded(bytes(text), None), keep_blank_values=True, max_num_fields=_MAX_PARTS, errors="strict"
        )
    except ValueError as exc:
        raise _broken() from exc
    for name, value in pairs:
        form.fields.setdefault(_checked_name(name), []).append(value)
    return form


def _checked_name(name: str) -> str:
    if len(name.encode("utf-8", "replace")) > _MAX_NAME_BYTES:
        raise InvalidRequest(f"A field has a name of more than {_MAX_NAME_BYTES} bytes: see /docs for what there is.")
    return name


def _decoded(text: bytes, name: str | None) -> str:
    try:
        return text.decode()
    except UnicodeDecodeError as exc:
        if name == "file":
            raise InvalidRequest(f"The part file has no file name: {_HOW_TO}.", param=name) from exc
        place = "The form" if name is None else f"The field {name}"
        raise InvalidRequest(f"{place} is not UTF-8 text: encode it so, and {_HOW_TO}.", param=name) from exc


def _broken() -> InvalidRequest:
    return InvalidRequest(f"The form is broken: {_HOW_TO}.")


def refuse_empty(form: ReceivedForm) -> None:
    """Raises UnusableAudio for a file without a single byte."""
    if form.file_bytes == 0:
        raise UnusableAudio("The file is empty: send a file with audio in it.")


#: Room for the form's other fields and the boundaries between them.
FORM_OVERHEAD_BYTES: Final = 8 * 1024 * 1024


def body_too_large(max_upload_bytes: int) -> BodyTooLarge:
    return BodyTooLarge(
        f"The file is too large: MAX_UPLOAD_BYTES allows {max_upload_bytes} bytes. Send compressed audio (Opus, "
        "MP3), or split it.",
        param="file",
    )
