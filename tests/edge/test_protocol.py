"""One connection after another: what is sent ahead waits, and what is sent back may be taken slowly, but is taken."""

from __future__ import annotations

import asyncio
import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import h11
import pytest
import uvicorn

from app.__main__ import listen
from app.domain.access import TrustedProxies
from app.domain.events import CutReason
from app.edge.connections import ConnectionLimits, Connections
from app.edge.protocol import MAX_HEADERS, PacedConnection, Turns, guarded
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from uvicorn._types import ASGIReceiveCallable, ASGISendCallable, Scope

GET: Final = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"
CHUNKED: Final = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
_ANSWER_BYTES: Final = 3_000_000


def events(connection: PacedConnection) -> list[object]:
    """What the connection gives in one turn."""
    connection.begin_turn()
    found: list[object] = []
    while (event := connection.next_event()) not in (h11.NEED_DATA, h11.PAUSED):
        found.append(event)
    return found


def receiving(data: bytes) -> PacedConnection:
    connection = PacedConnection(65536)
    connection.receive_data(data)
    return connection


def head_of(headers: int) -> bytes:
    """With that many, of which one is ``Host``."""
    return b"GET / HTTP/1.1\r\nHost: x\r\n" + b"a: b\r\n" * (headers - 1) + b"\r\n"


@pytest.mark.anyio
async def test_one_waits_in_each_round_of_the_loop() -> None:
    turns, seen = Turns(), list[str]()
    for name in ("first", "second", "third"):
        turns.wait(lambda name=name: seen.append(name))  # type: ignore[misc]  # mypy knows no defaults of lambdas here
    for count in (1, 2, 3):
        await asyncio.sleep(0)
        assert len(seen) == count
    assert seen == ["first", "second", "third"]


@pytest.mark.anyio
async def test_who_waits_again_goes_to_the_end() -> None:
    turns, seen = Turns(), list[str]()

    def again() -> None:
        seen.append("again")
        if len(seen) < 4:
            turns.wait(again)

    turns.wait(again)
    turns.wait(lambda: seen.append("other"))
    await eventually(lambda: len(seen) == 4)
    assert seen[:3] == ["again", "other", "again"]


def test_body_of_tiny_chunks_takes_many_turns_and_comes_whole() -> None:
    connection = receiving(CHUNKED + b"1\r\nx\r\n" * 1000 + b"0\r\n\r\n")
    turns = 0
    body = b""
    ended = False
    while not ended:
        turns += 1
        for event in events(connection):
            body += event.data if isinstance(event, h11.Data) else b""
            ended = ended or isinstance(event, h11.EndOfMessage)
        assert ended or connection.has_more
    assert body == b"x" * 1000
    assert turns >= 10


def test_head_with_as_many_headers_as_may_be_is_read_however_it_comes() -> None:
    whole = receiving(head_of(MAX_HEADERS))
    assert isinstance(events(whole)[0], h11.Request)
    dripping = PacedConnection(65536)
    found: list[object] = []
    for byte in head_of(MAX_HEADERS):
        dripping.receive_data(bytes([byte]))
        found += events(dripping)
    assert isinstance(found[0], h11.Request)


def test_trailers_end_a_body_and_no_more_may_come_than_headers() -> None:
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
    ids=["too many", "too many, and no end", "too long in one piece"],
)
def test_head_that_is_too_large_is_refused(head: bytes) -> None:
    with pytest.raises(h11.RemoteProtocolError):
        events(receiving(head))


async def large_answer(scope: Scope, _: ASGIReceiveCallable, send: ASGISendCallable) -> None:
    assert scope["type"] == "http"
    length = [(b"content-length", str(_ANSWER_BYTES).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": length, "trailers": False})
    await send({"type": "http.response.body", "body": b"a" * _ANSWER_BYTES, "more_body": False})


@asynccontextmanager
async def answering(limits: ConnectionLimits) -> AsyncIterator[tuple[socket.socket, list[CutReason]]]:
    """A client that has sent a request and taken nothing of its large answer; and why connections were closed."""
    cuts: list[CutReason] = []
    connections = Connections(limits, trusted=TrustedProxies(), on_cut=cuts.append)
    listener = listen("127.0.0.1", 0)
    config = uvicorn.Config(large_answer, http=guarded(connections), ws="none", lifespan="off", log_config=None)
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
async def test_large_answer_may_be_taken_slowly_for_longer_than_the_limit() -> None:
    limits = ConnectionLimits(head_seconds=5, body_bytes_per_second=1024, send_seconds=0.3)
    async with answering(limits) as (client, cuts):
        loop = asyncio.get_running_loop()
        taken = 0
        async with asyncio.timeout(60):
            while taken < _ANSWER_BYTES:  # some 2 s
                taken += len(await loop.sock_recv(client, 20_000))
                await asyncio.sleep(0.01)
        assert cuts == []


@pytest.mark.anyio
@pytest.mark.parametrize("taken_before", [0, 500_000, 2_000_000])
async def test_client_that_ceases_to_take_its_answer_is_closed_wherever_it_is(taken_before: int) -> None:
    limits = ConnectionLimits(head_seconds=5, body_bytes_per_second=1024, send_seconds=0.3)
    async with answering(limits) as (client, cuts):
        loop = asyncio.get_running_loop()
        taken = 0
        while taken < taken_before:
            taken += len(await loop.sock_recv(client, 20_000))
        await eventually(lambda: cuts == [CutReason.SLOW_READER], seconds=10)
        with pytest.raises(ConnectionResetError):  # and what waited for it in the system is gone
            await _until_the_end(client)


async def _until_the_end(client: socket.socket) -> None:
    while await asyncio.get_running_loop().sock_recv(client, 20_000):
        pass
