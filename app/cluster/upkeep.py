"""Upkeep, on every node and by one of them at a time: what dead nodes have left, retention, and files without a job."""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from app.cluster.nodes import ALIVE
from app.cluster.object_names import KeptObjects
from app.domain.errors import StorageUnavailable, UnknownJob
from app.domain.job import DeliveryKind
from app.jobs import transitions
from app.jobs.sweeper import has_expired_url

if TYPE_CHECKING:
    from collections.abc import Sequence

    from app.cluster.database import Connection, Database
    from app.cluster.objects import ObjectSpool
    from app.cluster.queue import TaskQueue
    from app.cluster.records import Records
    from app.cluster.store import ClusterStore
    from app.jobs.intake import Intake
    from app.jobs.service_clock import ServiceClock

logger = logging.getLogger(__name__)

#: The pauses between two rounds of upkeep, and between two searches for files without a job.
_PAUSE_SECONDS: Final = 10.0
_ORPHANS_SECONDS: Final = 3600.0
#: Arbitrary numbers of locks.
_LOCK: Final = 7_233_519_012
_ORPHANS_LOCK: Final = 7_233_519_013
#: The most jobs of one kind in a round; the rest follows in the next.
_MOST: Final = 500
_WITHOUT_TASK: Final = """
    WHERE jobs.needs_transcription AND NOT EXISTS (
        SELECT FROM procrastinate_jobs task WHERE task.id = jobs.task_id AND task.status IN ('todo', 'doing'))
    ORDER BY number LIMIT %s FOR UPDATE OF jobs SKIP LOCKED
"""
_WITHOUT_DELIVERY: Final = """
    WHERE jobs.next_deliveries <> '{}' AND (SELECT count(*) FROM jsonb_object_keys(jobs.next_deliveries)) > (
        SELECT count(DISTINCT task.args->>'argument') FROM procrastinate_jobs task
        WHERE task.task_name = 'deliver' AND task.args->>'job_id' = jobs.id::text
        AND jobs.next_deliveries ? (task.args->>'argument') AND task.status IN ('todo', 'doing'))
    ORDER BY number LIMIT %s FOR UPDATE OF jobs SKIP LOCKED
"""
_ABANDONED: Final = f"SELECT id FROM jobs WHERE synchronous AND node NOT IN ({ALIVE}) LIMIT %s"  # noqa: S608  # constants
_BEGUN: Final = "SELECT DISTINCT begun_on FROM jobs WHERE begun_on IS NOT NULL"
_DEAD: Final = f"{_BEGUN} AND begun_on NOT IN ({ALIVE})"
_OVER: Final = "SELECT id FROM jobs WHERE expires_at <= %s ORDER BY expires_at LIMIT %s"
_LEFTOVERS: Final = (
    "DELETE FROM nodes WHERE NOT EXISTS (SELECT FROM procrastinate_workers WHERE id = worker_id)",
    "DELETE FROM progress WHERE NOT EXISTS (SELECT FROM jobs WHERE id = job_id AND needs_transcription)",
    "DELETE FROM segments WHERE NOT EXISTS"
    " (SELECT FROM jobs WHERE id = job_id AND (needs_transcription OR synchronous))",
    "DELETE FROM procrastinate_jobs WHERE status IN ('succeeded', 'failed', 'cancelled', 'aborted')",
)


class Upkeep:
    """Puts right what a crash has left behind, and forgets what is over."""

    def __init__(
        self,
        database: Database,
        *,
        queue: TaskQueue,
        records: Records,
        store: ClusterStore,
        intake: Intake,
        spool: ObjectSpool,
        service_clock: ServiceClock,
        stale_seconds: float,
    ) -> None:
        self._database = database
        self._queue = queue
        self._records = records
        self._store = store
        self._intake = intake
        self._spool = spool
        self._service_clock = service_clock
        self._stale_seconds = stale_seconds
        self._orphans_due = time.monotonic() + _ORPHANS_SECONDS

    async def run(self) -> None:
        """Keep up until cancelled."""
        pause = min(_PAUSE_SECONDS, self._stale_seconds / 3)
        connected_at = time.monotonic()
        while True:
            await asyncio.sleep(pause)
            try:
                await self.keep_up(others_could_speak=time.monotonic() - connected_at > self._stale_seconds)
            except StorageUnavailable as exc:
                logger.warning("⚠️ Upkeep waits: %s", exc)
                connected_at = time.monotonic()

    async def keep_up(self, *, others_could_speak: bool = True) -> None:
        """Do everything that is to be done now.

        Nodes that are silent are taken for dead only if ``others_could_speak``: after the database was away, all have
        been silent.

        Raises:
            StorageUnavailable: the database or the object store can't be reached.
        """
        await self.set_clock()
        await self._queue.return_lost()
        async with self._database.transaction() as connection:
            if await _locked(connection, _LOCK):
                if others_could_speak:
                    await self._put_back_stalled(connection)
                    await self._settle_starts(connection)
                await self._restore_tasks(connection)
        if others_could_speak:
            await self._end_abandoned()
        await self._forget_expired()
        await self._erase_urls()
        if time.monotonic() >= self._orphans_due:
            self._orphans_due = time.monotonic() + _ORPHANS_SECONDS
            await self.remove_orphans()

    async def set_clock(self) -> None:
        """Set the service clock to the database's, but never back."""
        seconds = await self._database.seconds()
        self._service_clock.continue_from(max(seconds, self._service_clock.seconds))

    async def remove_orphans(self) -> None:
        """Remove objects whose jobs are gone, and results that lost against others."""
        async with self._database.long_transaction() as connection:
            if await _locked(connection, _ORPHANS_LOCK):
                removed = await self._spool.remove_orphans(self._kept)
                if removed:
                    logger.info("Removed %d objects that no job needs", removed)

    async def _put_back_stalled(self, connection: Connection) -> None:
        stalled = await self._queue.put_back_stalled(connection)
        if stalled:
            logger.warning("⚠️ %d tasks of nodes that gave no sign of life go back to the queue", stalled)

    async def _settle_starts(self, connection: Connection) -> None:
        """Record which jobs nodes that are gone had begun, before anything of that is forgotten."""
        cursor = await connection.execute(_DEAD, (self._stale_seconds,))
        for (node,) in await cursor.fetchall():
            await self._store.settle_starts(connection, node)

    async def _restore_tasks(self, connection: Connection) -> None:
        for live in await self._records.read(connection, _WITHOUT_TASK, _MOST):
            logger.warning("⚠️ Job %s had lost its task: it goes back to the queue", live.job.id)
            await self._store.enqueue_work(connection, live.job)
        for live in await self._records.read(connection, _WITHOUT_DELIVERY, _MOST):
            logger.warning("⚠️ Job %s had lost the task of a delivery: it is enqueued again", live.job.id)
            for kind in DeliveryKind:
                if live.job.due_delivery(kind) is not None:
                    await self._store.enqueue_delivery(connection, live.job, kind)
        for statement in _LEFTOVERS:
            await connection.execute(statement)

    async def _end_abandoned(self) -> None:
        """End the synchronous requests whose clients waited at nodes that are gone."""
        for job_id in await self._ids(_ABANDONED, self._stale_seconds, _MOST):
            logger.info("Request %s is ended: the server that its client waited at is gone", job_id)
            with suppress(UnknownJob):
                await self._store.read(job_id)
                await self._intake.cancel(job_id)
                await self._intake.forget(job_id)

    async def _forget_expired(self) -> None:
        for job_id in await self._ids(_OVER, self._service_clock.seconds, _MOST):
            await self._intake.forget(job_id)

    async def _erase_urls(self) -> None:
        async with self._database.connection() as connection:
            jobs = await self._records.read(connection, "WHERE has_kept_urls ORDER BY number LIMIT %s", _MOST)
        for live in jobs:
            if has_expired_url(live.job, now=time.time()):
                with suppress(UnknownJob):
                    await self._store.commit(live.job.id, transitions.expired_urls_erased, now=time.time())

    async def _ids(self, statement: str, *values: Any) -> list[str]:
        async with self._database.connection() as connection:
            cursor = await connection.execute(statement, values)
            return [str(job_id) for (job_id,) in await cursor.fetchall()]

    async def _kept(self, job_ids: Sequence[str]) -> dict[str, KeptObjects]:
        """Return what is still needed by those of the jobs that exist."""
        async with self._database.connection() as connection:
            found = await self._records.read(connection, "WHERE id = ANY(%s)", [UUID(job_id) for job_id in job_ids])
        return {
            live.job.id: KeptObjects(
                needs_audio=live.job.needs_transcription or live.job.has_recording,
                result_name=live.job.result_name,
                corrections_name=live.job.corrections_name,
            )
            for live in found
        }


async def _locked(connection: Connection, number: int) -> bool:
    """Return whether this transaction has the lock of this number; another node may have it."""
    cursor = await connection.execute("SELECT pg_try_advisory_xact_lock(%s)", (number,))
    row = await cursor.fetchone()
    return bool(row and row[0])
