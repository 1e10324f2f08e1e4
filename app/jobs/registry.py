"""The jobs in memory, guarded by a lock."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import islice
from threading import Lock
from typing import TYPE_CHECKING, Concatenate, Final, ParamSpec

from app.domain.errors import UnknownJob
from app.domain.job import JobStatus, LiveJob

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from app.domain.job import Job

P = ParamSpec("P")


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFilter:
    """Jobs in one of ``statuses`` whose name contains ``text``, in any case, or whose id begins with it."""

    statuses: frozenset[JobStatus] = frozenset(JobStatus)
    text: str = ""

    def includes(self, live: LiveJob) -> bool:
        if live.status not in self.statuses:
            return False
        text = self.text.casefold()
        return not text or live.job.id.startswith(text) or text in (live.job.name or "").casefold()


ALL_JOBS: Final = JobFilter()


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Some of the jobs, newest first, and the number of all that match."""

    jobs: tuple[LiveJob, ...]
    total: int


class Registry:
    """Every known job, in the order of acceptance. All methods are safe to call from any thread.

    Everything that is needed for each request (the queue, counts, an owner's jobs) is indexed, not searched for.
    """

    def __init__(self) -> None:
        self._jobs: dict[str, LiveJob] = {}
        self._by_key: dict[tuple[str, str], str] = {}
        self._queued: dict[str, None] = {}
        self._untranscribed: dict[str, None] = {}
        self._by_owner: dict[str, dict[str, None]] = {}
        self._counts: Counter[tuple[str, JobStatus]] = Counter()
        self._lock = Lock()

    def add(self, job: Job) -> LiveJob:
        return self.put(LiveJob(job, revision=job.revision))

    def put(self, live: LiveJob) -> LiveJob:
        """Add a job with its progress, or replace what is known of it."""
        job = live.job
        with self._lock:
            if (before := self._jobs.get(job.id)) is not None:
                self._take_out(before, live)
            self._put(live)
            if (key := _key(job)) is not None:
                self._by_key[key] = job.id
        return live

    def get(self, job_id: str) -> LiveJob:
        """Return the job as it is now.

        Raises:
            UnknownJob: there is none, or no longer.
        """
        with self._lock:
            return self._get(job_id)

    def find(self, job_id: str, *, owner: str) -> LiveJob:
        """Return a background job of ``owner``.

        Raises:
            UnknownJob: there is none, or it belongs to another owner; the message is the same.
        """
        live = self.get(job_id)
        if live.job.owner != owner or live.job.synchronous:
            raise unknown_job(job_id)
        return live

    def knows(self, job_id: str) -> bool:
        return job_id in self._jobs

    def with_key(self, key: str, *, owner: str) -> LiveJob | None:
        """Return the job that ``owner`` submitted with this idempotency key, or None."""
        with self._lock:
            job_id = self._by_key.get((owner, key))
            return None if job_id is None else self._jobs[job_id]

    def release_key(self, job_id: str) -> None:
        """Make the job's idempotency key available for another job."""
        with self._lock:
            live = self._jobs.get(job_id)
            if live is not None and (key := _key(live.job)) is not None and self._by_key.get(key) == job_id:
                del self._by_key[key]

    def update(
        self, job_id: str, change: Callable[Concatenate[LiveJob, P], LiveJob], *args: P.args, **kwargs: P.kwargs
    ) -> tuple[LiveJob, LiveJob]:
        """Replace a job by ``change(job, ...)`` in one step; return the values before and after.

        Raises:
            UnknownJob: there is none, or no longer.
        """
        with self._lock:
            before = self._get(job_id)
            after = change(before, *args, **kwargs)
            if after is not before:
                self._take_out(before, after)
                self._put(after)
            return before, after

    def remove(self, job_id: str) -> None:
        with self._lock:
            live = self._jobs.pop(job_id, None)
            if live is None:
                return
            self._take_out(live, None)
            if (key := _key(live.job)) is not None and self._by_key.get(key) == job_id:
                del self._by_key[key]

    def page(self, *, owner: str, wanted: JobFilter = ALL_JOBS, limit: int, after: str | None = None) -> Page:
        """Return at most ``limit`` background jobs of ``owner`` that were accepted before the job ``after``.

        Raises:
            UnknownJob: ``after`` is no job of ``owner``.
        """
        if after is not None:
            self.find(after, owner=owner)
        with self._lock:
            newest_first = reversed(self._by_owner.get(owner, {}))
            if after is not None:
                _skip_to(newest_first, after)
            jobs = (self._jobs[job_id] for job_id in newest_first)
            page = tuple(islice(filter(wanted.includes, jobs), limit))
            return Page(jobs=page, total=self._total(owner, wanted))

    def counts(self) -> Counter[JobStatus]:
        """Return the number of background jobs in each status."""
        counts: Counter[JobStatus] = Counter()
        with self._lock:
            for (_, status), number in self._counts.items():
                counts[status] += number
        return +counts

    @property
    def undelivered_count(self) -> int:
        """The number of jobs with something still to deliver."""
        with self._lock:
            return sum(live.job.has_delivery_due for live in self._jobs.values())

    @property
    def queued_count(self) -> int:
        """The number of jobs that wait for their first slot, synchronous ones included."""
        return len(self._queued)

    def untranscribed(self) -> list[LiveJob]:
        """Return all jobs that have no result yet and may get one, synchronous ones included, oldest first."""
        with self._lock:
            return [self._jobs[job_id] for job_id in self._untranscribed]

    def live_jobs(self) -> list[LiveJob]:
        with self._lock:
            return list(self._jobs.values())

    def _put(self, live: LiveJob) -> None:
        job = live.job
        self._jobs[job.id] = live
        if live.status is JobStatus.QUEUED:
            self._queued[job.id] = None
        if job.needs_transcription:
            self._untranscribed[job.id] = None
        if not job.synchronous:
            self._by_owner.setdefault(job.owner, {})[job.id] = None
            self._counts[job.owner, live.status] += 1

    def _take_out(self, before: LiveJob, after: LiveJob | None) -> None:
        """Remove ``before`` from the indexes, except from those in which ``after`` keeps its position."""
        job = before.job
        if after is None or after.status is not JobStatus.QUEUED:
            self._queued.pop(job.id, None)
        if after is None or not after.job.needs_transcription:
            self._untranscribed.pop(job.id, None)
        if job.synchronous:
            return
        self._counts[job.owner, before.status] -= 1
        if after is None:
            del self._by_owner[job.owner][job.id]
            if not self._by_owner[job.owner]:
                del self._by_owner[job.owner]
                for status in JobStatus:
                    self._counts.pop((job.owner, status), None)

    def _total(self, owner: str, wanted: JobFilter) -> int:
        if wanted.text:
            return sum(wanted.includes(self._jobs[job_id]) for job_id in self._by_owner.get(owner, {}))
        return sum(self._counts[owner, status] for status in wanted.statuses)

    def _get(self, job_id: str) -> LiveJob:
        try:
            return self._jobs[job_id]
        except KeyError:
            raise unknown_job(job_id) from None


def unknown_job(job_id: str) -> UnknownJob:
    """Return the error for a job that is unknown, or that belongs to another owner."""
    return UnknownJob(
        f"There is no job {job_id!r}: it never existed, its retention time is over, or it was submitted with another "
        "API key.",
        code="job_not_found",
    )


def _skip_to(job_ids: Iterator[str], last_skipped: str) -> None:
    while next(job_ids, last_skipped) != last_skipped:
        pass


def _key(job: Job) -> tuple[str, str] | None:
    return None if job.idempotency_key is None else (job.owner, job.idempotency_key)
