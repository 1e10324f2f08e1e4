"""OpenTelemetry traces, enabled by its standard environment variables. Nothing is imported unless they are.

A job is a span from its acceptance to its end; its steps are child spans. A ``traceparent`` header of the request makes
the job part of the client's trace. Source: the OpenTelemetry specification, "Environment Variable Specification".
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any, Final

from app import __version__
from app.domain.errors import ServiceError
from app.domain.events import JobAccepted, JobEnded, JobForgotten, StepEnded

if TYPE_CHECKING:
    from collections.abc import Mapping

    from app.domain.events import Event
    from app.domain.job import Job

_ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_NANOSECONDS: Final = 1_000_000_000


class TracesUnavailable(ServiceError):
    """Traces are enabled but OpenTelemetry is not installed."""


def is_enabled(environment: Mapping[str, str] = os.environ) -> bool:
    """Return whether ``environment`` enables traces."""
    if environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    exporter = environment.get("OTEL_TRACES_EXPORTER", "").strip().lower()
    if exporter:
        return exporter == "otlp"
    return any(environment.get(name) for name in _ENDPOINTS)


def open_traces() -> Traces:
    """Return traces that are exported to the endpoint named in the environment.

    Raises:
        TracesUnavailable: OpenTelemetry is not installed.
    """
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as exc:
        raise TracesUnavailable(
            "OTEL_ variables enable traces, but OpenTelemetry is not installed: start the service with "
            "./start_server.sh, which then installs requirements/otel.lock, or unset the variables."
        ) from exc
    defaults = Resource({SERVICE_NAME: "transcription-service", SERVICE_VERSION: __version__})
    provider = TracerProvider(
        resource=defaults.merge(Resource.create()) if _is_named() else Resource.create().merge(defaults)
    )
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return Traces(provider)


def _is_named() -> bool:
    """Return whether the environment names the service."""
    return bool(os.environ.get("OTEL_SERVICE_NAME")) or "service.name=" in os.environ.get(
        "OTEL_RESOURCE_ATTRIBUTES", ""
    )


class Traces:
    """An event sink that records jobs and their steps as spans. ``provider`` is a TracerProvider of the SDK."""

    def __init__(self, provider: Any) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("transcription-service", __version__)
        self._spans: dict[str, Any] = {}

    def __call__(self, event: Event) -> None:
        """Record ``event``."""
        match event:
            case JobAccepted(job, context):
                self._begin(job, context)
            case StepEnded():
                self._add_step(event)
            case JobEnded(job):
                self._end(job)
            case JobForgotten(job_id):
                self._finish(self._spans.pop(job_id, None), time.time())
            case _:
                pass

    def close(self) -> None:
        """Export the remaining spans. Blocks until the exporter is done."""
        for job_id in list(self._spans):
            self._finish(self._spans.pop(job_id), time.time())
        self._provider.shutdown()

    def _begin(self, job: Job, context: Mapping[str, str]) -> None:
        from opentelemetry.trace import SpanKind
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._spans[job.id] = self._tracer.start_span(
            "transcription",
            context=TraceContextTextMapPropagator().extract(dict(context)),
            kind=SpanKind.SERVER,
            start_time=_nanoseconds(job.accepted_at),
            attributes={
                "transcription.job_id": job.id,
                "transcription.model": job.model,
                "transcription.task": job.options.task.value,
                "transcription.synchronous": job.synchronous,
            },
        )

    def _add_step(self, step: StepEnded) -> None:
        from opentelemetry.trace import set_span_in_context

        parent = self._spans.get(step.job_id)
        if parent is None:  # the job was accepted by an earlier process, or has ended
            return
        span = self._tracer.start_span(
            step.name, context=set_span_in_context(parent), start_time=_nanoseconds(step.started_at)
        )
        _set_error(span, step.error)
        self._finish(span, step.started_at + step.seconds)

    def _end(self, job: Job) -> None:
        span = self._spans.pop(job.id, None)
        if span is None:
            return
        span.set_attribute("transcription.status", job.status.value)
        span.set_attribute("transcription.attempts", job.starts)
        if job.audio_duration is not None:
            span.set_attribute("transcription.audio_seconds", job.audio_duration)
        if job.language is not None:
            span.set_attribute("transcription.language", job.language)
        _set_error(span, job.error_type)
        self._finish(span, job.ended_at or time.time())

    def _finish(self, span: Any, at: float) -> None:
        if span is not None:
            span.end(end_time=_nanoseconds(at))


def _set_error(span: Any, error: str | None) -> None:
    """Mark ``span`` as failed with the class of an error. Its message could hold a secret."""
    if error is None:
        return
    from opentelemetry.trace import Status, StatusCode

    span.set_attribute("error.type", error)
    span.set_status(Status(StatusCode.ERROR))


def _nanoseconds(seconds: float) -> int:
    return round(seconds * _NANOSECONDS)
