"""The store of jobs in a cluster: PostgreSQL has them, and each node's registry those that it works on or has shown.

A change is the same pure function as in one process, computed while the job's row is locked. Whatever became due with
it gets its task in the same transaction, so that no crash can come between.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, Final, ParamSpec
from uuid import UUID

from app.cluster.notices import Notice, notify
from app.cluster.queue import DELIVER, FETCH, Lane, queue_of
from app.cluster.records import JOBS_WITH_PROGRESS, parsed_id
from app.domain.errors import UnknownJob
from app.domain.events import JobAccepted, JobForgotten, discard_event
from app.domain.job import NO_PROGRESS, DeliveryKind, JobStatus, LiveJob
from app.jobs import transitions
from app.jobs.journal import Journal
from app.jobs.registry import ALL_JOBS, Page, unknown_job
from app.jobs.service_clock import ServiceClock
from app.jobs.store import JobStore, usage_key, used_by

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence

    from app.cluster.counts import ClusterCounts
    from app.cluster.database import Connection, Database
    from app.cluster.queue import TaskQueue
    from app.cluster.records import Records
    from app.cluster.soft_state import SharedSegments, SoftState
    from app.domain.events import EventSink
    from app.domain.job import Job
    from app.domain.usage import Usage, UsageKey
    from app.jobs.changes import ChangeLog
    from app.jobs.registry import JobFilter, Registry
    from app.jobs.subscriptions import JobSubscriptions

P = ParamSpec("P")

logger = logging.getLogger(__name__)

TRANSCRIBE: Final = "transcribe"
#: Files up to this size go with the short ones. A misjudged one only takes a place among them.
_SHORT_BYTES: Final = 2_000_000
#: What puts the tasks of clients that wait before all others.
_NOW_PRIORITY: Final = 1_000_000_000
#: The most jobs that a node remembers of those that it neither works on nor waits for.
_MOST_REMEMBERED: Final = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Shared:
    """The parts of a node that its store uses. ``node`` is the id of the node."""

    database: Database
    records: Records
    queue: TaskQueue
    counts: ClusterCounts
    soft_state: SoftState
    segments: SharedSegments
    node: UUID
    seconds_until: Callable[[Job, DeliveryKind], float]


class _NoJournal(Journal):
    """The journal of a node, which is never opened: the database has the jobs."""

    def __init__(self) -> None:
        super().__init__(Path(os.devnull), ServiceClock())


class ClusterStore(JobStore):
    """Admits, changes and forgets jobs of all nodes."""

    def __init__(
        self,
        shared: Shared,
        *,
        registry: Registry,
        subscriptions: JobSubscriptions,
        changes: ChangeLog,
        emit: EventSink = discard_event,
    ) -> None:
        super().__init__(_NoJournal(), registry=registry, subscriptions=subscriptions, changes=changes, emit=emit)
        self.usage = shared.counts.usage
        self._shared = shared
        self.node = str(shared.node)
        self._database = shared.database
        self._records = shared.records
        self._held: Counter[str] = Counter()
        self._remembered: dict[str, None] = {}
        self._undecided: set[str] = set()
        self._removed_here: set[str] = set()
        self._has_listened = False
        self._released: set[str] = set()
        shared.counts.on_moves(self._show_moves)

    # The jobs of this node.

    @asynccontextmanager
    async def working_on(self, job_id: str, *, from_the_start: bool = False) -> AsyncIterator[LiveJob | None]:
        """Read a job that this node works on during the block; None if there is none.

        ``from_the_start`` drops the progress and the segments of an earlier attempt at its transcription.

        Raises:
            StorageUnavailable: the database can't be reached.
        """
        async with self._database.transaction() as connection:
            found = await self._records.read(connection, "WHERE jobs.id = %s", UUID(job_id))
            if found and from_the_start and (node := found[0].job.begun_on) is not None:
                await self.settle_starts(connection, UUID(node))
                found = await self._records.read(connection, "WHERE jobs.id = %s", UUID(job_id))
            if found and from_the_start:
                found = [await self._begun_again(connection, found[0])]
        if not found:
            yield None
            return
        live = found[0]
        if self._held[job_id]:
            live = self._remember(live)
        else:
            self._registry.put(live)
            self._remembered[job_id] = None
        self._held[job_id] += 1
        try:
            yield live
        finally:
            self._held[job_id] -= 1
            if not self._held[job_id]:
                del self._held[job_id]
                self._shared.segments.end(job_id)
                self._shared.soft_state.drop(job_id)
                if job_id not in self._remembered:  # it was forgotten meanwhile
                    self._registry.remove(job_id)

    async def _begun_again(self, connection: Connection, live: LiveJob) -> LiveJob:
        """Drop what another node has shown of its work on a job, in a revision of its own."""
        job_id = UUID(live.job.id)
        revision = live.revision + 1
        await connection.execute("UPDATE jobs SET revision = %s WHERE id = %s", (revision, job_id))
        for table in ("progress", "segments"):
            await connection.execute(f"DELETE FROM {table} WHERE job_id = %s", (job_id,))  # noqa: S608  # constants
        return LiveJob(replace(live.job, revision=revision), NO_PROGRESS, revision=revision)

    async def settle_starts(self, connection: Connection, node: UUID) -> None:
        """Record the death of another node in the jobs that it had begun. It is a file's fault if it had no other."""
        if node == self._shared.node:
            return
        begun = await self._records.read(connection, "WHERE begun_on = %s ORDER BY number FOR UPDATE OF jobs", node)
        for live in begun:
            job = transitions.process_died(live, alone=len(begun) == 1)
            await self._update(connection, live.job, replace(job, revision=live.revision + 1), None)

    def knows(self, job_id: str) -> bool:
        """Return whether the job is known here, or may have been admitted when the database was lost."""
        return super().knows(job_id) or job_id in self._undecided

    @property
    def untranscribed_elsewhere(self) -> int:
        return max(0, self._shared.counts.untranscribed - len(self.untranscribed()))

    def queue_positions(self) -> Mapping[str, int]:
        return self._shared.counts.positions

    @property
    def queued_count(self) -> int:
        """The number of jobs that wait for their first slot, synchronous ones included, a second ago at most.

        Raises:
            StorageUnavailable: the database can't be reached.
        """
        return self._shared.counts.waiting

    async def read(self, job_id: str) -> LiveJob:
        """Return a job of any owner as the database has it.

        Raises:
            UnknownJob: there is none, or no longer.
            StorageUnavailable: the database can't be reached.
        """
        found = await self._read("WHERE jobs.id = %s", UUID(job_id))
        if not found:
            raise unknown_job(job_id)
        return self._remember(found[0])

    async def refresh(self, notices: Collection[Notice]) -> None:
        """Read jobs that other nodes have changed, and notify who waits for them here.

        Raises:
            StorageUnavailable: the database can't be reached.
        """
        changed = {notice.job_id: notice for notice in notices if not notice.has_segments}
        found = await self._read("WHERE jobs.id = ANY(%s)", [UUID(job_id) for job_id in changed])
        for live in found:
            changed.pop(live.job.id)
            before = self._known(live.job.id)
            after = self._remember(live)
            if after != before:
                self._changes.record(after.job)
            self._subscriptions.notify(after.job.id)
        for notice in changed.values():
            if notice.job_id in self._removed_here:
                self._removed_here.discard(notice.job_id)
            else:
                self._removed(notice)
        for job_id in {notice.job_id for notice in notices if notice.has_segments}:
            if self._shared.segments.is_followed(job_id) and not self._held[job_id]:
                await self._shared.segments.read(job_id)

    async def catch_up(self) -> None:
        """Read everything that somebody waits for here, and show this node's work again: notices were lost."""
        if self._has_listened:
            self._shared.soft_state.write_again(tuple(self._held))
            self._changes.restart()
        self._has_listened = True
        self._removed_here.clear()
        await self._shared.counts.refresh()
        watched = {*self._subscriptions.subscribed, *self._shared.segments.followed, *await self._outdated()}
        await self.refresh([Notice(job_id) for job_id in watched])
        for job_id in self._shared.segments.followed:
            if not self._held[job_id]:
                await self._shared.segments.read(job_id)

    async def _outdated(self) -> set[str]:
        """Return the jobs that have no result here, and that the database no longer has as such."""
        known = {UUID(live.job.id) for live in self.untranscribed()}
        async with self._database.connection() as connection:
            cursor = await connection.execute(
                "SELECT id FROM jobs WHERE id = ANY(%s) AND needs_transcription", (list(known),)
            )
            return {str(job_id) for job_id in known - {job_id for (job_id,) in await cursor.fetchall()}}

    # The jobs of a client.

    async def find(self, job_id: str, *, owner: str) -> LiveJob:
        parsed = parsed_id(job_id)
        if parsed is None or str(parsed) != job_id:
            raise unknown_job(job_id)
        found = await self._read("WHERE jobs.id = %s AND owner = %s AND NOT synchronous", parsed, owner)
        if not found:
            raise unknown_job(job_id)
        return self._remember(found[0])

    async def with_key(self, key: str, *, owner: str) -> LiveJob | None:
        found = await self._read("WHERE owner = %s AND idempotency_key = %s", owner, key)
        return self._remember(found[0]) if found and found[0].job.id not in self._released else None

    async def page(self, *, owner: str, wanted: JobFilter = ALL_JOBS, limit: int, after: str | None = None) -> Page:
        condition = "WHERE owner = %s AND NOT synchronous"
        values: list[Any] = [owner]
        if wanted.statuses != frozenset(JobStatus):
            condition += (
                " AND CASE WHEN status = 'queued' AND progress.is_on_model THEN 'processing' ELSE status END = ANY(%s)"
            )
            values.append([status.value for status in wanted.statuses])
        if wanted.text:
            condition += " AND (position(%s IN name) > 0 OR starts_with(id::text, %s))"  # names are case-folded
            values += [wanted.text.casefold()] * 2
        async with self._database.connection() as connection:
            cursor = await connection.execute(
                f"SELECT count(*) FROM {JOBS_WITH_PROGRESS} {condition}",  # noqa: S608  # put together from constants
                values,
            )
            row = await cursor.fetchone()
            if after is not None:
                number = await self._number(connection, after, owner)
                condition += " AND number < %s"
                values.append(number)
            jobs = await self._records.read(connection, f"{condition} ORDER BY number DESC LIMIT %s", *values, limit)
        return Page(jobs=tuple(self._remember(live) for live in jobs), total=int(row[0]) if row else 0)

    async def counts(self) -> Counter[JobStatus]:
        return Counter(self._shared.counts.by_status)

    async def undelivered_count(self) -> int:
        return self._shared.counts.undelivered

    async def save_service_clock(self) -> None:
        """Do nothing: the clock is the database's."""

    def add_usage(self, owner: str, model: str, usage: Usage) -> None:
        self._shared.counts.add_usage_soon(usage_key(owner, model), usage)

    def release_key(self, job_id: str) -> None:
        """Have no request of this node join a synchronous job by its key until its row is deleted, in a moment."""
        if self._known(job_id) is not None:
            self._released.add(job_id)

    # Changes.

    async def _admit(self, job: Job, trace_context: Mapping[str, str]) -> Job:
        self._undecided.add(job.id)
        admitted = await self._insert(job)
        self._undecided.discard(job.id)
        live = self._remember(LiveJob(admitted, revision=admitted.revision))
        if admitted is job:
            self._changes.record(job)
            self._emit(JobAccepted(job, trace_context))
        return live.job

    async def _insert(self, job: Job) -> Job:
        """Insert a job with its task, or return the one that has its idempotency key."""
        node = self._shared.node if job.synchronous else None
        values = {
            **self._records.columns(job),
            "owner": job.owner,
            "synchronous": job.synchronous,
            "node": node,
            "idempotency_key": job.idempotency_key,
        }
        names = ", ".join(values)
        holes = ", ".join(f"%({name})s" for name in values)
        while True:
            async with self._database.transaction() as connection:
                cursor = await connection.execute(
                    f"INSERT INTO jobs ({names}) VALUES ({holes})"  # noqa: S608  # names of columns
                    " ON CONFLICT (owner, idempotency_key) WHERE idempotency_key IS NOT NULL DO NOTHING RETURNING id",
                    values,
                )
                if await cursor.fetchone() is not None:
                    await self.enqueue_work(connection, job)
                    await notify(connection, [Notice.of(job)])
                    return job
                known = await self._records.read(
                    connection, "WHERE owner = %s AND idempotency_key = %s", job.owner, job.idempotency_key
                )
                if known and known[0].job.id in self._released:
                    await connection.execute(
                        "UPDATE jobs SET idempotency_key = NULL WHERE id = %s", (UUID(known[0].job.id),)
                    )
                    continue
                if known and known[0].job.synchronous:  # its client waits here now
                    await connection.execute(
                        "UPDATE jobs SET node = %s WHERE id = %s", (self._shared.node, UUID(known[0].job.id))
                    )
            if known:
                return known[0].job

    async def _commit(
        self, job_id: str, change: Callable[Concatenate[LiveJob, P], Job], *args: P.args, **kwargs: P.kwargs
    ) -> LiveJob:
        async with self._lock(job_id):
            async with self._database.transaction() as connection:
                live = await self._locked(connection, job_id)
                job = change(live, *args, **kwargs)
                used = None
                if job is not live.job:
                    job = replace(job, revision=live.revision + 1)
                    used = used_by(job) if job.has_result and not live.job.has_result else None
                    await self._update(connection, live.job, job, used)
            if job is live.job:
                self._remember(live)
                return live
            after = self._remember(live.with_job(job))
            self._announce(live, after)
            return after

    async def _locked(self, connection: Connection, job_id: str) -> LiveJob:
        """Return a job whose row stays locked until the end of the transaction, with the latest progress."""
        found = await self._records.read(connection, "WHERE jobs.id = %s FOR UPDATE OF jobs", UUID(job_id))
        if not found:
            raise unknown_job(job_id)
        local = self._known(job_id)
        if local is None or not self._held[job_id]:
            return found[0]
        return LiveJob(found[0].job, local.progress, revision=max(local.revision, found[0].revision))

    async def _update(self, connection: Connection, before: Job, job: Job, used: tuple[UsageKey, Usage] | None) -> None:
        """Write the next value of a job, and everything that becomes due with it."""
        values = self._records.columns(job)
        changes = ", ".join(f"{name} = %({name})s" for name in values if name != "id")
        await connection.execute(f"UPDATE jobs SET {changes} WHERE id = %(id)s", values)  # noqa: S608  # likewise
        if before.source_url and not job.source_url and job.needs_transcription:
            await self.enqueue_work(connection, job)
        for kind in DeliveryKind:
            if _next_round(job, kind) not in {None, _next_round(before, kind)}:  # else the round is under way
                await self.enqueue_delivery(connection, job, kind)
        if before.needs_transcription and not job.needs_transcription:
            await self._end_transcription(connection, job)
        if used is not None:
            await self._shared.counts.add_usage(connection, *used)
        await notify(connection, [Notice.of(job)])

    async def enqueue_work(self, connection: Connection, job: Job) -> None:
        """Enqueue the task for the next step towards a result: the download of the audio, or its transcription."""
        if job.source_url:
            lane, name, queue = "", FETCH, FETCH
        else:
            is_short = job.audio_bytes <= _SHORT_BYTES
            lane = Lane.NOW if job.synchronous else Lane.SHORT if is_short else Lane.LONG
            name, queue = TRANSCRIBE, queue_of(lane, job.model)
        tag = await self._tag(connection, job.owner, queue)
        priority = (_NOW_PRIORITY if job.synchronous else 0) - tag
        task_id = await self._shared.queue.enqueue(connection, name, job.id, queue=queue, priority=priority)
        await connection.execute("UPDATE jobs SET task_id = %s WHERE id = %s", (task_id, UUID(job.id)))

    async def enqueue_delivery(self, connection: Connection, job: Job, kind: DeliveryKind) -> None:
        """Enqueue the next round of a delivery, for the time at which it is due; owners take turns."""
        seconds = self._shared.seconds_until(job, kind)
        priority = -await self._tag(connection, job.owner, DELIVER)
        await self._shared.queue.enqueue(
            connection, DELIVER, job.id, argument=kind.value, priority=priority, seconds=seconds
        )

    async def _tag(self, connection: Connection, owner: str, queue: str) -> int:
        """Return the place of an owner's next task in the fair order of a queue.

        It is start-time fair queueing: after the owner's last one, and never before the head of the queue, or before
        what an empty queue had last. Tasks for a later time are not at its head yet.
        """
        cursor = await connection.execute(
            "INSERT INTO tags (owner, queue, tag) SELECT %(owner)s, %(queue)s, 1 + coalesce((SELECT min(CASE"
            " WHEN priority > 0 THEN %(now)s - priority ELSE -priority END) FROM procrastinate_jobs"
            " WHERE status = 'todo' AND queue_name = %(queue)s AND (scheduled_at IS NULL OR scheduled_at <= now())),"
            " (SELECT max(tag) FROM tags WHERE queue = %(queue)s), 0)"
            " ON CONFLICT (owner, queue) DO UPDATE SET tag = greatest(tags.tag + 1, excluded.tag) RETURNING tag",
            {"owner": owner, "queue": queue, "now": _NOW_PRIORITY},
        )
        row = await cursor.fetchone()
        assert row is not None  # noqa: S101  # the statement returns a row in both cases
        return int(row[0])

    async def _end_transcription(self, connection: Connection, job: Job) -> None:
        """Keep the last segments for a client that reads a stream; nobody else needs what is shown of running work."""
        if job.streamed:
            await self._shared.soft_state.write_segments(connection, job.id)
            await notify(connection, [Notice(job.id, has_segments=True)])
        else:
            await connection.execute("DELETE FROM segments WHERE job_id = %s", (UUID(job.id),))
        await connection.execute("DELETE FROM progress WHERE job_id = %s", (UUID(job.id),))

    async def _forget(self, job_id: str) -> None:
        async with self._lock(job_id):
            async with self._database.transaction() as connection:
                live = await self._locked(connection, job_id)
                job = live.job
                await connection.execute("DELETE FROM jobs WHERE id = %s", (UUID(job_id),))
                for table in ("progress", "segments"):
                    await connection.execute(f"DELETE FROM {table} WHERE job_id = %s", (UUID(job_id),))  # noqa: S608
                await notify(connection, [Notice.of(job, is_removal=True)])
            self._released.discard(job_id)
            self._removed_here.add(job_id)
            self._removed(Notice.of(job, is_removal=True))
        self._emit(JobForgotten(job_id))

    async def task_of(self, connection: Connection, job_id: str) -> int | None:
        """Return the id of the task that works towards the job's result, or None if there is no such job."""
        cursor = await connection.execute("SELECT task_id FROM jobs WHERE id = %s", (UUID(job_id),))
        row = await cursor.fetchone()
        return row[0] if row is not None else None

    def _announce(self, before: LiveJob, after: LiveJob) -> None:
        super()._announce(before, after)
        if after.progress is not before.progress and self._held[after.job.id]:
            self._shared.soft_state.progressed(after.job.id)

    def _show_moves(self, job_ids: Collection[str]) -> None:
        """Notify those who follow waiting jobs whose places in the queue have changed."""
        for job_id in self._subscriptions.subscribed:
            if job_id in job_ids:
                self._subscriptions.notify(job_id)
        self._changes.announce()

    # What this node remembers.

    async def _read(self, condition: str, *values: Any) -> Sequence[LiveJob]:
        async with self._database.connection() as connection:
            return await self._records.read(connection, condition, *values)

    async def _number(self, connection: Connection, job_id: str, owner: str) -> int:
        cursor = await connection.execute(
            "SELECT number FROM jobs WHERE id = %s AND owner = %s AND NOT synchronous", (parsed_id(job_id), owner)
        )
        row = await cursor.fetchone()
        if row is None:
            raise unknown_job(job_id)
        return int(row[0])

    def _known(self, job_id: str) -> LiveJob | None:
        try:
            return self._registry.get(job_id)
        except UnknownJob:
            return None

    def _remember(self, live: LiveJob) -> LiveJob:
        """Put a job into the registry and return it; the progress of a job that is worked on here stays."""
        job_id = live.job.id
        local = self._known(job_id)
        if local is not None and (self._held[job_id] or local.job.revision > live.job.revision):
            if live.job.revision <= local.job.revision:
                return local
            _, live = self._registry.update(job_id, LiveJob.with_job, live.job)
        else:
            self._registry.put(live)
        self._remembered.pop(job_id, None)
        self._remembered[job_id] = None
        if len(self._remembered) > _MOST_REMEMBERED:
            self._drop_oldest()
        return live

    def _drop_oldest(self) -> None:
        oldest = next((job_id for job_id in self._remembered if not self._held[job_id]), next(iter(self._remembered)))
        del self._remembered[oldest]
        if oldest not in self._held and (live := self._known(oldest)) is not None:
            self._changes.drop(live.job)
            self._registry.remove(oldest)

    def _removed(self, notice: Notice) -> None:
        """Take note that a job was forgotten; one that is worked on here stays in the registry until its work ends."""
        was_known = self._known(notice.job_id) is not None
        if not self._held[notice.job_id]:
            self._registry.remove(notice.job_id)
        self._remembered.pop(notice.job_id, None)
        if notice.is_background and (was_known or notice.is_removal):
            self._changes.record_removal(notice.job_id, owner=notice.owner)
        self._subscriptions.notify(notice.job_id)


def _next_round(job: Job, kind: DeliveryKind) -> float | None:
    """Return when the next round of a delivery is, in seconds of the service clock; None if there is none to be."""
    state = job.due_delivery(kind)
    return None if state is None else state.next_round
