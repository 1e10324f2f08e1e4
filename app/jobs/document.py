"""The JSON documents that are PUT to the user's URL."""

from __future__ import annotations

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

if TYPE_CHECKING:
    from app.domain.formats import Rendering
    from app.domain.job import Job
    from app.domain.transcript import Transcript
    from app.jobs.spool import Spool


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
