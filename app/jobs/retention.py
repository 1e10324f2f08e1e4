"""Forgets finished jobs some time after their end."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from app.domain.job import DeliveryStatus, JobStatus

if TYPE_CHECKING:
    from app.domain.job import Job
    from app.jobs.registry import Registry
    from app.jobs.runner import Runner

_LONGEST_PAUSE_SECONDS: Final = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """How long a job is kept after it ended, in seconds; results that could not be delivered stay longer."""

    finished_seconds: float
    undelivered_seconds: float

    def expires_at(self, job: Job) -> float | None:
        """When the job will be forgotten (Unix seconds), or None while it has not ended."""
        if job.ended_at is None:
            return None
        undelivered = (
            job.status is JobStatus.FAILED
            and job.has_result
            and job.delivery is not None
            and job.delivery.status is not DeliveryStatus.DELIVERED
        )
        kept = max(self.finished_seconds, self.undelivered_seconds) if undelivered else self.finished_seconds
        return job.ended_at + kept

    def is_over(self, job: Job, *, now: float) -> bool:
        expires_at = self.expires_at(job)
        return expires_at is not None and expires_at <= now


async def sweep_forever(registry: Registry, runner: Runner, retention: Retention) -> None:
    """Forgets what is over, again and again, and at least as often as jobs come to be over."""
    pause = min(_LONGEST_PAUSE_SECONDS, max(0.05, retention.finished_seconds / 4))
    while True:
        await asyncio.sleep(pause)
        await sweep(registry, runner, retention, now=time.time())


async def sweep(registry: Registry, runner: Runner, retention: Retention, *, now: float) -> None:
    """Forgets what is over. A job whose failure is still being reported is left alone, and so is a waiting client's."""
    for job in registry.everything():
        if retention.is_over(job, now=now) and not job.synchronous and not runner.is_running(job.id):
            await runner.forget(job.id)
