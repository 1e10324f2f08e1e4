"""Reading of HTTP/1.1 in small slices, so that one client cannot occupy the event loop.

A connection parses one request, or a limited number of chunks, per slice. If more data is buffered, the connection
stops reading and queues for another slice behind all others.
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


#: More than any client sends, including what proxies add.
MAX_HEADERS: Final = 100
MAX_HEAD_BYTES: Final = 64 * 1024
#: Parsing this many chunks of a body takes about a millisecond.
_CHUNKS_PER_SLICE: Final = 100
_END_OF_HEAD: Final = re.compile(rb"\n\r?\n")
_LAST_CHUNK: Final = re.compile(rb"(?:\r\n)?0+[^0-9a-fA-F\n][^\n]*\n|(?:\r\n)?0+\n")


class RoundRobin:
    """A queue of callbacks. One runs in each iteration of the event loop, first in, first out."""

    def __init__(self) -> None:
        self._queue: deque[Callable[[], None]] = deque()

    def schedule(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` once, after those that are queued already."""
        self._queue.append(callback)
        if len(self._queue) == 1:
            asyncio.get_running_loop().call_soon(self._run_next)

    def _run_next(self) -> None:
        try:
            self._queue[0]()
        finally:
            self._queue.popleft()
            if self._queue:
                asyncio.get_running_loop().call_soon(self._run_next)


class PacedConnection(h11.Connection):
    """An h11 connection that parses in slices, limits heads and trailers, and counts the bytes sent.

    ``has_more`` is True if the slice ended before everything buffered was parsed; ``is_chunked`` if the current body
    is sent in chunks.
    """

    def __init__(self, max_head_bytes: int = MAX_HEAD_BYTES) -> None:
        super().__init__(h11.SERVER, max_head_bytes)
        self._max_head_bytes = max_head_bytes
        self._is_between_chunks = self._in_trailers = False
        self.is_chunked = False
        self.sent_bytes = 0
        self.begin_slice()

    def begin_slice(self) -> None:
        """Allow one more request or a number of chunks."""
        self._has_request = False
        self._chunks = 0
        self.has_more = False

    def next_event(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        """Return the next event of this slice, or NEED_DATA at its end.

        Raises:
            h11.RemoteProtocolError: a head or the trailers are too large.
        """
        if self.their_state is h11.IDLE:
            buffered, _ = self.trailing_data
            self.has_more = self._has_request and bool(buffered)
            self._check_head(buffered)
        elif self.their_state is h11.SEND_BODY:
            self.has_more = self._chunks >= _CHUNKS_PER_SLICE
            self._check_trailers()
        if self.has_more:
            return h11.NEED_DATA
        event = super().next_event()
        self._count(event)
        return event

    def send_with_data_passthrough(self, event: h11.Event) -> list[bytes] | None:
        """Return the bytes of an event to send, and count them."""
        pieces = super().send_with_data_passthrough(event)
        self.sent_bytes += sum(map(len, pieces or ()))
        return pieces

    def _count(self, event: h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]) -> None:
        if isinstance(event, h11.Request):
            self._has_request = True
            self.is_chunked = any(name == b"transfer-encoding" for name, _ in event.headers)
            self._is_between_chunks, self._in_trailers = self.is_chunked, False
        elif isinstance(event, h11.Data):
            self._chunks += 1
            self._is_between_chunks = event.chunk_end

    def _check_trailers(self) -> None:
        """Apply the limits of a head to the trailers that may follow the last chunk."""
        if not self._is_between_chunks:
            return
        buffered, _ = self.trailing_data
        if not self._in_trailers and (last_chunk := _LAST_CHUNK.match(buffered)) is not None:
            self._in_trailers, buffered = True, buffered[last_chunk.end() :]
        if self._in_trailers and not buffered.startswith((b"\r", b"\n")):
            self._check_head(buffered)

    def _check_head(self, buffered: bytes) -> None:
        """Raise RemoteProtocolError for a head that would take long to parse."""
        end = _END_OF_HEAD.search(buffered)
        head = buffered if end is None else buffered[: end.start()]
        max_lines = MAX_HEADERS + (end is None)  # the match begins at the end of the last header's line
        if len(head) > self._max_head_bytes or head.count(b"\n") > max_lines:
            raise h11.RemoteProtocolError("The request head is too large.", error_status_hint=431)


class PausableFlow(FlowControl):
    """Flow control that reads nothing while held, and records whether the server has paused the client."""

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
        """Stop reading until released."""
        self.held = True
        self._transport.pause_reading()

    def release(self) -> None:
        """Read again, unless the application has paused reading."""
        self.held = False
        if not self.read_paused:
            self._transport.resume_reading()
