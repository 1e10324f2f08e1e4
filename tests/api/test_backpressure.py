"""What there is no room for is refused before its body is read, with a time to come again, and leaves nothing."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

import pytest

from tests.support.disks import small_disk
from tests.support.service import serving
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from pathlib import Path

    import httpx

    from app.transcription.whisper import WhisperModel
    from tests.support.held_model import Held
    from tests.support.service import Running

pytestmark = pytest.mark.anyio

#: About the bytes of ``hello.wav``.
SIZE: Final = 167_000


async def refused_unread(
    running: Running, *, headers: Mapping[str, str] | None = None, content_length: int = SIZE
) -> tuple[int, dict[str, str]]:
    """The status and the headers of the answer to a request whose body is never sent."""
    port = int(running.address.rpartition(":")[2])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        lines = [
            "POST /v1/audio/transcriptions HTTP/1.1",
            "Host: x",
            "Content-Type: multipart/form-data; boundary=b",
            f"Content-Length: {content_length}",
            *(f"{name}: {value}" for name, value in (headers or {}).items()),
        ]
        writer.write("\r\n".join([*lines, "", ""]).encode())
        async with asyncio.timeout(5):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
    finally:
        writer.close()
    first, *rest = head.split("\r\n")
    pairs = (line.partition(":") for line in rest if line)
    return int(first.split(" ")[1]), {name.strip().lower(): value.strip() for name, _, value in pairs}


def check_no_room(answered: httpx.Response, sentence: str) -> None:
    error = answered.json()["error"]
    assert (answered.status_code, error["code"], error["message"]) == (507, "disk_full", sentence)
    assert 1 <= int(answered.headers["Retry-After"]) <= 120
    assert "x-should-retry" not in answered.headers


def chunked(size: int) -> AsyncIterator[bytes]:
    """A form whose length is not announced, with a file of so many bytes."""

    async def parts() -> AsyncIterator[bytes]:
        yield b'--b\r\nContent-Disposition: form-data; name="stored_output"\r\n\r\ntrue\r\n'
        yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
        for _ in range(size // 10_000):
            yield bytes(10_000)
        yield b"\r\n--b--\r\n"

    return parts()


async def send_chunked(running: Running, size: int) -> httpx.Response:
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    return await running.client.post("/v1/audio/transcriptions", content=chunked(size), headers=headers, timeout=30)


async def left(running: Running) -> tuple[int, set[str]]:
    """How many jobs there are, and whose folders."""
    folder = running.service.settings.data_dir / "jobs"
    folders = {path.name for path in await asyncio.to_thread(list, folder.iterdir())}
    return (await running.client.get("/v1/jobs")).json()["total_jobs"], folders


async def test_full_queue_is_told_before_the_body_is_read(
    tmp_path: Path, model: WhisperModel, samples: Path, held: Held
) -> None:
    settings: dict[str, Any] = {"max_queued_jobs": 1, "max_concurrent_requests": 1}
    async with serving(tmp_path / "data", lambda: model, **settings) as running:
        first = await running.submit(samples / "hello.wav", stored_output="true")
        await running.until(first, "processing")
        second = await running.submit(samples / "hello.wav", stored_output="true")
        for headers in ({}, {"Expect": "100-continue"}, {"Idempotency-Key": "new"}):
            status, answered = await refused_unread(running, headers=headers)
            assert status == 429
            assert 1 <= int(answered["retry-after"]) <= 120
        assert await left(running) == (2, {first, second})
        held.open.set()
        await running.finished(second)
        assert (await running.transcribe(samples / "hello.wav")).status_code == 200


async def test_spool_that_is_full_takes_no_more_until_a_job_is_done(
    tmp_path: Path, model: WhisperModel, samples: Path, held: Held
) -> None:
    settings: dict[str, Any] = {"max_upload_bytes": 500_000, "spool_max_bytes": 500_000}
    sentence = "The server holds as much audio as SPOOL_MAX_BYTES=500000 allows: try again later."
    async with serving(tmp_path / "data", lambda: model, **settings) as running:
        jobs = {await running.submit(samples / "hello.wav", stored_output="true") for _ in range(2)}
        for fields in ({"stored_output": "true"}, {}):
            check_no_room(await running.transcribe(samples / "hello.wav", **fields), sentence)
        check_no_room(await send_chunked(running, SIZE + 10_000), sentence)
        status, told = await refused_unread(running, content_length=SIZE + 10_000)
        assert status == 507
        assert 1 <= int(told["retry-after"]) <= 120
        assert await left(running) == (2, jobs)
        jobs.add(await running.submit(samples / "upload.ogg", stored_output="true"))  # a small one has its place
        held.open.set()
        for job_id in jobs:
            await running.finished(job_id)
        assert running.service.jobs.spool.space.claimed == 0
        assert (await running.transcribe(samples / "hello.wav")).status_code == 200


async def test_disk_that_must_keep_free_space_takes_nothing_below_it(
    tmp_path: Path, model: WhisperModel, samples: Path
) -> None:
    sentence = "The server has no disk space left for this request: try again later, or have its operator free some."
    async with serving(tmp_path / "data", lambda: model, spool_min_free_bytes=10**15) as running:
        for fields in ({"stored_output": "true"}, {}):
            check_no_room(await running.transcribe(samples / "hello.wav", **fields), sentence)
        status, told = await refused_unread(running, headers={"Expect": "100-continue"})
        assert (status, told["retry-after"]) == (507, "60")
        assert await left(running) == (0, set())
        assert running.service.jobs.spool.space.claimed == 0
        assert (await running.client.get("/health/ready")).status_code == 200


async def test_disk_that_comes_to_its_limit_in_mid_upload_refuses_and_keeps_nothing(
    tmp_path: Path, model: WhisperModel, samples: Path
) -> None:
    with small_disk(tmp_path / "disk", size="6m") as disk:
        async with serving(disk / "data", lambda: model, spool_min_free_bytes=2_000_000) as running:
            answered = await send_chunked(running, 8_000_000)
            assert (answered.status_code, answered.json()["error"]["code"]) == (507, "disk_full")
            assert 1 <= int(answered.headers["Retry-After"]) <= 120
            assert await left(running) == (0, set())
            assert running.service.jobs.spool.space.claimed == 0
            job_id = await running.submit(samples / "hello.wav", stored_output="true")
            assert (await running.finished(job_id))["status"] == "completed"


async def test_service_that_drains_says_when_the_next_one_will_be_there(
    tmp_path: Path, model: WhisperModel, samples: Path, held: Held
) -> None:
    async with serving(tmp_path / "data", lambda: model, shutdown_grace_seconds=20) as running:
        job_id = await running.submit(samples / "hello.wav", stored_output="true")
        await running.until(job_id, "processing")
        draining = asyncio.create_task(running.service.drain())
        await eventually(lambda: running.service.jobs.runner.draining)
        status, told = await refused_unread(running)
        assert status == 503
        assert 25 <= int(told["retry-after"]) <= 30  # what is left of the grace period, and 10 s for the start
        answered = await running.transcribe(samples / "hello.wav")
        assert (answered.status_code, answered.json()["error"]["code"]) == (503, "draining")
        assert (await left(running))[0] == 1
        held.open.set()
        await draining
        assert (await running.job(job_id))["status"] == "completed"
