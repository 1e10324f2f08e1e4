"""Supervision: every job that is worked on is a named task, which is awaited, and drained at a shutdown."""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol

from app.domain.concurrency import shielded
from app.domain.errors import EngineFailed, ShutDown, StorageUnavailable, UnknownJob
from app.domain.job import JobStatus
from app.domain.log_context import CurrentJob, current_job
from app.jobs import transitions
from app.jobs.failures import caught, forget_frames, kind_of, log_failure
from app.jobs.transitions import message_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from app.domain.job import LiveJob
    from app.jobs.delivery_schedule import DeliverySchedule
    from app.jobs.retention import Retention
    from app.jobs.service_clock import ServiceClock
    from app.jobs.spool import Spool
    from app.jobs.store import JobStore

logger = logging.getLogger(__name__)

#: The part of the grace period, at most, that is kept for ending the work that has not finished.
_UNWIND_SECONDS: Final = 2.0
#: The pause between two checks of a shutdown whether the last request has arrived.
_ARRIVAL_SECONDS: Final = 0.1
_SHUT_DOWN: Final = "The service was shut down before the job had finished: submit it again."


class Steps(Protocol):
    """The work on a job, or a part of it."""

    async def process(self, job_id: str) -> None:
        """Work on a job. Any exception fails the job, unless it says that the job is not at fault."""


class Runner:
    """Owns the task of every job that is worked on.

    ``on_death`` is called with the exception of a task whose failure could not be recorded.
    """

    def __init__(
        self,
        *,
        store: JobStore,
        spool: Spool,
        pipeline: Steps,
        deliveries: DeliverySchedule,
        retention: Retention,
        service_clock: ServiceClock,
        on_death: Callable[[BaseException], None],
    ) -> None:
        self._store = store
        self._spool = spool
        self._pipeline = pipeline
        self._deliveries = deliveries
        self._retention = retention
        self._service_clock = service_clock
        self._on_death = on_death
        self._tasks: dict[str, asyncio.Task[Exception | None]] = {}
        self._drained_at = 0.0
        self.draining = False
        self.drained = False

    @property
    def seconds_until_drained(self) -> float:
        """The seconds left of a shutdown's grace period."""
        return max(0.0, self._drained_at - time.monotonic())

    def start(self, job_id: str) -> None:
        """Start or continue the work on a job, wherever it stands."""
        task = asyncio.create_task(self._supervise(job_id), name=f"job {job_id}")
        self._tasks[job_id] = task
        task.add_done_callback(partial(self._ended, job_id))

    async def outcome(self, job_id: str) -> Exception | None:
        """Wait until a job has its result or has failed, and return what went wrong, or None.

        A caller that is cancelled does not cancel the job.
        """
        task = self._tasks.get(job_id)
        if task is None:
            return None
        await asyncio.wait([task])
        if task.cancelled():
            return ShutDown(_SHUT_DOWN if self.draining else "The request was cancelled.")
        return task.result()

    def is_running(self, job_id: str) -> bool:
        """Return whether work on the job is running or about to begin; a later round of a delivery doesn't count."""
        deliveries = self._deliveries
        return job_id in self._tasks or deliveries.is_running(job_id) or deliveries.is_about_to_begin(job_id)

    async def stop(self, job_id: str) -> None:
        """Stop the work on a job and its deliveries; the store keeps it as it is."""
        await self._stop(job_id)
        await self._deliveries.stop(job_id)

    async def drain(self, grace_seconds: float, *, arriving: Callable[[], int]) -> None:
        """End the work of this process within ``grace_seconds``.

        Jobs on the model may finish, and so may synchronous requests, including those still ``arriving``. Other jobs
        go back to the queue, for the next start.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + grace_seconds
        self._drained_at = time.monotonic() + grace_seconds
        self.draining = True
        queued = [live.job.id for live in self._store.untranscribed() if not _may_finish(live)]
        await asyncio.gather(*(self._put_back(job_id) for job_id in queued))
        if self._tasks or self._deliveries.running:
            logger.info(
                "Waiting up to %gs for %d jobs and %d deliveries; the rest continues after the next start",
                grace_seconds,
                len(self._tasks),
                self._deliveries.running,
            )
        end = deadline - min(_UNWIND_SECONDS, grace_seconds / 3)
        await self._wait_until(end, arriving)
        await asyncio.gather(*(self._put_back(job_id) for job_id in list(self._tasks)))
        await self._deliveries.drain(end)
        self.drained = True

    async def discard_files(self, job_id: str) -> None:
        """Remove the files that an ended job no longer needs: everything except its result and a kept recording."""
        with suppress(UnknownJob):
            job = self._store.get(job_id).job
            if job.has_result:
                await shielded(asyncio.to_thread(self._spool.discard_audio, job_id, keep_recording=job.keep_audio))
            else:
                await shielded(asyncio.to_thread(self._spool.discard, job_id))

    async def _wait_until(self, deadline: float, arriving: Callable[[], int]) -> None:
        """Wait until ``deadline``, in the event loop's time, or until nothing runs and nothing arrives."""
        loop = asyncio.get_running_loop()
        while (self._tasks or arriving()) and (left := deadline - loop.time()) > 0:
            if self._tasks:
                await asyncio.wait(self._tasks.values(), timeout=left)
            else:
                await asyncio.sleep(min(left, _ARRIVAL_SECONDS))

    async def _put_back(self, job_id: str) -> None:
        """Stop the work on a job. The journal has background jobs; synchronous ones fail."""
        if job_id not in self._tasks:
            return
        await self._stop(job_id)
        with suppress(UnknownJob):
            job = self._store.get(job_id).job
            if job.synchronous:
                if job.is_active:
                    await self._fail(job_id, ShutDown(_SHUT_DOWN))
                else:
                    await self.discard_files(job_id)
            elif job.needs_transcription:
                logger.info("Job %s goes back to the queue, for the next start", job_id)

    async def _stop(self, job_id: str) -> None:
        """Cancel the job's task and wait for its end."""
        task = self._tasks.get(job_id)
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    async def _supervise(self, job_id: str) -> Exception | None:
        """Run the job's task and return what went wrong, or None."""
        job = self._store.get(job_id).job
        current_job.set(CurrentJob(job_id, job.accepted_at))
        error = await caught(self._pipeline.process(job_id))
        if isinstance(error, UnknownJob):
            logger.info("Job %s was forgotten while it was worked on", job_id)
        elif isinstance(error, StorageUnavailable) or (isinstance(error, EngineFailed) and not job.synchronous):
            logger.error("Job %s goes back to the queue, for the next start: %s", job_id, error)
        elif error is not None:
            await self._fail(job_id, error)
        elif self._store.get(job_id).job.status is JobStatus.COMPLETED:
            logger.info("✅ %s %s completed successfully in %.1fs", kind_of(job), job_id, time.time() - job.accepted_at)
        return error

    async def _fail(self, job_id: str, error: Exception) -> None:
        with suppress(UnknownJob):
            log_failure(self._store.get(job_id).job, error, message_of(error))
            await self._store.commit_patiently(
                job_id, transitions.failed, error, now=self._service_clock.now(), retention=self._retention
            )
        forget_frames(error)
        await self.discard_files(job_id)

    def _ended(self, job_id: str, task: asyncio.Task[Exception | None]) -> None:
        self._tasks.pop(job_id, None)
        if task.cancelled():
            return
        if (error := task.exception()) is not None:
            self._on_death(error)
        else:
            self._deliveries.add(job_id)


def _may_finish(live: LiveJob) -> bool:
    """Return whether a shutdown waits for the job, since a client does or it has been on the model."""
    return live.job.synchronous or live.status is JobStatus.PROCESSING
