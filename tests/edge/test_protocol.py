"""Connections are parsed in slices, and a response may be read slowly, but has to be read."""

from __future__ import annotations

import asyncio
import socket
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Final

import h11
import pytest
import uvicorn

from app.__main__ import listen
from app.domain.access import TrustedProxies
from app.domain.events import CutReason
from app.edge.connections import ConnectionLimits, Connections
from app.edge.pacing import MAX_HEADERS, PacedConnection, RoundRobin
from app.edge.protocol import http_protocol
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from uvicorn._types import ASGIReceiveCallable, ASGISendCallable, Scope

GET: Final = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"
CHUNKED: Final = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
_RESPONSE_BYTES: Final = 3_000_000


def events(connection: PacedConnection) -> list[object]:
    """Return the events of one slice."""
    connection.begin_slice()
    parsed: list[object] = []
    while (event := connection.next_event()) not in (h11.NEED_DATA, h11.PAUSED):
        parsed.append(event)
    return parsed


def receiving(data: bytes) -> PacedConnection:
    connection = PacedConnection()
    connection.receive_data(data)
    return connection


def head_of(headers: int) -> bytes:
    """Return a request with ``headers`` headers, ``Host`` included."""
    return b"GET / HTTP/1.1\r\nHost: x\r\n" + b"a: b\r\n" * (headers - 1) + b"\r\n"


@pytest.mark.anyio
async def test_round_robin_runs_one_callback_in_each_loop_iteration() -> None:
    slices, called = RoundRobin(), list[str]()
    for name in ("first", "second", "third"):
        slices.schedule(partial(called.append, name))
    for count in (1, 2, 3):
        await asyncio.sleep(0)
        assert len(called) == count
    assert called == ["first", "second", "third"]


@pytest.mark.anyio
async def test_callback_that_schedules_itself_goes_to_the_end_of_the_queue() -> None:
    slices, called = RoundRobin(), list[str]()

    def again() -> None:
        called.append("again")
        if len(called) < 4:
            slices.schedule(again)

    slices.schedule(again)
    slices.schedule(partial(called.append, "other"))
    await eventually(lambda: len(called) == 4)
    assert called[:3] == ["again", "other", "again"]


def test_body_of_tiny_chunks_is_parsed_in_many_slices() -> None:
    connection = receiving(CHUNKED + b"1\r\nx\r\n" * 1000 + b"0\r\n\r\n")
    slices = 0
    body = b""
    ended = False
    while not ended:
        slices += 1
        for event in events(connection):
            body += event.data if isinstance(event, h11.Data) else b""
            ended = ended or isinstance(event, h11.EndOfMessage)
        assert ended or connection.has_more
    assert body == b"x" * 1000
    assert slices >= 10


def test_head_with_the_most_headers_is_accepted_whole_or_byte_by_byte() -> None:
    whole = receiving(head_of(MAX_HEADERS))
    assert isinstance(events(whole)[0], h11.Request)
    dripping = PacedConnection()
    parsed: list[object] = []
    for byte in head_of(MAX_HEADERS):
        dripping.receive_data(bytes([byte]))
        parsed += events(dripping)
    assert isinstance(parsed[0], h11.Request)


def test_trailers_are_limited_like_headers() -> None:
    for trailers in (b"", b"a: b\r\n" * MAX_HEADERS):
        connection = receiving(CHUNKED + b"1\r\nx\r\n0;a=b\r\n" + trailers + b"\r\n" + GET)
        assert isinstance(events(connection)[-1], h11.EndOfMessage)
    for start in (b"1\r\nx\r\n000\r\n", b"0\r\n"):
        connection = receiving(CHUNKED + start)
        events(connection)
        connection.receive_data(b"a: b\r\n" * (MAX_HEADERS + 2) + b"\r\n")
        with pytest.raises(h11.RemoteProtocolError):
            events(connection)


@pytest.mark.parametrize(
    "head",
    [
        head_of(MAX_HEADERS + 1),
        head_of(MAX_HEADERS + 5)[:-2],
        b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"a" * 70_000 + b"\r\n\r\n",
    ],
    ids=["too many", "too many and unfinished", "one too long"],
)
def test_head_that_is_too_large_is_rejected(head: bytes) -> None:
    with pytest.raises(h11.RemoteProtocolError):
        events(receiving(head))


async def large_response(scope: Scope, _: ASGIReceiveCallable, send: ASGISendCallable) -> None:
    assert scope["type"] == "http"
    length = [(b"content-length", str(_RESPONSE_BYTES).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": length, "trailers": False})
    await send({"type": "http.response.body", "body": b"a" * _RESPONSE_BYTES, "more_body": False})


@asynccontextmanager
async def responding(limits: ConnectionLimits) -> AsyncIterator[tuple[socket.socket, list[CutReason]]]:
    """Yield a client that has read nothing of a large response, and the reasons for which connections were closed."""
    cuts: list[CutReason] = []
    connections = Connections(limits, trusted=TrustedProxies(), on_cut=cuts.append)
    listener = listen("127.0.0.1", 0)
    config = uvicorn.Config(large_response, http=http_protocol(connections), ws="none", lifespan="off", log_config=None)
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        await eventually(lambda: server.started)
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
            client.settimeout(0)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(client, listener.getsockname())
            await loop.sock_sendall(client, GET)
            await eventually(lambda: len(connections) == 1)
            yield client, cuts
            await eventually(lambda: bool(cuts) == (len(connections) == 0))
    finally:
        server.should_exit = True
        await task
        listener.close()


@pytest.mark.anyio
@pytest.mark.full(reason="takes more than a second")
async def test_large_response_may_be_read_slowly_for_longer_than_the_limit() -> None:
    limits = ConnectionLimits(head_seconds=5, body_bytes_per_second=1024, send_seconds=1.0)
    async with responding(limits) as (client, cuts):
        loop = asyncio.get_running_loop()
        read_bytes = 0
        async with asyncio.timeout(60):
            while read_bytes < _RESPONSE_BYTES:  # at least 3 s
                read_bytes += len(await loop.sock_recv(client, 20_000))
                await asyncio.sleep(0.02)
        assert cuts == []


@pytest.mark.anyio
@pytest.mark.parametrize("read_before", [0, 500_000, 2_000_000])
async def test_client_that_stops_reading_its_response_is_disconnected(read_before: int) -> None:
    limits = ConnectionLimits(head_seconds=5, body_bytes_per_second=1024, send_seconds=0.3)
    async with responding(limits) as (client, cuts):
        loop = asyncio.get_running_loop()
        read_bytes = 0
        while read_bytes < read_before:
            read_bytes += len(await loop.sock_recv(client, 20_000))
        await eventually(lambda: cuts == [CutReason.SLOW_READER], seconds=10)
        with pytest.raises(ConnectionResetError):  # the kernel has dropped the rest
            await _read_to_end(client)


async def _read_to_end(client: socket.socket) -> None:
    while await asyncio.get_running_loop().sock_recv(client, 20_000):
        pass
