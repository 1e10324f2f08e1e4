"""Server-sent events: their format, a response that streams them, and the stream of a transcript (``stream=true``)."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Any, Final

from fastapi.responses import Response

from app.api.errors import CLIENT_CLOSED_REQUEST, error_response
from app.api.requests import wait_for_disconnect
from app.domain.diarized import diarized_segments, segment_id
from app.domain.formats import ResponseFormat, diarized, languages, logprob_object, logprobs, token_usage
from app.domain.speakers import segment_of_channel
from app.jobs.serializers import extras, to_json

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from starlette.types import Receive, Scope, Send

    from app.api.dependencies import JobParts
    from app.domain.job import Job
    from app.domain.transcript import Segment
    from app.jobs.spool import Spool


#: The longest silence before an event or a comment is sent. Proxies close connections that are silent for longer.
KEEP_ALIVE_SECONDS: Final = 15.0
KEEP_ALIVE: Final = b": keep-alive\n\n"


def event(content: dict[str, Any], *, name: str | None = None, event_id: int | str | None = None) -> bytes:
    """Return an event with JSON data. Clients send its id, if it has one, when they reconnect."""
    head = ("" if name is None else f"event: {name}\n") + ("" if event_id is None else f"id: {event_id}\n")
    return head.encode() + data_event(to_json(content))


def data_event(data: bytes) -> bytes:
    """Return an event with data that is JSON on one line already."""
    return b"data: " + data + b"\n\n"


class EventStream(Response):
    """A response that sends events until they end or the client disconnects, and then awaits ``end``."""

    media_type = "text/event-stream"

    def __init__(self, events: AsyncIterator[bytes], *, end: Callable[[], Awaitable[None]]) -> None:
        super().__init__(headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._events = events
        self._end = end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002  # ASGI's signature
        disconnect = asyncio.create_task(wait_for_disconnect(receive))
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            while (chunk := await self._next(disconnect)) is not None:
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            disconnect.cancel()
            await self._end()

    async def _next(self, disconnect: asyncio.Task[None]) -> bytes | None:
        """Return the next event, or None at the end or after a disconnect."""
        pending = asyncio.ensure_future(anext(self._events, None))
        await asyncio.wait({pending, disconnect}, return_when=asyncio.FIRST_COMPLETED)
        if pending.done():
            return pending.result()
        pending.cancel()
        with suppress(asyncio.CancelledError):
            await pending
        return None


#: How long to wait for the first segment before the response begins. An error until then has a status of its own.
FIRST_EVENT_SECONDS: Final = 10.0


class TextDeltas:
    """The text of segments as deltas, which add up to the transcript's text exactly."""

    def __init__(self) -> None:
        self._has_begun = False
        self._held_space = ""

    def add(self, segments: tuple[Segment, ...]) -> str:
        """Return the text to append for further segments. Space at its end is held back until more text follows."""
        text = self._held_space + "".join(segment.text for segment in segments)
        if not self._has_begun:
            text = text.lstrip()
        delta = text.rstrip()
        self._held_space = text[len(delta) :]
        self._has_begun = self._has_begun or bool(delta)
        return delta


class TranscriptStream:
    """The stream of one job's transcript. The job is cancelled and forgotten when the stream is closed.

    In diarized_json, each segment has a delta of its own. The segments follow at once if channels are the speakers;
    voices are not told apart before the end.
    """

    def __init__(self, job: Job, jobs: JobParts) -> None:
        self._job = job
        self._jobs = jobs
        self._is_diarized = job.rendering.format is ResponseFormat.DIARIZED_JSON
        self._deltas = TextDeltas()
        self._subscription = ExitStack()
        self._segments = self._subscription.enter_context(jobs.segments.subscribe(job.id))
        self._outcome = asyncio.create_task(jobs.runner.outcome(job.id), name=f"outcome of {job.id}")
        self._outcome.add_done_callback(self._end_segments)
        self._pending = asyncio.create_task(self._segments.get())

    async def respond(self, receive: Receive) -> Response:
        """Return the stream, or the response to an error that happened before its first event."""
        disconnect = asyncio.create_task(wait_for_disconnect(receive), name=f"client of {self._job.id}")
        try:
            await asyncio.wait(
                {self._pending, disconnect}, timeout=FIRST_EVENT_SECONDS, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            disconnect.cancel()
        if disconnect.done() and not disconnect.cancelled() and not self._pending.done():
            await self.close()
            return Response(status_code=CLIENT_CLOSED_REQUEST)
        error = self._outcome.result() if self._outcome.done() else None
        if error is not None:
            await self.close()
            return error_response(error)
        return EventStream(self._events(), end=self.close)

    async def close(self) -> None:
        """Cancel the job, if it still runs, and forget it."""
        self._subscription.close()
        self._pending.cancel()
        self._outcome.cancel()
        await self._jobs.intake.cancel(self._job.id)
        await self._jobs.intake.forget(self._job.id)

    def _end_segments(self, _: asyncio.Task[Exception | None]) -> None:
        self._segments.put_nowait(None)

    async def _events(self) -> AsyncIterator[bytes]:
        while True:
            await asyncio.wait({self._pending}, timeout=KEEP_ALIVE_SECONDS)
            if not self._pending.done():
                yield KEEP_ALIVE
                continue
            segments = self._pending.result()
            if segments is None:
                break
            for content in self._contents(segments):
                yield event(content)
            self._pending = asyncio.create_task(self._segments.get())
        if error := self._outcome.result():
            yield data_event(bytes(error_response(error).body))
            return
        ended = self._jobs.store.get(self._job.id).job  # with the warnings of its transcript
        for last_event in await asyncio.to_thread(_last_events, self._jobs.spool, ended):
            yield last_event

    def _contents(self, segments: tuple[Segment, ...]) -> list[dict[str, Any]]:
        """Return the events for further segments: the new text, and in diarized_json the segments of channels."""
        if not self._is_diarized:
            return self._delta(segments)
        contents: list[dict[str, Any]] = []
        for segment in segments:
            contents += self._delta((segment,), segment_id=segment_id(segment))
            if self._job.options.multichannel:
                contents += diarized_segments(segment_of_channel(segment, self._job.options.known_speakers))
        return contents

    def _delta(self, segments: tuple[Segment, ...], **members: str) -> list[dict[str, Any]]:
        """Return the event for the text of further segments, or none if they have no text."""
        text = self._deltas.add(segments)
        if not text:
            return []
        delta: dict[str, Any] = {"type": "transcript.text.delta", "delta": text, **members}
        if self._job.rendering.logprobs:
            delta["logprobs"] = [logprob_object(token) for segment in segments for token in segment.logprobs]
        return [delta]


def _last_events(spool: Spool, job: Job) -> list[bytes]:
    """Return what ends a stream: in diarized_json the segments of voices, and the whole text. Blocks."""
    transcript, _ = spool.result(job.id)
    by_voices = job.rendering.format is ResponseFormat.DIARIZED_JSON and not job.options.multichannel
    segments = diarized(transcript)["segments"] if by_voices else []
    done = {"type": "transcript.text.done", "text": transcript.text, "usage": token_usage(transcript)}
    done |= languages(transcript) | logprobs(transcript, job.rendering) | extras(job)
    return [event(content) for content in (*segments, done)]
