"""``python -m app``: settings → logging → server."""

from __future__ import annotations

import asyncio
import gc
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
from app.edge.websocket import websocket_options
from app.main import create_app
from app.service import migrate
from app.settings import InvalidSettings, Settings

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from types import FrameType

logger = logging.getLogger(__name__)

#: The time for which a thread that works on the model may keep the interpreter from the event loop: a tenth of
#: Python's default, since each read of a body waits for it once.
SWITCH_SECONDS = 0.0005
#: The new objects after which garbage is looked for; Python's default is 700. Hours of transcript are a million objects
#: without cycles: with 90,000 words, a fifth of the 0.9 s from the stored result to its JSON went into looking at them.
GARBAGE_THRESHOLD = 10_000
#: The time for which responses may still be sent once all work has ended.
CLOSE_SECONDS = 3
#: Files other than connections: the journal, audio, results, transfers, decoders.
_OTHER_FILES = 500
#: The files of a connection: its socket, and the file that is received or sent on it.
_FILES_PER_CONNECTION = 2
#: asyncio accepts this many connections before it can refuse the first. When no more files can be opened meanwhile, it
#: logs an error for each of them, every second.
_ACCEPTED_AT_ONCE = 32
#: The connections that the kernel keeps until they are accepted.
_BACKLOG = 2048

#: The argument that migrates the database of a cluster instead of serving.
_MIGRATE = "migrate"

OPEN_TO_ALL = (
    "🔓 HOST=%s accepts requests from other machines and API_KEYS is empty: ANYONE WHO CAN REACH THIS SERVER CAN USE "
    "IT, read and delete all jobs, and make it call URLs. Set API_KEYS, or HOST=127.0.0.1. See SECURITY.md."
)


class Server(uvicorn.Server):
    """A uvicorn server that drains at the first signal, while it still serves requests, and ends at the second."""

    exit_code = 0

    def __init__(self, config: uvicorn.Config, drain: Callable[[], Awaitable[None]]) -> None:
        super().__init__(config)
        self._drain = drain
        self._signals = 0
        self._draining: asyncio.Future[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for listener in sockets or ():
            listener.listen(_BACKLOG)  # uvicorn has set it to _ACCEPTED_AT_ONCE

    def stop(self, code: int) -> None:
        """End the process with the exit code ``code``, without waiting for work."""
        self.exit_code = code
        self.should_exit = True

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002  # uvicorn's signature
        """Count a signal. uvicorn's own method would end the process by that signal, not with the exit code 0."""
        self._signals += 1

    async def on_tick(self, counter: int) -> bool:
        """Start to drain, or end, after a signal; uvicorn calls this ten times a second."""
        if self._signals and self._draining is None:
            self._draining = asyncio.ensure_future(self._drain())
        if self._signals > 1:
            logger.warning("Received a second signal: ending at once")
            end(1)
        if self._draining is not None and self._draining.done():
            self._draining.result()
            self.should_exit = True
        return await super().on_tick(counter)


def main(arguments: Sequence[str] = ()) -> int:
    """Run the server until it is stopped, or migrate the database, and return the exit code."""
    if list(arguments) not in ([], [_MIGRATE]):
        sys.stderr.write(f"The only argument is {_MIGRATE}, which brings the tables of a cluster up to date.\n")
        return 2
    try:
        settings = Settings.load()
    except InvalidSettings as exc:
        sys.stderr.write(f"{exc}\n")
        return 1
    logs.configure(level=settings.log_level, style=settings.log_format)
    if arguments:
        return _migrate(settings)
    try:
        server = _create_server(settings)
        listener = listen(settings.host, settings.port)
    except ServiceError as exc:
        logger.critical("❌ %s", exc)
        return 1
    host, port = listener.getsockname()[:2]
    if not settings.api_keys and not is_loopback(host):
        logger.warning(OPEN_TO_ALL, host)
    logger.info("Listening on http://%s:%d", f"[{host}]" if ":" in host else host, port)
    sys.setswitchinterval(SWITCH_SECONDS)
    gc.set_threshold(GARBAGE_THRESHOLD)
    server.run(sockets=[listener])
    return server.exit_code


def _migrate(settings: Settings) -> int:
    """Bring the tables of a cluster's database up to date, and return the exit code."""
    try:
        logger.info("The tables of the database have version %d now", asyncio.run(migrate(settings)))
    except ServiceError as exc:
        logger.critical("❌ %s", exc)
        return 1
    return 0


def _create_server(settings: Settings) -> Server:
    app = create_app(settings, stop=lambda code: server.stop(code))
    connections = app.state.service.connections
    connections.limits = replace(connections.limits, total=allow_files(settings.max_connections))
    config = uvicorn.Config(
        app,
        http=http_protocol(connections),  # h11: httptools takes header blocks of any size into memory
        proxy_headers=True,
        forwarded_allow_ips=str(settings.forwarded_allow_ips),
        **websocket_options(connections),
        lifespan="on",
        log_config=None,
        access_log=False,
        backlog=_ACCEPTED_AT_ONCE,
        timeout_graceful_shutdown=CLOSE_SECONDS,
    )
    server = Server(config, drain=app.state.service.drain)
    return server


def allow_files(connections: int) -> int:
    """Raise the limit on open files to what ``connections`` need; return the number of connections it allows.

    Without a free file no connection can be accepted, and nothing else can be done.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = max(soft, _FILES_PER_CONNECTION * (connections or 20_000) + _OTHER_FILES)
    if soft < needed:
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (min(needed, hard), hard))
    allowed = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if allowed >= needed:
        return connections
    most = max(1, (allowed - min(_OTHER_FILES, allowed // 2)) // _FILES_PER_CONNECTION)
    logger.warning(
        "⚠️ Only %d files may be open, and MAX_CONNECTIONS=%d needs %d: at most %d connections are accepted. Raise the "
        "limit (ulimit -n, LimitNOFILE)",
        allowed,
        connections,
        needed,
        most,
    )
    return most


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens on ``host``, a name or an IPv4 or IPv6 address.

    Raises:
        ServiceError: the address can't be used.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = socket.create_server(address[:2], family=family, backlog=_BACKLOG)
    except OSError as exc:
        raise ServiceError(
            f"Can't listen on HOST={host} and PORT={port} ({exc.strerror or exc}): stop the process that uses them, "
            "or set others."
        ) from exc
    # Connections inherit the option. asyncio sets it only on sockets made with the protocol's number. Without it the
    # body of a response, written after its head, waits 40 ms for the client's delayed acknowledgement.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def end(code: int) -> NoReturn:
    """End the process without waiting for threads: nobody needs a window that is still on the model."""
    logging.shutdown()
    os._exit(code)


if __name__ == "__main__":
    end(main(sys.argv[1:]))
