"""A job as its client sees it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from app.domain.job import JobStatus, Progress
from app.jobs.document import extras

if TYPE_CHECKING:
    from app.domain.job import Delivery, Job
    from app.jobs.estimate import Estimate
    from app.jobs.registry import Registry
    from app.jobs.retention import Retention


class JobViews:
    """Makes the JSON of jobs; knows what a job alone does not: its place in the line and how long it is kept."""

    def __init__(self, registry: Registry, retention: Retention, estimate: Estimate) -> None:
        self._registry = registry
        self._retention = retention
        self._estimate = estimate

    def one(self, job: Job) -> dict[str, Any]:
        waiting = self._registry.waiting() if job.status is JobStatus.QUEUED else []
        return self._view(job, {job_id: place for place, job_id in enumerate(waiting, start=1)})

    def many(self, jobs: tuple[Job, ...]) -> dict[str, dict[str, Any]]:
        places = {job_id: place for place, job_id in enumerate(self._registry.waiting(), start=1)}
        return {job.id: self._view(job, places) for job in jobs}

    def _view(self, job: Job, places: dict[str, int]) -> dict[str, Any]:
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
            "eta_seconds": self._eta(job, places.get(job.id), now),
            "input_source": "file" if job.source_url is None else "url",
            "audio_duration": job.audio_duration,
            "language": job.language,
            "model": job.model,
            "delivery": _delivery(job.delivery) if job.delivery else None,
            "error": job.error,
            "error_type": job.error_type,
            "result_available": job.has_result,
            "result_expires_at": self._retention.expires_at(job) if job.has_result else None,
        }
        return {**{name: value for name, value in view.items() if value is not None}, **extras(job)}

    def _eta(self, job: Job, place: int | None, now: float) -> float | None:
        """Seconds until the transcript is there: from the speed so far, or from the line."""
        if place is not None:
            return round(self._estimate.wait_seconds(place - 1), 1)
        if job.progress is not Progress.TRANSCRIBING or job.started_at is None or job.progress_percent <= 0:
            return None
        return round((now - job.started_at) * (100 / job.progress_percent - 1), 1)


def _delivery(delivery: Delivery) -> dict[str, Any]:
    view: dict[str, Any] = {"status": delivery.status.value, "attempts": delivery.attempts}
    if delivery.last_error is not None:
        view["last_error"] = delivery.last_error
    if delivery.expires_at is not None:
        view["expires_at"] = delivery.expires_at
    return view
