"""The commands of clients: submit, rename, cancel, forget and redeliver jobs."""

from __future__ import annotations

import asyncio
import logging
import math
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final

from app.domain.concurrency import shielded
from app.domain.errors import Draining, QueueFull, UnknownJob
from app.domain.job import JobStatus
from app.jobs import transitions

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from app.domain.job import Job, LiveJob, Upload
    from app.jobs.delivery_schedule import DeliverySchedule
    from app.jobs.estimate import Estimate
    from app.jobs.retention import Retention
    from app.jobs.runner import Runner
    from app.jobs.service_clock import ServiceClock
    from app.jobs.spool import Spool
    from app.jobs.store import JobStore

logger = logging.getLogger(__name__)

#: The time that the next process may take to start.
_START_SECONDS: Final = 10


class Intake:
    """Takes commands about jobs, commits them, and has the runner and the delivery schedule carry them out."""

    def __init__(
        self,
        *,
        store: JobStore,
        spool: Spool,
        runner: Runner,
        deliveries: DeliverySchedule,
        estimate: Estimate,
        retention: Retention,
        service_clock: ServiceClock,
        max_queued: int,
    ) -> None:
        self._store = store
        self._spool = spool
        self._runner = runner
        self._deliveries = deliveries
        self._estimate = estimate
        self._retention = retention
        self._service_clock = service_clock
        self._max_queued = max_queued
        self._arriving = 0

    def arriving_count(self) -> int:
        """Return the number of requests with a reserved place in the queue."""
        return self._arriving

    @contextmanager
    def reserved_place(self) -> Iterator[None]:
        """Reserve a place in the queue while a request arrives.

        Raises:
            Draining: the service is shutting down.
            QueueFull: as many requests are waiting as are allowed.
        """
        if self._runner.draining:
            raise Draining(
                "The service is shutting down and takes no new work: try again later.",
                retry_after_seconds=math.ceil(self._runner.seconds_until_drained) + _START_SECONDS,
            )
        waiting = self._store.queued_count + self._arriving
        if waiting >= self._max_queued:
            raise QueueFull(
                f"The queue is full: {waiting} requests are waiting and MAX_QUEUED_JOBS allows {self._max_queued}. "
                "Try again later.",
                retry_after_seconds=math.ceil(self._estimate.next_place_seconds()),
            )
        self._arriving += 1
        try:
            yield
        finally:
            self._arriving -= 1

    async def submit(self, job: Job, trace_context: Mapping[str, str] | None = None) -> Job:
        """Admit a job and start it. Its audio is in the spool already, unless it is to be downloaded.

        Returns the job, or the one that was submitted before with the same idempotency key; nothing is started then.
        ``trace_context`` holds the W3C trace headers of the request.

        Raises:
            DiskFull, JournalFailed: the job was not admitted.
        """
        return await shielded(self._submit(job, trace_context))

    async def cancel(self, job_id: str) -> LiveJob:
        """End a job at once, with nothing uploaded, and return it; one that has ended stays as it is."""
        was_active = self._store.get(job_id).job.is_active
        live = await self._store.commit(
            job_id, transitions.cancelled, now=self._service_clock.now(), retention=self._retention
        )
        if live.job.status is not JobStatus.CANCELLED:
            return live
        if was_active:
            logger.info("🛑 Job %s cancelled", job_id)
        await self._runner.stop(job_id)
        await self._runner.discard_files(job_id)
        self._deliveries.add(job_id)  # its webhook event
        return live

    async def forget(self, job_id: str) -> None:
        """Remove every trace of a job; work on it is stopped."""
        await self._runner.stop(job_id)
        with suppress(UnknownJob):
            await self._store.forget(job_id)
        await shielded(asyncio.to_thread(self._spool.discard, job_id))

    async def redeliver(self, job_id: str, uploads: tuple[Upload, ...]) -> LiveJob:
        """Deliver the stored result of an ended job again: to ``uploads``, or where it was submitted for.

        Raises:
            InvalidRequest: the job has no result or has not ended, or there is a URL that can't be used any longer.
        """
        return await shielded(self._redeliver(job_id, uploads))

    async def rename(self, job_id: str, name: str | None) -> LiveJob:
        """Give a job another name, or none, and return it."""
        return await self._store.commit(job_id, transitions.renamed, name=name)

    async def _submit(self, job: Job, trace_context: Mapping[str, str] | None) -> Job:
        admitted = await self._store.admit(job, trace_context)
        if admitted is job:
            self._runner.start(job.id)
        return admitted

    async def _redeliver(self, job_id: str, uploads: tuple[Upload, ...]) -> LiveJob:
        live = await self._store.commit(job_id, transitions.redelivered, uploads=uploads, now=self._service_clock.now())
        await self._deliveries.stop(job_id)  # a running round reports the end before
        self._deliveries.add(job_id)
        return live
