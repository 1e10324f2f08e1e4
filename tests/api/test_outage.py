"""Outages and restarts: an accepted job is finished and delivered in the end."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import time
from contextlib import asynccontextmanager, closing
from threading import Event
from typing import TYPE_CHECKING, Any, Final

import pytest

from app.delivery.attempts import Clock
from app.main import create_app
from app.settings import Settings
from tests.support.fault_server import answer, close_before_status, fault_server, never_answer, reset_before_status
from tests.support.service import serving
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from app.transcription.whisper import WhisperModel
    from tests.support.fault_server import Behaviour
    from tests.support.held_model import Held
    from tests.support.service import Running

pytestmark = [pytest.mark.anyio, pytest.mark.contract, pytest.mark.full(reason="starts a service for each test")]

HELLO: Final = "hello this is a test the job is complete now"
DOWN: Final[list[Behaviour]] = [answer(503), close_before_status(), reset_before_status()]


@asynccontextmanager
async def process(
    tmp_path: Path, model: WhisperModel, clock: Clock, *, later_seconds: float = 0.0, **changes: Any
) -> AsyncIterator[Running]:
    """Serve from the same folder as the process before, with a clock that is ``later_seconds`` ahead."""
    shifted = Clock(sleep=clock.sleep, now=lambda: time.time() + later_seconds, random=clock.random)
    settings = {"url_allowed_hosts": "127.0.0.1", **changes}
    async with serving(tmp_path / "data", lambda: model, clock=shifted, **settings) as running:
        yield running


def secrets_on_disk(folder: Path) -> bool:
    return any(b"secret-signature" in path.read_bytes() for path in folder.glob("journal.*"))


async def postponed(running: Running, job_id: str, *, attempts: int) -> dict[str, Any]:
    """Wait until the delivery has made ``attempts`` and its next round is scheduled, and return the job."""
    job: dict[str, Any] = {}

    async def waits() -> bool:
        job.update(await running.job(job_id))
        state = job.get("delivery", {})
        return state.get("attempts") == attempts and "next_attempt_at" in state

    await eventually(waits)
    return job


@pytest.mark.smoke
@pytest.mark.one_process(reason="looks at the journal")
async def test_result_is_delivered_after_an_outage_and_a_restart(
    tmp_path: Path, model: WhisperModel, samples: Path, clock: Clock
) -> None:
    async with fault_server(*DOWN, answer(200)) as target:
        async with process(tmp_path, model, clock) as running:
            job_id = await running.submit(
                samples / "hello.wav", upload_presigned_url=target.url("/key?secret-signature")
            )
            job = await postponed(running, job_id, attempts=3)
            assert (job["status"], job["progress"], job["result_available"]) == (
                "processing",
                "Uploading results",
                True,
            )
            assert job["delivery"]["status"] == "pending"
            assert job["delivery"]["last_error"].startswith("Connection closed before a response (attempt 3/3) to ")
            assert 20 <= job["delivery"]["next_attempt_at"] - time.time() <= 36
            assert not job.keys() & {"error", "end_time"}
            # The transcript is available meanwhile, and the delivery holds no GPU slot.
            assert (await running.client.get(f"/v1/jobs/{job_id}/result")).json()["text"] == HELLO
            health = (await running.client.get("/health")).json()["concurrency"]
            assert (health["processing"], health["active_transcriptions"]) == (1, 0)
            assert await asyncio.to_thread(secrets_on_disk, tmp_path / "data")
        async with process(tmp_path, model, clock, later_seconds=3600) as running:
            job = await running.finished(job_id)
            assert (job["status"], job.get("error")) == ("completed", None)
            assert job["delivery"] == {"status": "delivered", "attempts": 4}
        assert not await asyncio.to_thread(secrets_on_disk, tmp_path / "data")
    assert len({request.body for request in target.requests}) == 1
    assert json.loads(target.requests[0].body)["text"] == HELLO


async def test_interrupted_delivery_is_repeated_before_the_model_is_loaded(
    tmp_path: Path, model: WhisperModel, samples: Path, clock: Clock
) -> None:
    loaded = Event()

    def load() -> WhisperModel:
        loaded.wait(30)
        return model

    async with fault_server(never_answer(), answer(200)) as target:
        async with process(tmp_path, model, clock) as running:
            job_id = await running.submit(samples / "hello.wav", upload_presigned_url=target.url("/key"))
            await target.came.wait()
        async with serving(tmp_path / "data", load, wait_for_model=False, url_allowed_hosts="127.0.0.1") as running:
            try:
                job = await running.finished(job_id)
                assert job["status"] == "completed"
                assert (await running.client.get("/health/ready")).status_code == 503
            finally:
                loaded.set()
    first, second = target.requests
    assert first.body == second.body


async def test_running_and_queued_jobs_are_done_after_a_restart(
    tmp_path: Path, model: WhisperModel, samples: Path, clock: Clock, held: Held
) -> None:
    async with fault_server(answer(200)) as target:
        async with process(tmp_path, model, clock, max_concurrent_requests=1) as running:
            jobs = []
            for name in ("hello.wav", "numbers.mp3", "hello.wav"):
                jobs.append(await running.submit(samples / name, upload_presigned_url=target.url(f"/{name}")))
                await running.until(jobs[0], "processing")  # before the others, whose audio might be decoded first
            page = (await running.client.get("/v1/jobs")).json()["jobs"]
        held.open.set()
        async with process(tmp_path, model, clock) as running:
            found = [await running.finished(job_id) for job_id in jobs]
            assert [job["status"] for job in found] == ["completed"] * 3
            assert [job["attempts"] for job in found] == [1, 1, 1]  # an orderly shutdown does not count as a start
            again = (await running.client.get("/v1/jobs")).json()["jobs"]
            assert list(again) == list(page) == jobs[::-1]
            for job_id, job in again.items():
                assert job["start_time"] == page[job_id]["start_time"]
    assert sorted(json.loads(request.body)["job_id"] for request in target.requests) == sorted(jobs)


async def test_job_can_be_cancelled_during_an_outage(
    tmp_path: Path, model: WhisperModel, samples: Path, clock: Clock
) -> None:
    async with fault_server(*DOWN, answer(200)) as target:
        async with process(tmp_path, model, clock) as running:
            job_id = await running.submit(samples / "hello.wav", upload_presigned_url=target.url("/key"))
            await postponed(running, job_id, attempts=3)
            cancelled = (await running.client.delete(f"/v1/jobs/{job_id}")).json()
            assert cancelled["status"] == "cancelled"
            assert "next_attempt_at" not in cancelled["delivery"]
        async with process(tmp_path, model, clock, later_seconds=3600) as running:
            assert (await running.job(job_id))["status"] == "cancelled"
            assert target.connections == 3


async def test_replay_after_a_restart_returns_the_same_job(
    tmp_path: Path, model: WhisperModel, samples: Path, clock: Clock
) -> None:
    content = await asyncio.to_thread((samples / "hello.wav").read_bytes)

    async def send(running: Running, **fields: str) -> dict[str, Any]:
        response = await running.client.post(
            "/v1/audio/transcriptions",
            files={"file": ("hello.wav", content)},
            data={"stored_output": "true", **fields},
            headers={"Idempotency-Key": "one"},
        )
        return {"status": response.status_code, **response.json()}

    async with process(tmp_path, model, clock) as running:
        first = await send(running)
        await running.finished(first["job_id"])
    async with process(tmp_path, model, clock) as running:
        assert await send(running) == first
        other = await send(running, language="en")
        assert (other["status"], other["error"]["code"]) == (400, "idempotency_key_reused")
        assert (await running.client.get("/v1/jobs")).json()["total_jobs"] == 1


@pytest.mark.one_process(reason="looks at the journal")
async def test_unusable_journal_stops_the_service_and_loses_nothing(
    tmp_path: Path, model: WhisperModel, samples: Path, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    async with process(tmp_path, model, clock) as running:
        job_id = await running.submit(samples / "hello.wav", stored_output="true")
        await running.finished(job_id)

    def set_version(number: int) -> int:
        with closing(sqlite3.connect(tmp_path / "data" / "journal.sqlite3")) as connection:
            (before,) = connection.execute("PRAGMA user_version").fetchone()
            connection.execute(f"PRAGMA user_version={number}")
            return int(before)

    version = await asyncio.to_thread(set_version, 9)
    codes: list[int] = []
    app = create_app(Settings(data_dir=tmp_path / "data"), stop=codes.append, load_model=lambda _: (model,))
    async with app.router.lifespan_context(app):
        assert codes == [1]
    (critical,) = [record for record in caplog.records if record.levelname == "CRITICAL"]
    assert "was written by a later version of this service" in critical.getMessage()
    assert critical.exc_info is None
    await asyncio.to_thread(set_version, version)
    async with process(tmp_path, model, clock) as running:
        assert (await running.client.get(f"/v1/jobs/{job_id}/result")).json()["text"] == HELLO
