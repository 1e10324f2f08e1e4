"""Submit, cancel, supervise, drain: every job is a named task that somebody awaits."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final

from app.domain.current import CurrentJob, current_job
from app.domain.errors import (
    DeliveryFailed,
    Draining,
    QueueFull,
    ServiceError,
    ShutDown,
    TranscriptionFailed,
    UnknownJob,
)
from app.domain.job import Job, JobStatus
from app.domain.redaction import without_queries
from app.jobs.threads import to_its_end

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Iterator

    from app.jobs.estimate import Estimate
    from app.jobs.pipeline import Pipeline
    from app.jobs.registry import Registry
    from app.jobs.spool import Spool

logger = logging.getLogger(__name__)

#: Of the grace period so much is kept, at most, to tell the users' URLs of jobs that will not be finished.
_REPORT_SECONDS: Final = 10.0
#: How often a shutdown looks whether the last request has arrived.
_ARRIVAL_SECONDS: Final = 0.1
#: When a client may hope for the next process, in seconds.
_RETRY_DRAINING_SECONDS: Final = 30
_SHUT_DOWN: Final = "The service was shut down before the job had finished: submit it again."


class Runner:
    """Owns the task of every job that runs."""

    def __init__(
        self, *, registry: Registry, spool: Spool, pipeline: Pipeline, estimate: Estimate, max_queued: int
    ) -> None:
        self._registry = registry
        self._spool = spool
        self._pipeline = pipeline
        self._estimate = estimate
        self._max_queued = max_queued
        self._arriving = 0
        self._tasks: dict[str, asyncio.Task[Exception | None]] = {}
        self.draining = False

    @contextmanager
    def place(self) -> Iterator[None]:
        """A place in the line, kept while a request arrives.

        Raises:
            Draining: the service is shutting down.
            QueueFull: as many requests wait as may.
        """
        if self.draining:
            raise Draining(
                "The service is shutting down and takes no new work: try again in a while.",
                retry_after_seconds=_RETRY_DRAINING_SECONDS,
            )
        waiting = len(self._registry.waiting()) + self._arriving
        if waiting >= self._max_queued:
            raise QueueFull(
                f"The queue is full: {waiting} requests wait and MAX_QUEUED_JOBS allows {self._max_queued}. Try again "
                "later.",
                retry_after_seconds=math.ceil(self._estimate.next_place_seconds()),
            )
        self._arriving += 1
        try:
            yield
        finally:
            self._arriving -= 1

    def submit(self, job: Job) -> Job:
        """Registers a job and starts its task. Its audio, if it came along, is in the spool already.

        Gives the job that was made with the same idempotency key before, if there is one; nothing is started then.
        """
        registered = self._registry.add(job)
        if registered is job:
            self._start(job.id, self._supervise(job.id))
        return registered

    async def outcome(self, job_id: str) -> Exception | None:
        """Waits for the job's end, and says what went wrong, if anything; does not cancel it when cancelled."""
        task = self._tasks.get(job_id)
        if task is None:
            return None
        await asyncio.wait([task])
        if task.cancelled():
            return ShutDown(_SHUT_DOWN if self.draining else "The request was cancelled.")
        return task.result()

    async def cancel(self, job_id: str) -> Job:
        """Ends a job at once, with nothing delivered; a finished one stays as it is."""
        job = self._registry.update(
            job_id, lambda job: job.moved_to(JobStatus.CANCELLED, at=time.time()) if job.is_active else job
        )
        if job.status is JobStatus.CANCELLED:
            logger.info("🛑 Job %s cancelled", job_id)
        await self._stop(job_id)
        return job

    async def forget(self, job_id: str) -> None:
        """Removes all trace of a job; what still runs of it is stopped."""
        await self._stop(job_id)
        self._registry.remove(job_id)
        await to_its_end(self._spool.discard, job_id)

    def is_running(self, job_id: str) -> bool:
        return job_id in self._tasks

    async def drain(self, grace_seconds: float) -> None:
        """Takes no new work; lets what runs finish, or has its users told, within ``grace_seconds``."""
        self.draining = True
        reserve = min(_REPORT_SECONDS, grace_seconds / 3)
        if self._tasks:
            logger.info("Waiting up to %gs for %d running jobs", grace_seconds - reserve, len(self._tasks))
        deadline = asyncio.get_running_loop().time() + grace_seconds
        await self._wait_until(deadline - reserve)
        await asyncio.gather(*(self._give_up(job_id) for job_id in list(self._tasks)))
        await self._wait_until(deadline)
        for job_id in list(self._tasks):
            logger.error("Job %s: there was no time left to tell the user's URL of its end", job_id)
            await self._stop(job_id)
            self._end_by_shutdown(job_id)

    def _start(self, job_id: str, work: Coroutine[None, None, Exception | None]) -> None:
        task = asyncio.create_task(work, name=f"job {job_id}")
        self._tasks[job_id] = task
        task.add_done_callback(lambda _: self._tasks.pop(job_id, None))

    async def _wait_until(self, deadline: float) -> None:
        """Until the deadline, in the loop's time, or until nothing runs and nothing arrives any more."""
        loop = asyncio.get_running_loop()
        while (self._tasks or self._arriving) and (left := deadline - loop.time()) > 0:
            if self._tasks:
                await asyncio.wait(self._tasks.values(), timeout=left)
            else:
                await asyncio.sleep(min(left, _ARRIVAL_SECONDS))

    async def _give_up(self, job_id: str) -> None:
        """Makes a failure of a job that has no result yet, and tells its user's URL."""
        job = self._registry.get(job_id)
        if job.has_result or not job.is_active:
            return  # it is being delivered: that may go on until the end
        await self._stop(job_id)
        if self._end_by_shutdown(job_id) and job.upload is not None:
            self._start(job_id, self._report_shutdown(job))

    def _end_by_shutdown(self, job_id: str) -> bool:
        """Makes a failure of a job that has not ended; whether it had not."""
        with suppress(UnknownJob):
            if self._registry.get(job_id).is_active:
                self._mark_failed(job_id, ShutDown(_SHUT_DOWN))
                return True
        return False

    async def _report_shutdown(self, job: Job) -> Exception | None:
        current_job.set(CurrentJob(job.id, job.accepted_at))
        await self._report(job.id)
        return ShutDown(_SHUT_DOWN)

    async def _stop(self, job_id: str) -> None:
        """Cancels the job's task and waits for its end. A task cancelled before its first step runs no clean-up."""
        task = self._tasks.get(job_id)
        if task is None:
            return
        task.cancel()
        await asyncio.wait([task])
        await self._discard(self._registry.get(job_id))

    async def _discard(self, job: Job) -> None:
        """Removes what an ended job needs no more: everything but its result."""
        await to_its_end(self._spool.discard_audio if job.has_result else self._spool.discard, job.id)

    async def _supervise(self, job_id: str) -> Exception | None:
        """The job's task: its outcome is what went wrong, or None."""
        job = self._registry.get(job_id)
        current_job.set(CurrentJob(job_id, job.accepted_at))
        error = await _caught(self._pipeline.process, job_id)
        if error is not None:
            await self._fail(job_id, error)
            return error
        logger.info("✅ %s %s completed successfully in %.1fs", _kind(job), job_id, time.time() - job.accepted_at)
        return None

    async def _fail(self, job_id: str, error: Exception) -> None:
        job = self._mark_failed(job_id, error)
        await self._discard(job)
        if not isinstance(error, DeliveryFailed):
            await self._report(job_id)

    def _mark_failed(self, job_id: str, error: Exception) -> Job:
        message = without_queries(str(error)) or type(error).__name__
        _log_failure(self._registry.get(job_id), error, message)
        error.__traceback__ = error.__cause__ = error.__context__ = None  # they keep what the job has used in memory
        return self._registry.update(
            job_id,
            lambda job: job.moved_to(JobStatus.FAILED, at=time.time(), error=message, error_type=type(error).__name__),
        )

    async def _report(self, job_id: str) -> None:
        """Tells the user's URL, if there is one, of the job's failure."""
        unreported = await _caught(self._pipeline.report_failure, job_id)
        if unreported is not None:
            _log_unreported(job_id, unreported)


async def _caught(step: Callable[[str], Awaitable[None]], job_id: str) -> Exception | None:
    """What a step raised, or None. The one place where any exception is caught: it becomes the job's failure."""
    try:
        await step(job_id)
    except Exception as exc:  # noqa: BLE001  # see above
        return exc
    return None


def _log_failure(job: Job, error: Exception, message: str) -> None:
    logger.error("❌ %s %s failed: %s: %s", _kind(job), job.id, type(error).__name__, message)
    expected = isinstance(error, ServiceError) and not isinstance(error, TranscriptionFailed)
    logger.log(logging.DEBUG if expected else logging.ERROR, "The cause:", exc_info=error)


def _kind(job: Job) -> str:
    return "Request" if job.synchronous else "Background job"


def _log_unreported(job_id: str, error: Exception) -> None:
    logger.error("Job %s: its failure could not be reported to the user's URL: %s", job_id, error)
    expected = isinstance(error, ServiceError)
    logger.log(logging.DEBUG if expected else logging.ERROR, "The cause:", exc_info=error)
