"""What must survive a crash: every background job, written down before anybody is told of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from app.domain.job import Job


class Journal(Protocol):
    """Keeps the last value of each job that was written."""

    def open(self) -> Sequence[Job]:
        """The jobs that it holds, in the order of their acceptance. Blocks.

        Raises:
            ServiceError: it can't be used.
        """

    async def write(self, job: Job) -> None:
        """Returns once the job, as it is now, would survive a loss of power.

        Raises:
            DiskFull: there is no space for it; it was not written.
            JournalFailed: it could not be written for another reason.
        """

    async def delete(self, job_id: str) -> None:
        """Forgets a job for good, with the same errors."""

    async def beat(self) -> None:
        """Writes down how long the service has run."""

    def close(self) -> None:
        """Blocks until everything is written and no erased secret is left in the files."""


class NoJournal:
    """Keeps nothing: what a service is without one, for comparisons."""

    def open(self) -> Sequence[Job]:
        return ()

    async def write(self, job: Job) -> None:
        pass

    async def delete(self, job_id: str) -> None:
        pass

    async def beat(self) -> None:
        pass

    def close(self) -> None:
        pass
