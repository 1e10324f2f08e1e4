"""How long a job is kept after its end, counted by the service's uptime."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from app.domain.job import DeliveryStatus, JobStatus

if TYPE_CHECKING:
    from app.domain.job import Job
    from app.jobs.uptime import Uptime

#: The wall clock is corrected by less than this all the time.
_CORRECTION_SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """How long a job is kept after it ended, in seconds; results that could not be delivered stay longer.

    Time in which the service is down does not count, and no wall clock that jumps makes a job vanish.
    """

    finished_seconds: float
    undelivered_seconds: float
    uptime: Uptime

    def expires_at(self, job: Job) -> float | None:
        """When the job will be forgotten (Unix seconds), or None while it has not ended."""
        if job.ended_at is None:
            return None
        moved = (time.time() - self.uptime.seconds) - (job.ended_at - job.ended_uptime)
        return job.ended_at + self._kept_seconds(job) + (moved if abs(moved) > _CORRECTION_SECONDS else 0.0)

    def is_over(self, job: Job) -> bool:
        return job.is_settled and self.uptime.seconds - job.ended_uptime >= self._kept_seconds(job)

    def _kept_seconds(self, job: Job) -> float:
        undelivered = (
            job.status is JobStatus.FAILED
            and job.has_result
            and job.delivery is not None
            and job.delivery.status is not DeliveryStatus.DELIVERED
        )
        return max(self.finished_seconds, self.undelivered_seconds) if undelivered else self.finished_seconds
