"""The live jobs: a dict in memory behind a lock."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from itertools import islice
from threading import Lock
from typing import TYPE_CHECKING

from app.domain.errors import UnknownJob
from app.domain.job import Job, JobStatus
from app.jobs.changes import Changes

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Some of the jobs, newest first, and how many there are in all."""

    jobs: tuple[Job, ...]
    total: int


class Registry:
    """Every job that is known, in the order of acceptance. Safe to call from any thread."""

    def __init__(self, changes: Changes | None = None) -> None:
        self._jobs: dict[str, Job] = {}
        self._by_key: dict[tuple[str, str], str] = {}
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
            self._jobs[job.id] = job
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
            job = self._jobs[job_id] = replace(job, revision=before.revision + 1)
        self._changes.announce(job_id)
        if before.status is JobStatus.QUEUED and job.status is not JobStatus.QUEUED:
            self._changes.announce_line()
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
            if job is not None and (key := _key(job)) is not None:
                del self._by_key[key]
        self._changes.announce(job_id)

    def page(self, *, owner: str, status: JobStatus | None = None, limit: int, after: str | None = None) -> Page:
        """The background jobs of ``owner``, those accepted before ``after``, at most ``limit`` of them.

        Raises:
            UnknownJob: ``after`` is none of them.
        """
        with self._lock:
            newest_first = list(reversed(self._jobs.values()))
        begin = 0
        if after is not None:
            self.find(after, owner=owner)
            begin = [job.id for job in newest_first].index(after) + 1

        def listed(job: Job) -> bool:
            return not job.synchronous and job.owner == owner and status in (None, job.status)

        page = islice(filter(listed, newest_first[begin:]), limit)
        return Page(jobs=tuple(page), total=sum(map(listed, newest_first)))

    def counts(self) -> Counter[JobStatus]:
        """How many background jobs there are in each status."""
        with self._lock:
            return Counter(job.status for job in self._jobs.values() if not job.synchronous)

    def waiting(self) -> list[str]:
        """The ids of all that wait for their first permit, synchronous ones too, first come first."""
        with self._lock:
            return [job.id for job in self._jobs.values() if job.status is JobStatus.QUEUED]

    def under_way(self) -> list[Job]:
        """All that have no result yet and may get one, synchronous ones too, first come first."""
        with self._lock:
            return [job for job in self._jobs.values() if job.is_active and not job.has_result]

    def everything(self) -> list[Job]:
        with self._lock:
            return list(self._jobs.values())

    def _get(self, job_id: str) -> Job:
        try:
            return self._jobs[job_id]
        except KeyError:
            raise _unknown(job_id) from None


def _key(job: Job) -> tuple[str, str] | None:
    return None if job.idempotency_key is None else (job.owner, job.idempotency_key)


def _unknown(job_id: str) -> UnknownJob:
    return UnknownJob(
        f"There is no job {job_id!r}: it never existed, it was forgotten after its retention time, or it was made "
        "with another API key.",
        code="job_not_found",
    )
