"""An HTTP server over raw TCP with scripted faults: one behaviour for each connection, the last one repeats."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.support.waiting import LIMIT_SECONDS

if TYPE_CHECKING:
    import ssl

_REASONS = {200: "OK", 201: "Created", 204: "No Content"}


@dataclass(frozen=True, slots=True)
class SeenRequest:
    """A received request. Header names are in lower case."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes


@dataclass(slots=True)
class Connection:
    """One connection, seen from the server."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    requests: list[SeenRequest]

    async def read_request(self) -> SeenRequest:
        """Read a whole request, record and return it."""
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head.split("\r\n")
        method, target, _version = first.split(" ")
        pairs = (line.partition(":") for line in lines if line)
        headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
        body = await self.reader.readexactly(int(headers.get("content-length", "0")))
        request = SeenRequest(method, target, headers, body)
        self.requests.append(request)
        return request

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def until_closed(self) -> None:
        """Read until the client closes the connection."""
        while await self.reader.read(65536):
            pass

    def reset(self) -> None:
        """Close with a TCP reset instead of an orderly end."""
        raw: socket.socket = self.writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


Behaviour = Callable[[Connection], Awaitable[None]]


def response_head(status: int, headers: Mapping[str, str]) -> bytes:
    lines = [f"HTTP/1.1 {status} {_REASONS.get(status, 'Status')}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def answer(status: int, body: bytes = b"", **headers: str) -> Behaviour:
    """Send a complete response. Underscores in the names of ``headers`` become hyphens."""
    sent = {"Content-Length": str(len(body)), **_hyphenated(headers)}

    async def behave(connection: Connection) -> None:
        await connection.read_request()
        await connection.send(response_head(status, sent) + body)

    return behave


def never_answer() -> Behaviour:
    """Read the request and send nothing."""

    async def behave(connection: Connection) -> None:
        await connection.read_request()
        await connection.until_closed()

    return behave


def speak_first(data: bytes) -> Behaviour:
    """Send bytes before the request arrives, which no HTTP server does."""

    async def behave(connection: Connection) -> None:
        await connection.send(data)
        await connection.until_closed()

    return behave


def never_speak() -> Behaviour:
    """Read everything and send nothing, not even a TLS handshake."""

    async def behave(connection: Connection) -> None:
        await connection.until_closed()

    return behave


def never_read() -> Behaviour:
    """Leave the request unread, so that a large body fills all buffers on its way."""

    async def behave(connection: Connection) -> None:
        connection.writer.transport.pause_reading()  # type: ignore[attr-defined]  # of a socket's transport
        await asyncio.Event().wait()

    return behave


def drip(data: bytes, *, seconds_between: float, after: bytes = b"") -> Behaviour:
    """Send ``after`` at once, then ``data`` byte by byte."""

    async def behave(connection: Connection) -> None:
        await connection.read_request()
        await connection.send(after)
        for byte in data:
            await connection.send(bytes([byte]))
            await asyncio.sleep(seconds_between)

    return behave


def drip_status(*, seconds_between: float) -> Behaviour:
    """Send a status line that never ends, byte by byte."""
    return drip(b"HTTP/1.1 200 " + b"O" * 100_000, seconds_between=seconds_between)


def drip_body(status: int, *, seconds_between: float, **headers: str) -> Behaviour:
    """Send a status at once, then a body of 100,000 bytes, byte by byte."""
    head = response_head(status, {"Content-Length": "100000", **_hyphenated(headers)})
    return drip(b"." * 100_000, seconds_between=seconds_between, after=head)


def close_before_status() -> Behaviour:
    """Read the request and close the connection."""

    async def behave(connection: Connection) -> None:
        await connection.read_request()

    return behave


def reset_before_status() -> Behaviour:
    """Read the request and reset the connection."""

    async def behave(connection: Connection) -> None:
        await connection.read_request()
        connection.reset()

    return behave


def reset_while_receiving(size: int = 1000) -> Behaviour:
    """Read ``size`` bytes of the request and reset the connection."""

    async def behave(connection: Connection) -> None:
        await connection.reader.readexactly(size)
        connection.reset()

    return behave


def truncated_body(body: bytes, *, announced: int, reset: bool) -> Behaviour:
    """Announce ``announced`` bytes, send ``body``, then close or reset the connection."""

    async def behave(connection: Connection) -> None:
        await connection.read_request()
        await connection.send(response_head(200, {"Content-Length": str(announced)}) + body)
        if reset:
            await asyncio.sleep(0.05)  # an immediate reset can overtake the bytes
            connection.reset()

    return behave


def endless_body(chunk: bytes = b"x" * 65536, *, status: int = 200, **headers: str) -> Behaviour:
    """Send a body without a length until the client closes the connection."""

    async def behave(connection: Connection) -> None:
        await connection.read_request()
        await connection.send(response_head(status, {"Connection": "close", **_hyphenated(headers)}))
        while True:
            await connection.send(chunk)

    return behave


def raw(data: bytes) -> Behaviour:
    """Send these bytes as the response."""

    async def behave(connection: Connection) -> None:
        await connection.read_request()
        await connection.send(data)

    return behave


@dataclass(slots=True)
class FaultServer:
    """A running server.

    ``requests`` are those read so far, ``connections`` counts the accepted ones, and ``came`` is set at the first.
    """

    behaviours: list[Behaviour]
    host: str = "127.0.0.1"
    port: int = 0
    scheme: str = "http"
    connections: int = 0
    requests: list[SeenRequest] = field(default_factory=list)
    came: asyncio.Event = field(default_factory=asyncio.Event)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    def url(self, path: str = "/bucket/key?X-Amz-Signature=secret-signature") -> str:
        return f"{self.scheme}://{self.host}:{self.port}{path}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        behave = self.behaviours[min(self.connections, len(self.behaviours) - 1)]
        self.connections += 1
        self.came.set()
        with contextlib.suppress(OSError, EOFError, asyncio.CancelledError):
            try:
                await behave(Connection(reader, writer, self.requests))
            finally:
                writer.close()
                await writer.wait_closed()

    async def _end(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@contextlib.asynccontextmanager
async def fault_server(*behaviours: Behaviour, ssl_context: ssl.SSLContext | None = None) -> AsyncIterator[FaultServer]:
    """Serve on a free port of the loopback in the running event loop."""
    server = FaultServer(list(behaviours), scheme="https" if ssl_context else "http")
    listening = await asyncio.start_server(server._serve, server.host, 0, ssl=ssl_context)
    server.port = listening.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listening.close()
        await server._end()
        await listening.wait_closed()


@contextlib.contextmanager
def fault_server_in_thread(*behaviours: Behaviour) -> Iterator[FaultServer]:
    """Serve in a thread with its own event loop."""
    started = threading.Event()
    running: list[tuple[FaultServer, asyncio.AbstractEventLoop, asyncio.Event]] = []

    async def serve() -> None:
        async with fault_server(*behaviours) as server:
            stop = asyncio.Event()
            running.append((server, asyncio.get_running_loop(), stop))
            started.set()
            await stop.wait()

    thread = threading.Thread(target=lambda: asyncio.run(serve()), name="fault-server")
    thread.start()
    if not started.wait(LIMIT_SECONDS):
        raise RuntimeError("The fault server did not start.")
    server, loop, stop = running[0]
    try:
        yield server
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(LIMIT_SECONDS)


@contextlib.contextmanager
def full_backlog() -> Iterator[int]:
    """Yield a port on which connecting hangs: it listens, but its queue is full."""
    with contextlib.ExitStack() as stack:
        listening = stack.enter_context(socket.socket())
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        address = listening.getsockname()
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.settimeout(0)
            waiting.connect_ex(address)
        yield int(address[1])


def _hyphenated(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.replace("_", "-"): value for name, value in headers.items()}
