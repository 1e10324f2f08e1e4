"""Jobs and transcripts as the JSON documents that clients receive."""

from __future__ import annotations

import json
from itertools import repeat
from typing import TYPE_CHECKING, Any, Final

from pydantic import ConfigDict, TypeAdapter

from app.domain.formats import (
    Granularity,
    ResponseFormat,
    languages,
    logprobs,
    placed_words,
    render,
    segment_object,
    usage,
    utterances,
)
from app.domain.job import DeliveryKind, JobStatus

if TYPE_CHECKING:
    from collections.abc import Sequence

    from app.domain.formats import Rendering
    from app.domain.job import Delivery, Job, LiveJob, Target
    from app.domain.transcript import Segment, Transcript
    from app.jobs.estimate import Estimate
    from app.jobs.retention import Retention
    from app.jobs.service_clock import Moment, ServiceClock
    from app.jobs.spool import Spool
    from app.jobs.store import JobStore

#: Writes JSON four times as fast as the module ``json``, which counts for hours of words.
_JSON: Final = TypeAdapter(dict[str, Any], config=ConfigDict(ser_json_inf_nan="constants"))


def success_document(
    job: Job, rendering: Rendering, transcript: Transcript, *, processing_time: float
) -> dict[str, Any]:
    """Return the document of a completed job. ``processing_time`` is in seconds."""
    document: dict[str, Any] = {
        "job_id": job.id,
        "status": "completed",
        "task": transcript.task.value,
        "language": transcript.written_language,
        **languages(transcript),
        "duration": transcript.duration,
        "text": transcript.text,
        **transcribed(job, transcript.segments),
    }
    document["usage"] = usage(transcript)
    document.update(logprobs(transcript, rendering))
    document.update(utterances(transcript, rendering))
    document["model"] = job.model
    document["processing_time"] = round(processing_time, 3)
    return {**document, **extras(job)}


def transcribed(job: Job, segments: Sequence[Segment]) -> dict[str, Any]:
    """Return segments and, if the job was submitted with word times, their words with their places in the text."""
    members = {"segments": [segment_object(segment) for segment in segments]}
    if Granularity.WORD in job.rendering.granularities:
        members["words"] = placed_words(segments)
    return members


def failure_document(job: Job) -> dict[str, Any]:
    """Return the document of a failed job, which is the same each time."""
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
    """Return the client's ``metadata`` and the ``warnings``; what is empty is absent."""
    members: dict[str, Any] = {}
    if job.metadata is not None:
        members["metadata"] = dict(job.metadata)
    if job.warnings:
        members["warnings"] = list(job.warnings)
    return members


def stored_body(spool: Spool, job: Job, rendering: Rendering, *, original: bool = False) -> bytes:
    """Return the stored result of a job in any format, corrected unless the ``original`` is asked for. Blocks."""
    transcript, processing_time = spool.result(job.id, original=original)
    return body(job, rendering, transcript, processing_time=processing_time)


def body(job: Job, rendering: Rendering, transcript: Transcript, *, processing_time: float) -> bytes:
    """Return a transcript in any format, with the members of its job."""
    if rendering.format is ResponseFormat.DOCUMENT:
        return to_json(success_document(job, rendering, transcript, processing_time=processing_time))
    content = render(transcript, rendering, extras=extras(job))
    return content.encode() if isinstance(content, str) else to_json(content)


def to_json(value: dict[str, Any]) -> bytes:
    """Return compact UTF-8 JSON, with characters outside ASCII as they are.

    Raises:
        ValueError: A number is infinite or not a number.
    """
    content = _JSON.dump_json(value)
    if b"NaN" in content or b"Infinity" in content:  # as a number or in a text
        json.dumps(value, allow_nan=False)
    return content


def job_view(
    live: LiveJob,
    *,
    now: Moment,
    retention: Retention,
    queue_position: int | None = None,
    eta_seconds: float | None = None,
) -> dict[str, Any]:
    """Return the JSON object of a job; what is None is absent."""
    job = live.job
    view: dict[str, Any] = {
        "job_id": job.id,
        "name": job.name,
        "status": live.status.value,
        "progress": live.phrase.value,
        "progress_percent": live.percent,
        "start_time": job.accepted_at,
        "elapsed_time": round(max(0.0, (job.ended_at or now.unix) - job.accepted_at), 3),
        "end_time": job.ended_at,
        "queue_position": queue_position,
        "eta_seconds": eta_seconds,
        "input_source": "file" if job.source_url is None else "url",
        "audio_duration": live.audio_duration,
        "language": live.language,
        "model": job.model,
        "task": job.options.task.value,
        "timestamp_granularities": sorted(job.rendering.granularities),
        "multichannel": job.options.multichannel or None,
        "diarize": job.options.diarization is not None or None,
        "processing_time": _rounded(job.processing_time) if job.has_result else None,
        "attempts": job.starts or None,
        "delivery": _uploads_view(job, live.delivery(DeliveryKind.UPLOAD)),
        "webhook": _webhook_view(live.delivery(DeliveryKind.WEBHOOK)),
        "error": job.error,
        "error_type": job.error_type,
        "audio_available": job.has_recording or None,
        "result_available": job.has_result,
        "edited_at": job.edited_at,
        "result_expires_at": retention.expires_at(job, now=now) if job.has_result else None,
    }
    return {**{name: value for name, value in view.items() if value is not None}, **extras(job)}


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)


def _uploads_view(job: Job, delivery: Delivery | None) -> dict[str, Any] | None:
    """Return the uploads of a job as one; several are also listed."""
    if delivery is None:
        return None
    view = _delivery_view(delivery, next_attempt_at=delivery.next_attempt_at, expires_at=job.upload_expires_at)
    if len(job.uploads) > 1:
        view["uploads"] = [
            {"format": upload.format.value, **_delivery_view(target, expires_at=upload.expires_at)}
            for upload, target in zip(job.uploads, delivery.targets, strict=True)
        ]
    return view


def _webhook_view(delivery: Delivery | None) -> dict[str, Any] | None:
    return None if delivery is None else _delivery_view(delivery, next_attempt_at=delivery.next_attempt_at)


def _delivery_view(
    state: Delivery | Target, *, next_attempt_at: float | None = None, expires_at: float | None = None
) -> dict[str, Any]:
    view = {
        "status": state.status.value,
        "attempts": state.attempts,
        "next_attempt_at": next_attempt_at,
        "last_error": state.last_error,
        "expires_at": expires_at,
    }
    return {name: value for name, value in view.items() if value is not None}


class JobViews:
    """Renders jobs as JSON objects, with their positions in the queue and the times they may take."""

    def __init__(
        self, *, store: JobStore, retention: Retention, estimate: Estimate, service_clock: ServiceClock
    ) -> None:
        self._store = store
        self._retention = retention
        self._estimate = estimate
        self._service_clock = service_clock

    def one(self, live: LiveJob) -> dict[str, Any]:
        return self.many((live,))[live.job.id]

    def many(self, jobs: tuple[LiveJob, ...]) -> dict[str, dict[str, Any]]:
        has_active = any(live.job.is_active for live in jobs)
        untranscribed = self._store.untranscribed() if has_active else []
        positions = self._store.queue_positions() if has_active else {}
        backlogs = Backlogs(untranscribed, self._estimate, others=self._store.untranscribed_elsewhere)
        now = self._service_clock.now()
        return {
            live.job.id: job_view(
                live,
                now=now,
                retention=self._retention,
                queue_position=positions.get(live.job.id) if live.status is JobStatus.QUEUED else None,
                eta_seconds=self._eta(live, positions.get(live.job.id), backlogs),
            )
            for live in jobs
        }

    def _eta(self, live: LiveJob, position: int | None, backlogs: Backlogs) -> float | None:
        """Return the seconds until the transcript is ready: by the speed of the work, or by the place in the queue."""
        if not live.job.needs_transcription or not self._estimate.serves(live.job.model):
            return None
        seconds = backlogs.seconds_left(live)
        if seconds is None and position is not None:
            seconds = self._estimate.wait_seconds(position - 1)
        return None if seconds is None else round(seconds, 1)


class Backlogs:
    """The work that is left on the model and, for the jobs that need it, in telling voices apart.

    ``others`` is the number of further jobs, of which nothing is known here.
    """

    def __init__(self, untranscribed: Sequence[LiveJob], estimate: Estimate, *, others: int = 0) -> None:
        self._model = estimate.backlog([*(_untranscribed(live) for live in untranscribed), *repeat(None, others)])
        self._voices = estimate.voices_backlog(
            _unheard(live) for live in untranscribed if live.job.options.tells_voices_apart
        )

    def seconds_left(self, live: LiveJob) -> float | None:
        """Return the seconds until both are done, which go on side by side, or None if no speed is known."""
        seconds = self._model.seconds_left(_untranscribed(live))
        if live.job.options.tells_voices_apart:
            with_voices = self._voices.seconds_left(_unheard(live))
            seconds = with_voices if seconds is None else max(seconds, with_voices or 0.0)
        return seconds


def _untranscribed(live: LiveJob) -> float | None:
    """Return the seconds of audio still to be transcribed, or None if the length is not known yet."""
    return _left(live, live.progress.percent)


def _unheard(live: LiveJob) -> float | None:
    """Return the seconds of audio still to be heard, or None if the length is not known yet."""
    return _left(live, live.progress.heard_percent or 0.0)


def _left(live: LiveJob, percent: float) -> float | None:
    return None if live.audio_duration is None else live.audio_duration * (1 - percent / 100)
