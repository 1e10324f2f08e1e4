"""Every change of a job that a crash must not undo: first in the journal, then in the registry."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from dataclasses import dataclass, replace
from itertools import islice
from threading import Lock
from typing import TYPE_CHECKING, Final
from weakref import WeakValueDictionary

from app.domain.concurrency import carried_through
from app.domain.errors import DiskFull, UnknownJob
from app.domain.events import JobAccepted, JobEnded, JobForgotten, JobStarted, discard_event
from app.domain.job import Job, JobStatus
from app.jobs.subscriptions import Changes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from app.domain.events import EventSink
    from app.domain.job import Job
    from app.jobs.journal import Journal


logger = logging.getLogger(__name__)

#: How often work that has been accepted looks whether the disk has space again.
FULL_DISK_SECONDS: Final = 2.0


class Ledger:
    """Writes jobs of background work down before anybody sees them change; those of waiting clients are not kept.

    Changes are functions of the job alone: they are made once for the journal and once for the registry.
    """

    def __init__(self, registry: Registry, journal: Journal, *, emit: EventSink = discard_event) -> None:
        self._emit = emit
        self._registry = registry
        self._journal = journal
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def admit(self, job: Job, context: Mapping[str, str] | None = None) -> Job:
        """Takes a new job in; gives the one that has its idempotency key already, if there is one, else ``job``.

        ``context`` is what its request said about the trace that it is part of.

        Raises:
            DiskFull, JournalFailed: it was not taken.
        """
        return await carried_through(self._admit(job, context or {}))

    async def commit(self, job_id: str, change: Callable[[Job], Job]) -> Job:
        """Puts ``change(job)`` in the job's place, in one step, and gives it back.

        Raises:
            UnknownJob: there is none.
            DiskFull, JournalFailed: nothing has changed.
        """
        return await carried_through(self._commit(job_id, change))

    async def commit_patiently(self, job_id: str, change: Callable[[Job], Job]) -> Job:
        """The same, but waits for space on a full disk."""
        while True:
            try:
                return await self.commit(job_id, change)
            except DiskFull:
                logger.warning("⚠️ Job %s: the disk is full; waiting for space for the journal", job_id)
            await asyncio.sleep(FULL_DISK_SECONDS)

    async def forget(self, job_id: str) -> None:
        """Removes a job for good.

        Raises:
            DiskFull, JournalFailed: it is still there.
        """
        await carried_through(self._forget(job_id))

    async def _admit(self, job: Job, context: Mapping[str, str]) -> Job:
        # Another request with the same key waits here until this one is known, or is not.
        async with self._turn(job.id if job.idempotency_key is None else f"{job.owner} {job.idempotency_key}"):
            known = job.idempotency_key and self._registry.with_key(job.idempotency_key, owner=job.owner)
            if known:
                return known
            if not job.synchronous:
                await self._journal.write(job)
            admitted = self._registry.add(job)
            if admitted is job:
                self._emit(JobAccepted(job, context))
            return admitted

    async def _commit(self, job_id: str, change: Callable[[Job], Job]) -> Job:
        async with self._turn(job_id):
            before = self._registry.get(job_id)
            job = change(before)
            if job is not before and not job.synchronous:
                await self._journal.write(replace(job, revision=before.revision + 1))  # as the registry counts
            return self._registry.update(job_id, change)

    async def _forget(self, job_id: str) -> None:
        async with self._turn(job_id):
            if not self._registry.get(job_id).synchronous:
                await self._journal.delete(job_id)
            self._registry.remove(job_id)

    def _turn(self, name: str) -> asyncio.Lock:
        """One at a time for each job."""
        lock = self._turns.get(name)
        if lock is None:
            lock = self._turns[name] = asyncio.Lock()
        return lock


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Some of the jobs, newest first, and how many there are in all."""

    jobs: tuple[Job, ...]
    total: int


class Registry:
    """Every job that is known, in the order of acceptance. Safe to call from any thread.

    What is asked for at every request (the line, counts, an owner's jobs) is kept beside the dict, not searched for.
    """

    def __init__(self, changes: Changes | None = None, *, emit: EventSink = discard_event) -> None:
        self._emit = emit
        self._jobs: dict[str, Job] = {}
        self._by_key: dict[tuple[str, str], str] = {}
        self._waiting: dict[str, None] = {}
        self._under_way: dict[str, None] = {}
        self._of_owner: dict[str, dict[str, None]] = {}
        self._counts: Counter[tuple[str, JobStatus]] = Counter()
        self._lock = Lock()
        self._changes = changes or Changes()

    def add(self, job: Job) -> Job:
        """Registers a job; gives the one that has its idempotency key already, if there is one, else ``job``."""
        with self._lock:
            key = _key(job)
            if key is not None:
                known = self._by_key.setdefault(key, job.id)
                if known != job.id:
                    return self._jobs[known]
            self._put(job)
            return job

    def with_key(self, key: str, *, owner: str) -> Job | None:
        """The job of ``owner`` that was made with this idempotency key, if it is still known."""
        with self._lock:
            job_id = self._by_key.get((owner, key))
            return None if job_id is None else self._jobs[job_id]

    def get(self, job_id: str) -> Job:
        """The job as it is now.

        Raises:
            UnknownJob: there is none, or not any more.
        """
        with self._lock:
            return self._get(job_id)

    def knows(self, job_id: str) -> bool:
        return job_id in self._jobs

    def find(self, job_id: str, *, owner: str) -> Job:
        """The background job ``job_id`` of ``owner``; another's is as unknown as one that never was."""
        job = self.get(job_id)
        if job.owner != owner or job.synchronous:
            raise _unknown(job_id)
        return job

    def update(self, job_id: str, change: Callable[[Job], Job]) -> Job:
        """Puts ``change(job)`` in the job's place, in one step, and gives it back."""
        with self._lock:
            before = self._get(job_id)
            job = change(before)
            if job is before:
                return job
            job = replace(job, revision=before.revision + 1)
            self._take_out(before, job)
            self._put(job)
        self._changes.announce(job_id)
        if before.status is JobStatus.QUEUED and job.status is not JobStatus.QUEUED:
            self._changes.announce_line()
        if before.started_at is None and job.started_at is not None:
            self._emit(JobStarted(job))
        if before.is_active and not job.is_active:
            self._emit(JobEnded(job))
        return job

    def release_key(self, job_id: str) -> None:
        """Makes the job's idempotency key free for another one."""
        with self._lock:
            job = self._jobs.get(job_id)
            if job is not None and (key := _key(job)) is not None:
                del self._by_key[key]
                self._jobs[job_id] = replace(job, idempotency_key=None)

    def remove(self, job_id: str) -> None:
        with self._lock:
            job = self._jobs.pop(job_id, None)
            if job is not None:
                self._take_out(job, None)
                if (key := _key(job)) is not None:
                    del self._by_key[key]
        self._changes.announce(job_id)
        self._emit(JobForgotten(job_id))

    def page(self, *, owner: str, status: JobStatus | None = None, limit: int, after: str | None = None) -> Page:
        """The background jobs of ``owner``, those accepted before ``after``, at most ``limit`` of them.

        Raises:
            UnknownJob: ``after`` is none of them.
        """
        if after is not None:
            self.find(after, owner=owner)
        with self._lock:
            newest_first = reversed(self._of_owner.get(owner, {}))
            if after is not None:
                _skip_to(newest_first, after)
            jobs = (self._jobs[job_id] for job_id in newest_first)
            page = tuple(islice((job for job in jobs if status in (None, job.status)), limit))
            counted = JobStatus if status is None else (status,)
            return Page(jobs=page, total=sum(self._counts[owner, one] for one in counted))

    def counts(self) -> Counter[JobStatus]:
        """How many background jobs there are in each status."""
        counts: Counter[JobStatus] = Counter()
        with self._lock:
            for (_, status), number in self._counts.items():
                counts[status] += number
        return +counts

    @property
    def undelivered_count(self) -> int:
        """How many have something that is still to be delivered."""
        with self._lock:
            return sum(job.upload_is_due or job.event_is_due for job in self._jobs.values())

    @property
    def waiting_count(self) -> int:
        """How many wait for their first slot, synchronous ones too."""
        return len(self._waiting)

    def waiting(self) -> list[str]:
        """The ids of all that wait for their first slot, synchronous ones too, first come first."""
        with self._lock:
            return list(self._waiting)

    def under_way(self) -> list[Job]:
        """All that have no result yet and may get one, synchronous ones too, first come first."""
        with self._lock:
            return [self._jobs[job_id] for job_id in self._under_way]

    def everything(self) -> list[Job]:
        with self._lock:
            return list(self._jobs.values())

    def _put(self, job: Job) -> None:
        self._jobs[job.id] = job
        if job.status is JobStatus.QUEUED:
            self._waiting[job.id] = None
        if job.is_active and not job.has_result:
            self._under_way[job.id] = None
        if not job.synchronous:
            self._of_owner.setdefault(job.owner, {})[job.id] = None
            self._counts[job.owner, job.status] += 1

    def _take_out(self, before: Job, after: Job | None) -> None:
        """Makes the indexes forget what ``before`` was; where it stays what it was it keeps its place in them."""
        if after is None or after.status is not JobStatus.QUEUED:
            self._waiting.pop(before.id, None)
        if after is None or not after.is_active or after.has_result:
            self._under_way.pop(before.id, None)
        if before.synchronous:
            return
        self._counts[before.owner, before.status] -= 1
        if after is None:
            del self._of_owner[before.owner][before.id]
            if not self._of_owner[before.owner]:
                del self._of_owner[before.owner]
                for status in JobStatus:
                    self._counts.pop((before.owner, status), None)

    def _get(self, job_id: str) -> Job:
        try:
            return self._jobs[job_id]
        except KeyError:
            raise _unknown(job_id) from None


def _skip_to(ids: Iterator[str], wanted: str) -> None:
    """Leaves an iterator behind ``wanted``."""
    while next(ids, wanted) != wanted:
        pass


def _key(job: Job) -> tuple[str, str] | None:
    return None if job.idempotency_key is None else (job.owner, job.idempotency_key)


def _unknown(job_id: str) -> UnknownJob:
    return UnknownJob(
        f"There is no job {job_id!r}: it never existed, it was forgotten after its retention time, or it was made "
        "with another API key.",
        code="job_not_found",
    )
