"""Forgets what is over, and erases URLs that can't be used any more."""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from app.domain.errors import DiskFull, UnknownJob

if TYPE_CHECKING:
    from app.domain.job import Job
    from app.jobs.journal import Journal
    from app.jobs.ledger import Ledger
    from app.jobs.registry import Registry
    from app.jobs.retention import Retention
    from app.jobs.runner import Runner

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
