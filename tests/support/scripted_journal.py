"""A journal in memory that does as the test says: it holds what comes, or fails it."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from app.domain.job import Job


class ScriptedJournal:
    """``changes`` is all that was written, in order, None for a job that was deleted; ``kept`` the last of each job.

    While it is held, whatever comes waits, and ``arrived`` is set once something does; ``failures`` are raised one
    after another, before anything is kept.
    """

    def __init__(self) -> None:
        self.changes: list[tuple[str, Job | None]] = []
        self.kept: dict[str, Job] = {}
        self.failures: deque[Exception] = deque()
        self.arrived = asyncio.Event()
        self._held: Callable[[Job | None], bool] | None = None
        self._free = asyncio.Event()
        self._free.set()

    def hold(self, which: Callable[[Job | None], bool] = lambda _: True) -> None:
        """Keeps changes to such values waiting."""
        self._held = which
        self.arrived.clear()
        self._free.clear()

    def release(self) -> None:
        self._held = None
        self._free.set()

    def written(self, job_id: str) -> list[Job]:
        """Every value of the job that was written."""
        return [job for one, job in self.changes if one == job_id and job is not None]

    def open(self) -> Sequence[Job]:
        return tuple(self.kept.values())

    async def write(self, job: Job) -> None:
        await self._take(job)
        self.changes.append((job.id, job))
        self.kept[job.id] = job

    async def delete(self, job_id: str) -> None:
        await self._take(None)
        self.changes.append((job_id, None))
        self.kept.pop(job_id, None)

    async def beat(self) -> None:
        await self._take(None)

    def close(self) -> None:
        pass

    async def _take(self, job: Job | None) -> None:
        if self.failures:
            raise self.failures.popleft()
        if self._held is not None and self._held(job):
            self.arrived.set()
            await self._free.wait()
