"""What a client sends ahead, more requests or a flood of tiny chunks, waits for its turn: one connection at a time.

h11 and uvicorn handle all that a read brought in one go. 256 KiB in chunks of one byte keep the event loop for 0.4 s, a
head of 12,000 headers for 30 ms, and 300 connections that do so keep it from everybody else.
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from typing import TYPE_CHECKING, Final

import h11
from uvicorn.protocols.http.flow_control import FlowControl

if TYPE_CHECKING:
    from collections.abc import Callable

#: More headers has no client, with all that proxies add.
MAX_HEADERS: Final = 100
#: So many chunks of a body take a millisecond.
_CHUNKS: Final = 100
_HEAD_ENDS: Final = re.compile(rb"\n\r?\n")
_LAST_CHUNK: Final = re.compile(rb"(?:\r\n)?0+[^0-9a-fA-F\n][^\n]*\n|(?:\r\n)?0+\n")


class Turns:
    """Calls one of those that wait in each round of the event loop, in the order in which they came."""

    def __init__(self) -> None:
        self._waiting: deque[Callable[[], None]] = deque()

    def wait(self, go_on: Callable[[], None]) -> None:
        self._waiting.append(go_on)
        if len(self._waiting) == 1:
            asyncio.get_running_loop().call_soon(self._next)

    def _next(self) -> None:
        try:
            self._waiting[0]()
        finally:
            self._waiting.popleft()
            if self._waiting:
                asyncio.get_running_loop().call_soon(self._next)


class PacedConnection(h11.Connection):
    """h11's, which gives one request and some chunks in a turn, and counts what is sent.

    ``has_more`` says that the turn ended before all was said, ``is_chunked`` that the body is.
    """

    def __init__(self, max_head_bytes: int) -> None:
        super().__init__(h11.SERVER, max_head_bytes)
        self._max_head_bytes = max_head_bytes
        self._is_between_chunks = self._in_trailers = False
        self.is_chunked = False
        self.sent_bytes = 0
        self.begin_turn()

    def begin_turn(self) -> None:
        self._has_request = False
        self._chunks = 0
        self.has_more = False

    def next_event(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        if self.their_state is h11.IDLE:
            coming, _ = self.trailing_data
            self.has_more = self._has_request and bool(coming)
            self._check(coming)
        elif self.their_state is h11.SEND_BODY:
            self.has_more = self._chunks >= _CHUNKS
            self._check_trailers()
        if self.has_more:
            return h11.NEED_DATA
        event = super().next_event()
        self._note(event)
        return event

    def _note(self, event: h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]) -> None:
        if isinstance(event, h11.Request):
            self._has_request = True
            self.is_chunked = any(name == b"transfer-encoding" for name, _ in event.headers)
            self._is_between_chunks, self._in_trailers = self.is_chunked, False
        elif isinstance(event, h11.Data):
            self._chunks += 1
            self._is_between_chunks = event.chunk_end

    def _check_trailers(self) -> None:
        """What may follow the last chunk is read as a head is."""
        if not self._is_between_chunks:
            return
        coming, _ = self.trailing_data
        if not self._in_trailers and (last := _LAST_CHUNK.match(coming)) is not None:
            self._in_trailers, coming = True, coming[last.end() :]
        if self._in_trailers and not coming.startswith((b"\r", b"\n")):
            self._check(coming)

    def _check(self, coming: bytes) -> None:
        """Raises RemoteProtocolError for a head that would take long to read."""
        end = _HEAD_ENDS.search(coming)
        head = coming if end is None else coming[: end.start()]
        most = MAX_HEADERS + (end is None)  # the last one's line has no end where the head has one
        if len(head) > self._max_head_bytes or head.count(b"\n") > most:
            raise h11.RemoteProtocolError("The head is too long", error_status_hint=431)

    def send_with_data_passthrough(self, event: h11.Event) -> list[bytes] | None:
        sent = super().send_with_data_passthrough(event)
        self.sent_bytes += sum(map(len, sent or ()))
        return sent


class WatchedFlow(FlowControl):
    """Remembers whether this side has kept the client from sending; reads nothing while held."""

    was_paused = False
    held = False

    def pause_reading(self) -> None:
        self.was_paused = True
        super().pause_reading()

    def resume_reading(self) -> None:
        if self.held:
            self.read_paused = False
        else:
            super().resume_reading()

    def hold(self) -> None:
        self.held = True
        self._transport.pause_reading()

    def release(self) -> None:
        self.held = False
        if not self.read_paused:
            self._transport.resume_reading()
