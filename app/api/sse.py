"""Server-sent events: what is said goes to the client as soon as it is known."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from fastapi.responses import Response

from app.api.errors import CLIENT_CLOSED_REQUEST, error_response
from app.domain.formats import ResponseFormat, diarized_segment, logprob_object, logprobs, to_json, usage
from app.jobs.serializers import extras

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from fastapi import Request
    from starlette.types import Receive, Scope, Send

    from app.domain.job import Job
    from app.domain.transcript import Segment
    from app.jobs.intake import Intake
    from app.jobs.runner import Runner
    from app.jobs.spool import Spool
    from app.jobs.subscriptions import Segments, SegmentSubscriptions


#: A comment is sent when nothing else was for so long, so that nothing between closes the connection.
KEEP_ALIVE_SECONDS: Final = 15.0
KEEP_ALIVE: Final = b": keep-alive\n\n"


def event(content: dict[str, Any], *, number: int | None = None) -> bytes:
    """One event; ``number`` is what a client that comes again says it has seen."""
    written = as_event(to_json(content))
    return written if number is None else f"id: {number}\n".encode() + written


def as_event(written: bytes) -> bytes:
    """JSON that is written already, in one line."""
    return b"data: " + written + b"\n\n"


class TextDeltas:
    """The text of segments, piece by piece: together the pieces are the transcript's text, to the last space."""

    def __init__(self) -> None:
        self._begun = False
        self._held = ""

    def of(self, segments: tuple[Segment, ...]) -> str:
        """What is to be added; space at its end waits until something follows."""
        text = self._held + "".join(segment.text for segment in segments)
        if not self._begun:
            text = text.lstrip()
        written = text.rstrip()
        self._held = text[len(written) :]
        self._begun = self._begun or bool(written)
        return written


class EventStream(Response):
    """Sends ``events`` until they end or the client goes away; then calls ``end``, whatever happened."""

    media_type = "text/event-stream"

    def __init__(self, events: AsyncIterator[bytes], *, end: Callable[[], Awaitable[None]]) -> None:
        super().__init__(headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._events = events
        self._end = end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002  # ASGI's signature
        gone = asyncio.create_task(client_gone(receive))
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            while (chunk := await self._next(gone)) is not None:
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            gone.cancel()
            await self._end()

    async def _next(self, gone: asyncio.Task[None]) -> bytes | None:
        """The next event, or None at the end or when the client has gone."""
        coming = asyncio.ensure_future(anext(self._events, None))
        await asyncio.wait({coming, gone}, return_when=asyncio.FIRST_COMPLETED)
        if coming.done():
            return coming.result()
        coming.cancel()
        with suppress(asyncio.CancelledError):
            await coming
        return None


async def client_gone(receive: Receive) -> None:
    """Returns when the client has closed its connection."""
    while (await receive())["type"] != "http.disconnect":
        pass


#: A stream begins with what is said first, or after so long, with its silence. What fails before that has a status.
FIRST_EVENT_SECONDS: Final = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Streaming:
    """What streams need. A client that closes its connection takes its work with it, at once."""

    intake: Intake
    runner: Runner
    spool: Spool
    segments: SegmentSubscriptions

    async def answer(self, request: Request, job: Job) -> Response:
        """What is said, as it is transcribed. What fails before anything was said is an answer like any other."""
        stack = ExitStack()
        segments = stack.enter_context(self.segments.subscribe(job.id))
        outcome = asyncio.create_task(self.runner.outcome(job.id), name=f"outcome of {job.id}")
        outcome.add_done_callback(lambda _: segments.put_nowait(None))

        async def end() -> None:
            stack.close()
            outcome.cancel()
            await self.intake.cancel(job.id)
            await self.intake.forget(job.id)

        gone = asyncio.create_task(client_gone(request.receive), name=f"client of {job.id}")
        first = asyncio.create_task(segments.get())
        try:
            await asyncio.wait({first, gone}, timeout=FIRST_EVENT_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        finally:
            gone.cancel()
        if gone.done() and not gone.cancelled() and not first.done():
            first.cancel()
            await end()
            return Response(status_code=CLIENT_CLOSED_REQUEST)
        error = outcome.result() if outcome.done() else None
        if error is not None:
            first.cancel()
            await end()
            return error_response(error)
        return EventStream(self._events(job, first, segments, outcome), end=end)

    async def _events(
        self,
        job: Job,
        first: asyncio.Task[tuple[Segment, ...] | None],
        segments: Segments,
        outcome: asyncio.Task[Exception | None],
    ) -> AsyncIterator[bytes]:
        deltas = TextDeltas()
        coming = first
        while True:
            await asyncio.wait({coming}, timeout=KEEP_ALIVE_SECONDS)
            if not coming.done():
                yield KEEP_ALIVE
                continue
            found = coming.result()
            if found is None:
                break
            for content in _contents(job, deltas.of(found), found):
                yield event(content)
            coming = asyncio.create_task(segments.get())
        error = outcome.result()
        if error is not None:
            yield as_event(bytes(error_response(error).body))
            return
        transcript, _ = await asyncio.to_thread(self.spool.result, job.id)
        done = {"type": "transcript.text.done", "text": transcript.text, "usage": usage(transcript)}
        yield event({**done, **logprobs(transcript, job.rendering), **extras(job)})


def _contents(job: Job, text: str, found: tuple[Segment, ...]) -> list[dict[str, Any]]:
    """What is told of further segments: the text that they add, and where channels are speakers who says what."""
    contents: list[dict[str, Any]] = []
    if text:
        delta: dict[str, Any] = {"type": "transcript.text.delta", "delta": text}
        if job.rendering.logprobs:
            delta["logprobs"] = [logprob_object(one) for segment in found for one in segment.logprobs]
        contents.append(delta)
    if job.rendering.format is ResponseFormat.DIARIZED_JSON:
        contents += [diarized_segment(segment) for segment in found]
    return contents
