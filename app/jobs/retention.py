"""How long a job is kept after its end, counted by the service clock."""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from app.domain.errors import DiskFull, UnknownJob
from app.domain.job import DeliveryStatus, JobStatus

if TYPE_CHECKING:
    from app.domain.job import Job
    from app.jobs.journal import Journal
    from app.jobs.runner import Runner
    from app.jobs.service_clock import ServiceClock
    from app.jobs.store import Ledger, Registry


#: The wall clock is corrected by less than this all the time.
_CORRECTION_SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """How long a job is kept after it ended, in seconds; results that could not be delivered stay longer.

    Time in which the service is down does not count, and no wall clock that jumps makes a job vanish.
    """

    finished_seconds: float
    undelivered_seconds: float
    service_clock: ServiceClock

    def expires_at(self, job: Job) -> float | None:
        """When the job will be forgotten (Unix seconds), or None while it has not ended."""
        if job.ended_at is None:
            return None
        moved = (time.time() - self.service_clock.seconds) - (job.ended_at - job.ended_uptime)
        return job.ended_at + self._kept_seconds(job) + (moved if abs(moved) > _CORRECTION_SECONDS else 0.0)

    def is_over(self, job: Job) -> bool:
        return job.is_settled and self.service_clock.seconds - job.ended_uptime >= self._kept_seconds(job)

    def _kept_seconds(self, job: Job) -> float:
        undelivered = (
            job.status is JobStatus.FAILED
            and job.has_result
            and job.delivery is not None
            and job.delivery.status is not DeliveryStatus.DELIVERED
        )
        return max(self.finished_seconds, self.undelivered_seconds) if undelivered else self.finished_seconds


logger = logging.getLogger(__name__)

_LONGEST_PAUSE_SECONDS: Final = 30.0


class Sweeper:
    """Forgets jobs that are over, and erases URLs that have expired. Those of waiting clients are left alone."""

    def __init__(
        self, *, registry: Registry, runner: Runner, ledger: Ledger, journal: Journal, retention: Retention
    ) -> None:
        self._registry = registry
        self._runner = runner
        self._ledger = ledger
        self._journal = journal
        self._retention = retention

    async def run(self) -> None:
        """Sweeps again and again, at least as often as jobs come to be over."""
        pause = min(_LONGEST_PAUSE_SECONDS, max(0.05, self._retention.finished_seconds / 4))
        while True:
            await asyncio.sleep(pause)
            try:
                await self.sweep()
            except DiskFull:
                logger.warning("⚠️ The disk is full: what is over is forgotten later")

    async def sweep(self) -> None:
        jobs = [job for job in self._registry.everything() if not job.synchronous]
        now = time.time()
        for job in jobs:
            with suppress(UnknownJob):
                if self._retention.is_over(job) and not self._runner.is_running(job.id):
                    await self._runner.forget(job.id)
                elif _has_expired_url(job, now=now):
                    await self._ledger.commit(
                        job.id, lambda job: job.changed(upload=job.upload and job.upload.erased())
                    )
        if jobs:
            await self._journal.beat()


def _has_expired_url(job: Job, *, now: float) -> bool:
    upload = job.upload
    if upload is None or not job.is_settled or not upload.is_kept:
        return False
    return upload.expires_at is not None and upload.expires_at <= now
