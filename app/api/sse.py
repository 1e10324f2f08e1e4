"""Server-sent events: their format, and a response that streams them until the client disconnects."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from fastapi.responses import Response

from app.api.requests import wait_for_disconnect
from app.domain.formats import to_json

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from starlette.types import Receive, Scope, Send

#: The longest silence before an event or a comment is sent. Proxies close connections that are silent for longer.
KEEP_ALIVE_SECONDS: Final = 15.0
KEEP_ALIVE: Final = b": keep-alive\n\n"


def event(content: dict[str, Any], *, number: int | None = None) -> bytes:
    """Return an event with JSON data. ``number`` becomes its id, which clients send when they reconnect."""
    data = data_event(to_json(content))
    return data if number is None else f"id: {number}\n".encode() + data


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
