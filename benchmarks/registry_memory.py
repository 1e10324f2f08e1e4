"""What a job costs in memory: 10,000 finished ones in the registry, told by tracemalloc."""

from __future__ import annotations

import tracemalloc
import uuid
from typing import Final

from app.domain.formats import Rendering, ResponseFormat
from app.domain.job import Delivery, DeliveryStatus, Job, JobStatus, Upload
from app.domain.transcript import TranscriptionOptions
from app.jobs.registry import Registry

JOBS: Final = 10_000
#: As long as boto3 makes them.
QUERY: Final = "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Signature=" + "0" * 400


def measure() -> str:
    """A section with bytes for each job, its URL counted and not."""
    whole = _bytes_per_job(with_url=True)
    bare = _bytes_per_job(with_url=False)
    return (
        "## Registry\n\n"
        f"{bare:,.0f} bytes for each finished job, {whole:,.0f} with an upload URL of {len(_url(0))} characters "
        f"({JOBS:,} jobs)."
    )


def _bytes_per_job(*, with_url: bool) -> float:
    registry = Registry()
    tracemalloc.start()
    for number in range(JOBS):
        job = made_job(number, with_url=with_url)
        registry.add(job)
        for change in (_processed, _delivered, _completed):
            registry.update(job.id, change)
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return size / JOBS


def _url(number: int) -> str:
    return f"https://bucket.s3.amazonaws.com/transcripts/{number:06d}.json?{QUERY}"


def made_job(number: int, *, with_url: bool) -> Job:
    rendering = Rendering(format=ResponseFormat.DOCUMENT)
    return Job(
        id=str(uuid.uuid4()),
        accepted_at=1.7e9 + number,
        model="large-v3-turbo",
        options=TranscriptionOptions(),
        rendering=Rendering(),
        upload=Upload(url=_url(number), rendering=rendering, expires_at=1.7e9 + number) if with_url else None,
        delivery=Delivery() if with_url else None,
    )


def _processed(job: Job) -> Job:
    return job.moved_to(JobStatus.PROCESSING, at=job.accepted_at + 1, audio_duration=job.accepted_at / 1e6)


def _delivered(job: Job) -> Job:
    delivery = Delivery(status=DeliveryStatus.DELIVERED, attempts=1) if job.delivery else None
    return job.changed(delivery=delivery, language="english", has_result=True)


def _completed(job: Job) -> Job:
    return job.moved_to(JobStatus.COMPLETED, at=job.accepted_at + 2)
