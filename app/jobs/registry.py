"""The live jobs: a dict in memory behind a lock."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import islice
from threading import Lock
from typing import TYPE_CHECKING

from app.domain.errors import UnknownJob
from app.domain.job import Job, JobStatus

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Some of the jobs, newest first, and how many there are in all."""

    jobs: tuple[Job, ...]
    total: int


class Registry:
    """Every job that is known, in the order of acceptance. Safe to call from any thread."""

    def __init__(self) -> None:
        self._jobs: dict[str, Job] = {}
        self._lock = Lock()

    def add(self, job: Job) -> None:
        with self._lock:
            self._jobs[job.id] = job

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
            job = self._jobs[job_id] = change(self._get(job_id))
            return job

    def remove(self, job_id: str) -> None:
        with self._lock:
            self._jobs.pop(job_id, None)

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


def _unknown(job_id: str) -> UnknownJob:
    return UnknownJob(
        f"There is no job {job_id!r}: it never existed, it was forgotten after its retention time, or it was made "
        "with another API key.",
        code="job_not_found",
    )
