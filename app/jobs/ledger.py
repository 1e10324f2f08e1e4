"""Every change of a job that a crash must not undo: first in the journal, then in the registry."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Final
from weakref import WeakValueDictionary

from app.domain.errors import DiskFull
from app.domain.telemetry import Accepted, untold
from app.jobs.threads import carried_through

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from app.domain.job import Job
    from app.domain.telemetry import Tell
    from app.jobs.journal import Journal
    from app.jobs.registry import Registry

logger = logging.getLogger(__name__)

#: How often work that has been accepted looks whether the disk has space again.
FULL_DISK_SECONDS: Final = 2.0


class Ledger:
    """Writes jobs of background work down before anybody sees them change; those of waiting clients are not kept.

    Changes are functions of the job alone: they are made once for the journal and once for the registry.
    """

    def __init__(self, registry: Registry, journal: Journal, *, tell: Tell = untold) -> None:
        self._tell = tell
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
                self._tell(Accepted(job, context))
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
