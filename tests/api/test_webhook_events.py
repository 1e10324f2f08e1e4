"""``webhook_url`` over the whole service: what its receiver is told, and that OpenAI's SDK believes it."""

from __future__ import annotations

import json
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

import pytest
from openai import OpenAI

from app.delivery.attempts import Clock
from tests.support.fault_server import answer, fault_server
from tests.support.service import serving
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from app.transcription.whisper import WhisperModel
    from tests.support.fault_server import FaultServer, SeenRequest
    from tests.support.held_model import Held
    from tests.support.service import Running

pytestmark = pytest.mark.anyio

SECRET: Final = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYg=="
SETTINGS: Final[dict[str, Any]] = {"url_allowed_hosts": "127.0.0.1", "webhook_secret": SECRET}


@asynccontextmanager
async def telling(tmp_path: Path, model: WhisperModel, **changes: Any) -> AsyncIterator[Running]:
    async with serving(tmp_path / "data", lambda: model, **SETTINGS | changes) as running:
        yield running


def believed(request: SeenRequest) -> dict[str, Any]:
    """The event, as a program reads it that uses OpenAI's SDK."""
    assert request.method == "POST"
    event = OpenAI(api_key="none", webhook_secret=SECRET).webhooks.unwrap(request.body, dict(request.headers))
    return event.to_dict()


async def event_of(running: Running, hook: FaultServer, job_id: str) -> dict[str, Any]:
    """The one event that is told of a job, which is the job as anybody sees it."""
    await eventually(lambda: len(hook.requests) == 1)
    event = believed(hook.requests[0])
    await running.finished(job_id)
    job = await running.job(job_id)
    assert job.pop("webhook") == {"status": "delivered", "attempts": 1}
    assert event == {"type": f"job.{job['status']}", "data": job}
    assert len(hook.requests) == 1
    return event


async def test_webhook_alone_makes_a_job_whose_completion_is_told(
    tmp_path: Path, model: WhisperModel, samples: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with fault_server(answer(204)) as hook, telling(tmp_path, model) as running:
        accepted = await running.transcribe(
            samples / "hello.wav", webhook_url=hook.url("/hook?token=secret-token"), metadata='{"call": "Grüße 😀"}'
        )
        assert accepted.status_code == 200
        assert accepted.json()["status"] == "in_progress"
        job_id = accepted.json()["job_id"]
        event = await event_of(running, hook, job_id)
        assert event["type"] == "job.completed"
        assert event["data"]["metadata"] == {"call": "Grüße 😀"}
        assert event["data"]["result_available"]
        assert "delivery" not in event["data"]
        assert (await running.client.get(f"/v1/jobs/{job_id}/result")).json()["text"].startswith("hello")
        assert "secret-token" not in json.dumps(await running.job(job_id))
    assert hook.requests[0].target == "/hook?token=secret-token"
    assert "secret-token" not in caplog.text


async def test_failure_is_told(tmp_path: Path, model: WhisperModel, samples: Path) -> None:
    async with fault_server(answer(200)) as hook, telling(tmp_path, model) as running:
        job_id = await running.submit(samples / "references.json", webhook_url=hook.url("/hook"))
        event = await event_of(running, hook, job_id)
    assert event["type"] == "job.failed"
    assert (event["data"]["error_type"], event["data"]["result_available"]) == ("UndecodableAudio", False)


async def test_cancellation_is_told_and_nothing_is_put(
    tmp_path: Path, model: WhisperModel, samples: Path, held: Held
) -> None:
    async with (
        fault_server(answer(200)) as hook,
        fault_server(answer(200)) as target,
        telling(tmp_path, model) as running,
    ):
        job_id = await running.submit(
            samples / "hello.wav", webhook_url=hook.url("/hook"), upload_presigned_url=target.url("/key")
        )
        cancelled = (await running.client.delete(f"/v1/jobs/{job_id}")).json()
        held.open.set()
        event = await event_of(running, hook, job_id)
        assert cancelled["status"] == "cancelled"
    assert event["type"] == "job.cancelled"
    assert event["data"]["delivery"] == {"status": "failed", "attempts": 0, "last_error": "The job was cancelled."}
    assert target.connections == 0


async def test_end_is_told_after_the_delivery_and_says_how_it_went(
    tmp_path: Path, model: WhisperModel, samples: Path, clock: Clock
) -> None:
    async with telling(tmp_path, model, clock=clock) as running:
        for status, told in ((200, "delivered"), (403, "failed")):
            async with fault_server(answer(status)) as target, fault_server(answer(503), answer(200)) as hook:
                job_id = await running.submit(
                    samples / "hello.wav", webhook_url=hook.url("/hook"), upload_presigned_url=target.url("/key")
                )
                await running.finished(job_id)
                await eventually(lambda hook=hook: len(hook.requests) == 2)  # type: ignore[misc]  # mypy can't infer it
                assert target.connections == 1
            first, second = (believed(request) for request in hook.requests)
            assert first == second
            assert first["data"]["delivery"]["status"] == told
            assert first["data"]["result_available"]
            assert first["data"]["status"] == ("completed" if status == 200 else "failed")


async def test_webhook_that_can_not_be_told_is_refused_at_submission(
    tmp_path: Path, model: WhisperModel, samples: Path
) -> None:
    async with telling(tmp_path, model) as running:
        for url in ("http://10.0.0.1/hook", "ftp://b.example/hook", "http://b.example/hook?token=secret", "hook"):
            refused = await running.transcribe(samples / "hello.wav", webhook_url=url)
            assert (refused.status_code, refused.json()["error"]["param"]) == (400, "webhook_url")
            assert "secret" not in refused.text
        assert (await running.client.get("/v1/jobs")).json()["total_jobs"] == 0
    async with telling(tmp_path, model, webhook_secret=None) as running:
        refused = await running.transcribe(samples / "hello.wav", webhook_url="https://b.example/hook")
        assert refused.status_code == 400
        assert "have WEBHOOK_SECRET set" in refused.json()["error"]["message"]


async def test_event_that_was_not_heard_is_told_by_the_next_process_with_its_id_and_body(
    tmp_path: Path, model: WhisperModel, samples: Path, clock: Clock
) -> None:
    async with fault_server(*[answer(503)] * 3, answer(200)) as hook:
        async with telling(tmp_path, model, clock=clock) as running:
            job_id = await running.submit(samples / "hello.wav", webhook_url=hook.url("/hook"))
            job = await running.finished(job_id)
            assert job["status"] == "completed"
            assert (job["webhook"]["status"], job["webhook"]["attempts"]) == ("pending", 3)
            assert job["webhook"]["last_error"].startswith("HTTP 503 (attempt 3/3) to ")
            assert job["webhook"]["next_attempt_at"] > time.time()
        later = Clock(sleep=clock.sleep, now=lambda: time.time() + 60, random=clock.random)
        async with telling(tmp_path, model, clock=later) as running:
            await eventually(lambda: len(hook.requests) == 4)
            await running.finished(job_id)
            assert (await running.job(job_id))["webhook"] == {"status": "delivered", "attempts": 4}
    assert len({(request.headers["webhook-id"], request.body) for request in hook.requests}) == 1
    times = [int(request.headers["webhook-timestamp"]) for request in hook.requests]
    assert times[3] >= times[0] + 60
    for request in hook.requests:
        believed(request)
