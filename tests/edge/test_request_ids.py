"""Every response has an id, which log lines carry too, and the id that the client sent."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from typing import TYPE_CHECKING, Final
from uuid import uuid4

import openai
import pytest
from websockets.asyncio.client import connect

from app.api.errors import envelope
from app.domain.log_context import CurrentRequest, current_request
from app.logs import ConsoleFormatter, JsonFormatter
from tests.api.test_keys_and_limits import bearer
from tests.support.service import serving
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from app.transcription.whisper import WhisperModel
    from tests.support.service import Running

pytestmark = pytest.mark.anyio

_ID: Final = re.compile("req_[0-9a-f]{32}")
_HEADER: Final = re.compile(rb"\r\nx-request-id: (req_[0-9a-f]{32})\r\n", re.IGNORECASE)


@pytest.fixture
def running(shared: Running) -> Running:
    """The service of this module, because no two requests have the same id."""
    return shared


async def raw(running: Running, sent: bytes) -> bytes:
    """Return what the service sends for bytes, until it closes the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(running.address.rpartition(":")[2]))
    writer.write(sent)
    writer.write_eof()
    async with asyncio.timeout(60):
        received = await reader.read()
    writer.close()
    return received


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/health", 200),
        ("GET", "/", 200),
        ("GET", "/metrics", 200),
        ("GET", "/v1/models", 200),
        ("GET", "/v1/models/none", 404),
        ("GET", "/nowhere", 404),
        ("DELETE", "/v1/models", 405),
        ("POST", "/v1/audio/transcriptions", 400),
    ],
)
async def test_every_response_has_an_id_of_its_own(running: Running, method: str, path: str, status: int) -> None:
    seen = set()
    for _ in range(2):
        response = await running.client.request(method, path, headers={"x-request-id": "of-a-proxy"})
        assert response.status_code == status
        (request_id,) = response.headers.get_list("x-request-id")
        assert _ID.fullmatch(request_id)
        seen.add(request_id)
    assert len(seen) == 2


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"nonsense\r\n\r\n", b"400"),
        (b"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: x\r\nContent-Type: audio/wav\r\n\r\nRIFF", b"411"),
    ],
)
async def test_response_of_the_edge_has_an_id(running: Running, sent: bytes, status: bytes) -> None:
    received = await raw(running, sent)
    assert received.startswith(b"HTTP/1.1 " + status)
    assert len(_HEADER.findall(received)) == 1


async def test_rejected_key_has_an_id(tmp_path: Path, model: WhisperModel) -> None:
    async with serving(tmp_path / "data", lambda: model, api_keys="alpha") as running:
        rejected = await running.client.get("/v1/models", headers=bearer("wrong"))
        assert (rejected.status_code, bool(_ID.fullmatch(rejected.headers["x-request-id"]))) == (401, True)


async def test_unexpected_exception_is_logged_with_the_id_of_its_response(
    tmp_path: Path, model: WhisperModel, lines: list[dict[str, str]]
) -> None:
    async with serving(tmp_path / "data", lambda: model) as running:
        del running.service.pool.model_registry  # simulates a bug
        response = await running.client.get("/v1/models", headers={"X-Client-Request-Id": "mine"})
        assert response.status_code == 500
        (logged,) = [line for line in lines if "exception" in line]
    assert logged["request_id"] == response.headers["x-request-id"]
    assert logged["client_request_id"] == "mine"


@pytest.mark.full(reason="takes more than a second")
async def test_openais_client_shows_the_id_of_responses_streams_and_errors(running: Running, samples: Path) -> None:
    audio = await asyncio.to_thread((samples / "hello.wav").read_bytes)
    async with openai.AsyncOpenAI(base_url=f"{running.address}/v1", api_key="any", max_retries=0) as client:
        create = client.audio.transcriptions.create
        transcript = await create(model="whisper-1", file=("hello.wav", audio))
        assert _ID.fullmatch(transcript._request_id or "")
        raw_response = await client.audio.transcriptions.with_raw_response.create(
            model="whisper-1", file=("hello.wav", audio)
        )
        assert _ID.fullmatch(raw_response.request_id or "")
        assert int(raw_response.headers["openai-processing-ms"]) >= 0
        async with client.audio.transcriptions.with_streaming_response.create(
            model="whisper-1", file=("hello.wav", audio), stream=True
        ) as stream:
            assert _ID.fullmatch(stream.request_id or "")
            assert "openai-processing-ms" not in stream.headers  # it is not over yet
            await stream.read()
        with pytest.raises(openai.NotFoundError) as caught:
            await create(model="none", file=("hello.wav", audio))
        assert _ID.fullmatch(caught.value.request_id or "")


@pytest.mark.full(reason="starts services")
async def test_processing_time_is_that_of_a_transcript(running: Running, samples: Path, tmp_path: Path) -> None:
    (tmp_path / "song.mp3").write_text("These are no frames.\n" * 100)
    for file, status in ((samples / "hello.wav", 200), (tmp_path / "song.mp3", 400)):
        response = await running.transcribe(file)
        assert response.status_code == status
        assert re.fullmatch("[0-9]+", response.headers["openai-processing-ms"])
    for other in (
        await running.transcribe(samples / "hello.wav", stored_output=True),
        await running.transcribe(samples / "hello.wav", temperature="7"),
        await running.client.get("/v1/models"),
    ):
        assert "openai-processing-ms" not in other.headers


@pytest.fixture
def lines() -> Iterator[list[dict[str, str]]]:
    """The log lines in JSON."""
    written: list[dict[str, str]] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            written.append(json.loads(JsonFormatter().format(record)))

    handler, root = Handler(), logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    yield written
    root.removeHandler(handler)
    root.setLevel(level)


@pytest.mark.parametrize("fields", [{}, {"stored_output": "true"}])
@pytest.mark.full(reason="starts services")
async def test_lines_of_a_job_have_the_ids_of_its_request(
    running: Running, samples: Path, lines: list[dict[str, str]], fields: dict[str, str]
) -> None:
    client_id = f"call {uuid4()}"
    audio = await asyncio.to_thread((samples / "hello.wav").read_bytes)
    response = await running.client.post(
        "/v1/audio/transcriptions", files={"file": audio}, data=fields, headers={"X-Client-Request-Id": client_id}
    )
    assert response.status_code == 200
    assert response.headers["x-client-request-id"] == client_id
    if fields:
        await running.finished(response.json()["job_id"])
    of_request = [line for line in lines if line.get("request_id") == response.headers["x-request-id"]]
    assert {line["client_request_id"] for line in of_request} == {client_id}
    (job_id,) = {line["job_id"] for line in of_request}
    started = [line for line in lines if "Starting transcription..." in line["message"] and line["job_id"] == job_id]
    assert started
    assert all(line in of_request for line in started)
    (accepted,) = [line["message"] for line in of_request if " accepted, " in line["message"]]
    assert accepted.endswith(f"{job_id} accepted, {response.headers['x-request-id']} (client's id {client_id})")


async def test_lines_of_a_session_have_the_ids_of_its_handshake(running: Running, lines: list[dict[str, str]]) -> None:
    address = running.address.replace("http", "ws") + "/v1/realtime?intent=transcription"
    async with connect(address, additional_headers={"X-Client-Request-Id": "mine"}) as socket:
        await socket.recv()
        assert socket.response is not None
        request_id = socket.response.headers["x-request-id"]
    await eventually(lambda: not len(running.service.sessions))
    of_session = [line for line in lines if "Realtime session" in line["message"]]
    assert len(of_session) == 2
    assert {(line["request_id"], line["client_request_id"]) for line in of_session} == {(request_id, "mine")}


@pytest.mark.parametrize(
    "client_id", ["x" * 512, "a b/c?d=e", "550e8400-e29b-41d4-a716-446655440000", ""], ids=["512", "text", "uuid", "no"]
)
async def test_valid_id_of_a_client_is_returned(running: Running, client_id: str) -> None:
    response = await running.client.get("/v1/models", headers={"X-Client-Request-Id": client_id})
    assert response.status_code == 200
    assert response.headers.get("x-client-request-id", "") == client_id


@pytest.mark.parametrize(("client_id", "length"), [("x" * 513, 513), ("ü", 2)], ids=["long", "other"])
async def test_other_ids_of_a_client_are_400_and_in_no_header(running: Running, client_id: str, length: int) -> None:
    sent = {b"X-Client-Request-Id": client_id.encode()}
    response = await running.client.get("/v1/models", headers=sent)
    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (400, "invalid_client_request_id")
    assert error["message"] == (
        f"`X-Client-Request-Id` must be at most 512 printable ASCII characters, got {length} characters: use a UUID, "
        "for example, or leave it out."
    )
    assert "x-client-request-id" not in response.headers
    assert (await running.client.get("/health", headers=sent)).status_code == 200


def test_error_outside_of_a_request_has_an_id() -> None:
    assert _ID.fullmatch(envelope(503, "Not now.").headers["x-request-id"])


def test_lines_contain_no_secret_of_a_clients_id() -> None:
    token = current_request.set(CurrentRequest(client_id="https://bucket.example/key?X-Amz-Signature=secret"))
    try:
        record = logging.LogRecord("app", logging.INFO, __file__, 1, "text", (), None)
        line, console = JsonFormatter().format(record), ConsoleFormatter().format(record)
    finally:
        current_request.reset(token)
    assert json.loads(line)["client_request_id"] == "https://bucket.example/key?…"
    assert re.search(r"INFO +\[req_[0-9a-f]{32}\] text$", console)
