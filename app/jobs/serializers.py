"""The JSON documents that are PUT to the user's URL."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from app.domain.formats import (
    Granularity,
    ResponseFormat,
    logprobs,
    render,
    segment_object,
    to_json,
    usage,
    word_object,
)
from app.domain.job import JobStatus

if TYPE_CHECKING:
    from app.domain.formats import Rendering
    from app.domain.job import Delivery, Job
    from app.domain.transcript import Transcript
    from app.jobs.estimate import Backlog, Estimate
    from app.jobs.retention import Retention
    from app.jobs.spool import Spool
    from app.jobs.store import Registry


def success_document(job: Job, transcript: Transcript, *, processing_time: float) -> dict[str, Any]:
    """What tells a program of a finished job. ``processing_time`` is in seconds."""
    document: dict[str, Any] = {
        "job_id": job.id,
        "status": "completed",
        "task": transcript.task.value,
        "language": transcript.written_language,
        "duration": transcript.duration,
        "text": transcript.text,
        "segments": [segment_object(segment) for segment in transcript.segments],
    }
    if Granularity.WORD in job.rendering.granularities:
        document["words"] = [word_object(word) for word in transcript.words]
    document["usage"] = usage(transcript)
    document.update(logprobs(transcript, job.rendering))
    document["model"] = job.model
    document["processing_time"] = round(processing_time, 3)
    return {**document, **extras(job)}


def failure_document(job: Job) -> dict[str, Any]:
    """What tells a program of a failed job; the same each time."""
    processing_time = max(0.0, (job.ended_at or 0.0) - job.started_at) if job.started_at else 0.0
    document: dict[str, Any] = {
        "job_id": job.id,
        "status": "failed",
        "error": job.error,
        "error_type": job.error_type,
        "processing_time": round(processing_time, 3),
    }
    return {**document, **extras(job)}


def extras(job: Job) -> dict[str, Any]:
    """What the client gave along, and what it should know; absent where there is nothing."""
    found: dict[str, Any] = {}
    if job.metadata is not None:
        found["metadata"] = dict(job.metadata)
    if job.warnings:
        found["warnings"] = list(job.warnings)
    return found


def stored_body(spool: Spool, job: Job, rendering: Rendering) -> bytes:
    """The stored result of a job in any format. Blocks."""
    transcript, processing_time = spool.result(job.id)
    return body(job, rendering, transcript, processing_time=processing_time)


def body(job: Job, rendering: Rendering, transcript: Transcript, *, processing_time: float) -> bytes:
    """The transcript in any format."""
    if rendering.format is ResponseFormat.DOCUMENT:
        return to_json(success_document(job, transcript, processing_time=processing_time))
    return render(transcript, rendering, extras=extras(job))


class JobViews:
    """Makes the JSON of jobs; knows what a job alone does not: its place in the line and how long it is kept."""

    def __init__(self, registry: Registry, retention: Retention, estimate: Estimate) -> None:
        self._registry = registry
        self._retention = retention
        self._estimate = estimate

    def one(self, job: Job) -> dict[str, Any]:
        return self.many((job,))[job.id]

    def many(self, jobs: tuple[Job, ...]) -> dict[str, dict[str, Any]]:
        under_way = self._registry.under_way() if any(job.is_active for job in jobs) else []
        waiting = (job.id for job in under_way if job.status is JobStatus.QUEUED)
        places = {job_id: place for place, job_id in enumerate(waiting, start=1)}
        backlog = self._estimate.backlog(_audio_left(job) for job in under_way)
        return {job.id: self._view(job, places, backlog) for job in jobs}

    def _view(self, job: Job, places: dict[str, int], backlog: Backlog) -> dict[str, Any]:
        now = time.time()
        view: dict[str, Any] = {
            "job_id": job.id,
            "status": job.status.value,
            "progress": job.progress.value,
            "progress_percent": job.progress_percent,
            "start_time": job.accepted_at,
            "elapsed_time": round(max(0.0, (job.ended_at or now) - job.accepted_at), 3),
            "end_time": job.ended_at,
            "queue_position": places.get(job.id),
            "eta_seconds": self._eta(job, places.get(job.id), backlog),
            "input_source": "file" if job.source_url is None else "url",
            "audio_duration": job.audio_duration,
            "language": job.language,
            "model": job.model,
            "attempts": job.attempts or None,
            "delivery": _delivery(job.delivery) if job.delivery else None,
            "webhook": _delivery(job.notification) if job.notification else None,
            "error": job.error,
            "error_type": job.error_type,
            "result_available": job.has_result,
            "result_expires_at": self._retention.expires_at(job) if job.has_result else None,
        }
        return {**{name: value for name, value in view.items() if value is not None}, **extras(job)}

    def _eta(self, job: Job, place: int | None, backlog: Backlog) -> float | None:
        """Seconds until the transcript is there: from the model's speed, or else from the line."""
        if not job.is_active or job.has_result:
            return None
        seconds = backlog.seconds_left(_audio_left(job))
        if seconds is None and place is not None:
            seconds = self._estimate.wait_seconds(place - 1)
        return None if seconds is None else round(seconds, 1)


def _audio_left(job: Job) -> float | None:
    """Seconds of audio that have not been transcribed; None where the length is not known yet."""
    return None if job.audio_duration is None else job.audio_duration * (1 - job.progress_percent / 100)


def _delivery(delivery: Delivery) -> dict[str, Any]:
    view: dict[str, Any] = {"status": delivery.status.value, "attempts": delivery.attempts}
    for name in ("next_attempt_at", "last_error", "expires_at"):
        if (value := getattr(delivery, name)) is not None:
            view[name] = value
    return view
