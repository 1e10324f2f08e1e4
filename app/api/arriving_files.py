"""The files of a form on their way into the spool: the audio, and references of known speakers' voices."""

from __future__ import annotations

import asyncio
import json
import struct
from functools import partial
from typing import TYPE_CHECKING, Final

from app.api.data_urls import DataUrlDecoder, InvalidDataUrl
from app.api.forms import KNOWN_SPEAKER_REFERENCES
from app.domain.errors import BodyTooLarge, InvalidRequest
from app.jobs.spool import MAX_REFERENCES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from app.jobs.audio import ArrivingAudio
    from app.jobs.spool import Spool

#: Bytes to collect before writing them. This is also the most memory that one upload takes.
_WRITE_BYTES: Final = 256 * 1024
#: The most bytes of a reference: more than 10 s of stereo PCM take.
MAX_REFERENCE_BYTES: Final = 4 * 1024 * 1024
#: The header of a WAV file of 16 kHz s16le mono. Its sizes are the ones of a file whose length is not known yet.
_WAV_HEADER: Final = struct.pack(
    "<4sI4s4sIHHIIHH4sI", b"RIFF", 2**32 - 1, b"WAVE", b"fmt ", 16, 1, 1, 16_000, 32_000, 2, 16, b"data", 2**32 - 1
)


def body_too_large(max_upload_bytes: int) -> BodyTooLarge:
    """Return the error for a body over the limit."""
    return BodyTooLarge(
        f"The file is too large: MAX_UPLOAD_BYTES allows {max_upload_bytes} bytes. Send compressed audio (Opus, "
        "MP3), or split it.",
        param="file",
    )


class ArrivingFile:
    """A file of which a part has arrived. What is not in the spool yet is pending."""

    def __init__(self, create: Callable[[], ArrivingAudio], *, max_bytes: int) -> None:
        self._create = create
        self._max_bytes = max_bytes
        self._pending = bytearray()
        self._spooled: ArrivingAudio | None = None
        self._written_bytes = 0

    @property
    def pending_bytes(self) -> int:
        return len(self._pending)

    @property
    def size(self) -> int:
        """The bytes that have arrived."""
        return self._written_bytes + len(self._pending)

    @property
    def digest(self) -> str:
        """The hash of everything written, empty if nothing was."""
        return "" if self._spooled is None else self._spooled.digest

    @property
    def is_too_large(self) -> bool:
        return self.size > self._max_bytes

    def too_large(self) -> InvalidRequest:
        """Return the error for a file that is too large."""
        return body_too_large(self._max_bytes)

    def receive(self, piece: bytes) -> None:
        """Take another piece of the form's part."""
        self._pending += piece

    def write(self) -> None:
        """Write what is pending to the spool. Blocks."""
        data, self._pending = self._pending, bytearray()
        if not data:
            return
        if self._spooled is None:
            self._spooled = self._create()
        self._spooled.write(data)
        self._written_bytes += len(data)

    def close(self) -> None:
        if self._spooled is not None:
            self._spooled.close()


class ArrivingPcm(ArrivingFile):
    """Samples without a header, s16le at 16 kHz of one channel, which become a WAV file."""

    def receive(self, piece: bytes) -> None:
        """Take another piece of the samples; the header goes before the first one."""
        super().receive(piece if self.size or not piece else _WAV_HEADER + piece)


class ArrivingReference(ArrivingFile):
    """A reference, which arrives as a file or as a data URL. ``number`` counts from 1."""

    def __init__(self, create: Callable[[], ArrivingAudio], *, number: int, is_data_url: bool) -> None:
        super().__init__(create, max_bytes=MAX_REFERENCE_BYTES)
        self._number = number
        self._decoder = DataUrlDecoder() if is_data_url else None

    def too_large(self) -> InvalidRequest:
        return self._invalid(f"have at most {MAX_REFERENCE_BYTES} bytes: send 2 to 10 s of speech")

    def receive(self, piece: bytes) -> None:
        """Take another piece of the form's part.

        Raises:
            InvalidRequest: it is not one of a data URL of audio.
        """
        super().receive(piece if self._decoder is None else self._decoded(self._decoder.decode, piece))

    def end(self) -> None:
        """Take note that nothing more will arrive.

        Raises:
            InvalidRequest: the data URL is incomplete, or there is no audio in it.
        """
        if self._decoder is not None:
            super().receive(self._decoded(self._decoder.end))
        if not self.size:
            raise self._invalid("not be empty: send 2 to 10 s of that speaker's voice")

    def _decoded(self, decode: Callable[..., bytes], *piece: bytes) -> bytes:
        try:
            return decode(*piece)
        except InvalidDataUrl as exc:
            raise self._invalid(str(exc)) from exc

    def _invalid(self, requirement: str) -> InvalidRequest:
        name = KNOWN_SPEAKER_REFERENCES.name
        return InvalidRequest(f"`{name}` number {self._number} must {requirement}.", param=name)


class ArrivingFiles:
    """The files of one form, one after the other, written to the spool a quarter of a megabyte at a time.

    With ``is_pcm`` the audio is s16le at 16 kHz of one channel, without a header.
    """

    def __init__(self, spool: Spool, job_id: str, *, max_audio_bytes: int, is_pcm: bool = False) -> None:
        self._spool = spool
        self._job_id = job_id
        self._max_audio_bytes = max_audio_bytes
        self._kind = ArrivingPcm if is_pcm else ArrivingFile
        self.audio: ArrivingFile | None = None
        self.references: list[ArrivingReference] = []

    def add_audio(self) -> ArrivingFile:
        """Return the file whose part begins.

        Raises:
            InvalidRequest: it is the second one.
        """
        if self.audio is not None:
            raise InvalidRequest("The form has more than one file: send one file per request.", param="file")
        create = partial(self._spool.create_audio, self._job_id, hashed=True)
        self.audio = self._kind(create, max_bytes=self._max_audio_bytes)
        return self.audio

    def add_reference(self, *, is_data_url: bool) -> ArrivingReference:
        """Return the reference whose part begins.

        Raises:
            InvalidRequest: there are too many.
        """
        number = len(self.references) + 1
        if number > MAX_REFERENCES:
            name = KNOWN_SPEAKER_REFERENCES.name
            raise InvalidRequest(
                f"`{name}` must be at most {MAX_REFERENCES}: send those of the {MAX_REFERENCES} most important "
                "speakers.",
                param=name,
            )
        create = partial(self._spool.create_reference, self._job_id, number)
        reference = ArrivingReference(create, number=number, is_data_url=is_data_url)
        self.references.append(reference)
        return reference

    def add_data_urls(self, text: str) -> None:
        """Take the references of a field that arrived at once: a data URL, or a JSON array of them.

        Raises:
            InvalidRequest: one of them is not valid, or there are too many.
        """
        for url in _data_urls(text):
            reference = self.add_reference(is_data_url=True)
            reference.receive(url.replace(" ", "+").encode())  # which URL-encoded forms turn into a space
            reference.end()

    def remove_last_reference(self) -> None:
        """Remove a reference that turned out to be an empty field."""
        self.references.pop()

    async def keep_up(self) -> None:
        """Write what is pending, if it is enough for a write.

        Raises:
            InvalidRequest, BodyTooLarge: a file is larger than allowed.
            DiskFull: there is no space for it.
        """
        for file in self._all():
            if file.is_too_large:
                raise file.too_large()
        if sum(file.pending_bytes for file in self._all()) >= _WRITE_BYTES:
            await self.write()

    async def write(self) -> None:
        """Write everything that is pending."""
        if any(file.pending_bytes for file in self._all()):
            await asyncio.to_thread(self._write)

    def _write(self) -> None:
        for file in self._all():
            file.write()

    def close(self) -> None:
        for file in self._all():
            file.close()

    def _all(self) -> Iterator[ArrivingFile]:
        if self.audio is not None:
            yield self.audio
        yield from self.references


def _data_urls(text: str) -> list[str]:
    if not text.strip():
        return []
    if text.lstrip().startswith("["):
        try:
            urls = json.loads(text)
        except (ValueError, RecursionError):
            urls = None
        if isinstance(urls, list) and all(isinstance(url, str) for url in urls):
            return [url for url in urls if url.strip()]
    return [text]
