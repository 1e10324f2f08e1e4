"""The memory that a job takes in the registry, by tracemalloc over 10,000 jobs of each kind."""

from __future__ import annotations

import tracemalloc
import uuid
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from app.domain.formats import Rendering, ResponseFormat
from app.domain.job import Delivery, DeliveryStatus, Job, JobStatus, LiveJob, Target, Upload
from app.domain.transcript import TranscriptionOptions
from app.jobs.registry import Registry

if TYPE_CHECKING:
    from collections.abc import Callable

JOBS: Final = 10_000
#: As long as boto3 makes them.
QUERY: Final = "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Signature=" + "0" * 400


def measure() -> str:
    """Return a section with the bytes of a job without an upload, a delivered one and an undelivered one."""
    stored = _bytes_per_job(_processed, _stored, _completed, with_url=False)
    delivered = _bytes_per_job(_processed, _stored, _delivered, _completed, with_url=True)
    waiting = _bytes_per_job(_processed, _stored, _put_off, with_url=True)
    return (
        "## Registry\n\n"
        f"{stored:,.0f} bytes for each finished job, {delivered:,.0f} where its result was delivered, {waiting:,.0f} "
        f"while it waits to be, with an upload URL of {len(_url(0))} characters ({JOBS:,} jobs)."
    )


def _bytes_per_job(*changes: Callable[[Job], Job], with_url: bool) -> float:
    registry = Registry()
    tracemalloc.start()
    for number in range(JOBS):
        job = made_job(number, with_url=with_url)
        registry.add(job)
        for change in changes:
            registry.update(job.id, LiveJob.with_job, change(registry.get(job.id).job))
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return size / JOBS


def _url(number: int) -> str:
    return f"https://bucket.s3.amazonaws.com/transcripts/{number:06d}.json?{QUERY}"


def made_job(number: int, *, with_url: bool) -> Job:
    upload = Upload(url=_url(number), format=ResponseFormat.DOCUMENT, expires_at=1.7e9 + number)
    return Job(
        id=str(uuid.uuid4()),
        accepted_at=1.7e9 + number,
        model="large-v3-turbo",
        options=TranscriptionOptions(),
        rendering=Rendering(),
        uploads=(upload,) if with_url else (),
        delivery=Delivery() if with_url else None,
    )


def _processed(job: Job) -> Job:
    moved = job.moved_to(JobStatus.PROCESSING, at=job.accepted_at + 1)
    return replace(moved, audio_duration=job.accepted_at / 1e6)


def _stored(job: Job) -> Job:
    return replace(job, language="english", has_result=True)


def _delivered(job: Job) -> Job:
    """Erase the URL, which is no longer needed."""
    target = Target(status=DeliveryStatus.DELIVERED, attempts=1)
    return replace(job.without_upload_urls(), delivery=Delivery(targets=(target,)))


def _put_off(job: Job) -> Job:
    error = f"HTTP 503 (attempt 3/3) to {_url(0).partition('?')[0]}"
    at = job.accepted_at + 30
    target = Target(attempts=3, last_error=error)
    state = Delivery(targets=(target,), rounds=1, next_round=30.0, next_attempt_at=at)
    return replace(job, delivery=state)


def _completed(job: Job) -> Job:
    return job.moved_to(JobStatus.COMPLETED, at=job.accepted_at + 2)
