"""``/metrics``: the counts after all kinds of work, and access to them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from app import __version__
from tests.api.test_keys_and_limits import bearer
from tests.support.fault_server import answer, fault_server
from tests.support.service import Running, serving

if TYPE_CHECKING:
    from pathlib import Path

    from app.transcription.whisper import WhisperModel

pytestmark = [pytest.mark.anyio, pytest.mark.contract, pytest.mark.full(reason="starts a service for each test")]


class Page:
    """A page of metrics, parsed as Prometheus parses it."""

    def __init__(self, text: str) -> None:
        self.samples = {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    def value(self, name: str, **labels: str) -> float:
        return self.samples["transcription_" + name, tuple(sorted(labels.items()))]

    def names(self) -> set[str]:
        return {name for name, _ in self.samples}


async def page(running: Running) -> Page:
    response = await running.client.get("/metrics")
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    return Page(response.text)


@pytest.mark.smoke
async def test_work_is_counted_from_arrival_to_delivery(running: Running, samples: Path) -> None:
    before = await page(running)
    assert before.value("ended_total", kind="job", status="failed") == 0  # so that Prometheus sees the first increase
    assert (await running.transcribe(samples / "hello.wav")).status_code == 200
    async with fault_server(answer(200), answer(403)) as store:
        for status in ("completed", "failed"):
            job_id = await running.submit(samples / "report.m4a", upload_presigned_url=store.url())
            assert (await running.finished(job_id))["status"] == status
    async with fault_server(answer(200, (samples / "code.flac").read_bytes())) as source:
        job_id = await running.submit(s3_presigned_url=source.url(), stored_output="true")
        await running.until(job_id, "completed")
    await running.transcribe(samples / "references.json")
    await running.client.get("/v1/jobs/nothing")

    await running.until_metric("jobs", 2, status="completed")
    now = await page(running)

    sent = sum((samples / name).stat().st_size for name in ("hello.wav", "report.m4a", "report.m4a", "references.json"))
    assert now.value("ended_total", kind="request", status="completed") == 1
    assert now.value("ended_total", kind="request", status="failed") == 1
    assert now.value("ended_total", kind="job", status="completed") == 2
    assert now.value("ended_total", kind="job", status="failed") == 1
    assert now.value("jobs", status="completed") == 2
    assert now.value("jobs", status="queued") == 0
    assert now.value("received_bytes_total") == sent
    assert now.value("downloaded_bytes_total") == (samples / "code.flac").stat().st_size
    assert now.value("delivered_bytes_total") > 100
    assert now.value("attempts_total", transfer="upload", outcome="success") == 1
    assert now.value("attempts_total", transfer="upload", outcome="final_failure") == 1
    assert now.value("attempts_total", transfer="download", outcome="success") == 1
    assert now.value("deliveries_total", destination="upload", outcome="delivered") == 1
    assert now.value("deliveries_total", destination="upload", outcome="given_up") == 1
    assert now.value("queue_wait_seconds_count") == 4
    assert now.value("processing_seconds_count") == 4
    assert now.value("real_time_factor_count") == 4
    assert now.value("audio_seconds_total") == pytest.approx(5.22 + 2 * 4.93 + 5.06, abs=0.2)
    assert now.value("batch_windows_count") >= 3
    assert now.value("batch_fill_ratio_sum") <= now.value("batch_fill_ratio_count")
    assert now.value("model_errors_total", kind="error") == 0
    assert now.value("http_requests_total", route="/v1/audio/transcriptions", status="200") == 4
    assert now.value("http_requests_total", route="/v1/audio/transcriptions", status="400") == 1
    assert now.value("http_requests_total", route="/v1/jobs/{job_id}", status="404") == 1
    assert now.value("ready") == 1
    assert now.value("permits") == 3
    assert now.value("permits_held") == 0
    assert now.value("undelivered") == 0
    assert now.value("spool_bytes") == 0
    assert now.value("disk_free_bytes") > 1_000_000
    assert now.value("connections") >= 1
    assert now.value("build_info", version=__version__) == 1
    assert now.value("event_loop_lag_seconds_count") >= 1
    assert "process_resident_memory_bytes" in now.names()


async def test_transient_failures_and_webhooks_are_counted(tmp_path: Path, model: WhisperModel, samples: Path) -> None:
    settings: dict[str, Any] = {
        "url_allowed_hosts": "127.0.0.1",
        "webhook_secret": "whsec_" + "YWFh" * 10,
        "upload_max_attempts": 2,
    }
    async with (
        serving(tmp_path / "data", lambda: model, **settings) as running,
        fault_server(answer(503)) as store,
        fault_server(answer(204)) as receiver,
    ):
        job_id = await running.submit(
            samples / "hello.wav", upload_presigned_url=store.url(), webhook_url=receiver.url()
        )
        job = await running._until(job_id, lambda job: job["delivery"].get("next_attempt_at") is not None, 30)
        assert job["status"] == "processing"
        waiting = await page(running)
        assert waiting.value("attempts_total", transfer="upload", outcome="passing_failure") == 2
        assert waiting.value("deliveries_total", destination="upload", outcome="put_off") == 1
        assert waiting.value("undelivered") == 1
        await running.client.delete(f"/v1/jobs/{job_id}")
        await running.finished(job_id)
        ended = await page(running)
        assert ended.value("ended_total", kind="job", status="cancelled") == 1
        assert ended.value("attempts_total", transfer="webhook", outcome="success") == 1


async def test_metrics_key_is_separate_from_api_keys(tmp_path: Path, model: WhisperModel) -> None:
    async with serving(tmp_path / "data", lambda: model, api_keys="alpha", metrics_key="gamma") as running:
        for headers in ({}, bearer("alpha"), bearer("wrong")):
            rejected = await running.client.get("/metrics", headers=headers)
            assert rejected.status_code == 401
            assert "METRICS_KEY" in rejected.json()["error"]["message"]
        assert (await running.client.get("/metrics", headers=bearer("gamma"))).status_code == 200
        assert (await running.client.get("/v1/jobs", headers=bearer("gamma"))).status_code == 401


async def test_metrics_are_open_without_a_metrics_key(tmp_path: Path, model: WhisperModel) -> None:
    async with serving(tmp_path / "data", lambda: model, api_keys="alpha") as running:
        assert (await running.client.get("/metrics")).status_code == 200


@pytest.mark.smoke
async def test_unknown_paths_do_not_create_series(running: Running) -> None:
    for number in range(50):
        await running.client.get(f"/nothing/{number}")
        await running.client.get(f"/v1/jobs/{number}/events")
    metrics = await page(running)
    routes = {dict(labels)["route"] for name, labels in metrics.samples if name == "transcription_http_requests_total"}
    assert routes <= {"", "/health", "/health/ready", "/metrics", "/v1/jobs/{job_id}/events"}
