"""The task that forgets jobs whose retention is over."""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from app.domain.errors import DiskFull, UnknownJob
from app.jobs import transitions

if TYPE_CHECKING:
    from app.domain.job import Job
    from app.jobs.intake import Intake
    from app.jobs.retention import Retention
    from app.jobs.runner import Runner
    from app.jobs.service_clock import ServiceClock
    from app.jobs.store import JobStore

logger = logging.getLogger(__name__)

_MAX_PAUSE_SECONDS: Final = 30.0


class Sweeper:
    """Forgets jobs whose retention is over and erases upload URLs that have expired.

    Synchronous jobs are left alone: they end with their requests.
    """

    def __init__(
        self, *, store: JobStore, intake: Intake, runner: Runner, retention: Retention, service_clock: ServiceClock
    ) -> None:
        self._store = store
        self._intake = intake
        self._runner = runner
        self._retention = retention
        self._service_clock = service_clock

    async def run(self) -> None:
        """Sweep until cancelled, at least as often as jobs expire."""
        pause = min(_MAX_PAUSE_SECONDS, max(0.05, self._retention.finished_seconds / 4))
        while True:
            await asyncio.sleep(pause)
            try:
                await self.sweep()
            except DiskFull:
                logger.warning("⚠️ The disk is full: expired jobs will be forgotten later")

    async def sweep(self) -> None:
        jobs = [live.job for live in self._store.live_jobs() if not live.job.synchronous]
        for job in jobs:
            with suppress(UnknownJob):
                await self._sweep_one(job)
        if jobs:
            await self._store.save_service_clock()

    async def _sweep_one(self, job: Job) -> None:
        is_over = self._retention.is_over(job, service_seconds=self._service_clock.seconds)
        if is_over and not self._runner.is_running(job.id):
            await self._intake.forget(job.id)
        elif has_expired_url(job, now=time.time()):
            await self._store.commit(job.id, transitions.expired_urls_erased, now=time.time())


def has_expired_url(job: Job, *, now: float) -> bool:
    """Return whether an ended job still has an upload URL that has expired by Unix time ``now``."""
    return job.is_settled and any(upload.is_kept and upload.has_expired(now=now) for upload in job.uploads)
