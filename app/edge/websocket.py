"""uvicorn's WebSocket protocol with limits on slow readers, on small frames, and on what is read at once.

The connection counts as it did before the upgrade. uvicorn 0.54 reads no further message before the application has
taken the last one, which holds back a client that sends too fast. It has no limit on a client that does not read, on
the answers to pings, or on the number of a message's fragments.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from app.domain.events import CutReason
from app.edge.protocol import discard_unsent, limit_unsent

if TYPE_CHECKING:
    import asyncio

    from uvicorn._types import ASGISendEvent
    from websockets.frames import Frame

    from app.edge.connections import Connections

#: The largest message: 30 s of PCM in base64. Clients send a tenth of a second at once.
MAX_MESSAGE_BYTES: Final = 2 * 1024 * 1024
#: The most bytes to read at once: parsing 16 KiB of the smallest frames takes 15 ms.
_READ_BYTES: Final = 16 * 1024
#: The most fragments of a message, and the most unsent bytes beyond which a ping is not answered.
_MAX_FRAGMENTS: Final = 1024
_MAX_UNSENT_BYTES: Final = 128 * 1024
#: The time between two pings, which keep proxies from closing a connection on which nobody speaks.
PING_SECONDS: Final = 20.0


def websocket_options(connections: Connections) -> dict[str, Any]:
    """Return uvicorn's options for WebSockets whose connections count towards ``connections``.

    Messages are not compressed: base64 of audio hardly gets smaller, and a small message could become a large one. An
    answer to a ping is not awaited: it waits behind audio, and a client that has left is noticed by its silence.
    """
    return {
        "ws": partial(GuardedWebSocket, guard=connections),
        "ws_max_size": MAX_MESSAGE_BYTES,
        "ws_ping_interval": PING_SECONDS,
        "ws_ping_timeout": None,
        "ws_per_message_deflate": False,
    }


class GuardedWebSocket(WebSocketsSansIOProtocol):
    """uvicorn's protocol on websockets' parser, whose hooks this class overrides."""

    def __init__(self, *args: Any, guard: Connections, **options: Any) -> None:
        super().__init__(*args, **options)
        # Both log what clients send in heads: one at DEBUG with keys, the other at INFO with queries.
        self.conn.debug = False
        self.logger = self.conn.logger = logging.getLogger("uvicorn.websocket")
        self._guard = guard
        self._send_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's own
        super().connection_made(transport)
        limit_unsent(transport)
        if hasattr(transport, "max_size"):  # asyncio's own transport
            transport.max_size = _READ_BYTES

    def connection_lost(self, exc: Exception | None) -> None:
        self._guard.remove(self)
        self._set_send_timer(running=False)
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._set_send_timer(running=True)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._set_send_timer(running=False)

    async def send(self, message: ASGISendEvent) -> None:
        """Send a message of the application; a response in place of the handshake completes it as well."""
        await super().send(message)
        if message["type"] == "websocket.http.response.body" and self.close_sent:
            self.handshake_complete = True  # or else uvicorn would log an error

    def handle_ping(self) -> None:
        """Answer a ping, unless the client does not read the answers."""
        if self.transport.get_write_buffer_size() > _MAX_UNSENT_BYTES:
            self.cut(CutReason.SLOW_READER)
        else:
            super().handle_ping()

    def handle_cont(self, event: Frame) -> None:
        """Take a further fragment of a message."""
        if len(self.frames) >= _MAX_FRAGMENTS:
            self.conn.fail(1009, f"a message may have {_MAX_FRAGMENTS} fragments")
            self.handle_parser_exception()
        else:
            super().handle_cont(event)

    def cut(self, reason: CutReason) -> None:
        """Close the connection at once."""
        self._guard.report_cut(reason)
        discard_unsent(self.transport)
        self.transport.abort()

    def _set_send_timer(self, *, running: bool) -> None:
        """Start or stop the timer for a client that does not read."""
        if self._send_timer is not None:
            self._send_timer.cancel()
            self._send_timer = None
        if running and (seconds := self._guard.limits.send_seconds):
            self._send_timer = self.loop.call_later(seconds, self.cut, CutReason.SLOW_READER)
