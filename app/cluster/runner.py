"""The work of the cluster as one node sees it: tasks that it runs itself, and jobs that it waits for."""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from app.domain import errors
from app.domain.errors import InvalidRequest, ServiceError, ShutDown, StorageUnavailable, Unavailable, UnknownJob
from app.domain.job import JobStatus
from app.jobs.delivery_schedule import DeliverySchedule
from app.jobs.runner import Runner

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from app.cluster.database import Database
    from app.cluster.queue import TaskQueue
    from app.cluster.soft_state import SharedSegments
    from app.cluster.store import ClusterStore
    from app.domain.job import Job
    from app.jobs.pipeline import Pipeline
    from app.jobs.subscriptions import JobSubscriptions

logger = logging.getLogger(__name__)

#: A job that somebody waits for is read again after this many seconds, in case a notice was lost.
_REREAD_SECONDS: Final = 5.0
_POLL_SECONDS: Final = 0.1
#: The Retry-After of an error that passes.
_RETRY_SECONDS: Final = 10


class QueuedDeliveries(DeliverySchedule):
    """Rounds of deliveries that are tasks of the queue, which are enqueued with the changes that make them due."""

    def add(self, job_id: str) -> None:
        """Do nothing: the task is there."""

    async def stop(self, job_id: str) -> None:
        """Do nothing: a round whose delivery is no longer due changes nothing."""

    async def drain(self, deadline: float) -> None:
        """Do nothing: the worker loops are drained."""


class Downloads:
    """The part of the pipeline that a node without a model can do."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline

    async def process(self, job_id: str) -> None:
        """Download the audio of a job."""
        await self._pipeline.download(job_id)


class TaskRunner(Runner):
    """Runs the jobs whose tasks this node has taken."""

    async def run(self, job_id: str) -> None:
        """Work on a job until it has a result or has failed, or must go back to the queue."""
        if job_id not in self._tasks:  # a task that was taken for lost may have come back here
            self.start(job_id)
        try:
            await self.outcome(job_id)
        except asyncio.CancelledError:
            await self._stop(job_id)
            raise

    async def _put_back(self, job_id: str) -> None:
        """Stop the work on a job, also if a client waits for it: its task goes to another node."""
        await self._stop(job_id)


class ClusterRunner(Runner):
    """Waits for jobs that any node may work on, and stops them.

    ``runners`` have the work of this node.
    """

    def __init__(
        self,
        *,
        store: ClusterStore,
        database: Database,
        queue: TaskQueue,
        runners: Sequence[TaskRunner],
        subscriptions: JobSubscriptions,
        segments: SharedSegments,
        **parts: Any,
    ) -> None:
        super().__init__(store=store, **parts)
        self._jobs = store
        self._database = database
        self._queue = queue
        self._runners = runners
        self._subscriptions = subscriptions
        self._segments = segments
        self._clients = 0
        self._ending = asyncio.Event()

    def start(self, job_id: str) -> None:
        """Do nothing: the job's task was enqueued with it."""

    def is_running(self, job_id: str) -> bool:
        """Return whether this node works on the job."""
        return any(runner.is_running(job_id) for runner in self._runners)

    async def outcome(self, job_id: str) -> Exception | None:
        self._clients += 1
        try:
            with self._subscriptions.subscribe(job_id) as subscription:
                while True:
                    subscription.clear()
                    with suppress(StorageUnavailable):
                        job = (await self._jobs.read(job_id)).job
                        if not job.needs_transcription:
                            if job.streamed and job.has_result:
                                await self._segments.read(job_id)
                            return None if job.has_result else error_of(job)
                    if self._ending.is_set():
                        return ShutDown("The service was shut down before the job had finished: submit it again.")
                    await subscription.wait(_REREAD_SECONDS)
        except UnknownJob:
            return ShutDown("The request was ended by another server: submit it again.")
        finally:
            self._clients -= 1

    async def stop(self, job_id: str) -> None:
        """Remove the job's task from the queue, or have it cancelled where it runs."""
        async with self._database.transaction() as connection:
            task_id = await self._jobs.task_of(connection, job_id)
            if task_id is not None:
                await self._queue.cancel(connection, task_id)

    async def drain(self, grace_seconds: float, *, arriving: Callable[[], int]) -> None:
        """End the work of this node within ``grace_seconds``: what has not finished by then goes to other nodes."""
        self._drained_at = time.monotonic() + grace_seconds
        self.draining = True
        self._queue.drain()
        await asyncio.gather(
            *(runner.drain(grace_seconds, arriving=lambda: 0) for runner in self._runners),
            self._wait_for_clients(arriving),
        )
        self._ending.set()
        for job_id in self._subscriptions.subscribed:
            self._subscriptions.notify(job_id)
        self.drained = True

    async def _wait_for_clients(self, arriving: Callable[[], int]) -> None:
        while (self._clients or arriving()) and self.seconds_until_drained > 0:  # noqa: ASYNC110  # only counted
            await asyncio.sleep(min(_POLL_SECONDS, self.seconds_until_drained))


def error_of(job: Job) -> Exception:
    """Return the error that ended a job, as the node raised it that worked on the job."""
    if job.status is JobStatus.CANCELLED:
        return ShutDown("The request was cancelled.")
    message = job.error or "The job failed."
    kind = getattr(errors, job.error_type or "", None)
    if not isinstance(kind, type) or not issubclass(kind, ServiceError):
        return Exception(message)
    error = kind.__new__(kind)  # the classes have constructors of their own
    Exception.__init__(error, message)
    if isinstance(error, InvalidRequest):
        error.code, error.param = job.error_code, job.error_param
    if isinstance(error, Unavailable):
        error.retry_after_seconds = _RETRY_SECONDS
    return error
