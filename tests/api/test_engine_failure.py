"""What clients and supervisors see when the transcription engine itself dies."""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpx
import pytest

from tests.support.service import serving
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from pathlib import Path

    from app.transcription.whisper import WhisperModel

pytestmark = pytest.mark.anyio


def _broken() -> None:
    raise ZeroDivisionError


async def test_dead_engine_fails_its_requests_turns_red_and_ends_the_process_with_70(
    tmp_path: Path, model: WhisperModel, samples: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(tmp_path / "data", lambda: model) as running:
        engine = running.service.pool._places["demo"].engine
        assert engine is not None
        engine._batcher.scheduler.next_step = _broken  # type: ignore[method-assign]
        answer = await running.transcribe(samples / "hello.wav")
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "10")
        assert "the server restarts: send the file again" in answer.json()["error"]["message"]
        await eventually(lambda: running.server.exit_code == 70)
        transport = httpx.ASGITransport(app=running.server.config.app)  # type: ignore[arg-type]
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as directly:
            assert (await directly.get("/health")).json()["status"] == "failing"
            assert (await directly.get("/health/ready")).status_code == 503
    assert "ZeroDivisionError" in caplog.text


async def test_model_that_raises_fails_only_what_it_raised_at(
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
