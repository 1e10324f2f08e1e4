"""The store of jobs: the registry in memory, and the journal behind it for what must survive a crash.

It is the only way to read or change a job. What concerns the jobs of this process is read from memory at once;
lookups for clients, pages and counts are async, because another store may need I/O for them.
"""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Concatenate, Final, ParamSpec
from weakref import WeakValueDictionary

from app.domain.concurrency import shielded
from app.domain.errors import DiskFull, StorageUnavailable, UnknownJob
from app.domain.events import JobAccepted, JobEnded, JobForgotten, JobStarted, discard_event
from app.domain.job import JobStatus, LiveJob
from app.domain.usage import DAY_SECONDS, Usage, UsageKey
from app.jobs.changes import ChangeLog
from app.jobs.registry import ALL_JOBS, Registry
from app.jobs.subscriptions import JobSubscriptions
from app.jobs.usage import UsageLedger

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable, Mapping, Sequence

    from app.domain.events import EventSink
    from app.domain.job import DeliveryKind, Job, Progress
    from app.jobs.journal import Journal
    from app.jobs.registry import JobFilter, Page

P = ParamSpec("P")

logger = logging.getLogger(__name__)

#: The pause between two attempts to write to a full disk.
FULL_DISK_SECONDS: Final = 2.0
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


def boot_of_machine() -> str:
    """Return the id of the boot that this process runs in, or an empty text if the system has none. Blocks."""
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return ""


class JobStore:
    """Admits, changes and forgets jobs.

    ``node`` is the value of `Job.begun_on` for work of this process.

    A durable change is computed once, under the job's lock, then written to the journal, then published. Synchronous
    jobs are not journalled: they end with their requests.
    """

    def __init__(
        self,
        journal: Journal,
        *,
        registry: Registry | None = None,
        subscriptions: JobSubscriptions | None = None,
        changes: ChangeLog | None = None,
        emit: EventSink = discard_event,
    ) -> None:
        self._journal = journal
        self._registry = registry or Registry()
        self._subscriptions = subscriptions or JobSubscriptions()
        self._changes = changes or ChangeLog()
        self.usage = UsageLedger()
        self._emit = emit
        self.node = ""
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    # The journal.

    def open(self) -> Sequence[Job]:
        """Open the journal and return its jobs in the order of acceptance. Blocks.

        Raises:
            ServiceError: the journal can't be used.
        """
        jobs = self._journal.open()
        self.node = boot_of_machine()
        self.usage.restore(self._journal.usage)
        return jobs

    def close(self) -> None:
        """Write everything that is still to be written and close the journal. Blocks."""
        self._journal.close()

    def restore(self, job: Job) -> None:
        """Make a job from the journal known."""
        self._registry.add(job)

    async def save_service_clock(self) -> None:
        await self._journal.save_service_clock()

    # Changes.

    async def admit(self, job: Job, trace_context: Mapping[str, str] | None = None) -> Job:
        """Add a new job and return it, or return the job that was submitted before with its idempotency key.

        ``trace_context`` holds the W3C trace headers of the request.

        Raises:
            DiskFull, JournalFailed: the job was not added.
        """
        return await shielded(self._admit(job, trace_context or {}))

    async def commit(
        self, job_id: str, change: Callable[Concatenate[LiveJob, P], Job], *args: P.args, **kwargs: P.kwargs
    ) -> LiveJob:
        """Replace a job by ``change(job, ...)``, durably, and return it.

        Raises:
            UnknownJob: there is none.
            DiskFull, JournalFailed: nothing has changed.
        """
        return await shielded(self._commit(job_id, change, *args, **kwargs))

    async def commit_patiently(
        self, job_id: str, change: Callable[Concatenate[LiveJob, P], Job], *args: P.args, **kwargs: P.kwargs
    ) -> LiveJob:
        """Do the same, but wait for space while the disk is full, and for a database that can't be reached."""
        while True:
            try:
                return await self.commit(job_id, change, *args, **kwargs)
            except DiskFull:
                logger.warning("⚠️ Job %s: the disk is full; waiting for space for the journal", job_id)
            except StorageUnavailable as exc:
                logger.warning("⚠️ Job %s waits: %s", job_id, exc)
            await asyncio.sleep(FULL_DISK_SECONDS)

    async def forget(self, job_id: str) -> None:
        """Remove a job for good.

        Raises:
            UnknownJob: there is none.
            DiskFull, JournalFailed: it is still there.
        """
        await shielded(self._forget(job_id))

    def add_usage(self, owner: str, model: str, usage: Usage) -> None:
        """Count what an API key has used without a job; it is lost if the process is killed in the next moment."""
        key = usage_key(owner, model)
        self._journal.add_usage(key, usage)
        self.usage.add(key, usage)

    def report_progress(
        self, job_id: str, change: Callable[Concatenate[Progress, P], Progress], *args: P.args, **kwargs: P.kwargs
    ) -> None:
        """Replace the progress of a transcription by ``change(progress, ...)``, in memory only.

        Progress is ignored once the job has a result, has ended or was forgotten: its last window may still be on the
        model then.
        """
        with suppress(UnknownJob):
            before, after = self._registry.update(job_id, LiveJob.progressed, change, *args, **kwargs)
            self._announce(before, after)

    def report_attempt(self, job_id: str, kind: DeliveryKind, number: int, *, attempts: int, error: str | None) -> None:
        """Show the attempts at a target of a delivery, including the round under way, in memory only."""
        with suppress(UnknownJob):
            before, after = self._registry.update(
                job_id, LiveJob.attempted, kind, number, attempts=attempts, error=error
            )
            self._announce(before, after)

    def release_key(self, job_id: str) -> None:
        """Make the idempotency key of a synchronous job available for another job."""
        self._registry.release_key(job_id)

    # The jobs of this process.

    def get(self, job_id: str) -> LiveJob:
        """Return a job.

        Raises:
            UnknownJob: there is none, or no longer.
        """
        return self._registry.get(job_id)

    def knows(self, job_id: str) -> bool:
        return self._registry.knows(job_id)

    def live_jobs(self) -> list[LiveJob]:
        """Return all jobs, oldest first."""
        return self._registry.live_jobs()

    def untranscribed(self) -> list[LiveJob]:
        """Return all jobs that have no result yet and may get one, synchronous ones included, oldest first."""
        return self._registry.untranscribed()

    @property
    def untranscribed_elsewhere(self) -> int:
        """The number of further such jobs, which this process doesn't know: none, if it is the only one."""
        return 0

    def queue_positions(self) -> Mapping[str, int]:
        """Return the places in the queue of the jobs that wait for their first slot, from 1."""
        queued = (live.job.id for live in self.untranscribed() if live.status is JobStatus.QUEUED)
        return {job_id: position for position, job_id in enumerate(queued, start=1)}

    @property
    def queued_count(self) -> int:
        """The number of jobs that wait for their first slot, synchronous ones included."""
        return self._registry.queued_count

    # The jobs of a client.

    async def find(self, job_id: str, *, owner: str) -> LiveJob:
        """Return a background job of ``owner``.

        Raises:
            UnknownJob: there is none, or it belongs to another owner; the message is the same.
        """
        return self._registry.find(job_id, owner=owner)

    async def with_key(self, key: str, *, owner: str) -> LiveJob | None:
        """Return the job that ``owner`` submitted with this idempotency key, or None."""
        return self._registry.with_key(key, owner=owner)

    async def page(self, *, owner: str, wanted: JobFilter = ALL_JOBS, limit: int, after: str | None = None) -> Page:
        """Return at most ``limit`` background jobs of ``owner`` that were accepted before the job ``after``.

        Raises:
            UnknownJob: ``after`` is no job of ``owner``.
        """
        return self._registry.page(owner=owner, wanted=wanted, limit=limit, after=after)

    async def counts(self) -> Counter[JobStatus]:
        """Return the number of background jobs in each status."""
        return self._registry.counts()

    async def undelivered_count(self) -> int:
        """Return the number of jobs with something still to deliver."""
        return self._registry.undelivered_count

    async def _admit(self, job: Job, trace_context: Mapping[str, str]) -> Job:
        # Another request with the same key waits here until this one has been admitted or refused.
        async with self._lock(job.id if job.idempotency_key is None else f"{job.owner} {job.idempotency_key}"):
            if job.idempotency_key is not None:
                known = self._registry.with_key(job.idempotency_key, owner=job.owner)
                if known is not None:
                    return known.job
            if not job.synchronous:
                await self._journal.write(job)
            self._registry.add(job)
        self._changes.record(job)
        self._emit(JobAccepted(job, trace_context))
        return job

    async def _commit(
        self, job_id: str, change: Callable[Concatenate[LiveJob, P], Job], *args: P.args, **kwargs: P.kwargs
    ) -> LiveJob:
        async with self._lock(job_id):
            live = self._registry.get(job_id)
            job = change(live, *args, **kwargs)
            if job is live.job:
                return live
            job = replace(job, revision=live.revision + 1)
            used = used_by(job) if job.has_result and not live.job.has_result else None
            if not job.synchronous:
                await self._journal.write(job, used)
            elif used is not None:
                self._journal.add_usage(*used)
            if used is not None:
                self.usage.add(*used)
            before, after = self._registry.update(job_id, LiveJob.with_job, job)
            self._announce(before, after)
            return after

    async def _forget(self, job_id: str) -> None:
        async with self._lock(job_id):
            job = self._registry.get(job_id).job
            if not job.synchronous:
                await self._journal.delete(job_id)
            self._registry.remove(job_id)
        self._changes.record(job, is_removal=True)
        self._subscriptions.notify(job_id)
        self._emit(JobForgotten(job_id))

    def _announce(self, before: LiveJob, after: LiveJob) -> None:
        if after is before:
            return
        self._changes.record(after.job)
        self._subscriptions.notify(after.job.id)
        if before.status is JobStatus.QUEUED and after.status is not JobStatus.QUEUED:
            self._subscriptions.notify_all()  # the others have moved up in the queue
        if before.started_at is None and after.started_at is not None:
            self._emit(JobStarted(after.job, after.started_at))
        if before.job.is_active and not after.job.is_active:
            self._emit(JobEnded(after.job))

    def _lock(self, name: str) -> asyncio.Lock:
        lock = self._locks.get(name)
        if lock is None:
            lock = self._locks[name] = asyncio.Lock()
        return lock


def used_by(job: Job) -> tuple[UsageKey, Usage]:
    """Return what a job has used, now that it has a result."""
    return usage_key(job.owner, job.model), Usage(job.audio_duration or 0.0, 1)


def usage_key(owner: str, model: str) -> UsageKey:
    return UsageKey(day=int(time.time()) // DAY_SECONDS, owner=owner, model=model)
