"""Many sessions of live transcription at once, a flood of audio, and a shutdown while people speak.

Clients that read nothing, or send garbage, are in ``tests/edge/test_websocket.py``.
"""

from __future__ import annotations

import asyncio
import base64
import json
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, Final

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.faults.forked_program import forked_program
from tests.support.waiting import LIMIT_SECONDS, eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from websockets.asyncio.client import ClientConnection

    from tests.support.program import Program

pytestmark = [pytest.mark.anyio, pytest.mark.full(reason="transcribes live audio of many clients")]

_SESSIONS: Final = 6
_COMPLETED: Final = "conversation.item.input_audio_transcription.completed"
_MANUAL: Final = {"type": "transcription", "audio": {"input": {"turn_detection": None}}}


@pytest.fixture
async def said(samples: Path) -> str:
    """An append of five seconds of speech, at a higher pitch."""
    audio = await asyncio.to_thread((samples / "hello.wav").read_bytes)
    return append(audio[44:])


def append(audio: bytes) -> str:
    return json.dumps({"type": "input_audio_buffer.append", "audio": base64.b64encode(audio).decode()})


@asynccontextmanager
async def session_of(service: Program) -> AsyncIterator[ClientConnection]:
    """Open a session in which the client commits."""
    address = str(service.client.base_url).replace("http", "ws").rstrip("/") + "/v1/realtime?intent=transcription"
    async with connect(address, compression=None) as session:
        await session.send(json.dumps({"type": "session.update", "session": _MANUAL}))
        await until(session, "session.updated")
        yield session


async def until(session: ClientConnection, kind: str) -> dict[str, Any]:
    """Return the next event of this type."""
    async with asyncio.timeout(LIMIT_SECONDS):
        while (event := json.loads(await session.recv()))["type"] != kind:
            assert event["type"] != "error", event
    return dict(event)


async def metric(service: Program, line: str) -> bool:
    """Return True if the metrics have this line."""
    response = await asyncio.to_thread(service.client.get, "/metrics")
    return f"transcription_realtime_sessions{line}\n" in response.text


async def becomes(service: Program, line: str) -> None:
    await eventually(lambda: metric(service, line))


async def test_many_sessions_are_served_at_once(tmp_path: Path, said: str) -> None:
    async def speaks(service: Program, everyone: asyncio.Barrier) -> str:
        async with session_of(service) as session:
            await everyone.wait()
            await session.send(said)
            await session.send('{"type": "input_audio_buffer.commit"}')
            completed = await until(session, _COMPLETED)
            await everyone.wait()
            return str(completed["transcript"])

    with forked_program(tmp_path, REALTIME_MAX_SESSIONS=str(_SESSIONS)) as service:
        service.until_ready()
        everyone = asyncio.Barrier(_SESSIONS + 1)
        speakers = [asyncio.create_task(speaks(service, everyone)) for _ in range(_SESSIONS)]
        async with asyncio.timeout(LIMIT_SECONDS):
            await everyone.wait()
        assert await metric(service, f" {_SESSIONS}.0")
        with pytest.raises(InvalidStatus) as caught:
            async with session_of(service):
                pass
        assert caught.value.response.status_code == 429
        async with asyncio.timeout(LIMIT_SECONDS):
            await everyone.wait()
        texts = await asyncio.gather(*speakers)
        assert len(texts) == _SESSIONS
        assert len(set(texts)) == 1
        assert texts[0]
        await becomes(service, " 0.0")
        async with session_of(service):
            assert await metric(service, " 1.0")


async def test_sessions_that_break_off_leave_nothing(tmp_path: Path, said: str) -> None:
    with forked_program(tmp_path, REALTIME_MAX_SESSIONS=str(_SESSIONS)) as service:
        service.until_ready()
        for _ in range(2 * _SESSIONS):
            async with session_of(service) as session:
                await session.send(said)
                session.transport.abort()
            await becomes(service, " 0.0")
        assert await metric(service, f'_total{{reason="client_left"}} {2 * _SESSIONS}.0')
        async with session_of(service) as session:
            await session.send(said)
            await session.send('{"type": "input_audio_buffer.commit"}')
            assert (await until(session, _COMPLETED))["transcript"]


async def test_flood_of_audio_holds_up_nobody(tmp_path: Path, said: str) -> None:
    """A client sends noise as fast as it is read. It is closed if too much waits, which depends on the machine."""
    noise = append(bytes(range(256)) * 3_000)  # 16 s

    async def flood(session: ClientConnection, sent: asyncio.Semaphore) -> None:
        with suppress(ConnectionClosed):
            while True:
                await session.send(noise)
                sent.release()

    with forked_program(tmp_path) as service:
        service.until_ready()
        async with session_of(service) as flooding, session_of(service) as speaking:
            sent = asyncio.Semaphore(0)
            sending = asyncio.create_task(flood(flooding, sent))
            for _ in range(2):
                async with asyncio.timeout(LIMIT_SECONDS):
                    await sent.acquire()
                await speaking.send(said)
                await speaking.send('{"type": "input_audio_buffer.commit"}')
                assert (await until(speaking, _COMPLETED))["transcript"]
                assert service.is_ready()
            flooding.transport.abort()
            async with asyncio.timeout(LIMIT_SECONDS):
                await sending
        await becomes(service, " 0.0")


async def test_shutdown_transcribes_what_everybody_said(tmp_path: Path, said: str) -> None:
    async def speaks(service: Program, everyone: asyncio.Barrier) -> tuple[str, str, int | None]:
        async with session_of(service) as session:
            await session.send(said)
            await session.send(json.dumps({"type": "session.update", "session": _MANUAL}))
            await until(session, "session.updated")
            await everyone.wait()
            completed = await until(session, _COMPLETED)
            error = await asyncio.wait_for(session.recv(), LIMIT_SECONDS)
            await session.wait_closed()
            return completed["transcript"], json.loads(error)["error"]["code"], session.close_code

    with forked_program(tmp_path, SHUTDOWN_GRACE_SECONDS="120") as service:
        service.until_ready()
        everyone = asyncio.Barrier(_SESSIONS + 1)
        speakers = [asyncio.create_task(speaks(service, everyone)) for _ in range(_SESSIONS)]
        async with asyncio.timeout(LIMIT_SECONDS):
            await everyone.wait()
        assert await asyncio.to_thread(service.stop) == 0
        for text, code, close_code in await asyncio.gather(*speakers):
            assert text
            assert (code, close_code) == ("draining", 1001)
