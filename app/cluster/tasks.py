"""The tasks of the queue: each is one step of a job, on whichever node has taken it."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from app.cluster.queue import PutBack
from app.domain.errors import UnknownJob
from app.domain.job import DeliveryKind

if TYPE_CHECKING:
    from collections.abc import Callable

    from app.cluster.runner import TaskRunner
    from app.cluster.store import ClusterStore
    from app.domain.job import Job
    from app.jobs.deliveries import DeliveryRounds
    from app.jobs.service_clock import ServiceClock

#: Clocks of nodes differ by less than this.
_CLOCKS_DIFFER_SECONDS: Final = 5.0


class Tasks:
    """Works on the job of a task, and raises PutBack if the task is not done at its end."""

    def __init__(
        self,
        store: ClusterStore,
        *,
        transcriptions: TaskRunner,
        downloads: TaskRunner,
        rounds: DeliveryRounds,
        service_clock: ServiceClock,
    ) -> None:
        self._store = store
        self._transcriptions = transcriptions
        self._downloads = downloads
        self._rounds = rounds
        self._service_clock = service_clock

    async def transcribe(self, job_id: str, _: str) -> None:
        """Take a job whose audio has arrived to its result."""
        async with self._store.working_on(job_id, from_the_start=True) as live:
            if live is None or not live.job.needs_transcription:
                return
            await self._transcriptions.run(job_id)
            if await self._needs(job_id, lambda job: job.needs_transcription):
                raise PutBack

    async def download(self, job_id: str, _: str) -> None:
        """Download the audio of a job; its transcription is enqueued with the commit of that."""
        async with self._store.working_on(job_id) as live:
            if live is None or not live.job.needs_transcription or not live.job.source_url:
                return
            await self._downloads.run(job_id)
            if await self._needs(job_id, lambda job: job.needs_transcription and bool(job.source_url)):
                raise PutBack

    async def deliver(self, job_id: str, argument: str) -> None:
        """Make one round of a delivery; the next one is enqueued with the commit of its outcome."""
        kind = DeliveryKind(argument)
        async with self._store.working_on(job_id) as live:
            begins_at = None if live is None else self._rounds.begins_at(live, kind)
            if begins_at is None:
                return
            early = begins_at - self._service_clock.seconds
            if early > _CLOCKS_DIFFER_SECONDS:
                return  # another task was enqueued for that time
            await asyncio.sleep(max(0.0, early))
            await self._rounds.run(job_id, kind)

    async def _needs(self, job_id: str, is_left: Callable[[Job], bool]) -> bool:
        with suppress(UnknownJob):
            return is_left((await self._store.read(job_id)).job)
        return False
