"""A journal in memory that the test can hold up or let fail."""

from __future__ import annotations

import asyncio
import os
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING

from app.jobs.journal import Journal
from app.jobs.service_clock import ServiceClock

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from app.domain.job import Job
    from app.domain.usage import Usage, UsageKey


class ScriptedJournal(Journal):
    """A journal without a file.

    ``changes`` is everything that was written, in order, with None for a job that was deleted; ``kept`` is the last
    value of each job; ``used`` is all usage that was added. While the journal is held, changes wait, and ``arrived`` is
    set once one does. ``failures`` are raised one after another, before anything is kept.
    """

    def __init__(self) -> None:
        super().__init__(Path(os.devnull), ServiceClock())
        self.changes: list[tuple[str, Job | None]] = []
        self.kept: dict[str, Job] = {}
        self.used: list[tuple[UsageKey, Usage]] = []
        self.failures: deque[Exception] = deque()
        self.arrived = asyncio.Event()
        self._held: Callable[[Job | None], bool] | None = None
        self._free = asyncio.Event()
        self._free.set()

    def hold(self, which: Callable[[Job | None], bool] = lambda _: True) -> None:
        """Hold up changes to values for which ``which`` returns true."""
        self._held = which
        self.arrived.clear()
        self._free.clear()

    def release(self) -> None:
        self._held = None
        self._free.set()

    def written(self, job_id: str) -> list[Job]:
        """Return every value of the job that was written."""
        return [job for each, job in self.changes if each == job_id and job is not None]

    def open(self) -> Sequence[Job]:
        return tuple(self.kept.values())

    async def write(self, job: Job, used: tuple[UsageKey, Usage] | None = None) -> None:
        await self._take(job)
        if used is not None:
            self.used.append(used)
        self.changes.append((job.id, job))
        self.kept[job.id] = job

    def add_usage(self, key: UsageKey, usage: Usage) -> None:
        self.used.append((key, usage))

    async def delete(self, job_id: str) -> None:
        await self._take(None)
        self.changes.append((job_id, None))
        self.kept.pop(job_id, None)

    async def save_service_clock(self) -> None:
        await self._take(None)

    def close(self) -> None:
        pass

    async def _take(self, job: Job | None) -> None:
        if self.failures:
            raise self.failures.popleft()
        if self._held is not None and self._held(job):
            self.arrived.set()
            await self._free.wait()
