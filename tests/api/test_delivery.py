"""The delivery of a job's result to receivers that fail in every possible way."""

from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING, Any

import pytest

from app.delivery.attempts import Clock
from app.domain.transcript import Task, Transcript
from tests.support.fake_transcriber import a_segment
from tests.support.fault_server import (
    answer,
    close_before_status,
    drip_status,
    fault_server,
    full_backlog,
    never_answer,
    never_read,
    reset_while_receiving,
)
from tests.support.service import serving
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from local_s3 import LocalS3

    from app.transcription.whisper import WhisperModel
    from tests.support.fault_server import Behaviour
    from tests.support.held_model import Held
    from tests.support.service import Running

pytestmark = [pytest.mark.anyio, pytest.mark.contract, pytest.mark.full(reason="starts a service for each test")]

SETTINGS: dict[str, Any] = {"url_allowed_hosts": "127.0.0.1"}
#: For timeouts; on a busy machine any attempt can take longer.
HASTY: dict[str, Any] = {**SETTINGS, "upload_timeout_seconds": 0.6}
#: Without further rounds after a transient failure.
ONE_ROUND: dict[str, Any] = {"delivery_max_age_seconds": 0}


async def _do_not_sleep(_: float) -> None:
    pass


@pytest.fixture(scope="module")
async def one_round(tmp_path_factory: pytest.TempPathFactory, model: WhisperModel) -> AsyncIterator[Running]:
    """A service for deliveries that fail within one round."""
    clock, settings = Clock(sleep=_do_not_sleep), {**SETTINGS, **ONE_ROUND}
    async with serving(tmp_path_factory.mktemp("data"), lambda: model, clock=clock, **settings) as running:
        yield running


@pytest.fixture(scope="module")
async def hasty(tmp_path_factory: pytest.TempPathFactory, model: WhisperModel) -> AsyncIterator[Running]:
    """The same with short timeouts."""
    clock, settings = Clock(sleep=_do_not_sleep), {**HASTY, **ONE_ROUND}
    async with serving(tmp_path_factory.mktemp("data"), lambda: model, clock=clock, **settings) as running:
        yield running


async def delivered(running: Running, samples: Path, url: str, **fields: str) -> dict[str, Any]:
    """Submit a job, wait for the end of its delivery to ``url`` and return it."""
    fields = {"upload_presigned_url": url, **fields}
    return await running.finished(await running.submit(samples / "hello.wav", **fields))


@pytest.mark.parametrize(
    ("behaviours", "attempts", "cause"),
    [
        ([answer(503)], 3, "HTTP 503 (attempt 3/3)"),
        ([answer(500, b"<Error><Code>InternalError</Code></Error>")], 3, "HTTP 500 InternalError (attempt 3/3)"),
        ([answer(400, b"<Error><Code>RequestTimeout</Code></Error>")], 3, "HTTP 400 RequestTimeout (attempt 3/3)"),
        ([answer(307, Location="http://127.0.0.1:1/elsewhere")], 3, "HTTP 307 (attempt 3/3)"),
        ([answer(403, b"<Error><Code>AccessDenied</Code></Error>")], 1, "HTTP 403 AccessDenied (attempt 1/3)"),
        ([answer(301, Location="http://127.0.0.1:1/elsewhere")], 1, "HTTP 301 (attempt 1/3)"),
        ([answer(400, b"<Error><Code>EntityTooLarge</Code></Error>")], 1, "HTTP 400 EntityTooLarge (attempt 1/3)"),
        ([answer(429, Retry_After="3600")], 1, "HTTP 429 (attempt 1/3)"),
        ([never_answer()], 3, "Read timeout after 0.6s (attempt 3/3)"),
        ([drip_status(seconds_between=0.05)], 3, "Total timeout after 0.6s (attempt 3/3)"),
        ([close_before_status()], 3, "Connection closed before a response (attempt 3/3)"),
        ([reset_while_receiving(100)], 3, "Connection closed before a response (attempt 3/3)"),
    ],
)
@pytest.mark.full(reason="waits for every kind of failure")
@pytest.mark.smoke
async def test_failed_delivery_has_its_exact_cause(
    one_round: Running,
    hasty: Running,
    samples: Path,
    request: pytest.FixtureRequest,
    behaviours: list[Behaviour],
    attempts: int,
    cause: str,
) -> None:
    if "Total timeout" not in cause:
        request.getfixturevalue("late_deadline")
    running = hasty if "timeout after" in cause else one_round
    async with fault_server(*behaviours) as receiver:
        job = await delivered(running, samples, receiver.url("/bucket/key") + "?X-Amz-Signature=secret")
        assert (job["status"], job["error_type"]) == ("failed", "DeliveryFailed")
        assert job["error"] == f"{cause} to {receiver.url('/bucket/key')}"
        assert job["delivery"]["status"] == "failed"
        assert job["delivery"]["attempts"] == attempts
        assert job["delivery"]["last_error"] == job["error"]
        assert "next_attempt_at" not in job["delivery"]
        assert receiver.connections == attempts
        assert "secret" not in json.dumps(job)


@pytest.mark.parametrize(
    ("behaviour", "attempts", "cause", "wait"),
    [
        (answer(503), 3, "HTTP 503 (attempt 3/3)", 30.0),
        (answer(500, b"<Error><Code>InternalError</Code></Error>"), 3, "HTTP 500 InternalError (attempt 3/3)", 30.0),
        (answer(429, Retry_After="3600"), 1, "HTTP 429 (attempt 1/3)", 3600.0),
        (never_answer(), 3, "Read timeout after 0.6s (attempt 3/3)", 30.0),
        (close_before_status(), 3, "Connection closed before a response (attempt 3/3)", 30.0),
    ],
)
@pytest.mark.usefixtures("late_deadline")
async def test_transient_failure_keeps_the_job_processing_with_its_next_attempt(
    tmp_path: Path,
    model: WhisperModel,
    samples: Path,
    clock: Clock,
    behaviour: Behaviour,
    attempts: int,
    cause: str,
    wait: float,
) -> None:
    settings = HASTY if "timeout after" in cause else SETTINGS
    async with (
        fault_server(behaviour) as receiver,
        serving(tmp_path / "data", lambda: model, clock=clock, **settings) as running,
    ):
        url = receiver.url("/bucket/key?X-Amz-Signature=secret")
        job_id = await running.submit(samples / "hello.wav", upload_presigned_url=url)
        job = await postponed(running, job_id)
        assert (job["status"], job["progress"], job["progress_percent"]) == ("processing", "Uploading results", 100.0)
        assert job["result_available"]
        assert job.keys().isdisjoint({"error", "error_type", "end_time", "eta_seconds"})
        next_attempt_at = job["delivery"].pop("next_attempt_at")
        assert next_attempt_at == pytest.approx(time.time() + wait, abs=10)
        assert job["delivery"] == {
            "status": "pending",
            "attempts": attempts,
            "last_error": f"{cause} to {receiver.url('/bucket/key')}",
        }
        assert receiver.connections == attempts
        assert "secret" not in json.dumps(job)
        assert running.service.jobs.deliveries.running == 0


async def postponed(running: Running, job_id: str) -> dict[str, Any]:
    """Wait until the next round is scheduled and return the job."""
    await eventually(lambda: _is_postponed(running, job_id))
    return await running.job(job_id)


async def _is_postponed(running: Running, job_id: str) -> bool:
    return "next_attempt_at" in (await running.job(job_id))["delivery"]


@pytest.mark.parametrize(
    ("behaviours", "waited"),
    [
        ([answer(503), answer(200)], [2.0]),
        ([answer(503), answer(502), answer(204)], [2.0, 4.0]),
        ([answer(429, Retry_After="7"), answer(200)], [7.0]),
        ([close_before_status(), answer(201)], [2.0]),
    ],
)
@pytest.mark.smoke
async def test_transient_failure_is_retried_until_it_succeeds(
    tmp_path: Path,
    model: WhisperModel,
    samples: Path,
    clock: Clock,
    waits: list[float],
    behaviours: list[Behaviour],
    waited: list[float],
) -> None:
    async with (
        fault_server(*behaviours) as receiver,
        serving(tmp_path / "data", lambda: model, clock=clock, **SETTINGS) as running,
    ):
        job = await delivered(running, samples, receiver.url("/bucket/key"))
        assert job["status"] == "completed"
        assert job["delivery"] == {"status": "delivered", "attempts": len(behaviours)}
        assert waits == pytest.approx(waited)
        assert len({request.body for request in receiver.requests}) == 1


@pytest.mark.usefixtures("late_deadline")
async def test_host_that_accepts_no_connection_is_a_connection_timeout(
    tmp_path: Path, model: WhisperModel, samples: Path, clock: Clock
) -> None:
    with full_backlog() as port:
        settings = {**SETTINGS, **ONE_ROUND, "upload_connect_timeout_seconds": 0.4}
        async with serving(tmp_path / "data", lambda: model, clock=clock, **settings) as running:
            job = await delivered(running, samples, f"http://127.0.0.1:{port}/bucket/key")
    assert job["error"] == f"Connection timeout after 0.4s (attempt 3/3) to http://127.0.0.1:{port}/bucket/key"


@pytest.mark.one_process(reason="replaces the result in the spool, which a job of a cluster knows by its name")
@pytest.mark.usefixtures("late_deadline")
async def test_receiver_that_reads_nothing_is_a_write_timeout(
    tmp_path: Path, model: WhisperModel, samples: Path, clock: Clock
) -> None:
    """The transcript is large enough to fill all buffers in between."""
    long = a_segment(0, "x" * 30_000_000, start=0.0, end=1.0)
    transcript = Transcript(task=Task.TRANSCRIBE, language="english", duration=1.0, segments=(long,))
    async with (
        fault_server(never_read()) as receiver,
        serving(tmp_path / "data", lambda: model, clock=clock, **HASTY, **ONE_ROUND) as running,
    ):
        job_id = await running.submit(samples / "hello.wav", stored_output="true")
        await running.finished(job_id)
        await asyncio.to_thread(running.service.jobs.spool.store_result, job_id, transcript, processing_time=1.0)
        url = receiver.url("/bucket/key")
        await running.client.post(f"/v1/jobs/{job_id}/redeliver", json={"upload_presigned_url": url})
        job = await running.finished(job_id)
        assert job["error"] == f"Write timeout after 0.6s (attempt 3/3) to {url}"


async def test_untrusted_certificate_is_a_final_failure(
    tmp_path: Path, model: WhisperModel, samples: Path, clock: Clock
) -> None:
    trustme = pytest.importorskip("trustme")
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    async with (
        fault_server(answer(200), ssl_context=context) as receiver,
        serving(tmp_path / "data", lambda: model, clock=clock, **SETTINGS) as running,
    ):
        job = await delivered(running, samples, receiver.url("/bucket/key").replace("http:", "https:"))
    assert job["error"].startswith("Certificate verification failed")
    assert "(attempt 1/3)" in job["error"]


async def test_name_of_a_private_address_is_rejected(
    tmp_path: Path, model: WhisperModel, samples: Path, clock: Clock
) -> None:
    async with serving(tmp_path / "data", lambda: model, clock=clock) as running:
        response = await running.transcribe(samples / "hello.wav", upload_presigned_url="https://localhost/key")
        assert response.status_code == 400
        assert "URL_ALLOWED_HOSTS" in response.json()["error"]["message"]


async def test_slow_receivers_hold_no_slot(tmp_path: Path, model: WhisperModel, samples: Path, clock: Clock) -> None:
    settings: dict[str, Any] = {**SETTINGS, "upload_timeout_seconds": 20, "max_concurrent_requests": 1}
    async with (
        fault_server(never_answer()) as receiver,
        serving(tmp_path / "data", lambda: model, clock=clock, **settings) as running,
    ):
        slow = [await running.submit(samples / "hello.wav", upload_presigned_url=receiver.url("/k")) for _ in range(3)]
        for job_id in slow:
            await running.until_progress(job_id, "Uploading results")
        assert running.service.pool.active == 0
        await running.until_metric("jobs", 3, status="processing")
        health = (await running.client.get("/health")).json()["concurrency"]
        assert (health["processing"], health["active_transcriptions"]) == (3, 0)
        assert (await running.transcribe(samples / "hello.wav")).status_code == 200
        for job_id in slow:
            await running.client.delete(f"/v1/jobs/{job_id}")


async def test_real_store_rejects_a_tampered_url(shared: Running, store: LocalS3, samples: Path) -> None:
    url = store.presign_put("results", "mine.json").replace("mine.json", "yours.json")
    job = await delivered(shared, samples, url)
    assert job["error"] == f"HTTP 403 SignatureDoesNotMatch (attempt 1/3) to {store.endpoint}/results/yours.json"


async def test_real_store_rejects_a_url_signed_for_get(shared: Running, store: LocalS3, samples: Path) -> None:
    job = await delivered(shared, samples, store.presign_get("results", "mine.json"))
    assert job["error"].startswith("HTTP 403 SignatureDoesNotMatch (attempt 1/3)")


async def test_real_store_accepts_a_signed_content_type(shared: Running, store: LocalS3, samples: Path) -> None:
    url = store.presign_put("results", "typed.json", ContentType="application/json")
    assert (await delivered(shared, samples, url))["status"] == "completed"
    own = store.presign_put("results", "own.json", ContentType="application/x-transcript")
    headers = '{"Content-Type": "application/x-transcript"}'
    assert (await delivered(shared, samples, own, upload_headers=headers))["status"] == "completed"


async def test_url_that_expires_in_the_queue_is_not_attempted(
    shared: Running, store: LocalS3, samples: Path, held: Held
) -> None:
    url = store.presign_put("results", "late.json", expires_in=4)
    job_id = await shared.submit(samples / "hello.wav", upload_presigned_url=url)
    expires_at = (await shared.job(job_id))["delivery"]["expires_at"]
    await eventually(lambda: time.time() > expires_at)
    held.open.set()
    job = await shared.finished(job_id)
    assert (job["status"], job["error_type"], job["result_available"]) == ("failed", "DeliveryFailed", True)
    assert job["error"].startswith("upload_presigned_url expired at ")
    assert job["error"].endswith(": sign a new URL that is valid for longer.")
    assert job["delivery"] == {
        "status": "failed",
        "attempts": 0,
        "last_error": job["error"],
        "expires_at": expires_at,
    }
    late = await shared.transcribe(samples / "hello.wav", upload_presigned_url=url)
    assert late.status_code == 400
    assert "expired" in late.json()["error"]["message"]
