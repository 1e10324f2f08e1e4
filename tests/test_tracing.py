"""Traces: disabled by default, with a span for each job and step, and without secrets."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from app import tracing
from app.tracing import Traces, TracesUnavailable
from tests.support.fault_server import answer, fault_server
from tests.support.program import ROOT, program
from tests.support.service import serving

if TYPE_CHECKING:
    from pathlib import Path

    from app.transcription.whisper import WhisperModel

pytestmark = pytest.mark.full(reason="starts a service with OpenTelemetry for each test")

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.mark.parametrize(
    ("environment", "enabled"),
    [
        ({}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:4318/v1/traces"}, True),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, True),
        ({"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}, False),
        ({"OTEL_SDK_DISABLED": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, False),
    ],
)
@pytest.mark.smoke
def test_environment_enables_traces(environment: dict[str, str], *, enabled: bool) -> None:
    assert tracing.is_enabled(environment) is enabled


def test_sdk_is_not_imported_by_default() -> None:
    # The API can be imported: other libraries use it if it is installed.
    code = "import app.main, sys; sys.exit('opentelemetry.sdk' in sys.modules)"
    completed = subprocess.run([sys.executable, "-c", code], check=False, timeout=60, cwd=ROOT)
    assert completed.returncode == 0


def spans_by_name(exporter: InMemorySpanExporter) -> dict[str, Any]:
    return {span.name: span for span in exporter.get_finished_spans()}


@pytest.mark.anyio
@pytest.mark.smoke
async def test_job_and_steps_are_spans_of_the_clients_trace(tmp_path: Path, model: WhisperModel, samples: Path) -> None:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    async with serving(tmp_path / "data", lambda: model, url_allowed_hosts="127.0.0.1") as running:
        running.service.traces = Traces(provider)
        running.client.headers["traceparent"] = PARENT
        audio = (samples / "hello.wav").read_bytes()
        async with fault_server(answer(200, audio), answer(403)) as store:
            job_id = await running.submit(s3_presigned_url=store.url(), upload_presigned_url=store.url())
            await running.finished(job_id)
    spans = spans_by_name(exporter)
    root = spans["transcription"]
    assert format(root.context.trace_id, "032x") in PARENT
    assert format(root.parent.span_id, "016x") in PARENT
    assert root.attributes["transcription.job_id"] == job_id
    assert root.attributes["transcription.status"] == "failed"
    assert root.attributes["error.type"] == "DeliveryFailed"
    assert root.attributes["transcription.language"] == "english"
    for name in ("download", "transcribe", "upload"):
        assert spans[name].parent.span_id == root.context.span_id
        assert root.start_time <= spans[name].start_time <= spans[name].end_time <= root.end_time
    assert spans["upload"].status.status_code is StatusCode.ERROR
    assert spans["download"].status.status_code is StatusCode.UNSET
    assert "secret-signature" not in "".join(span.to_json() for span in exporter.get_finished_spans())


@pytest.mark.anyio
async def test_spans_of_ended_jobs_are_released(tmp_path: Path, model: WhisperModel, samples: Path) -> None:
    async with serving(tmp_path / "data", lambda: model) as running:
        traces = running.service.traces = Traces(TracerProvider())
        for _ in range(3):
            await running.transcribe(samples / "hello.wav")
            job_id = await running.submit(samples / "hello.wav", stored_output="true")
            await running.until(job_id, "completed")
        assert traces._spans == {}


@pytest.mark.anyio
@pytest.mark.full(reason="starts a process")
async def test_traces_are_exported_to_the_configured_endpoint(tmp_path: Path, samples: Path) -> None:
    async with fault_server(answer(200)) as collector:

        def work() -> None:
            with program(tmp_path, OTEL_EXPORTER_OTLP_ENDPOINT=collector.url("/")[:-1]) as running:
                running.until_ready()
                with (samples / "hello.wav").open("rb") as audio:
                    assert running.client.post("/v1/audio/transcriptions", files={"file": audio}).status_code == 200
                assert running.stop() == 0

        await asyncio.to_thread(work)
    (request,) = collector.requests
    assert (request.method, request.target) == ("POST", "/v1/traces")
    assert b"transcription" in request.body
    assert b"transcription-service" in request.body


@pytest.mark.smoke
def test_traces_without_opentelemetry_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(TracesUnavailable, match="OpenTelemetry is not installed"):
        tracing.open_traces()
