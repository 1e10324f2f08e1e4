"""Clients that are too slow, or too many, find an end; others do not notice."""

from __future__ import annotations

import asyncio
import errno
import json
import socket
import time
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from app.domain.access import TrustedProxies
from app.domain.events import CutReason
from app.edge.connections import ConnectionLimits, Connections
from app.edge.protocol import GuardedProtocol
from tests.support.service import Running, serving
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from app.transcription.whisper import WhisperModel

HEAD = b"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=x\r\n"


class Idle:
    """A connection that does nothing but be closed."""

    def __init__(self) -> None:
        self.reasons: list[CutReason] = []

    def cut(self, reason: CutReason) -> None:
        self.reasons.append(reason)


def limited(**limits: Any) -> Connections:
    return Connections(ConnectionLimits(**limits), trusted=TrustedProxies.parse("192.0.2.1"))


def test_connection_that_waits_longest_makes_room() -> None:
    connections = limited(total=2)
    first, second, third = Idle(), Idle(), Idle()
    for one in (first, second):
        assert connections.admit(one, "203.0.113.1")
        connections.idle(one)
    assert connections.admit(third, "203.0.113.2")
    assert (first.reasons, second.reasons) == ([CutReason.MADE_ROOM], [])
    assert len(connections) == 2


def test_where_all_are_at_work_nobody_more_comes_in_until_one_has_left() -> None:
    connections = limited(total=1)
    working = Idle()
    connections.admit(working, "203.0.113.1")
    connections.idle(working)
    connections.busy(working)
    assert not connections.admit(Idle(), "203.0.113.2")
    connections.left(working)
    assert connections.admit(Idle(), "203.0.113.2")


def test_address_with_too_many_takes_from_its_own() -> None:
    connections = limited(per_address=2)
    others, own = Idle(), [Idle(), Idle()]
    for one, address in ((others, "203.0.113.9"), (own[0], "203.0.113.1"), (own[1], "203.0.113.1")):
        connections.admit(one, address)
        connections.idle(one)
    assert connections.admit(Idle(), "203.0.113.1")
    assert (others.reasons, own[0].reasons, own[1].reasons) == ([], [CutReason.MADE_ROOM], [])


def test_proxy_may_have_any_number() -> None:
    connections = limited(per_address=1)
    assert all(connections.admit(Idle(), "192.0.2.1") for _ in range(50))
    assert all(connections.admit(Idle(), "::ffff:192.0.2.1") for _ in range(50))


def test_nothing_is_left_of_those_that_came_and_went() -> None:
    connections = limited(total=3, per_address=1)
    for number in range(100):
        one = Idle()
        if connections.admit(one, f"203.0.113.{number % 7}"):
            connections.idle(one)
            connections.left(one)
        connections.left(one)
    assert (len(connections), connections._counts, connections._idle) == (0, {}, {})


@asynccontextmanager
async def strict(tmp_path: Path, model: WhisperModel, **settings: Any) -> AsyncIterator[Running]:
    """A service with deadlines that tests can wait for."""
    async with serving(tmp_path / "data", lambda: model, header_timeout_seconds=0.3, **settings) as running:
        connections = running.service.connections
        connections.limits = replace(connections.limits, window_seconds=0.4)
        yield running


async def connect(running: Running) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", int(running.address.rpartition(":")[2]))


async def until_closed(reader: asyncio.StreamReader) -> bytes:
    """All that the server sends, until it closes."""
    async with asyncio.timeout(10):
        received = b""
        try:
            while data := await reader.read(65536):
                received += data
        except ConnectionResetError:
            pass
        return received


async def cuts(running: Running, reason: CutReason) -> float:
    page = (await asyncio.to_thread(running.service.metrics.render)).decode()
    lines = [line for line in page.splitlines() if line.startswith("transcription_connections_closed_total{")]
    return sum(float(line.rpartition(" ")[2]) for line in lines if f'"{reason}"' in line)


@pytest.mark.anyio
@pytest.mark.parametrize("head", [b"", b"GET /health HTTP/1.1\r\nHost: x\r\nX-A: "])
async def test_head_that_does_not_come_is_not_waited_for(head: bytes, tmp_path: Path, model: WhisperModel) -> None:
    async with strict(tmp_path, model) as running:
        reader, writer = await connect(running)
        writer.write(head)
        answer = await until_closed(reader)
        assert answer.startswith(b"HTTP/1.1 408 ") == bool(head)
        if head:
            assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == "too_slow"
        assert await cuts(running, CutReason.SLOW_HEAD) == 1
        writer.close()


@pytest.mark.anyio
async def test_head_that_drips_is_not_waited_for_either(tmp_path: Path, model: WhisperModel) -> None:
    async with strict(tmp_path, model) as running:
        reader, writer = await connect(running)
        started = time.monotonic()
        answer = asyncio.create_task(until_closed(reader))
        for byte in b"GET /health HTTP/1.1\r\n" + b"X-A: b\r\n" * 50:
            if answer.done():
                break
            writer.write(bytes([byte]))
            await asyncio.sleep(0.01)
        assert (await answer).startswith(b"HTTP/1.1 408 ")
        assert time.monotonic() - started < 3
        writer.close()


@pytest.mark.anyio
async def test_second_request_on_a_connection_has_its_time_too(tmp_path: Path, model: WhisperModel) -> None:
    async with strict(tmp_path, model) as running:
        reader, writer = await connect(running)
        writer.write(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\nGET /hea")
        answer = await until_closed(reader)
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert b"HTTP/1.1 408 " in answer
        writer.close()


@pytest.mark.anyio
async def test_body_that_drips_is_refused_and_leaves_nothing(tmp_path: Path, model: WhisperModel) -> None:
    async with strict(tmp_path, model) as running:
        reader, writer = await connect(running)
        writer.write(HEAD + b"Content-Length: 1000000\r\n\r\n--x\r\nContent-Disposition: form-data; ")
        answer = asyncio.create_task(until_closed(reader))
        for _ in range(100):
            if answer.done():
                break
            writer.write(b"x")
            await asyncio.sleep(0.02)
        said = await answer
        assert said.startswith(b"HTTP/1.1 408 ")
        assert b"1024 bytes a second" in said
        assert await cuts(running, CutReason.SLOW_BODY) == 1
        await eventually(lambda: not running.service.jobs.runner._arriving)
        assert running.service.jobs.spool.space.claimed == 0
        writer.close()


@pytest.mark.anyio
async def test_body_that_keeps_up_its_rate_is_taken(tmp_path: Path, model: WhisperModel, samples: Path) -> None:
    form = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
    form += (samples / "hello.wav").read_bytes()[:60_000] + b"\r\n--x--\r\n"
    async with strict(tmp_path, model) as running:
        reader, writer = await connect(running)
        writer.write(HEAD + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(form))
        for place in range(0, len(form), 1000):  # some 50 kB a second, for longer than two stretches
            writer.write(form[place : place + 1000])
            await asyncio.sleep(0.02)
        assert (await until_closed(reader)).startswith(b"HTTP/1.1 200 ")
        writer.close()


@pytest.mark.anyio
async def test_client_that_waits_for_100_continue_is_not_too_slow(tmp_path: Path, model: WhisperModel) -> None:
    async with strict(tmp_path, model) as running:
        reader, writer = await connect(running)
        writer.write(HEAD + b"Content-Length: 5\r\nExpect: 100-continue\r\n\r\n")
        async with asyncio.timeout(5):
            assert (await reader.readline()).startswith(b"HTTP/1.1 100 ")
        writer.write(b"--x--")
        async with asyncio.timeout(5):
            await reader.readline()
            assert (await reader.readline()).startswith(b"HTTP/1.1 400 ")
        writer.close()


@pytest.mark.anyio
async def test_client_that_waits_for_its_transcript_may_wait(
    tmp_path: Path, model: WhisperModel, samples: Path
) -> None:
    async with strict(tmp_path, model) as running:
        answer = await running.transcribe(samples / "long.opus")  # several times every deadline
        assert answer.status_code == 200
        assert [await cuts(running, reason) for reason in CutReason] == [0] * len(CutReason)


@pytest.mark.anyio
async def test_answer_that_is_not_taken_is_not_kept(tmp_path: Path, model: WhisperModel) -> None:
    async with strict(tmp_path, model, send_timeout_seconds=0.5) as running:
        reader, writer = await connect(running)
        reader._transport.pause_reading()  # type: ignore[attr-defined]  # so that the system's buffers fill
        for _ in range(40):
            writer.write(b"GET /docs/assets/swagger-ui-bundle.js HTTP/1.1\r\nHost: x\r\n\r\n")

        async def is_cut() -> bool:
            return await cuts(running, CutReason.SLOW_READER) == 1

        await eventually(is_cut, seconds=15)
        await eventually(lambda: len(running.service.connections) <= 1)
        writer.transport.abort()


@pytest.mark.anyio
async def test_answer_to_a_client_that_went_in_its_midst_is_not_kept(tmp_path: Path, model: WhisperModel) -> None:
    async with strict(tmp_path, model) as running:
        await running.client.aclose()
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            client.connect(("127.0.0.1", int(running.address.rpartition(":")[2])))
            client.sendall(b"GET /docs/assets/swagger-ui-bundle.js HTTP/1.1\r\nHost: x\r\n\r\n")
            await eventually(lambda: any(one.flow.write_paused for one in _open(running)))
            client.shutdown(socket.SHUT_WR)
            await eventually(lambda: not _open(running))
            # Reset: with an end that follows what is left, the system would offer that for minutes.
            await eventually(lambda: client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNRESET)


def _open(running: Running) -> list[GuardedProtocol]:
    return [one for one in running.service.connections._addresses if isinstance(one, GuardedProtocol)]


@pytest.mark.anyio
async def test_too_many_connections_are_told_so_and_idle_ones_make_room(tmp_path: Path, model: WhisperModel) -> None:
    settings: dict[str, Any] = {"max_connections_per_address": 3, "forwarded_allow_ips": "192.0.2.1"}
    async with serving(tmp_path / "data", lambda: model, **settings) as running:
        await running.client.aclose()
        uploads = [await connect(running) for _ in range(3)]
        for _, writer in uploads:
            writer.write(HEAD + b"Content-Length: 1000000\r\n\r\n")
        await eventually(lambda: running.service.jobs.runner._arriving == 3)
        reader, writer = await connect(running)
        answer = await until_closed(reader)
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"retry-after: 5" in answer.lower()
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == "too_many_connections"
        uploads[0][1].close()
        await eventually(lambda: len(running.service.connections) == 2)
        idle_reader, idle_writer = await connect(running)
        await eventually(lambda: len(running.service.connections) == 3)
        async with httpx.AsyncClient(base_url=running.address, trust_env=False) as client:
            assert (await client.get("/health")).status_code == 200
        assert await until_closed(idle_reader) == b""
        assert (await cuts(running, CutReason.TOO_MANY), await cuts(running, CutReason.MADE_ROOM)) == (1, 1)
        for _, open_writer in (*uploads, (None, writer), (None, idle_writer)):
            open_writer.close()
