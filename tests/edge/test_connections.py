"""Connections that are too slow or too many are closed; others are not affected."""

from __future__ import annotations

import asyncio
import errno
import json
import socket
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from app.domain.access import TrustedProxies
from app.domain.events import CutReason
from app.edge import protocol
from app.edge.connections import ConnectionLimits, Connections
from app.edge.protocol import GuardedProtocol
from tests.support.service import Running, serving
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from app.transcription.whisper import WhisperModel

pytestmark = pytest.mark.full(reason="waits for deadlines")

HEAD = b"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=x\r\n"


class Idle:
    """A connection that records why it was closed."""

    def __init__(self) -> None:
        self.reasons: list[CutReason] = []

    def cut(self, reason: CutReason) -> None:
        self.reasons.append(reason)


def limited(**limits: Any) -> Connections:
    return Connections(ConnectionLimits(**limits), trusted=TrustedProxies.parse("192.0.2.1"))


@pytest.mark.smoke
def test_longest_idle_connection_makes_room() -> None:
    connections = limited(total=2)
    first, second, third = Idle(), Idle(), Idle()
    for one in (first, second):
        assert connections.admit(one, "203.0.113.1")
        connections.mark_idle(one)
    assert connections.admit(third, "203.0.113.2")
    assert (first.reasons, second.reasons) == ([CutReason.MADE_ROOM], [])
    assert len(connections) == 2


@pytest.mark.smoke
def test_no_connection_is_admitted_while_all_are_busy() -> None:
    connections = limited(total=1)
    working = Idle()
    connections.admit(working, "203.0.113.1")
    connections.mark_idle(working)
    connections.mark_busy(working)
    assert not connections.admit(Idle(), "203.0.113.2")
    connections.remove(working)
    assert connections.admit(Idle(), "203.0.113.2")


@pytest.mark.smoke
def test_address_at_its_limit_closes_its_own_idle_connection() -> None:
    connections = limited(per_address=2)
    others, own = Idle(), [Idle(), Idle()]
    for one, address in ((others, "203.0.113.9"), (own[0], "203.0.113.1"), (own[1], "203.0.113.1")):
        connections.admit(one, address)
        connections.mark_idle(one)
    assert connections.admit(Idle(), "203.0.113.1")
    assert (others.reasons, own[0].reasons, own[1].reasons) == ([], [CutReason.MADE_ROOM], [])


@pytest.mark.smoke
def test_trusted_proxy_has_no_connection_limit() -> None:
    connections = limited(per_address=1)
    assert all(connections.admit(Idle(), "192.0.2.1") for _ in range(50))
    assert all(connections.admit(Idle(), "::ffff:192.0.2.1") for _ in range(50))


@pytest.mark.smoke
def test_closed_connections_leave_no_state() -> None:
    connections = limited(total=3, per_address=1)
    for number in range(100):
        one = Idle()
        if connections.admit(one, f"203.0.113.{number % 7}"):
            connections.mark_idle(one)
            connections.remove(one)
        connections.remove(one)
    assert (len(connections), connections._counts, connections._idle) == (0, {}, {})


@asynccontextmanager
async def strict(tmp_path: Path, model: WhisperModel, **settings: Any) -> AsyncIterator[Running]:
    """Serve with deadlines short enough for a test."""
    async with serving(tmp_path / "data", lambda: model, header_timeout_seconds=0.3, **settings) as running:
        connections = running.service.connections
        connections.limits = replace(connections.limits, window_seconds=0.4)
        yield running


async def connect(running: Running) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", int(running.address.rpartition(":")[2]))


async def until_closed(reader: asyncio.StreamReader) -> bytes:
    """Return everything that the server sends until it closes the connection."""
    async with asyncio.timeout(60):
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
async def test_missing_head_times_out(head: bytes, tmp_path: Path, model: WhisperModel) -> None:
    async with strict(tmp_path, model) as running:
        reader, writer = await connect(running)
        writer.write(head)
        response = await until_closed(reader)
        assert response.startswith(b"HTTP/1.1 408 ") == bool(head)
        if head:
            assert json.loads(response.partition(b"\r\n\r\n")[2])["error"]["code"] == "too_slow"
        assert await cuts(running, CutReason.SLOW_HEAD) == 1
        writer.close()


@pytest.mark.anyio
@pytest.mark.smoke
async def test_slow_head_times_out(tmp_path: Path, model: WhisperModel) -> None:
    async with strict(tmp_path, model) as running:
        reader, writer = await connect(running)
        response = asyncio.create_task(until_closed(reader))
        for byte in b"GET /health HTTP/1.1\r\n" + b"X-A: b\r\n" * 50:
            if response.done():
                break
            writer.write(bytes([byte]))
            await asyncio.sleep(0.01)
        assert (await response).startswith(b"HTTP/1.1 408 ")
        writer.close()


@pytest.mark.anyio
async def test_second_request_on_a_connection_has_its_own_deadline(tmp_path: Path, model: WhisperModel) -> None:
    async with strict(tmp_path, model) as running:
        reader, writer = await connect(running)
        writer.write(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\nGET /hea")
        response = await until_closed(reader)
        assert response.startswith(b"HTTP/1.1 200 ")
        assert b"HTTP/1.1 408 " in response
        writer.close()


@pytest.mark.anyio
async def test_slow_body_is_rejected_and_leaves_nothing(tmp_path: Path, model: WhisperModel) -> None:
    async with strict(tmp_path, model) as running:
        reader, writer = await connect(running)
        writer.write(HEAD + b"Content-Length: 1000000\r\n\r\n--x\r\nContent-Disposition: form-data; ")
        response = asyncio.create_task(until_closed(reader))
        for _ in range(100):
            if response.done():
                break
            writer.write(b"x")
            await asyncio.sleep(0.02)
        received = await response
        assert received.startswith(b"HTTP/1.1 408 ")
        assert b"1024 bytes a second" in received
        assert await cuts(running, CutReason.SLOW_BODY) == 1
        await eventually(lambda: not running.service.jobs.intake.arriving_count())
        assert running.service.jobs.spool.space.claimed == 0
        writer.close()


@pytest.mark.anyio
async def test_body_above_the_minimum_rate_is_accepted(tmp_path: Path, model: WhisperModel, samples: Path) -> None:
    form = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
    form += (samples / "hello.wav").read_bytes()[:60_000] + b"\r\n--x--\r\n"
    async with strict(tmp_path, model) as running:
        reader, writer = await connect(running)
        writer.write(HEAD + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(form))
        for start in range(0, len(form), 1000):  # about 50 kB a second, for more than two windows
            writer.write(form[start : start + 1000])
            await asyncio.sleep(0.02)
        assert (await until_closed(reader)).startswith(b"HTTP/1.1 200 ")
        writer.close()


@pytest.mark.anyio
async def test_client_waiting_for_100_continue_is_not_too_slow(tmp_path: Path, model: WhisperModel) -> None:
    async with strict(tmp_path, model) as running:
        reader, writer = await connect(running)
        writer.write(HEAD + b"Content-Length: 5\r\nExpect: 100-continue\r\n\r\n")
        async with asyncio.timeout(30):
            assert (await reader.readline()).startswith(b"HTTP/1.1 100 ")
        writer.write(b"--x--")
        async with asyncio.timeout(30):
            await reader.readline()
            assert (await reader.readline()).startswith(b"HTTP/1.1 400 ")
        writer.close()


@pytest.mark.anyio
@pytest.mark.parametrize("ends", [True, False])
@pytest.mark.parametrize("body_bytes", [0, 1_000, 3_000_000])
@pytest.mark.parametrize("content_type", [b"multipart/form-data; boundary=x", b"audio/wav"])
async def test_body_without_a_length_gets_a_response(
    *, ends: bool, body_bytes: int, content_type: bytes, tmp_path: Path, model: WhisperModel
) -> None:
    async with strict(tmp_path, model) as running:
        reader, writer = await connect(running)
        response = asyncio.create_task(until_closed(reader))
        head = b"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: x\r\nContent-Type: " + content_type
        writer.write(head + b"\r\n\r\n--x\r\n" + b"x" * body_bytes)
        if ends:
            writer.write_eof()
        received = await response
        assert received.startswith(b"HTTP/1.1 411 ")
        assert json.loads(received.partition(b"\r\n\r\n")[2])["error"]["code"] == "length_required"
        writer.close()
        await eventually(lambda: not len(running.service.connections))


@pytest.mark.anyio
async def test_body_without_a_length_is_not_read_forever(
    tmp_path: Path, model: WhisperModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "_LINGER_SECONDS", 0.2)
    async with strict(tmp_path, model) as running:
        reader, writer = await connect(running)
        writer.write(HEAD + b"\r\n--x\r\n")
        assert (await until_closed(reader)).startswith(b"HTTP/1.1 411 ")
        await eventually(lambda: not len(running.service.connections))
        writer.close()


@pytest.mark.anyio
async def test_post_without_a_body_needs_no_length(tmp_path: Path, model: WhisperModel) -> None:
    async with strict(tmp_path, model) as running:
        reader, writer = await connect(running)
        writer.write(b"POST /v1/jobs/none/redeliver HTTP/1.1\r\nHost: x\r\nConnection: close\r\n")
        writer.write(b"Content-Type: application/json\r\n\r\n")
        assert (await until_closed(reader)).startswith(b"HTTP/1.1 404 ")
        writer.close()


@pytest.mark.anyio
async def test_client_waiting_for_its_transcript_has_no_deadline(
    tmp_path: Path, model: WhisperModel, samples: Path
) -> None:
    async with strict(tmp_path, model) as running:
        response = await running.transcribe(samples / "long.opus")  # takes several times each deadline
        assert response.status_code == 200
        assert [await cuts(running, reason) for reason in CutReason] == [0] * len(CutReason)


@pytest.mark.anyio
async def test_unread_response_is_dropped(tmp_path: Path, model: WhisperModel) -> None:
    async with strict(tmp_path, model, send_timeout_seconds=0.5) as running:
        reader, writer = await connect(running)
        reader._transport.pause_reading()  # type: ignore[attr-defined]  # fills the kernel's buffers
        for _ in range(40):
            writer.write(b"GET /docs/assets/swagger-ui-bundle.js HTTP/1.1\r\nHost: x\r\n\r\n")

        async def is_cut() -> bool:
            return await cuts(running, CutReason.SLOW_READER) == 1

        await eventually(is_cut)
        await eventually(lambda: len(running.service.connections) <= 1)
        writer.transport.abort()


@pytest.mark.anyio
async def test_half_closed_connection_is_reset_during_a_response(tmp_path: Path, model: WhisperModel) -> None:
    async with strict(tmp_path, model) as running:
        await running.client.aclose()
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            client.connect(("127.0.0.1", int(running.address.rpartition(":")[2])))
            client.sendall(b"GET /docs/assets/swagger-ui-bundle.js HTTP/1.1\r\nHost: x\r\n\r\n")
            await eventually(lambda: any(one.flow.write_paused for one in _open(running)))
            client.shutdown(socket.SHUT_WR)
            await eventually(lambda: not _open(running))
            # A reset: with an orderly end the kernel would offer the rest of the response for minutes.
            await eventually(lambda: client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNRESET)


def _open(running: Running) -> list[GuardedProtocol]:
    return [one for one in running.service.connections._keys if isinstance(one, GuardedProtocol)]


@pytest.mark.anyio
async def test_excess_connection_gets_503_and_idle_ones_make_room(tmp_path: Path, model: WhisperModel) -> None:
    settings: dict[str, Any] = {"max_connections_per_address": 3, "forwarded_allow_ips": "192.0.2.1"}
    async with serving(tmp_path / "data", lambda: model, **settings) as running:
        await running.client.aclose()
        uploads = [await connect(running) for _ in range(3)]
        for _, writer in uploads:
            writer.write(HEAD + b"Content-Length: 1000000\r\n\r\n")
        await eventually(lambda: running.service.jobs.intake.arriving_count() == 3)
        reader, writer = await connect(running)
        response = await until_closed(reader)
        assert response.startswith(b"HTTP/1.1 503 ")
        assert b"retry-after: 5" in response.lower()
        assert json.loads(response.partition(b"\r\n\r\n")[2])["error"]["code"] == "too_many_connections"
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
