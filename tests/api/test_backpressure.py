"""Requests beyond a limit are rejected before their body is read, with Retry-After, and leave nothing behind."""

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

pytestmark = [pytest.mark.anyio, pytest.mark.contract, pytest.mark.full(reason="starts a service for each test")]

#: About the size of ``hello.wav`` in bytes.
SIZE: Final = 167_000


async def rejection_unread(
    running: Running, *, headers: Mapping[str, str] | None = None, content_length: int = SIZE
) -> tuple[int, dict[str, str]]:
    """Return the status and headers of the response to a request whose body is never sent."""
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
        async with asyncio.timeout(60):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
    finally:
        writer.close()
    first, *rest = head.split("\r\n")
    pairs = (line.partition(":") for line in rest if line)
    return int(first.split(" ")[1]), {name.strip().lower(): value.strip() for name, _, value in pairs}


def check_disk_full(response: httpx.Response, message: str) -> None:
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["message"]) == (507, "disk_full", message)
    assert 1 <= int(response.headers["Retry-After"]) <= 120
    assert "x-should-retry" not in response.headers


def chunked(size: int) -> AsyncIterator[bytes]:
    """Return a form without Content-Length, with a file of ``size`` bytes."""

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


async def remains(running: Running) -> tuple[int, set[str]]:
    """Return the number of jobs and the ids of those with files."""
    return (await running.client.get("/v1/jobs")).json()["total_jobs"], await running.jobs_with_files()


@pytest.mark.smoke
async def test_full_queue_is_429_before_the_body_is_read(
    tmp_path: Path, model: WhisperModel, samples: Path, held: Held
) -> None:
    settings: dict[str, Any] = {"max_queued_jobs": 1, "max_concurrent_requests": 1}
    async with serving(tmp_path / "data", lambda: model, **settings) as running:
        first = await running.submit(samples / "hello.wav", stored_output="true")
        await running.until(first, "processing")
        await running.until_waiting(0)
        second = await running.submit(samples / "hello.wav", stored_output="true")
        await running.until_waiting(1)
        for headers in ({}, {"Expect": "100-continue"}, {"Idempotency-Key": "new"}):
            status, response = await rejection_unread(running, headers=headers)
            assert status == 429
            assert 1 <= int(response["retry-after"]) <= 120
        assert await remains(running) == (2, {first, second})
        held.open.set()
        await running.finished(second)
        await running.until_waiting(0)
        assert (await running.transcribe(samples / "hello.wav")).status_code == 200


@pytest.mark.one_process(reason="audio that waits takes no disk of a node")
async def test_full_spool_rejects_uploads_until_a_job_is_done(
    tmp_path: Path, model: WhisperModel, samples: Path, held: Held
) -> None:
    settings: dict[str, Any] = {"max_upload_bytes": 500_000, "spool_max_bytes": 500_000}
    message = "The server holds as much audio as SPOOL_MAX_BYTES=500000 allows: try again later."
    async with serving(tmp_path / "data", lambda: model, **settings) as running:
        jobs = {await running.submit(samples / "hello.wav", stored_output="true") for _ in range(2)}
        for fields in ({"stored_output": "true"}, {}):
            check_disk_full(await running.transcribe(samples / "hello.wav", **fields), message)
        check_disk_full(await send_chunked(running, SIZE + 10_000), message)
        status, headers = await rejection_unread(running, content_length=SIZE + 10_000)
        assert status == 507
        assert 1 <= int(headers["retry-after"]) <= 120
        assert await remains(running) == (2, jobs)
        jobs.add(await running.submit(samples / "upload.ogg", stored_output="true"))  # a small file still fits
        held.open.set()
        for job_id in jobs:
            await running.finished(job_id)
        assert running.service.jobs.spool.space.claimed == 0
        assert (await running.transcribe(samples / "hello.wav")).status_code == 200


@pytest.mark.one_process(reason="arriving audio takes no disk of a node")
async def test_disk_below_its_minimum_of_free_space_is_507(tmp_path: Path, model: WhisperModel, samples: Path) -> None:
    message = "The server has no disk space left for this request: try again later, or ask its operator to free some."
    async with serving(tmp_path / "data", lambda: model, spool_min_free_bytes=10**15) as running:
        for fields in ({"stored_output": "true"}, {}):
            check_disk_full(await running.transcribe(samples / "hello.wav", **fields), message)
        status, headers = await rejection_unread(running, headers={"Expect": "100-continue"})
        assert (status, headers["retry-after"]) == (507, "60")
        assert await remains(running) == (0, set())
        assert running.service.jobs.spool.space.claimed == 0
        assert (await running.client.get("/health/ready")).status_code == 200


async def test_disk_that_fills_during_an_upload_is_507_and_leaves_nothing(
    tmp_path: Path, model: WhisperModel, samples: Path
) -> None:
    with small_disk(tmp_path / "disk", size="6m") as disk:
        async with serving(disk / "data", lambda: model, spool_min_free_bytes=2_000_000) as running:
            response = await send_chunked(running, 8_000_000)
            assert (response.status_code, response.json()["error"]["code"]) == (507, "disk_full")
            assert 1 <= int(response.headers["Retry-After"]) <= 120
            assert await remains(running) == (0, set())
            assert running.service.jobs.spool.space.claimed == 0
            job_id = await running.submit(samples / "hello.wav", stored_output="true")
            assert (await running.finished(job_id))["status"] == "completed"


async def test_draining_service_is_503_with_the_remaining_seconds(
    tmp_path: Path, model: WhisperModel, samples: Path, held: Held
) -> None:
    async with serving(tmp_path / "data", lambda: model, shutdown_grace_seconds=100) as running:
        job_id = await running.submit(samples / "hello.wav", stored_output="true")
        await running.until(job_id, "processing")
        draining = asyncio.create_task(running.service.drain())
        await eventually(lambda: running.service.jobs.runner.draining)
        status, headers = await rejection_unread(running)
        assert status == 503
        assert 50 <= int(headers["retry-after"]) <= 110  # the rest of the grace period, and 10 s for the start
        response = await running.transcribe(samples / "hello.wav")
        assert (response.status_code, response.json()["error"]["code"]) == (503, "draining")
        assert (await remains(running))[0] == 1
        held.open.set()
        await draining
        assert (await running.job(job_id))["status"] == "completed"
