"""Server-sent events: what is said goes to the client as soon as it is known."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from fastapi.responses import Response

from app.domain.formats import to_json

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from starlette.types import Receive, Scope, Send

    from app.domain.transcript import Segment

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
