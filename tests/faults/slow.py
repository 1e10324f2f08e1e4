"""Clients that mean harm: connections on which things are done slowly, without end, or in a flood."""

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

#: What Linux says of a connection whose other side has closed: TIME_WAIT, CLOSE, CLOSE_WAIT, LAST_ACK, CLOSING.
_CLOSED: Final = frozenset({6, 7, 8, 9, 11})
_LOOK_SECONDS: Final = 0.05
_WITHOUT_GOODBYE: Final = struct.pack("ii", 1, 0)
_MIB: Final = 1024 * 1024

UPLOAD: Final = (
    b"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=x\r\n"
)
#: The start of a form with a file.
FILE: Final = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
HEALTH: Final = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"
SCRIPT: Final = b"GET /docs/assets/swagger-ui-bundle.js HTTP/1.1\r\nHost: x\r\n"
#: An upload whose length is not said, up to the first bytes of its file.
CHUNKED: Final = UPLOAD + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n" % (len(FILE), FILE)
HUGE: Final = b"Content-Length: 2147483648\r\n"


class Line:
    """One connection; ``lasted`` is how many seconds went by until the server closed it, if it has."""

    def __init__(self, port: int, source: str) -> None:
        self.socket = socket.socket()
        self.socket.settimeout(0)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Thousands of them are not to leave their ports occupied behind them.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _WITHOUT_GOODBYE)
        self.socket.bind((source, 0))
        self.port = port
        self.source = source
        self.lasted: float | None = None
        self.said = b""
        self._since = 0.0

    async def open(self) -> None:
        await asyncio.get_running_loop().sock_connect(self.socket, ("127.0.0.1", self.port))
        self._since = time.monotonic()

    async def send(self, data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self.socket, data)

    async def read(self, most: int = 65536) -> bytes:
        return await asyncio.get_running_loop().sock_recv(self.socket, most)

    def take_little(self) -> None:
        """Has the system take as little as it can for a client that does not read."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)

    def half_close(self) -> None:
        self.socket.shutdown(socket.SHUT_WR)

    def look(self) -> None:
        """Notes whether it was closed, and what was said at last."""
        if self.lasted is None and self._since and self._state in _CLOSED:
            self.lasted = time.monotonic() - self._since
            with suppress(OSError):
                self.said = self.said or self.socket.recv(4096)

    @property
    def _state(self) -> int:
        return self.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]

    @property
    def status(self) -> str:
        """Of the first answer; empty where nothing was said."""
        return self.said[9:12].decode()


async def idle(line: Line) -> None:
    """Sends nothing."""


async def slow_head(line: Line) -> None:
    """A header now and then, and never the last."""
    await line.send(b"GET /health HTTP/1.1\r\nHost: x\r\n")
    while True:
        await line.send(b"X-A: b\r\n")
        await asyncio.sleep(0.5)


async def slow_second_head(line: Line) -> None:
    """A request, whose answer is read, and then a byte now and then."""
    await line.send(HEALTH)
    line.said = await line.read()
    for byte in SCRIPT * 100:
        await line.send(bytes([byte]))
        await asyncio.sleep(0.5)


async def slow_body(line: Line) -> None:
    """A few bytes a second of two gigabytes."""
    await line.send(UPLOAD + HUGE + b"\r\n" + FILE)
    while True:
        await line.send(b"slow")
        await asyncio.sleep(0.5)


async def slow_chunks(line: Line) -> None:
    """A chunk of one byte now and then."""
    await line.send(CHUNKED)
    while True:
        await line.send(b"1\r\nx\r\n")
        await asyncio.sleep(0.5)


async def no_body(line: Line) -> None:
    """A client that asks whether it may send, is told that it may, and does not."""
    await line.send(UPLOAD + HUGE + b"Expect: 100-continue\r\n\r\n")


async def half_body(line: Line) -> None:
    """Half a request, after which it says that nothing more will come."""
    await line.send(UPLOAD + HUGE + b"\r\n" + FILE)
    line.half_close()


async def half_head(line: Line) -> None:
    await line.send(b"GET /health HTTP/1.1\r\nHost: x\r\n")
    line.half_close()


async def never_reads(line: Line) -> None:
    """Large answers, one after another, none of which is read."""
    line.take_little()
    await line.send((SCRIPT + b"\r\n") * 20)


async def half_closed_reader(line: Line) -> None:
    """Says that no more requests will come, and reads nothing."""
    line.take_little()
    await line.send((SCRIPT + b"\r\n") * 20)
    await asyncio.sleep(0.5)
    line.half_close()


async def drips_out(line: Line) -> None:
    """A large answer, a few bytes at a time."""
    line.take_little()
    await line.send((SCRIPT + b"\r\n") * 20)
    while True:
        await line.read(5)
        await asyncio.sleep(0.5)


async def keeps_alive(line: Line) -> None:
    """A small request now and then."""
    while True:
        await line.send(HEALTH)
        line.said = await line.read()
        await asyncio.sleep(1.5)


async def flood(line: Line, data: bytes) -> None:
    """Sends it again and again, and reads whatever is said."""
    reading = asyncio.create_task(_reads(line))
    try:
        while True:
            await line.send(data)
            await asyncio.sleep(0)  # a socket that takes it all at once gives nobody else a turn
    finally:
        reading.cancel()


async def _reads(line: Line) -> None:
    with suppress(OSError):
        while data := await line.read(262144):
            line.said = line.said or data[:4096]


async def pipelines(line: Line) -> None:
    await flood(line, HEALTH * 100)


async def ranges(line: Line) -> None:
    wanted = b",".join(b"5-%d" % number for number in range(1300))
    await flood(line, SCRIPT + b"Range: bytes=0-," + wanted + b"\r\n\r\n")


async def many_headers(line: Line) -> None:
    """Thousands of headers in each request."""
    await flood(line, b"GET /health HTTP/1.1\r\nHost: x\r\n" + b"a:b\r\n" * 12_000 + b"\r\n")


async def huge_head(line: Line) -> None:
    """A head of 64 MiB."""
    await line.send(b"GET /health HTTP/1.1\r\nHost: x\r\nX-A: ")
    for _ in range(64):
        await line.send(b"a" * _MIB)


async def tiny_chunks(line: Line) -> None:
    """Chunks of one byte, as fast as they are taken."""
    await line.send(CHUNKED)
    await flood(line, b"1\r\nx\r\n" * 10_000)


async def many_trailers(line: Line) -> None:
    """Uploads that end with thousands of headers."""
    await flood(line, CHUNKED + b"0\r\n" + b"a:b\r\n" * 12_000 + b"\r\n")


async def endless_extension(line: Line) -> None:
    """A chunk whose extension has no end."""
    await line.send(CHUNKED + b"1;")
    await flood(line, b"a" * 65536)


async def churns(line: Line) -> None:
    """Opens further connections and closes them, as fast as it can."""
    for _ in range(20):
        another = Line(line.port, line.source)
        try:
            await another.open()
        finally:
            another.socket.close()


class Siege:
    """``count`` lines, on a thread of their own, until the block ends. Each of ``attacks`` has its share of them."""

    def __init__(
        self, port: int, *attacks: Callable[[Line], Awaitable[None]], count: int = 300, source: str = "127.0.0.1"
    ) -> None:
        self.lines = [Line(port, source) for _ in range(count)]
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
        """Lines that the server has not closed."""
        return sum(line.lasted is None for line in self.lines)

    def lasted(self) -> list[float]:
        """How long those lasted that the server closed."""
        return [line.lasted for line in self.lines if line.lasted is not None]

    async def _run(self) -> None:
        tasks = [
            asyncio.create_task(self._play(line, self._attacks[number % len(self._attacks)]))
            for number, line in enumerate(self.lines)
        ]
        try:
            while not self._over.is_set():
                await asyncio.sleep(_LOOK_SECONDS)
                for line in self.lines:
                    line.look()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            for line in self.lines:
                line.socket.close()

    async def _play(self, line: Line, attack: Callable[[Line], Awaitable[None]]) -> None:
        with suppress(OSError):
            await line.open()
            await attack(line)
