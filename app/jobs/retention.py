"""The time for which a job is kept after its end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from app.domain.job import DeliveryStatus, JobStatus

if TYPE_CHECKING:
    from app.domain.job import Job
    from app.jobs.service_clock import Moment

#: Differences between the two clocks below this are corrections of the wall clock, not jumps.
_CORRECTION_SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """The seconds for which a job is kept after its end, unless it asked for others.

    Results that could not be delivered are kept longer.

    The service clock measures them: time in which the service is down doesn't count, and no job vanishes because the
    wall clock jumps.
    """

    finished_seconds: float
    undelivered_seconds: float

    def expires_at(self, job: Job, *, now: Moment) -> float | None:
        """Return when the job will be forgotten, in Unix seconds, or None while it has not ended."""
        if job.ended_at is None:
            return None
        moved = (now.unix - now.service_seconds) - (job.ended_at - job.ended_service_seconds)
        return job.ended_at + self._kept_seconds(job) + (moved if abs(moved) > _CORRECTION_SECONDS else 0.0)

    def is_over(self, job: Job, *, service_seconds: float) -> bool:
        ends_at = self.ends_at(job)
        return ends_at is not None and service_seconds >= ends_at

    def ends_at(self, job: Job) -> float | None:
        """Return when the job will be forgotten, in seconds of the service clock, or None while it is not settled."""
        return job.ended_service_seconds + self._kept_seconds(job) if job.is_settled else None

    def _kept_seconds(self, job: Job) -> float:
        undelivered = (
            job.status is JobStatus.FAILED
            and job.has_result
            and job.delivery is not None
            and job.delivery.status is not DeliveryStatus.DELIVERED
        )
        seconds = self.finished_seconds if job.retention_seconds is None else job.retention_seconds
        return max(seconds, self.undelivered_seconds) if undelivered else seconds
