"""``webhook_url`` with the whole service: the events, and their verification by OpenAI's SDK."""

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

pytestmark = [pytest.mark.anyio, pytest.mark.contract, pytest.mark.full(reason="starts a service for each test")]

SECRET: Final = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYg=="
SETTINGS: Final[dict[str, Any]] = {"url_allowed_hosts": "127.0.0.1", "webhook_secret": SECRET}


@asynccontextmanager
async def serving_webhooks(tmp_path: Path, model: WhisperModel, **changes: Any) -> AsyncIterator[Running]:
    async with serving(tmp_path / "data", lambda: model, **SETTINGS | changes) as running:
        yield running


def verified(request: SeenRequest) -> dict[str, Any]:
    """Verify the request with OpenAI's SDK and return its event."""
    assert request.method == "POST"
    event = OpenAI(api_key="none", webhook_secret=SECRET).webhooks.unwrap(request.body, dict(request.headers))
    return event.to_dict()


async def event_of(running: Running, hook: FaultServer, job_id: str) -> dict[str, Any]:
    """Wait for the only event of a job, check that it holds the job, and return it."""
    await eventually(lambda: len(hook.requests) == 1)
    event = verified(hook.requests[0])
    await running.finished(job_id)
    job = await running.job(job_id)
    assert job.pop("webhook") == {"status": "delivered", "attempts": 1}
    assert event == {"type": f"job.{job['status']}", "data": job}
    assert len(hook.requests) == 1
    return event


@pytest.mark.smoke
async def test_webhook_alone_makes_a_job_and_gets_its_completion(
    tmp_path: Path, model: WhisperModel, samples: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with fault_server(answer(204)) as hook, serving_webhooks(tmp_path, model) as running:
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


async def test_failure_is_sent_to_the_webhook(tmp_path: Path, model: WhisperModel, samples: Path) -> None:
    async with fault_server(answer(200)) as hook, serving_webhooks(tmp_path, model) as running:
        job_id = await running.submit(samples / "references.json", webhook_url=hook.url("/hook"))
        event = await event_of(running, hook, job_id)
    assert event["type"] == "job.failed"
    assert (event["data"]["error_type"], event["data"]["result_available"]) == ("UndecodableAudio", False)


async def test_cancellation_is_sent_and_nothing_is_uploaded(
    tmp_path: Path, model: WhisperModel, samples: Path, held: Held
) -> None:
    async with (
        fault_server(answer(200)) as hook,
        fault_server(answer(200)) as target,
        serving_webhooks(tmp_path, model) as running,
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


async def test_event_follows_the_delivery_and_has_its_outcome(
    tmp_path: Path, model: WhisperModel, samples: Path, clock: Clock
) -> None:
    async with serving_webhooks(tmp_path, model, clock=clock) as running:
        for status, outcome in ((200, "delivered"), (403, "failed")):
            async with fault_server(answer(status)) as target, fault_server(answer(503), answer(200)) as hook:
                job_id = await running.submit(
                    samples / "hello.wav", webhook_url=hook.url("/hook"), upload_presigned_url=target.url("/key")
                )
                await running.finished(job_id)
                await eventually(lambda hook=hook: len(hook.requests) == 2)  # type: ignore[misc]  # mypy can't infer it
                assert target.connections == 1
            first, second = (verified(request) for request in hook.requests)
            assert first == second
            assert first["data"]["delivery"]["status"] == outcome
            assert first["data"]["result_available"]
            assert first["data"]["status"] == ("completed" if status == 200 else "failed")


@pytest.mark.smoke
async def test_unusable_webhook_is_rejected_at_submission(tmp_path: Path, model: WhisperModel, samples: Path) -> None:
    async with serving_webhooks(tmp_path, model) as running:
        for url in ("http://10.0.0.1/hook", "ftp://b.example/hook", "http://b.example/hook?token=secret", "hook"):
            rejected = await running.transcribe(samples / "hello.wav", webhook_url=url)
            assert (rejected.status_code, rejected.json()["error"]["param"]) == (400, "webhook_url")
            assert "secret" not in rejected.text
        assert (await running.client.get("/v1/jobs")).json()["total_jobs"] == 0
    async with serving_webhooks(tmp_path, model, webhook_secret=None) as running:
        rejected = await running.transcribe(samples / "hello.wav", webhook_url="https://b.example/hook")
        assert rejected.status_code == 400
        assert "has no WEBHOOK_SECRET" in rejected.json()["error"]["message"]


@pytest.mark.one_process(reason="the clock of a cluster is that of its database")
async def test_undelivered_event_is_repeated_after_a_restart(
    tmp_path: Path, model: WhisperModel, samples: Path, clock: Clock
) -> None:
    async with fault_server(*[answer(503)] * 3, answer(200)) as hook:
        async with serving_webhooks(tmp_path, model, clock=clock) as running:
            job_id = await running.submit(samples / "hello.wav", webhook_url=hook.url("/hook"))
            job = await running.finished(job_id)
            assert job["status"] == "completed"
            assert (job["webhook"]["status"], job["webhook"]["attempts"]) == ("pending", 3)
            assert job["webhook"]["last_error"].startswith("HTTP 503 (attempt 3/3) to ")
            assert job["webhook"]["next_attempt_at"] > time.time()
        later = Clock(sleep=clock.sleep, now=lambda: time.time() + 60, random=clock.random)
        async with serving_webhooks(tmp_path, model, clock=later) as running:
            await eventually(lambda: len(hook.requests) == 4)
            await running.finished(job_id)
            assert (await running.job(job_id))["webhook"] == {"status": "delivered", "attempts": 4}
    assert len({(request.headers["webhook-id"], request.body) for request in hook.requests}) == 1
    times = [int(request.headers["webhook-timestamp"]) for request in hook.requests]
    assert times[3] >= times[0] + 60
    for request in hook.requests:
        verified(request)
