"""The death of the transcription engine, as clients and process supervisors see it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.support.fault_server import answer, fault_server
from tests.support.service import serving
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from pathlib import Path

    from app.transcription.whisper import WhisperModel

pytestmark = pytest.mark.anyio


def _broken() -> None:
    raise ZeroDivisionError


async def test_dead_engine_fails_its_requests_and_stops_the_process(
    tmp_path: Path, model: WhisperModel, samples: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(tmp_path / "data", lambda: model) as running:
        engine = running.service.pool._models["demo"].engine
        assert engine is not None
        engine._batcher.scheduler.next_batch = _broken  # type: ignore[method-assign]
        response = await running.transcribe(samples / "hello.wav")
        assert (response.status_code, response.headers["retry-after"]) == (503, "10")
        assert "the server is restarting: send the file again" in response.json()["error"]["message"]
        await eventually(lambda: running.server.exit_code == 70)
        transport = httpx.ASGITransport(app=running.server.config.app)  # type: ignore[arg-type]
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            assert (await client.get("/health")).json()["status"] == "failing"
            assert (await client.get("/health/ready")).status_code == 503
    assert "ZeroDivisionError" in caplog.text


@pytest.mark.full(reason="takes more than a second")
async def test_jobs_of_a_dead_engine_are_done_after_a_restart(
    tmp_path: Path, model: WhisperModel, samples: Path
) -> None:
    async with fault_server(answer(200)) as receiver:
        async with serving(tmp_path / "data", lambda: model, url_allowed_hosts="127.0.0.1") as running:
            engine = running.service.pool._models["demo"].engine
            assert engine is not None
            engine._batcher.scheduler.next_batch = _broken  # type: ignore[method-assign]
            job_id = await running.submit(samples / "hello.wav", upload_presigned_url=receiver.url("/key"))
            await eventually(lambda: running.server.exit_code == 70)
            await eventually(lambda: not running.service.jobs.runner.is_running(job_id))
            job = running.service.jobs.store.get(job_id).job
            assert (job.is_active, job.error) == (True, None)
        assert receiver.connections == 0
        async with serving(tmp_path / "data", lambda: model, url_allowed_hosts="127.0.0.1") as running:
            done = await running.finished(job_id)
            assert (done["status"], done["attempts"]) == ("completed", 2)
    (put,) = receiver.requests
    assert json.loads(put.body)["text"] == "hello this is a test the job is complete now"


async def test_model_error_fails_only_its_own_job(
    tmp_path: Path, model: WhisperModel, samples: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decode = model.decode

    def failing(windows):  # type: ignore[no-untyped-def]
        if any(window.frames < 450 for window in windows):
            raise RuntimeError("cuBLAS")
        return decode(windows)

    async with serving(tmp_path / "data", lambda: model) as running:
        monkeypatch.setattr(model, "decode", failing)
        bad = await running.submit(samples / "meeting_44k_stereo.wav", stored_output="true")
        good = await running.submit(samples / "hello.wav", stored_output="true")
        assert (await running.finished(good))["status"] == "completed"
        job = await running.finished(bad)
        assert (job["status"], job["error"]) == ("failed", "cuBLAS")
        assert (await running.client.get("/health/ready")).status_code == 200
