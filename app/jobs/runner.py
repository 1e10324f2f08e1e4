"""Submit, cancel, supervise, drain: every job that is worked on is a named task that somebody awaits."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from app.domain.concurrency import carried_through, to_its_end
from app.domain.errors import Draining, EngineFailed, InvalidRequest, QueueFull, ShutDown, UnknownJob
from app.domain.job import Delivery, Job, JobStatus, Progress
from app.domain.log_context import CurrentJob, current_job
from app.jobs.supervision import caught, forget_frames, kind_of, log_failure
from app.jobs.transitions import message_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from app.domain.job import Upload
    from app.jobs.deliveries import Deliveries
    from app.jobs.estimate import Estimate
    from app.jobs.pipeline import Pipeline
    from app.jobs.service_clock import ServiceClock
    from app.jobs.spool import Spool
    from app.jobs.store import Ledger, Registry
    from app.jobs.transitions import Change, Endings

logger = logging.getLogger(__name__)

#: Of the grace period so much is kept, at most, to end what has not come to its end.
_UNWIND_SECONDS: Final = 2.0
#: How often a shutdown looks whether the last request has arrived.
_ARRIVAL_SECONDS: Final = 0.1
#: How long the next process may take to start, in seconds.
_START_SECONDS: Final = 10
_SHUT_DOWN: Final = "The service was shut down before the job had finished: submit it again."


class Runner:
    """Owns the task of every job that is worked on. ``on_death`` is told when one ended as none may."""

    def __init__(
        self,
        *,
        registry: Registry,
        ledger: Ledger,
        spool: Spool,
        pipeline: Pipeline,
        deliveries: Deliveries,
        endings: Endings,
        estimate: Estimate,
        service_clock: ServiceClock,
        max_queued: int,
        on_death: Callable[[BaseException], None],
    ) -> None:
        self._registry = registry
        self._ledger = ledger
        self._spool = spool
        self._pipeline = pipeline
        self._deliveries = deliveries
        self._endings = endings
        self._estimate = estimate
        self._service_clock = service_clock
        self._max_queued = max_queued
        self._on_death = on_death
        self._arriving = 0
        self._tasks: dict[str, asyncio.Task[Exception | None]] = {}
        self._drained_at = 0.0
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
                retry_after_seconds=math.ceil(max(0.0, self._drained_at - time.monotonic())) + _START_SECONDS,
            )
        waiting = self._registry.waiting_count + self._arriving
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

    async def submit(self, job: Job, context: Mapping[str, str] | None = None) -> Job:
        """Takes a job in and starts its task. Its audio, if it came along, is in the spool already.

        Gives the job that was made with the same idempotency key before, if there is one; nothing is started then.
        ``context`` is what its request said about the trace that it is part of.

        Raises:
            DiskFull, JournalFailed: it was not taken.
        """
        return await carried_through(self._submit(job, context))

    async def _submit(self, job: Job, context: Mapping[str, str] | None) -> Job:
        registered = await self._ledger.admit(job, context)
        if registered is job:
            self.start(job.id)
        return registered

    def start(self, job_id: str) -> None:
        """Has a job that is known go on, from wherever it is."""
        task = asyncio.create_task(self._supervise(job_id), name=f"job {job_id}")
        self._tasks[job_id] = task
        task.add_done_callback(lambda task: self._ended(job_id, task))

    async def outcome(self, job_id: str) -> Exception | None:
        """Waits until the job has its result or has failed, and says what went wrong, if anything; does not cancel it
        when cancelled."""
        task = self._tasks.get(job_id)
        if task is None:
            return None
        await asyncio.wait([task])
        if task.cancelled():
            return ShutDown(_SHUT_DOWN if self.draining else "The request was cancelled.")
        return task.result()

    async def cancel(self, job_id: str) -> Job:
        """Ends a job at once, with nothing delivered; a finished one stays as it is."""
        before = self._registry.get(job_id)
        job = await self._ledger.commit(job_id, self._endings.cancelled())
        if job.status is not JobStatus.CANCELLED:
            return job
        if before.is_active:
            logger.info("🛑 Job %s cancelled", job_id)
        await self.stop(job_id)
        await self._discard(job_id)
        self._deliveries.attend(job_id)  # its webhook is told
        return job

    async def forget(self, job_id: str) -> None:
        """Removes all trace of a job; what still runs of it is stopped."""
        await self.stop(job_id)
        with suppress(UnknownJob):
            await self._ledger.forget(job_id)
        await to_its_end(self._spool.discard, job_id)

    async def redeliver(self, job_id: str, upload: Upload | None) -> Job:
        """Has the stored result of a job that has ended delivered again: to ``upload``, or to where it was to go.

        Raises:
            InvalidRequest: it has no result, or has not ended; or there is no URL that can still be used.
        """
        due = Delivery(since=self._service_clock.seconds, next_round=self._service_clock.seconds)
        at = time.time()

        def change(job: Job) -> Job:
            chosen = upload or job.upload
            _check_redeliverable(job, chosen, now=at)
            assert chosen is not None  # noqa: S101  # checked
            return job.moved_to(
                JobStatus.PROCESSING,
                at=at,
                ended_at=None,
                progress=Progress.UPLOADING,
                upload=chosen,
                delivery=replace(due, expires_at=chosen.expires_at),
                notification=None,
            )

        return await carried_through(self._redeliver(job_id, change))

    async def _redeliver(self, job_id: str, change: Change) -> Job:
        job = await self._ledger.commit(job_id, change)
        await self._deliveries.stop(job_id)  # what is under way tells of the end before, not of the next
        self._deliveries.attend(job_id)
        return job

    def is_running(self, job_id: str) -> bool:
        """Whether something is done for the job, or about to be; not whether it waits for a later round."""
        deliveries = self._deliveries
        return job_id in self._tasks or deliveries.is_busy(job_id) or deliveries.is_about_to_begin(job_id)

    async def drain(self, grace_seconds: float) -> None:
        """Takes no new work; lets what is on the model finish, and has clients that wait answered, within
        ``grace_seconds``. What has not finished goes back to the queue, for the next start."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + grace_seconds
        self._drained_at = time.monotonic() + grace_seconds
        self.draining = True
        await asyncio.gather(*(self._put_back(job.id) for job in self._registry.under_way() if not _goes_on(job)))
        if self._tasks or self._deliveries.running:
            logger.info(
                "Waiting up to %gs for %d jobs and %d deliveries; the rest goes on after the next start",
                grace_seconds,
                len(self._tasks),
                self._deliveries.running,
            )
        end = deadline - min(_UNWIND_SECONDS, grace_seconds / 3)
        await self._wait_until(end)
        await asyncio.gather(*(self._put_back(job_id) for job_id in list(self._tasks)))
        await self._deliveries.drain(end)

    async def _wait_until(self, deadline: float) -> None:
        """Until the deadline, in the loop's time, or until nothing runs and nothing arrives any more."""
        loop = asyncio.get_running_loop()
        while (self._tasks or self._arriving) and (left := deadline - loop.time()) > 0:
            if self._tasks:
                await asyncio.wait(self._tasks.values(), timeout=left)
            else:
                await asyncio.sleep(min(left, _ARRIVAL_SECONDS))

    async def _put_back(self, job_id: str) -> None:
        """Stops the work on a job. A background job is in the journal; a waiting client is told."""
        if job_id not in self._tasks:
            return
        await self._stop(job_id)
        with suppress(UnknownJob):
            job = self._registry.get(job_id)
            if job.synchronous:
                if job.is_active:
                    log_failure(job, ShutDown(_SHUT_DOWN), _SHUT_DOWN)
                    await self._ledger.commit(job_id, self._endings.failed(ShutDown(_SHUT_DOWN)))
                await self._discard(job_id)
            elif job.is_active and not job.has_result:
                logger.info("Job %s goes back to the queue, for the next start", job_id)

    async def stop(self, job_id: str) -> None:
        """Ends whatever is done for the job; what the ledger holds of it stays."""
        await self._stop(job_id)
        await self._deliveries.stop(job_id)

    async def _stop(self, job_id: str) -> None:
        """Cancels the job's task and waits for its end."""
        task = self._tasks.get(job_id)
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    async def _discard(self, job_id: str) -> None:
        """Removes what an ended job needs no more: everything but its result."""
        with suppress(UnknownJob):
            job = self._registry.get(job_id)
            await to_its_end(self._spool.discard_audio if job.has_result else self._spool.discard, job_id)

    async def _supervise(self, job_id: str) -> Exception | None:
        """The job's task: its outcome is what went wrong, or None."""
        job = self._registry.get(job_id)
        current_job.set(CurrentJob(job_id, job.accepted_at))
        error = await caught(self._pipeline.process(job_id))
        if isinstance(error, EngineFailed) and not job.synchronous:
            logger.error("Job %s goes back to the queue, for the next start: %s", job_id, error)
        elif error is not None:
            await self._fail(job_id, error)
        elif self._registry.get(job_id).status is JobStatus.COMPLETED:
            logger.info("✅ %s %s completed successfully in %.1fs", kind_of(job), job_id, time.time() - job.accepted_at)
        return error

    async def _fail(self, job_id: str, error: Exception) -> None:
        message = message_of(error)
        log_failure(self._registry.get(job_id), error, message)
        await self._ledger.commit_patiently(job_id, self._endings.failed(error))
        forget_frames(error)
        await self._discard(job_id)

    def _ended(self, job_id: str, task: asyncio.Task[Exception | None]) -> None:
        self._tasks.pop(job_id, None)
        if task.cancelled():
            return
        if (error := task.exception()) is not None:
            self._on_death(error)
        else:
            self._deliveries.attend(job_id)


def _goes_on(job: Job) -> bool:
    """Whether a shutdown waits for it: a client does, or it is on the model already."""
    return job.synchronous or job.status is JobStatus.PROCESSING


def _check_redeliverable(job: Job, upload: Upload | None, *, now: float) -> None:
    if job.is_active:
        raise InvalidRequest(
            f"Job {job.id} has not ended: wait until its status is completed or failed, then ask again.",
            code="job_not_ended",
        )
    if job.status is JobStatus.CANCELLED:
        raise InvalidRequest(f"Job {job.id} was cancelled: submit it again.", code="job_cancelled")
    if not job.has_result:
        raise InvalidRequest(f"Job {job.id} has no result that could be delivered: submit it again.", code="no_result")
    if upload is None or not upload.is_kept or (upload.expires_at is not None and upload.expires_at <= now):
        raise InvalidRequest(
            "The URL that this job was submitted with is not kept any more, or has expired: send a fresh one as "
            '{"upload_presigned_url": "https://…"}.',
            param="upload_presigned_url",
        )
