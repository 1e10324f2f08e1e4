"""uvicorn's HTTP/1.1 protocol with deadlines and connection limits, answering with this API's error envelope.

Deadlines belong here because they have to apply before a request reaches the application: uvicorn 0.54 waits
indefinitely for a request's head and for its body, and keeps a response for a client that reads nothing of it.
"""

from __future__ import annotations

import socket
import struct
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final, cast

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from app.api.errors import envelope, too_many_connections
from app.domain.events import CutReason
from app.edge.pacing import MAX_HEADERS, PacedConnection, PausableFlow, RoundRobin

if TYPE_CHECKING:
    import asyncio

    from fastapi.responses import JSONResponse
    from uvicorn.protocols.http.h11_impl import RequestResponseCycle

    from app.edge.connections import Closable, Connections


#: The most bytes to read at once, by whether a body of known length is being received. Little otherwise, because
#: pipelined requests and chunks have to be parsed in slices.
_READ_BYTES: Final = {False: 64 * 1024, True: 256 * 1024}
#: The most unsent bytes to leave in the kernel for a client. Without a limit it holds up to 4 MiB for each.
_UNSENT_BYTES: Final = 128 * 1024
_LINGER_ZERO_SECONDS: Final = struct.pack("ii", 1, 0)
#: How long to go on reading for a client that sends what is not understood, so that it gets its response: closing a
#: connection with unread bytes resets it.
_LINGER_SECONDS: Final = 5.0
#: A request of such a type has a body. One of JSON may have none, as `curl -X POST` sends it.
_BODY_TYPES: Final = (
    b"multipart/",
    b"audio/",
    b"video/",
    b"application/octet-stream",
    b"application/x-www-form-urlencoded",
)
_REASON_PHRASES: Final = {
    400: b"Bad Request",
    408: b"Request Timeout",
    411: b"Length Required",
    503: b"Service Unavailable",
}


def http_protocol(connections: Connections) -> Any:
    """Return a protocol class for uvicorn's ``http`` option whose connections count towards ``connections``."""
    return partial(GuardedProtocol, connections=connections, slices=RoundRobin())


class GuardedProtocol(H11Protocol):
    """uvicorn's h11 protocol with deadlines.

    A request's head has a fixed time from the moment the server waits for it. A body has to keep up a minimum rate
    while the server is reading, and the client has to read its response at the same rate. Pipelined requests wait for
    their slice. Sources: RFC 9110 (408, 503); uvicorn's ``h11_impl``, whose hooks this class overrides.
    """

    conn: PacedConnection
    flow: PausableFlow

    def __init__(self, *args: Any, connections: Connections, slices: RoundRobin, **options: Any) -> None:
        super().__init__(*args, **options)
        self.conn = PacedConnection()
        self._connections = connections
        self._slices = slices
        self._limits = connections.limits
        self._head_timer: asyncio.TimerHandle | None = None
        self._body_timer: asyncio.TimerHandle | None = None
        self._send_timer: asyncio.TimerHandle | None = None
        self._linger_timer: asyncio.TimerHandle | None = None
        self._received_bytes = 0
        self._received_before_window = 0
        self._sent_before_window = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's own
        super().connection_made(transport)
        if self.client:  # of a request behind a trusted proxy, uvicorn shows only the proxy's client
            self.app_state = {**self.app_state, "peer": self.client[0]}
        self.flow = PausableFlow(transport)
        limit_unsent(transport)
        if self._connections.admit(self, self.client[0] if self.client else ""):
            self._update_timers()
            return
        self._connections.report_cut(CutReason.TOO_MANY)
        self._reject(too_many_connections())

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.remove(self)
        for timer in (self._head_timer, self._body_timer, self._send_timer, self._linger_timer):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing() or self._linger_timer is not None:
            return
        self._received_bytes += len(data)
        if self.flow.held:
            self.conn.receive_data(data)
            self.transport.pause_reading()
            return
        self.conn.begin_slice()
        super().data_received(data)
        if self.transport.get_protocol() is self:
            self._update_timers()

    def handle_websocket_upgrade(self, event: h11.Request) -> None:
        """Hand the connection over, which counts as before, to the protocol for WebSockets."""
        for timer in (self._head_timer, self._send_timer):
            if timer is not None:
                timer.cancel()
        self._head_timer = self._send_timer = None
        super().handle_websocket_upgrade(event)
        self._connections.hand_over(self, cast("Closable", self.transport.get_protocol()))

    def eof_received(self) -> None:
        """Abort the connection if the client closes its side while a response is being sent.

        uvicorn treats the end of input as a disconnect, and the rest of the response would stay in the kernel for
        minutes.
        """
        super().eof_received()
        if self.conn.their_state is h11.DONE and self.conn.our_state is h11.SEND_BODY:
            discard_unsent(self.transport)
            self.transport.abort()

    def handle_events(self) -> None:
        super().handle_events()
        if self._has_body_without_length():
            self._respond(_length_required())
            self._linger()
            return
        if self.conn.has_more and not self.flow.held and not self.transport.is_closing():
            self._unset_keepalive_if_required()
            self.flow.hold()
            self._slices.schedule(self._next_slice)

    def _has_body_without_length(self) -> bool:
        """Return True if the request, not answered yet, has a body that would be taken for another request."""
        if self._cycle is None or (self.conn.their_state, self.conn.our_state) != (h11.DONE, h11.SEND_RESPONSE):
            return False
        headers = dict(self.headers)
        has_body = headers.get(b"content-type", b"").startswith(_BODY_TYPES)
        return has_body and not headers.keys() & {b"content-length", b"transfer-encoding"}

    def _linger(self) -> None:
        """End the response, and discard what the client still sends, until its end or for a while."""
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.flow.resume_reading()
        self._linger_timer = self.loop.call_later(_LINGER_SECONDS, self.transport.close)

    def _next_slice(self) -> None:
        """Parse more of what is buffered, unless the client has disconnected, which goes unnoticed while held."""
        if self.transport.is_closing():
            return
        if _socket(self.transport).getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self.transport.abort()
            return
        self.flow.release()
        self.conn.begin_slice()
        self.handle_events()
        self._update_timers()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch_sending()
        self._update_timers()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch_sending()

    def _update_timers(self) -> None:
        """Start and stop the timers according to what the server is waiting for."""
        waits_for_head = self.conn.their_state is h11.IDLE and not self.flow.held and not self.transport.is_closing()
        if waits_for_head:
            self._connections.mark_idle(self)
        else:
            self._connections.mark_busy(self)
        # Between two requests uvicorn's keep-alive timeout applies instead.
        has_begun = self._cycle is None or bool(self.conn.trailing_data[0])
        self._set_head_timer(running=waits_for_head and has_begun)
        receives_body = self.conn.their_state is h11.SEND_BODY and not self.transport.is_closing()
        if hasattr(self.transport, "max_size"):  # asyncio's own transport
            self.transport.max_size = _READ_BYTES[receives_body and not self.conn.is_chunked]
        if receives_body and self._body_timer is None:
            self._begin_body_window()
        elif not receives_body and self._body_timer is not None:
            self._body_timer.cancel()
            self._body_timer = None

    def _set_head_timer(self, *, running: bool) -> None:
        """Start or stop the timer for the head; a running timer is not restarted."""
        if running and self._head_timer is None and self._limits.head_seconds:
            self._head_timer = self.loop.call_later(self._limits.head_seconds, self._head_timed_out)
        elif not running and self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _head_timed_out(self) -> None:
        self._connections.report_cut(CutReason.SLOW_HEAD)
        if not self._received_bytes:
            self.transport.abort()
            return
        self._reject(
            _too_slow(
                f"The request's head must arrive within {self._limits.head_seconds:g} s. Send it without pauses, or "
                "over a faster connection."
            )
        )

    def _begin_body_window(self) -> None:
        """Begin measuring the speed of the body."""
        self._received_before_window = self._received_bytes
        self.flow.was_paused = self.flow.read_paused
        if self._limits.body_bytes_per_second:
            self._body_timer = self.loop.call_later(self._limits.window_seconds, self._end_body_window)

    def _end_body_window(self) -> None:
        required_bytes = self._limits.body_bytes_per_second * self._limits.window_seconds
        server_was_slow = self.flow.was_paused or self.flow.held or self.cycle.waiting_for_100_continue
        if server_was_slow or self._received_bytes - self._received_before_window >= required_bytes:
            self._begin_body_window()
            return
        self._body_timer = None
        self._connections.report_cut(CutReason.SLOW_BODY)
        self._reject(
            _too_slow(
                f"The body must arrive at {self._limits.body_bytes_per_second} bytes a second or faster. Use a faster "
                "connection, or send the URL of the audio instead of the file."
            )
        )

    @property
    def _cycle(self) -> RequestResponseCycle | None:
        """The current request, or the last one; uvicorn's annotation of ``cycle`` leaves out None."""
        return self.cycle

    @property
    def _sent_bytes(self) -> int:
        """The number of bytes that the kernel has accepted for sending."""
        return self.conn.sent_bytes - self.transport.get_write_buffer_size()

    def _watch_sending(self) -> None:
        """Begin measuring how fast the client reads, if anything is waiting to be sent."""
        if self._send_timer is None and self._limits.send_seconds and self.transport.get_write_buffer_size():
            self._sent_before_window = self._sent_bytes
            self._send_timer = self.loop.call_later(self._limits.send_seconds, self._end_send_window)

    def _end_send_window(self) -> None:
        self._send_timer = None
        sent_bytes = self._sent_bytes - self._sent_before_window
        is_slow = sent_bytes < max(1, self._limits.body_bytes_per_second * self._limits.send_seconds)
        if is_slow and self.transport.get_write_buffer_size():
            self.cut(CutReason.SLOW_READER)
        else:
            self._watch_sending()

    def cut(self, reason: CutReason) -> None:
        """Close the connection at once."""
        self._connections.report_cut(reason)
        if reason is CutReason.SLOW_READER:
            discard_unsent(self.transport)
        self.transport.abort()

    def send_400_response(self, msg: str) -> None:
        """Respond to bytes that are not a valid HTTP request; nothing after them can be understood."""
        self._reject(
            envelope(
                400,
                f"{msg} Send a valid HTTP/1.1 request with at most {MAX_HEADERS} headers of at most 64 KiB in total.",
            )
        )

    def _reject(self, response: JSONResponse) -> None:
        """Send ``response`` in place of the application's, if none has begun, and close the connection."""
        self._respond(response)
        self.transport.close()
        self._watch_sending()

    def _respond(self, response: JSONResponse) -> None:
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            for event in (
                h11.Response(
                    status_code=response.status_code,
                    headers=[*response.raw_headers, (b"connection", b"close")],
                    reason=_REASON_PHRASES[response.status_code],
                ),
                h11.Data(data=bytes(response.body)),
                h11.EndOfMessage(),
            ):
                self.transport.write(self.conn.send(event) or b"")
        if (cycle := self._cycle) is not None and not cycle.response_complete:
            cycle.disconnected = True
            cycle.message_event.set()


def limit_unsent(transport: asyncio.Transport) -> None:
    """Keep few unsent bytes in this process and, if the system allows, in the kernel: enough to use the bandwidth."""
    transport.set_write_buffer_limits(high=_UNSENT_BYTES // 8)
    if hasattr(socket, "TCP_NOTSENT_LOWAT"):
        with suppress(OSError):
            _socket(transport).setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _UNSENT_BYTES)


def discard_unsent(transport: asyncio.Transport) -> None:
    """Make the kernel drop unsent bytes on close, instead of offering them to the client for minutes."""
    with suppress(OSError):
        _socket(transport).setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_ZERO_SECONDS)


def _socket(transport: asyncio.Transport) -> socket.socket:
    transport_socket: socket.socket = transport.get_extra_info("socket")
    return transport_socket


def _too_slow(message: str) -> JSONResponse:
    return envelope(408, message, code="too_slow")


def _length_required() -> JSONResponse:
    return envelope(
        411,
        "The request has a body, but neither Content-Length nor Transfer-Encoding: chunked, so its end is unknown. "
        "Send one of these headers.",
        code="length_required",
    )
