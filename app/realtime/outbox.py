"""The events that wait to be sent to a client, up to a limit on their size."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from app.realtime.server_events import ServerEvent

#: A client that does not read hours of text, or thousands of errors.
_MAX_BYTES: Final = 1 << 20


class Outbox:
    """Sends events in order with ``send``. ``on_full`` is called when too much waits; what comes then is dropped."""

    def __init__(self, send: Callable[[str], Awaitable[None]], *, on_full: Callable[[], None]) -> None:
        self._send = send
        self._on_full = on_full
        self._waiting: deque[str] = deque()
        self._bytes = 0
        self._changed = asyncio.Event()
        self._empty = asyncio.Event()

    def put(self, event: ServerEvent) -> None:
        text = json.dumps(event, ensure_ascii=False, separators=(",", ":"))
        if self._bytes + len(text) > _MAX_BYTES:
            self._on_full()
            return
        self._waiting.append(text)
        self._bytes += len(text)
        self._empty.clear()
        self._changed.set()

    def clear(self) -> None:
        """Drop what waits, because the client does not read it."""
        self._waiting.clear()
        self._bytes = 0

    async def run(self) -> None:
        """Send events until cancelled."""
        while True:
            while self._waiting:
                text = self._waiting.popleft()
                self._bytes -= len(text)
                await self._send(text)
            self._empty.set()
            self._changed.clear()
            await self._changed.wait()

    async def wait_until_empty(self) -> None:
        await self._empty.wait()
