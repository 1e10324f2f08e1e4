"""``python -m app``: settings → logging → server."""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import socket
import sys
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, NoReturn

import uvicorn

from app import logs
from app.domain.access import is_loopback
from app.domain.errors import ServiceError
from app.edge.protocol import http_protocol
from app.main import create_app
from app.settings import InvalidSettings, Settings

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from types import FrameType

logger = logging.getLogger(__name__)

#: How long a thread at work on the model may keep the interpreter from the event loop: a tenth of Python's default,
#: as each read of a body waits for it once.
_SWITCH_SECONDS = 0.0005
#: How long answers that are being sent may take once all work has ended.
_CLOSE_SECONDS = 3
#: Files that are open beside connections: the journal, audio, results, transfers, decoders.
_OTHER_FILES = 500
#: A connection and the file that is received or sent on it.
_FILES_OF_ONE = 2
#: asyncio accepts up to so many in one go, before the first of them can be refused: where files run out meanwhile, it
#: writes that many errors into the log, each second anew.
_ACCEPTED_AT_ONCE = 32
#: Connections that the system keeps until they are accepted.
_BACKLOG = 2048

OPEN_TO_ALL = (
    "🔓 HOST=%s takes requests from other machines and API_KEYS is empty: WHOEVER REACHES THIS SERVER MAY USE IT, read "
    "and delete all jobs, and have it call URLs. Set API_KEYS, or HOST=127.0.0.1. See SECURITY.md."
)


class Server(uvicorn.Server):
    """uvicorn, but the first signal drains while requests are still answered, and the second ends all at once."""

    exit_code = 0

    def __init__(self, config: uvicorn.Config, drain: Callable[[], Awaitable[None]]) -> None:
        super().__init__(config)
        self._drain = drain
        self._signals = 0
        self._draining: asyncio.Future[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for listener in sockets or ():
            listener.listen(_BACKLOG)  # uvicorn has set it to what is accepted at once

    def stop(self, code: int) -> None:
        """Ends the process with ``code``, without waiting for work."""
        self.exit_code = code
        self.should_exit = True

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002  # uvicorn's signature
        """Called by the signal. uvicorn's own method would have the process end by that signal, not with 0."""
        self._signals += 1

    async def on_tick(self, counter: int) -> bool:
        """Called by uvicorn ten times a second."""
        if self._signals and self._draining is None:
            self._draining = asyncio.ensure_future(self._drain())
        if self._signals > 1:
            logger.warning("A second signal: ending at once")
            end(1)
        if self._draining is not None and self._draining.done():
            self._draining.result()
            self.should_exit = True
        return await super().on_tick(counter)


def main() -> int:
    """Serves until it is told to stop; gives the exit code."""
    try:
        settings = Settings.load()
    except InvalidSettings as exc:
        sys.stderr.write(f"{exc}\n")
        return 1
    logs.configure(level=settings.log_level, style=settings.log_format)
    try:
        app = create_app(settings, stop=lambda code: server.stop(code))
    except ServiceError as exc:
        logger.critical("❌ %s", exc)
        return 1
    connections = app.state.service.connections
    connections.limits = replace(connections.limits, total=allow_files(settings.max_connections))
    try:
        listener = listen(settings.host, settings.port)
    except OSError as exc:
        logger.critical(
            "❌ HOST=%s and PORT=%d can't be listened on (%s): stop what uses them, or set others.",
            settings.host,
            settings.port,
            exc.strerror or exc,
        )
        return 1
    config = uvicorn.Config(
        app,
        http=http_protocol(connections),  # h11: httptools takes header blocks of any size into memory
        proxy_headers=True,
        forwarded_allow_ips=str(settings.forwarded_allow_ips),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        backlog=_ACCEPTED_AT_ONCE,
        timeout_graceful_shutdown=_CLOSE_SECONDS,
    )
    server = Server(config, drain=app.state.service.drain)
    host, port = listener.getsockname()[:2]
    if not settings.api_keys and not is_loopback(host):
        logger.warning(OPEN_TO_ALL, host)
    logger.info("Listening on http://%s:%d", f"[{host}]" if ":" in host else host, port)
    sys.setswitchinterval(_SWITCH_SECONDS)
    server.run(sockets=[listener])
    return server.exit_code


def allow_files(connections: int) -> int:
    """Has as many files open as connections need, as far as the system lets it; gives how many connections there may
    be. Without a file none can be accepted, and nothing else be done."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = max(soft, _FILES_OF_ONE * (connections or 20_000) + _OTHER_FILES)
    if soft < wanted:
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted, hard), hard))
    allowed = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if allowed >= wanted:
        return connections
    most = max(1, (allowed - min(_OTHER_FILES, allowed // 2)) // _FILES_OF_ONE)
    logger.warning(
        "⚠️ Only %d files may be open, and MAX_CONNECTIONS=%d needs %d: there will be %d connections at most. Raise the "
        "limit (ulimit -n, LimitNOFILE)",
        allowed,
        connections,
        wanted,
        most,
    )
    return most


def listen(host: str, port: int) -> socket.socket:
    """A socket that takes connections to ``host``, a name or an address of either family."""
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    listener = socket.create_server(address[:2], family=family, backlog=_BACKLOG)
    # Connections inherit it. asyncio sets it only on sockets made with the protocol's number, and without it the body
    # of an answer, written after its head, waits for the client's delayed acknowledgement: 40 ms.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def end(code: int) -> NoReturn:
    """Ends the process without waiting for threads: a window that is still on the model is wanted by nobody."""
    logging.shutdown()
    os._exit(code)


if __name__ == "__main__":
    end(main())
