"""WebSockets: who may open one, how many there are, and what a client can't do with it."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import os
import re
import struct
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from app.edge.websocket import MAX_MESSAGE_BYTES
from tests.support.realtime_events import checked
from tests.support.service import Running, serving
from tests.support.waiting import LIMIT_SECONDS, eventually

if TYPE_CHECKING:
    from pathlib import Path

    from app.transcription.whisper import WhisperModel

pytestmark = pytest.mark.anyio

PATH: Final = "/v1/realtime?intent=transcription"
KEY: Final = "sk-0123456789abcdef"
#: The smallest frames that a client can send, masked with zeros.
EMPTY_TEXT: Final = bytes([0x81, 0x80, 0, 0, 0, 0])
EMPTY_FRAGMENT: Final = bytes([0x00, 0x80, 0, 0, 0, 0])
FIRST_FRAGMENT: Final = bytes([0x01, 0x81, 0, 0, 0, 0]) + b"{"
LARGE_PING: Final = bytes([0x89, 0xFD, 0, 0, 0, 0]) + bytes(125)


def opening(running: Running, path: str = PATH, **options: Any) -> connect:
    return connect(running.address.replace("http", "ws") + path, compression=None, **options)


async def event(socket: ClientConnection) -> dict[str, Any]:
    async with asyncio.timeout(LIMIT_SECONDS):
        return checked(json.loads(await socket.recv()))


async def refusal(running: Running, path: str = PATH, **options: Any) -> tuple[int, dict[str, Any], Any]:
    """Return the status, the error and the headers with which a session is refused."""
    with pytest.raises(InvalidStatus) as caught:
        await opening(running, path, **options)
    response = caught.value.response
    error: dict[str, Any] = json.loads(bytes(response.body or b""))["error"]
    return response.status_code, error, response.headers


async def closing(socket: ClientConnection) -> tuple[int, str]:
    """Read until the connection is closed, and return the code and the reason of the close frame."""
    with suppress(ConnectionClosed):
        async with asyncio.timeout(LIMIT_SECONDS):
            async for _ in socket:
                pass
    return socket.close_code or 0, socket.close_reason or ""


async def flood(writer: asyncio.StreamWriter, content: bytes) -> None:
    """Send the same again and again."""
    while True:
        writer.write(content)
        await writer.drain()


async def raw(running: Running, **headers: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Open a session and return its connection, on which any bytes can be sent."""
    host, _, port = running.address.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port), limit=1 << 16)
    key = base64.b64encode(os.urandom(16)).decode()
    lines = [
        f"GET {PATH} HTTP/1.1",
        f"Host: {host}:{port}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Version: 13",
        f"Sec-WebSocket-Key: {key}",
        *(f"{name}: {value}" for name, value in headers.items()),
    ]
    writer.write("\r\n".join([*lines, "", ""]).encode())
    assert b" 101 " in await reader.readuntil(b"\r\n\r\n")
    return reader, writer


@pytest.fixture(scope="module")
async def guarded(tmp_path_factory: pytest.TempPathFactory, model: WhisperModel) -> Any:
    """A service with an API key."""
    async with serving(tmp_path_factory.mktemp("data"), lambda: model, api_keys=f"mine:{KEY}") as running:
        yield running


async def test_session_needs_a_key(guarded: Running) -> None:
    status, error, headers = await refusal(guarded)
    assert (status, error["code"]) == (401, "invalid_api_key")
    assert headers["content-type"] == "application/json"
    wrong = {"Authorization": "Bearer wrong"}
    assert (await refusal(guarded, additional_headers=wrong))[0] == 401
    assert (await refusal(guarded, subprotocols=["realtime", "openai-insecure-api-key.wrong"]))[0] == 401
    async with opening(guarded, additional_headers={"Authorization": f"Bearer {KEY}"}) as socket:
        assert (await event(socket))["type"] == "session.created"


async def test_browser_sends_its_key_as_a_subprotocol(guarded: Running) -> None:
    key = f"openai-insecure-api-key.{KEY}"
    async with opening(guarded, subprotocols=["realtime", key]) as socket:
        assert (await event(socket))["type"] == "session.created"
        assert socket.subprotocol == "realtime"


async def test_client_secret_is_wrong_or_has_expired(guarded: Running) -> None:
    status, error, _ = await refusal(guarded, subprotocols=["realtime", "openai-insecure-api-key.ek_wrong"])
    assert (status, "client secret" in error["message"]) == (401, True)


@pytest.mark.parametrize("seconds", [9, 7201, "60", True, None])
async def test_lifetime_of_a_client_secret_is_limited(guarded: Running, seconds: Any) -> None:
    headers = {"Authorization": f"Bearer {KEY}"}
    body = {"expires_after": {"anchor": "created_at", "seconds": seconds}}
    response = await guarded.client.post("/v1/realtime/client_secrets", json=body, headers=headers)
    assert response.status_code == 400
    assert "from 10 to 7200" in response.json()["error"]["message"]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"expires_after": {"anchor": "now"}}, "expires_after.anchor"),
        ({"expires_after": None}, "expires_after.seconds"),
        ({"session": None}, "session"),
    ],
)
async def test_request_for_a_client_secret_is_checked(guarded: Running, body: dict[str, Any], param: str) -> None:
    headers = {"Authorization": f"Bearer {KEY}"}
    response = await guarded.client.post("/v1/realtime/client_secrets", json=body, headers=headers)
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)


async def test_secrets_are_not_logged(guarded: Running, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    headers = {"Authorization": f"Bearer {KEY}"}
    secret = (await guarded.client.post("/v1/realtime/client_secrets", headers=headers)).json()["value"]
    key = f"openai-insecure-api-key.{secret}"
    async with opening(guarded, subprotocols=["realtime", key]) as socket:
        await event(socket)
    await eventually(lambda: not len(guarded.service.sessions))
    shown = "\n".join(record.getMessage() for record in caplog.records if not record.name.startswith("websockets"))
    assert "key mine" in shown
    assert KEY not in shown
    assert secret not in shown


async def test_foreign_page_opens_no_session(shared: Running) -> None:
    status, error, _ = await refusal(shared, origin="https://evil.example")
    assert (status, error["code"]) == (403, "foreign_page")
    async with opening(shared, origin=shared.address) as socket:
        assert (await event(socket))["type"] == "session.created"


@pytest.mark.parametrize(
    ("path", "status", "param"),
    [
        ("/v1/realtime?intent=conversation", 400, "intent"),
        ("/v1/realtime?intent=transcription&model=gpt-9", 404, "session.audio.input.transcription.model"),
    ],
)
async def test_what_can_not_begin_is_refused(shared: Running, path: str, status: int, param: str) -> None:
    refused, error, _ = await refusal(shared, path)
    assert (refused, error["param"]) == (status, param)


async def test_model_of_the_query_is_used(shared: Running) -> None:
    async with opening(shared, "/openai/v1//realtime/?model=whisper-1") as socket:
        created = await event(socket)
        assert created["session"]["audio"]["input"]["transcription"]["model"] == "whisper-1"


async def test_other_paths_have_no_websocket(shared: Running) -> None:
    for path in ("/v1/jobs", "/v1/audio/transcriptions", "/nowhere"):
        status, error, headers = await refusal(shared, path)
        assert (status, error["message"].partition(" ")[0]) == (404, path)
        assert error["message"].endswith("use /v1/realtime.")
        assert headers["x-request-id"].startswith("req_")


async def test_number_of_sessions_is_limited(tmp_path: Path, model: WhisperModel) -> None:
    async with serving(tmp_path / "data", lambda: model, realtime_max_sessions=1) as running:
        async with opening(running) as socket:
            await event(socket)
            status, error, headers = await refusal(running)
            assert (status, error["code"], error["type"]) == (429, "too_many_sessions", "rate_limit_error")
            assert "REALTIME_MAX_SESSIONS" in error["message"]
            assert int(headers["retry-after"]) > 0
        await eventually(lambda: not len(running.service.sessions))
        async with opening(running) as socket:
            await event(socket)


async def test_handshakes_count_towards_the_rate(tmp_path: Path, model: WhisperModel) -> None:
    async with serving(tmp_path / "data", lambda: model, rate_limit="2/day") as running:
        for remaining in ("1", "0"):
            async with opening(running) as socket:
                assert socket.response is not None
                headers = socket.response.headers
                assert headers["x-ratelimit-limit-requests"] == "2"
                assert headers["x-ratelimit-remaining-requests"] == remaining
                assert re.fullmatch(r"(\d+h)?(\d+m)?[\d.]+s", headers["x-ratelimit-reset-requests"])
        status, error, headers = await refusal(running)
        assert (status, error["code"]) == (429, "rate_limit_exceeded")
        assert headers["x-ratelimit-remaining-requests"] == "0"


async def test_accepted_and_refused_handshakes_have_their_ids(shared: Running) -> None:
    ids = {"X-Client-Request-Id": "mine"}
    async with opening(shared, additional_headers=ids) as socket:
        assert socket.response is not None
        accepted = socket.response.headers
    status, _, refused = await refusal(shared, "/v1/realtime?intent=conversation", additional_headers=ids)
    assert status == 400
    assert accepted["x-request-id"] != refused["x-request-id"]
    for headers in (accepted, refused):
        assert re.fullmatch("req_[0-9a-f]{32}", headers["x-request-id"])
        assert headers["x-client-request-id"] == "mine"
    status, error, _ = await refusal(shared, additional_headers={"X-Client-Request-Id": "x" * 513})
    assert (status, error["code"]) == (400, "invalid_client_request_id")


async def test_connection_counts_until_it_is_closed(shared: Running) -> None:
    before = len(shared.service.connections)
    async with opening(shared) as socket:
        await event(socket)
        assert len(shared.service.connections) == before + 1
    await eventually(lambda: len(shared.service.connections) == before)


async def test_sessions_appear_in_the_metrics(shared: Running) -> None:
    async with opening(shared) as socket:
        await event(socket)
        text = (await shared.client.get("/metrics")).text
        assert "transcription_realtime_sessions 1.0" in text
        assert 'transcription_http_requests_total{route="/v1/realtime",status="101"}' in text
    await eventually(lambda: not len(shared.service.sessions))
    assert 'transcription_realtime_sessions_total{reason="client_left"}' in (await shared.client.get("/metrics")).text


@pytest.mark.full(reason="takes more than a second")
async def test_drain_transcribes_what_was_said_and_closes(tmp_path: Path, model: WhisperModel, samples: Path) -> None:
    async with serving(tmp_path / "data", lambda: model, shutdown_grace_seconds=120) as running:
        async with opening(running) as socket:
            await event(socket)
            update = {"type": "transcription", "audio": {"input": {"turn_detection": None}}}
            await socket.send(json.dumps({"type": "session.update", "session": update}))
            audio = base64.b64encode((samples / "hello.wav").read_bytes()[44:]).decode()
            await socket.send(json.dumps({"type": "input_audio_buffer.append", "audio": audio}))
            assert (await event(socket))["type"] == "session.updated"
            while not (await event(socket))["type"].endswith(".delta"):
                pass
            drain = asyncio.create_task(running.service.drain())
            types: list[str] = []
            while not types or types[-1] != "error":
                types.append((await event(socket))["type"])
            assert types[-2] == "conversation.item.input_audio_transcription.completed"
            assert await closing(socket) == (1001, "draining")
            await drain
        assert (await refusal(running))[0] == 503


async def test_message_that_is_too_large_closes_the_connection(shared: Running) -> None:
    async with opening(shared) as socket:
        await socket.send("x" * (MAX_MESSAGE_BYTES + 1))
        assert (await closing(socket))[0] == 1009


async def test_garbage_is_answered_and_then_closed(shared: Running) -> None:
    async with opening(shared) as socket:
        await event(socket)
        for _ in range(30):
            await socket.send(os.urandom(20))
        assert (await event(socket))["error"]["code"] == "invalid_json"
        assert await closing(socket) == (1008, "too_many_invalid_events")


async def test_frame_that_is_not_masked_closes_the_connection(shared: Running) -> None:
    reader, writer = await raw(shared)
    writer.write(bytes([0x81, 0x02]) + b"{}")
    received = await reader.read()
    assert struct.pack("!H", 1002) in received
    writer.close()


async def test_message_in_many_fragments_closes_the_connection(shared: Running) -> None:
    reader, writer = await raw(shared)
    writer.write(FIRST_FRAGMENT + EMPTY_FRAGMENT * 2_000)
    assert struct.pack("!H", 1009) in await reader.read()
    writer.close()


@pytest.mark.full(reason="sends more than a connection takes")
async def test_flood_of_small_messages_ends(shared: Running) -> None:
    reader, writer = await raw(shared)
    writer.write(EMPTY_TEXT * 100_000)
    assert b"too_many_invalid_events" in await reader.read()
    writer.close()
    assert await shared.is_ready()


@pytest.mark.full(reason="waits for a deadline")
async def test_client_that_reads_nothing_is_cut_off(tmp_path: Path, model: WhisperModel) -> None:
    async with serving(tmp_path / "data", lambda: model, send_timeout_seconds=0.5) as running:
        _, writer = await raw(running)
        writer.transport.pause_reading()  # type: ignore[attr-defined]  # a socket's transport
        update = json.dumps({"type": "session.update", "session": {}}).encode()
        frame = bytes([0x81, 0x80 | len(update), 0, 0, 0, 0]) + update
        with pytest.raises(ConnectionError):
            await flood(writer, frame * 100)
        await eventually(lambda: not len(running.service.sessions))
        assert 'closed_total{reason="slow_reader"} 1.0' in (await running.client.get("/metrics")).text


async def test_pings_whose_answers_are_not_read_end(shared: Running) -> None:
    _, writer = await raw(shared)
    writer.transport.pause_reading()  # type: ignore[attr-defined]  # a socket's transport
    with pytest.raises(ConnectionError):
        await flood(writer, LARGE_PING * 100)
    assert await shared.is_ready()
