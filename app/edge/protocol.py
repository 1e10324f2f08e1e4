"""HTTP as uvicorn speaks it, with an end for those who are too slow or too many, and our own envelope for all of it."""

from __future__ import annotations

import asyncio
import re
import socket
import struct
from collections import deque
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import h11
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.h11_impl import H11Protocol

from app.api.errors import envelope, too_many_connections
from app.domain.events import CutReason

if TYPE_CHECKING:
    from collections.abc import Callable

    from fastapi.responses import JSONResponse
    from uvicorn.protocols.http.h11_impl import RequestResponseCycle

    from app.edge.connections import Connections


_MAX_HEAD_BYTES: Final = 64 * 1024
#: What is read at once: little of what may be sent ahead or comes in chunks, much of a body whose length is known.
_READ_BYTES: Final = (64 * 1024, 256 * 1024)
#: So much waits in the system for a client that reads nothing; without a bound it takes up to 4 MiB for each.
_UNSENT_BYTES: Final = 128 * 1024
_AT_ONCE: Final = struct.pack("ii", 1, 0)


def guarded(connections: Connections) -> Any:
    """uvicorn's ``http``: the protocol for connections that are counted there."""
    return partial(GuardedProtocol, connections=connections, turns=Turns())


class GuardedProtocol(H11Protocol):
    """uvicorn's h11 protocol with deadlines.

    A request's head has its time from the moment that it is waited for; a body must keep up a rate, as long as this
    side reads; what is sent must be taken, at the same rate. What is sent ahead waits for its turn. Sources: RFC 9110
    (408, 503); uvicorn's ``h11_impl``, on whose steps this hangs.
    """

    conn: PacedConnection
    flow: WatchedFlow

    def __init__(self, *args: Any, connections: Connections, turns: Turns, **options: Any) -> None:
        super().__init__(*args, **options)
        self.conn = PacedConnection(_MAX_HEAD_BYTES)
        self._connections = connections
        self._turns = turns
        self._limits = connections.limits
        self._head: asyncio.TimerHandle | None = None
        self._body: asyncio.TimerHandle | None = None
        self._sending: asyncio.TimerHandle | None = None
        self._received = 0
        self._stretch_from = 0
        self._taken_before = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's own
        super().connection_made(transport)
        self.flow = WatchedFlow(transport)
        _bound_unsent(transport)
        if self._connections.admit(self, self.client[0] if self.client else ""):
            self._follow()
            return
        self._connections.note(CutReason.TOO_MANY)
        self._refuse(too_many_connections())

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.left(self)
        for timer in (self._head, self._body, self._sending):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        self._received += len(data)
        if self.flow.held:
            self.conn.receive_data(data)
            self.transport.pause_reading()
            return
        self.conn.begin_turn()
        super().data_received(data)
        self._follow()

    def eof_received(self) -> None:
        """The client says that no more will come, which uvicorn takes for its going. In the midst of an answer what was
        sent of it would wait in the system for minutes."""
        super().eof_received()
        if self.conn.their_state is h11.DONE and self.conn.our_state is h11.SEND_BODY:
            _forget_unsent(self.transport)
            self.transport.abort()

    def handle_events(self) -> None:
        super().handle_events()
        if self.conn.has_more and not self.flow.held and not self.transport.is_closing():
            self._unset_keepalive_if_required()
            self.flow.hold()
            self._turns.wait(self._go_on)

    def _go_on(self) -> None:
        """It is this connection's turn to say more, if it is still there: while held it is not heard to go."""
        if self.transport.is_closing():
            return
        if _socket(self.transport).getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self.transport.abort()
            return
        self.flow.release()
        self.conn.begin_turn()
        self.handle_events()
        self._follow()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch_sending()
        self._follow()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch_sending()

    def _follow(self) -> None:
        """Sets the timers for what is awaited now."""
        waits_for_head = self.conn.their_state is h11.IDLE and not self.flow.held and not self.transport.is_closing()
        if waits_for_head:
            self._connections.idle(self)
        else:
            self._connections.busy(self)
        # Between two requests a client may do nothing, for uvicorn's keep-alive time.
        has_begun = self._cycle is None or bool(self.conn.trailing_data[0])
        self._time_head(wanted=waits_for_head and has_begun)
        receives = self.conn.their_state is h11.SEND_BODY and not self.transport.is_closing()
        if hasattr(self.transport, "max_size"):  # asyncio's own
            self.transport.max_size = _READ_BYTES[receives and not self.conn.is_chunked]
        if receives and self._body is None:
            self._look_again()
        elif not receives and self._body is not None:
            self._body.cancel()
            self._body = None

    def _time_head(self, *, wanted: bool) -> None:
        """Has the time run from when it was first wanted."""
        if wanted and self._head is None and self._limits.head_seconds:
            self._head = self.loop.call_later(self._limits.head_seconds, self._head_is_late)
        elif not wanted and self._head is not None:
            self._head.cancel()
            self._head = None

    def _head_is_late(self) -> None:
        self._connections.note(CutReason.SLOW_HEAD)
        if not self._received:
            self.transport.abort()
            return
        self._refuse(
            _too_slow(f"A request's head must arrive within {self._limits.head_seconds:g} s: send it in one go.")
        )

    def _look_again(self) -> None:
        """Begins a further stretch of a body."""
        self._stretch_from = self._received
        self.flow.was_paused = self.flow.read_paused
        if self._limits.body_bytes_per_second:
            self._body = self.loop.call_later(self._limits.window_seconds, self._body_stretch_over)

    def _body_stretch_over(self) -> None:
        wanted = self._limits.body_bytes_per_second * self._limits.window_seconds
        is_our_fault = self.flow.was_paused or self.flow.held or self.cycle.waiting_for_100_continue
        if is_our_fault or self._received - self._stretch_from >= wanted:
            self._look_again()
            return
        self._body = None
        self._connections.note(CutReason.SLOW_BODY)
        self._refuse(
            _too_slow(
                f"The body must arrive at {self._limits.body_bytes_per_second} bytes a second at least: send it over a "
                "faster line, or put the audio behind a URL."
            )
        )

    @property
    def _cycle(self) -> RequestResponseCycle | None:
        """The request that is being answered, or the last one; uvicorn says that there always is one."""
        return self.cycle

    @property
    def _taken_bytes(self) -> int:
        """What the system has taken of all that was to be sent."""
        return self.conn.sent_bytes - self.transport.get_write_buffer_size()

    def _watch_sending(self) -> None:
        """Waits for what is sent to be taken."""
        if self._sending is None and self._limits.send_seconds and self.transport.get_write_buffer_size():
            self._taken_before = self._taken_bytes
            self._sending = self.loop.call_later(self._limits.send_seconds, self._sending_over)

    def _sending_over(self) -> None:
        self._sending = None
        taken = self._taken_bytes - self._taken_before
        is_slow = taken < max(1, self._limits.body_bytes_per_second * self._limits.send_seconds)
        if is_slow and self.transport.get_write_buffer_size():
            self.cut(CutReason.SLOW_READER)
        else:
            self._watch_sending()

    def cut(self, reason: CutReason) -> None:
        """Closes the connection at once."""
        self._connections.note(reason)
        if reason is CutReason.SLOW_READER:
            _forget_unsent(self.transport)
        self.transport.abort()

    def send_400_response(self, msg: str) -> None:
        """Called for bytes that are no HTTP request, after which nothing on this connection can be understood."""
        self._refuse(
            envelope(
                400,
                f"{msg} Send a request as HTTP/1.1 has it, with at most {MAX_HEADERS} headers and 64 KiB of them.",
            )
        )

    def _refuse(self, answer: JSONResponse) -> None:
        """Answers in place of the application, and closes."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            for event in (
                h11.Response(
                    status_code=answer.status_code,
                    headers=[*answer.raw_headers, (b"connection", b"close")],
                    reason=_REASONS[answer.status_code],
                ),
                h11.Data(data=bytes(answer.body)),
                h11.EndOfMessage(),
            ):
                self.transport.write(self.conn.send(event) or b"")
        if (cycle := self._cycle) is not None and not cycle.response_complete:
            cycle.disconnected = True
            cycle.message_event.set()
        self.transport.close()
        self._watch_sending()


_REASONS: Final = {400: b"Bad Request", 408: b"Request Timeout", 503: b"Service Unavailable"}


def _bound_unsent(transport: asyncio.Transport) -> None:
    """Has little wait for the client: here, and in the system where that can be told so. It keeps the line busy."""
    transport.set_write_buffer_limits(high=_UNSENT_BYTES // 8)
    if hasattr(socket, "TCP_NOTSENT_LOWAT"):
        with suppress(OSError):
            _socket(transport).setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _UNSENT_BYTES)


def _forget_unsent(transport: asyncio.Transport) -> None:
    """Has the system throw away what waits there for the client, which it would offer for minutes after the end."""
    with suppress(OSError):
        _socket(transport).setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)


def _socket(transport: asyncio.Transport) -> socket.socket:
    found: socket.socket = transport.get_extra_info("socket")
    return found


def _too_slow(message: str) -> JSONResponse:
    return envelope(408, message, code="too_slow")


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
