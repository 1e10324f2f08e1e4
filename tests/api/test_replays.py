"""A synchronous request that is sent again after a timeout joins the transcription that is already running."""

from __future__ import annotations

import asyncio
import threading
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import httpx
import openai
import pytest

from app.api.multipart import ReceivedForm
from app.api.requests import form_digest
from app.domain.transcript import Task
from tests.support.service import serving
from tests.support.waiting import LIMIT_SECONDS, eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from app.transcription.whisper import WhisperModel
    from tests.support.held_model import Held
    from tests.support.service import Running

pytestmark = [pytest.mark.anyio, pytest.mark.contract, pytest.mark.full(reason="starts a service for each test")]

HELLO = "hello this is a test the job is complete now"
RETRY = {"x-stainless-retry-count": "1"}


@asynccontextmanager
async def abandoned(running: Running, file: Path, **fields: Any) -> AsyncIterator[asyncio.Task[httpx.Response]]:
    """Send a request, and disconnect its client at the end of the block."""
    first = asyncio.create_task(send(running, file, **fields))
    await eventually(lambda: len(sync_requests(running)) == 1)
    yield first
    first.cancel()
    await asyncio.wait([first])
    await eventually(lambda: not sync_requests(running)[0].clients)


def sync_requests(running: Running) -> list[Any]:
    return list(running.service.sync_requests._requests.values())


async def send(running: Running, file: Path, *, headers: dict[str, str] | None = None, **fields: Any) -> httpx.Response:
    content = await asyncio.to_thread(file.read_bytes)
    return await running.client.post(
        "/v1/audio/transcriptions",
        files={"file": ("audio.wav", content)},
        data={"model": "whisper-1", **fields},
        headers=headers,
        timeout=LIMIT_SECONDS,
    )


@pytest.mark.smoke
async def test_openais_client_joins_its_own_request_after_a_timeout(
    running: Running, samples: Path, held: Held
) -> None:
    sent: list[httpx.Request] = []

    async def keep(request: httpx.Request) -> None:
        sent.append(request)

    client = openai.AsyncOpenAI(
        base_url=f"{running.address}/v1",
        api_key="any",
        max_retries=4,
        timeout=1.0,
        http_client=openai.DefaultAsyncHttpxClient(event_hooks={"request": [keep]}),
    )
    request = asyncio.create_task(
        client.audio.transcriptions.create(model="whisper-1", file=samples / "hello.wav", response_format="json")
    )
    await eventually(lambda: len(sent) > 1 and any(each.clients for each in sync_requests(running)))  # it has retried
    held.open.set()
    assert (await request).text == HELLO
    assert held.decoded == 1
    await eventually(lambda: not running.service.jobs.store.live_jobs())
    await client.close()


async def test_replay_gets_the_result_that_was_finished_meanwhile(running: Running, samples: Path, held: Held) -> None:
    async with abandoned(running, samples / "hello.wav"):
        pass
    held.open.set()
    await eventually(lambda: sync_requests(running)[0].outcome.done())
    response = await send(running, samples / "hello.wav", headers=RETRY)
    assert response.json()["text"] == HELLO
    assert held.decoded == 1
    await eventually(lambda: not running.service.jobs.store.live_jobs())


async def test_replay_and_waiting_client_both_get_the_transcript(running: Running, samples: Path, held: Held) -> None:
    first = asyncio.create_task(send(running, samples / "hello.wav"))
    await eventually(lambda: len(sync_requests(running)) == 1)
    second = asyncio.create_task(send(running, samples / "hello.wav", headers=RETRY))
    await eventually(lambda: sync_requests(running)[0].clients == 2)
    held.open.set()
    assert [(await request).json()["text"] for request in (first, second)] == [HELLO, HELLO]
    assert held.decoded == 1
    await eventually(lambda: not running.service.jobs.store.live_jobs())


@pytest.mark.parametrize(
    ("headers", "fields"),
    [
        ({}, {}),
        ({"x-stainless-retry-count": "0"}, {}),
        (RETRY, {"language": "en"}),
        (RETRY, {"temperature": "0"}),
    ],
)
async def test_different_or_first_request_is_transcribed_on_its_own(
    running: Running, samples: Path, held: Held, headers: dict[str, str], fields: dict[str, str]
) -> None:
    async with abandoned(running, samples / "hello.wav"):
        pass
    held.open.set()
    response = await send(running, samples / "hello.wav", headers=headers, **fields)
    assert response.json()["text"] == HELLO
    await eventually(lambda: held.decoded == 2)


@pytest.mark.smoke
async def test_same_length_with_other_bytes_is_a_different_request(
    running: Running, samples: Path, tmp_path: Path, held: Held
) -> None:
    content = await asyncio.to_thread((samples / "hello.wav").read_bytes)
    other = tmp_path / "other.wav"
    await asyncio.to_thread(other.write_bytes, content[:-2] + b"\x01\x00")
    async with abandoned(running, samples / "hello.wav"):
        pass
    held.open.set()
    assert (await send(running, other, headers=RETRY)).json()["text"] == HELLO
    await eventually(lambda: held.decoded == 2)


async def test_request_is_kept_while_a_replay_arrives_and_then_cancelled(
    running: Running, samples: Path, held: Held
) -> None:
    async with abandoned(running, samples / "hello.wav", prompt="one"):
        (abandoned_request,) = sync_requests(running)
    boundary = "b" * 32
    content = await body(samples / "hello.wav", boundary, prompt="two")
    arrived = asyncio.Event()

    async def slowly() -> AsyncIterator[bytes]:
        yield content[:1000]
        await arrived.wait()
        yield content[1000:]

    headers = {**RETRY, "Content-Type": f"multipart/form-data; boundary={boundary}"}
    headers["Content-Length"] = str(abandoned_request.content_length)
    request = asyncio.create_task(
        running.client.post("/v1/audio/transcriptions", content=slowly(), headers=headers, timeout=LIMIT_SECONDS)
    )
    await eventually(lambda: abandoned_request.expected == 1)
    abandoned_request.deadline = asyncio.get_running_loop().time()  # as after the grace period
    running.service.sync_requests.end_if_abandoned(abandoned_request)
    assert sync_requests(running) == [abandoned_request]
    assert len(content) == abandoned_request.content_length
    arrived.set()
    await eventually(lambda: abandoned_request not in sync_requests(running))
    held.open.set()
    assert (await request).json()["text"] == HELLO
    await eventually(lambda: not running.service.jobs.store.live_jobs())


async def body(file: Path, boundary: str, **fields: Any) -> bytes:
    """Return the body that ``send`` would send, with another boundary of the same length."""
    content = await asyncio.to_thread(file.read_bytes)
    request = httpx.Request(
        "POST",
        "http://127.0.0.1",
        files={"file": ("audio.wav", content)},
        data={"model": "whisper-1", **fields},
        headers={"Content-Type": f"multipart/form-data; boundary={boundary}"},
    )
    return request.read()


async def test_replay_with_another_api_key_does_not_join(
    tmp_path: Path, model: WhisperModel, samples: Path, held: Held
) -> None:
    async with serving(tmp_path / "data", lambda: model, api_keys="sk-one,sk-two") as running:
        running.client.headers["Authorization"] = "Bearer sk-one"
        async with abandoned(running, samples / "hello.wav"):
            pass
        held.open.set()
        running.client.headers["Authorization"] = "Bearer sk-two"
        assert (await send(running, samples / "hello.wav", headers=RETRY)).status_code == 200
        await eventually(lambda: held.decoded == 2)


async def test_full_queue_accepts_a_replay(tmp_path: Path, model: WhisperModel, samples: Path, held: Held) -> None:
    async with serving(tmp_path / "data", lambda: model, max_queued_jobs=1, max_concurrent_requests=1) as running:
        async with abandoned(running, samples / "hello.wav"):
            await eventually(lambda: running.service.pool.active == 1)
        await running.until_waiting(0)
        job_id = await running.submit(samples / "numbers.mp3", stored_output="true")
        await running.until_waiting(1)
        rejected = await send(running, samples / "hello.wav")
        assert rejected.status_code == 429
        joined = asyncio.create_task(send(running, samples / "hello.wav", headers=RETRY))
        await eventually(lambda: bool(sync_requests(running)[0].clients))
        held.open.set()
        assert (await joined).json()["text"] == HELLO
        await running.finished(job_id)


def test_urls_with_different_queries_are_different_requests() -> None:
    """Their URLs differ only in the query, which an idempotency key takes for a signature."""
    one, other = (
        ReceivedForm(fields={"url": [f"https://media.example/get?recording={number}"]}) for number in ("1111", "2222")
    )
    assert form_digest(one, Task.TRANSCRIBE) == form_digest(other, Task.TRANSCRIBE)
    exact = [form_digest(form, Task.TRANSCRIBE, with_queries=True) for form in (one, other, one)]
    assert exact[0] != exact[1]
    assert exact[0] == exact[2]


async def test_failed_request_is_not_joined(
    running: Running, samples: Path, model: WhisperModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = threading.Event()
    decode = model.decode

    def failing(windows: Any) -> Any:
        if not broken.is_set():
            broken.wait(30)
            raise RuntimeError("broken")
        return decode(windows)

    monkeypatch.setattr(model, "decode", failing)
    async with abandoned(running, samples / "hello.wav"):
        pass
    broken.set()
    monkeypatch.setattr(model, "decode", decode)
    await eventually(lambda: sync_requests(running)[0].outcome.done())
    response = await send(running, samples / "hello.wav", headers=RETRY)
    assert response.json()["text"] == HELLO


async def test_shutdown_does_not_wait_for_abandoned_requests(
    tmp_path: Path, model: WhisperModel, samples: Path, held: Held
) -> None:
    async with serving(tmp_path / "data", lambda: model, shutdown_grace_seconds=600) as running:
        async with abandoned(running, samples / "hello.wav"):
            pass
        held.open.set()
        async with asyncio.timeout(300):
            await running.service.drain()
        assert running.service.jobs.store.live_jobs() == []
