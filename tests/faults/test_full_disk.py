"""A disk that is full at each step of a job: refused submissions leave nothing, accepted jobs wait for space."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.disks import filled, small_disk
from tests.support.fault_server import answer, fault_server
from tests.support.held_model import Held
from tests.support.service import Running, serving
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    import httpx

    from app.transcription.whisper import WhisperModel

pytestmark = [pytest.mark.anyio, pytest.mark.full(reason="fills disks")]

HELLO = "hello this is a test the job is complete now"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", size="4m") as folder:
        yield folder


@pytest.fixture
async def running(disk: Path, model: WhisperModel) -> AsyncIterator[Running]:
    async with serving(disk / "data", lambda: model, url_allowed_hosts="127.0.0.1", spool_min_free_bytes=0) as service:
        yield service


@pytest.fixture
def held(model: WhisperModel, monkeypatch: pytest.MonkeyPatch) -> Iterator[Held]:
    """The model, which does not decode until the test opens it."""
    held = Held(model, monkeypatch)
    yield held
    held.open.set()


def left_behind(disk: Path) -> list[str]:
    return sorted(str(path.relative_to(disk)) for path in (disk / "data" / "jobs").rglob("*"))


def check_refused(response: httpx.Response) -> None:
    assert response.status_code == 507
    assert response.json()["error"]["code"] == "disk_full"
    assert 1 <= int(response.headers["Retry-After"]) <= 120


async def jobs_of(running: Running) -> dict[str, Any]:
    jobs: dict[str, Any] = (await running.client.get("/v1/jobs")).json()["jobs"]
    return jobs


async def test_refused_submission_leaves_nothing_on_a_full_disk(running: Running, disk: Path, samples: Path) -> None:
    with filled(disk):
        for fields in ({"stored_output": "true"}, {}):
            check_refused(await running.transcribe(samples / "hello.wav", **fields))
        assert left_behind(disk) == []
        assert await jobs_of(running) == {}
    assert (await running.transcribe(samples / "hello.wav")).json()["text"] == HELLO


@pytest.mark.smoke
async def test_upload_that_fills_the_disk_is_refused_and_leaves_nothing(
    running: Running, disk: Path, tmp_path: Path
) -> None:
    large = tmp_path / "large.wav"
    await asyncio.to_thread(large.write_bytes, bytes(8_000_000))

    async def body() -> AsyncIterator[bytes]:
        """Yield a body whose length is unknown beforehand."""
        yield b'--b\r\nContent-Disposition: form-data; name="stored_output"\r\n\r\ntrue\r\n'
        yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
        for _ in range(80):
            yield bytes(100_000)
        yield b"\r\n--b--\r\n"

    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    check_refused(await running.client.post("/v1/audio/transcriptions", content=body(), headers=headers))
    check_refused(await running.transcribe(large, stored_output="true"))
    assert left_behind(disk) == []
    assert await jobs_of(running) == {}


async def test_almost_full_disk_accepts_or_refuses_a_whole_submission(
    running: Running, disk: Path, samples: Path, held: Held
) -> None:
    """The less space is left, the earlier it fails: at the file, at its folder, at the commit."""
    accepted, refused = [], 0
    size = (samples / "upload.ogg").stat().st_size
    for spare in range(0, 60_000, 4096):
        with filled(disk, leaving=size + spare):
            response = await running.transcribe(samples / "upload.ogg", stored_output="true", metadata='{"a": "b"}')
            if response.status_code == 200:
                accepted.append(response.json()["job_id"])
                await running.client.delete(f"/v1/jobs/{accepted[-1]}")
            else:
                check_refused(response)
                refused += 1
        assert set(await jobs_of(running)) == set(accepted)
        assert [name for name in left_behind(disk) if not any(job_id in name for job_id in accepted)] == []
    held.open.set()
    assert accepted
    assert refused


async def test_accepted_job_waits_for_space_for_its_audio_and_result(
    running: Running, disk: Path, samples: Path, held: Held, caplog: pytest.LogCaptureFixture
) -> None:
    async with fault_server(answer(200)) as receiver:
        first = await running.submit(samples / "hello.wav", upload_presigned_url=receiver.url("/first"))
        await running.until_progress(first, "Transcribing audio")  # decoded to PCM, held at the model
        second = await running.submit(samples / "numbers.mp3", upload_presigned_url=receiver.url("/second"))
        with filled(disk):
            held.open.set()
            for job_id in (first, second):
                message = f"Job {job_id}: the disk is full"
                await eventually(lambda message=message: message in caplog.text)  # type: ignore[misc]
        for job_id in (first, second):
            assert (await running.finished(job_id))["status"] == "completed"
    texts = {request.target: json.loads(request.body)["text"] for request in receiver.requests}
    assert texts["/first"] == HELLO
    assert texts.keys() == {"/first", "/second"}


async def test_download_waits_for_space(running: Running, disk: Path, samples: Path) -> None:
    audio = await asyncio.to_thread((samples / "hello.wav").read_bytes)
    async with fault_server(answer(200, audio)) as source:
        with filled(disk, leaving=70_000):
            job_id = await running.submit(s3_presigned_url=source.url("/a.wav"), stored_output="true")
            await source.came.wait()
            await asyncio.sleep(0.2)  # the file does not fit
            assert (await running.job(job_id))["status"] == "queued"
        assert (await running.finished(job_id))["status"] == "completed"
