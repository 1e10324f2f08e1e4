"""Attacks on an HTTP server: connections that send or read slowly, endlessly or too fast."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Self

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

#: Linux's states of a connection that the peer has closed: TIME_WAIT, CLOSE, CLOSE_WAIT, LAST_ACK, CLOSING.
_CLOSED: Final = frozenset({6, 7, 8, 9, 11})
_POLL_SECONDS: Final = 0.05
_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)
_MIB: Final = 1024 * 1024

UPLOAD: Final = (
    b"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=x\r\n"
)
#: The start of a form's file.
FILE: Final = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
HEALTH: Final = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"
SCRIPT: Final = b"GET /docs/assets/swagger-ui-bundle.js HTTP/1.1\r\nHost: x\r\n"
#: An upload without a length, up to the start of its file.
CHUNKED: Final = UPLOAD + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n" % (len(FILE), FILE)
HUGE: Final = b"Content-Length: 2147483648\r\n"


class AttackConnection:
    """One connection. ``lasted`` are the seconds until the server closed it, None if it has not."""

    def __init__(self, port: int, source: str) -> None:
        self.socket = socket.socket()
        self.socket.settimeout(0)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # A reset leaves no port in TIME_WAIT; there are thousands of connections.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        self.socket.bind((source, 0))
        self.port = port
        self.source = source
        self.lasted: float | None = None
        self.received = b""
        self._since = 0.0

    async def open(self) -> None:
        await asyncio.get_running_loop().sock_connect(self.socket, ("127.0.0.1", self.port))
        self._since = time.monotonic()

    async def send(self, data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self.socket, data)

    async def read(self, most: int = 65536) -> bytes:
        return await asyncio.get_running_loop().sock_recv(self.socket, most)

    def take_little(self) -> None:
        """Reduce the receive buffer, so that a client that does not read stalls the server sooner."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)

    def half_close(self) -> None:
        self.socket.shutdown(socket.SHUT_WR)

    def poll(self) -> None:
        """Record whether the server has closed the connection, and its last bytes."""
        if self.lasted is None and self._since and self._state in _CLOSED:
            self.lasted = time.monotonic() - self._since
            with suppress(OSError):
                self.received = self.received or self.socket.recv(4096)

    @property
    def _state(self) -> int:
        return self.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]

    @property
    def status(self) -> str:
        """The status of the first response, or an empty string."""
        return self.received[9:12].decode()


async def idle(connection: AttackConnection) -> None:
    """Send nothing."""


async def slow_head(connection: AttackConnection) -> None:
    """Send one header after another without an end."""
    await connection.send(b"GET /health HTTP/1.1\r\nHost: x\r\n")
    while True:
        await connection.send(b"X-A: b\r\n")
        await asyncio.sleep(0.5)


async def slow_second_head(connection: AttackConnection) -> None:
    """Send a request, read its response, then send the next request byte by byte."""
    await connection.send(HEALTH)
    connection.received = await connection.read()
    for byte in SCRIPT * 100:
        await connection.send(bytes([byte]))
        await asyncio.sleep(0.5)


async def slow_body(connection: AttackConnection) -> None:
    """Send a few bytes a second of two gigabytes."""
    await connection.send(UPLOAD + HUGE + b"\r\n" + FILE)
    while True:
        await connection.send(b"slow")
        await asyncio.sleep(0.5)


async def slow_chunks(connection: AttackConnection) -> None:
    """Send a chunk of one byte now and then."""
    await connection.send(CHUNKED)
    while True:
        await connection.send(b"1\r\nx\r\n")
        await asyncio.sleep(0.5)


async def no_body(connection: AttackConnection) -> None:
    """Ask for ``100 Continue`` and send no body."""
    await connection.send(UPLOAD + HUGE + b"Expect: 100-continue\r\n\r\n")


async def half_body(connection: AttackConnection) -> None:
    """Send half a request and close the sending side."""
    await connection.send(UPLOAD + HUGE + b"\r\n" + FILE)
    connection.half_close()


async def half_head(connection: AttackConnection) -> None:
    """Send half a head and close the sending side."""
    await connection.send(b"GET /health HTTP/1.1\r\nHost: x\r\n")
    connection.half_close()


async def never_reads(connection: AttackConnection) -> None:
    """Request large responses and read none of them."""
    connection.take_little()
    await connection.send((SCRIPT + b"\r\n") * 20)


async def half_closed_reader(connection: AttackConnection) -> None:
    """Request large responses, close the sending side and read nothing."""
    connection.take_little()
    await connection.send((SCRIPT + b"\r\n") * 20)
    await asyncio.sleep(0.5)
    connection.half_close()


async def drips_out(connection: AttackConnection) -> None:
    """Read large responses a few bytes at a time."""
    connection.take_little()
    await connection.send((SCRIPT + b"\r\n") * 20)
    while True:
        await connection.read(5)
        await asyncio.sleep(0.5)


async def keeps_alive(connection: AttackConnection) -> None:
    """Send a small request now and then."""
    while True:
        await connection.send(HEALTH)
        connection.received = await connection.read()
        await asyncio.sleep(1.5)


async def flood(connection: AttackConnection, data: bytes) -> None:
    """Send the same bytes again and again, and read all responses."""
    reading = asyncio.create_task(_reads(connection))
    try:
        while True:
            await connection.send(data)
            await asyncio.sleep(0)  # sending does not yield while the socket accepts everything
    finally:
        reading.cancel()


async def _reads(connection: AttackConnection) -> None:
    with suppress(OSError):
        while data := await connection.read(262144):
            connection.received = connection.received or data[:4096]


async def pipelines(connection: AttackConnection) -> None:
    """Send requests without waiting for responses."""
    await flood(connection, HEALTH * 100)


async def ranges(connection: AttackConnection) -> None:
    """Request thousands of ranges of one file."""
    parts = b",".join(b"5-%d" % number for number in range(1300))
    await flood(connection, SCRIPT + b"Range: bytes=0-," + parts + b"\r\n\r\n")


async def many_headers(connection: AttackConnection) -> None:
    """Send thousands of headers in each request."""
    await flood(connection, b"GET /health HTTP/1.1\r\nHost: x\r\n" + b"a:b\r\n" * 12_000 + b"\r\n")


async def huge_head(connection: AttackConnection) -> None:
    """Send a head of 64 MiB."""
    await connection.send(b"GET /health HTTP/1.1\r\nHost: x\r\nX-A: ")
    for _ in range(64):
        await connection.send(b"a" * _MIB)


async def tiny_chunks(connection: AttackConnection) -> None:
    """Send chunks of one byte as fast as possible."""
    await connection.send(CHUNKED)
    await flood(connection, b"1\r\nx\r\n" * 10_000)


async def many_trailers(connection: AttackConnection) -> None:
    """Send uploads that end with thousands of trailers."""
    await flood(connection, CHUNKED + b"0\r\n" + b"a:b\r\n" * 12_000 + b"\r\n")


async def endless_extension(connection: AttackConnection) -> None:
    """Send a chunk extension that never ends."""
    await connection.send(CHUNKED + b"1;")
    await flood(connection, b"a" * 65536)


async def churns(connection: AttackConnection) -> None:
    """Open and close further connections as fast as possible."""
    for _ in range(20):
        another = AttackConnection(connection.port, connection.source)
        try:
            await another.open()
        finally:
            another.socket.close()


class Siege:
    """``count`` connections in their own thread until the block ends, shared equally by ``attacks``."""

    def __init__(
        self,
        port: int,
        *attacks: Callable[[AttackConnection], Awaitable[None]],
        count: int = 300,
        source: str = "127.0.0.1",
    ) -> None:
        self.connections = [AttackConnection(port, source) for _ in range(count)]
        self._attacks = attacks
        self._over = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="siege")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    @property
    def open(self) -> int:
        """The number of connections that the server has not closed."""
        return sum(connection.lasted is None for connection in self.connections)

    def lasted(self) -> list[float]:
        """Return how many seconds each connection lasted that the server has closed."""
        return [connection.lasted for connection in self.connections if connection.lasted is not None]

    async def _run(self) -> None:
        tasks = [
            asyncio.create_task(self._play(connection, self._attacks[number % len(self._attacks)]))
            for number, connection in enumerate(self.connections)
        ]
        try:
            while not self._over.is_set():
                await asyncio.sleep(_POLL_SECONDS)
                for connection in self.connections:
                    connection.poll()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            for connection in self.connections:
                connection.socket.close()

    async def _play(self, connection: AttackConnection, attack: Callable[[AttackConnection], Awaitable[None]]) -> None:
        with suppress(OSError):
            await connection.open()
            await attack(connection)
