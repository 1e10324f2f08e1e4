"""``/v1/jobs/{job_id}/audio``: the recording of a job that keeps it, whole or in ranges (RFC 9110, section 14).

Tickets for it and its waveform are here too.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from contextlib import contextmanager
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Annotated, Any, Final
from urllib.parse import quote

from fastapi import APIRouter, Header, Query, Request
from fastapi.responses import Response
from starlette.responses import StreamingResponse

from app.api.dependencies import ServiceParts
from app.api.errors import envelope
from app.api.fields import quoted
from app.api.openapi import failures, json_body, responses
from app.api.schemas import AudioTicket
from app.api.schemas import Waveform as WaveformBody
from app.domain.errors import NotKept, SpoolUnavailable
from app.domain.tickets import TICKET_SECONDS
from app.jobs.serializers import to_json

if TYPE_CHECKING:
    from collections.abc import Iterator

    from starlette.types import Receive, Scope, Send

    from app.domain.job import Job
    from app.jobs.audio import StoredAudio
    from app.jobs.spool import Spool

logger = logging.getLogger(__name__)

router = APIRouter(prefix="/v1/jobs", tags=["Jobs"])

#: The most bytes of a partial response. A player that is paused has read one of this size, so it holds no connection
#: open on which the server waits.
MAX_RANGE_BYTES: Final = 1024 * 1024
_CHUNK_BYTES: Final = 256 * 1024
#: A single range, with or without a first byte. Numbers of more digits are no offsets in a file.
_RANGE: Final = re.compile("bytes=(?:(?P<first>[0-9]{1,99})-(?P<last>[0-9]{0,99})|-(?P<length>[0-9]{1,99}))", re.I)
_HEAD_BYTES: Final = 64
#: The types that a recording can be served as, by its first bytes. Source: https://mimesniff.spec.whatwg.org, and the
#: specifications of the formats.
_TYPES: Final = (
    (re.compile(rb"RIFF....WAVE", re.DOTALL), "audio/wav"),
    (re.compile(rb"ID3|\xff[\xe2-\xe5\xf2-\xf5\xfa-\xfd]"), "audio/mpeg"),
    (re.compile(rb"\xff[\xf0\xf1\xf8\xf9]"), "audio/aac"),
    (re.compile(rb"fLaC"), "audio/flac"),
    (re.compile(rb"OggS"), "audio/ogg"),
    (re.compile(rb"....ftyp(M4A|M4B)", re.DOTALL), "audio/mp4"),
    (re.compile(rb"....ftypqt  ", re.DOTALL), "video/quicktime"),
    (re.compile(rb"....ftyp", re.DOTALL), "video/mp4"),
    (re.compile(rb"\x1aE\xdf\xa3.*webm", re.DOTALL), "video/webm"),
    (re.compile(rb"\x1aE\xdf\xa3.*matroska", re.DOTALL), "video/x-matroska"),
    (re.compile(rb"FORM....AIF[FC]", re.DOTALL), "audio/aiff"),
    (re.compile(rb"#!AMR"), "audio/amr"),
)
#: A recording comes from a stranger: whatever it is, browsers treat it as nothing but media, and keep no copy.
_HEADERS: Final = {
    "Accept-Ranges": "bytes",
    "Cache-Control": "private, no-store",
    "Content-Security-Policy": "sandbox; default-src 'none'",
    "X-Content-Type-Options": "nosniff",
}
_BINARY: Final = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}


@router.get(
    "/{job_id}/audio",
    operation_id="get_job_audio",
    summary="Retrieve a job's recording",
    response_model=None,
    response_class=Response,
    responses={
        200: {"description": "The whole recording, as it was received.", "content": _BINARY},
        206: {"description": "A part of it, of at most 1 MiB.", "content": _BINARY},
        416: {"description": "The range begins after the end. `Content-Range` has the size."},
        **failures(401, 404, 500, 503),
    },
)
async def get_audio(
    request: Request,
    parts: ServiceParts,
    job_id: str,
    byte_range: Annotated[
        str | None,
        Header(
            alias="Range",
            description="A single range, such as `bytes=0-` or `bytes=-500`. Others are ignored, as RFC 9110 allows.",
        ),
    ] = None,
    if_range: Annotated[
        str | None, Header(description="The `ETag` of an earlier response: the range counts if it is the same.")
    ] = None,
    ticket: Annotated[  # noqa: ARG001  # RequestLimits has checked it
        str | None, Query(description="A ticket, with which no API key is needed.")
    ] = None,
) -> Response:
    """Return the recording of a job with `keep_audio=true`, from its arrival until its result is deleted.

    Without `Range` it is returned whole. Media players ask for ranges, of which at most 1 MiB is returned at once.
    """
    job = (await parts.jobs.store.find(job_id, owner=request.state.owner)).job
    _require_recording(job)
    recording = await asyncio.to_thread(_Recording, parts.jobs.spool, job)
    if request.method == "HEAD":  # for which RFC 9110 defines no ranges
        return recording.head()
    if byte_range is None or if_range not in (None, recording.etag):
        return recording.whole()
    return await recording.part(byte_range)


router.head("/{job_id}/audio", include_in_schema=False)(get_audio)


@router.post(
    "/{job_id}/audio/ticket",
    operation_id="create_audio_ticket",
    summary="Create a URL for a media player",
    response_model=None,
    responses=responses("The URL of the recording.", json_body(AudioTicket), *(401, 404, 500, 503)),
)
async def create_ticket(request: Request, parts: ServiceParts, job_id: str) -> dict[str, Any]:
    """Return a URL of the recording that needs no API key, for players, which can't send one.

    It is valid for 12 hours, or until the job is deleted or the server restarts. Anyone who has it can listen: treat it
    as a key.
    """
    job = (await parts.jobs.store.find(job_id, owner=request.state.owner)).job
    _require_recording(job)
    expires_at = int(time.time()) + TICKET_SECONDS
    ticket = parts.tickets.issue(job_id, owner=request.state.owner, expires_at=expires_at)
    return {"url": f"/v1/jobs/{job_id}/audio?ticket={ticket}", "expires_at": expires_at}


@router.get(
    "/{job_id}/waveform",
    operation_id="get_job_waveform",
    summary="Retrieve the waveform of a job's recording",
    response_model=None,
    responses=responses("The waveform.", json_body(WaveformBody), *(400, 401, 404, 500, 503)),
)
async def get_waveform(
    request: Request,
    parts: ServiceParts,
    job_id: str,
    points: Annotated[int, Query(ge=1, le=20_000, description="The most points of each channel.")] = 1500,
) -> Response:
    """Return the waveform of a completed job with `keep_audio=true`, to be drawn beside its transcript."""
    job = (await parts.jobs.store.find(job_id, owner=request.state.owner)).job
    body = await asyncio.to_thread(_waveform, parts.jobs.spool, job, points)
    return Response(body, media_type="application/json")


def _waveform(spool: Spool, job: Job, points: int) -> bytes:
    waveform = spool.waveform(job.id) if job.has_result else None
    if waveform is None:
        raise NotKept(
            f"There is no waveform of job {job.id}: submit it with `keep_audio=true`, and wait until "
            "`result_available` is true.",
            code="no_waveform",
        )
    channels = waveform.points(points)
    return to_json({"duration": waveform.duration, "points": len(channels[0]), "channels": channels})


def _require_recording(job: Job) -> None:
    if job.has_recording:
        return
    if not job.keep_audio:
        reason = "it was submitted without `keep_audio=true`"
    elif job.is_active:
        reason = f"it is still to be downloaded. Retry when `audio_available` is true in /v1/jobs/{job.id}"
    else:
        reason = f"the job is {job.status.value}, and a recording is kept with a result only"
    raise NotKept(f"There is no recording of job {job.id}: {reason}.", code="no_audio")


def media_type(head: bytes) -> str:
    """Return the type of a recording that begins with these bytes: one of media, or of bytes without a meaning."""
    return next((name for pattern, name in _TYPES if pattern.match(head)), "application/octet-stream")


@contextmanager
def _missing(job_id: str) -> Iterator[None]:
    """Raise NotKept if the recording is not there. An object store notices only when it is read."""
    try:
        yield
    except FileNotFoundError:
        raise NotKept(f"The recording of job {job_id} is missing from the spool.", code="no_audio") from None


class _Recording:
    """An open recording and the responses that can be made of it. Each of them closes it.

    The constructor blocks.

    Raises:
        NotKept: the recording is not there.
    """

    def __init__(self, spool: Spool, job: Job) -> None:
        with _missing(job.id):
            self._audio = spool.open_audio(job.id)
            self._media_type = media_type(self._audio.read_range(0, _HEAD_BYTES))
        self._job_id = job.id
        self._size = self._audio.size
        self.etag = f'"{self._audio.version}"'
        self._headers = {
            **_HEADERS,
            "ETag": self.etag,
            "Content-Disposition": f"inline; filename*=UTF-8''{quote(job.name or job.id, safe='')}",
        }

    def head(self) -> Response:
        """Return the head of the whole recording."""
        self._audio.close()
        return Response(headers=self._headers_of_whole(), media_type=self._media_type)

    def whole(self) -> Response:
        """Return the whole recording, which is read while it is sent."""
        return _AudioResponse(self._audio, headers=self._headers_of_whole(), media_type=self._media_type)

    async def part(self, byte_range: str) -> Response:
        """Return a range of the recording, or all of it if ``byte_range`` is not a single range of bytes."""
        match = _RANGE.fullmatch(byte_range)
        if match is None:
            return self.whole()
        first, last, length = match.groups()
        if first and last and int(last) < int(first):  # which is not a range
            return self.whole()
        start = int(first) if first else max(0, self._size - int(length))
        end = min(int(last) + 1 if last else self._size, self._size, start + MAX_RANGE_BYTES)
        if start >= end:
            self._audio.close()
            return self._beyond_end(byte_range)
        content = await asyncio.to_thread(self._read, start, end)
        headers = {**self._headers, "Content-Range": f"bytes {start}-{start + len(content) - 1}/{self._size}"}
        return Response(content, HTTPStatus.PARTIAL_CONTENT, headers=headers, media_type=self._media_type)

    def _beyond_end(self, byte_range: str) -> Response:
        response = envelope(
            HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE,
            f"`Range` must begin before the end of the recording, which has {self._size} bytes, got "
            f"{quoted(byte_range)}.",
            code="range_not_satisfiable",
        )
        response.headers.update({**self._headers, "Content-Range": f"bytes */{self._size}"})
        return response

    def _headers_of_whole(self) -> dict[str, str]:
        return {**self._headers, "Content-Length": str(self._size)}

    def _read(self, start: int, end: int) -> bytes:
        with self._audio, _missing(self._job_id):
            return self._audio.read_range(start, end)


class _AudioResponse(StreamingResponse):
    """A response with a whole recording, which it closes, also if the client disconnects."""

    def __init__(self, audio: StoredAudio, *, headers: dict[str, str], media_type: str) -> None:
        # Starlette calls the iterator in threads, and waits for them even if it is cancelled.
        super().__init__(iter(partial(audio.read, _CHUNK_BYTES), b""), headers=headers, media_type=media_type)
        self._audio = audio

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._audio:
            try:
                await super().__call__(scope, receive, send)
            except SpoolUnavailable as exc:  # the server closes the connection of a response that is incomplete
                logger.warning("⚠️ A recording broke off: %s", exc)
