"""The progress and segments of a node's running work, written to the database together, at most once a second.

It may be lost in a crash: its tables are empty after one of the database, and in a standby that is promoted. So a node
keeps the segments of its running work, and writes them again when it had lost its connection. Those of a stream are
written at once, because a client waits for them.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from psycopg.types.json import Jsonb
from pydantic import TypeAdapter

from app.cluster.notices import Notice, notify
from app.cluster.records import PROGRESS
from app.domain.errors import StorageUnavailable, UnknownJob
from app.domain.transcript import Segment
from app.jobs.subscriptions import SegmentSubscriptions

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from app.cluster.database import Connection, Database
    from app.domain.job import LiveJob
    from app.jobs.registry import Registry
    from app.jobs.subscriptions import Segments

logger = logging.getLogger(__name__)

_PAUSE_SECONDS: Final = 1.0
_SEGMENTS: Final[TypeAdapter[tuple[Segment, ...]]] = TypeAdapter(tuple[Segment, ...])


class SoftState:
    """Collects what has changed, and writes it."""

    def __init__(self, database: Database, registry: Registry) -> None:
        self._database = database
        self._registry = registry
        self._changed: set[str] = set()
        self._segments: defaultdict[str, dict[int, tuple[Segment, ...]]] = defaultdict(dict)
        self._unwritten: set[tuple[str, int]] = set()
        self._wake = asyncio.Event()
        self._urgent = asyncio.Event()

    def progressed(self, job_id: str) -> None:
        """Take note that the progress of a job of this node has changed."""
        self._changed.add(job_id)
        self._wake.set()

    def add_segments(self, job_id: str, number: int, segments: tuple[Segment, ...], *, is_urgent: bool) -> None:
        """Take note of the segments number ``number`` of a job of this node."""
        self._segments[job_id][number] = segments
        self._unwritten.add((job_id, number))
        self._wake.set()
        if is_urgent:
            self._urgent.set()

    def drop(self, job_id: str) -> None:
        """Forget what is still to be written of a job."""
        self._changed.discard(job_id)
        self._segments.pop(job_id, None)

    def write_again(self, job_ids: Iterable[str]) -> None:
        """Write everything of these jobs of this node once more: the database may have lost it."""
        self._changed |= {live.job.id for live in self._known(job_ids) if live.job.needs_transcription}
        self._unwritten |= {(job_id, number) for job_id, each in self._segments.items() for number in each}
        self._wake.set()

    async def run(self) -> None:
        """Write what changes until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            self._urgent.clear()
            try:
                await self._write()
            except StorageUnavailable:
                logger.debug("Progress is not shown: the database is away")
            try:
                await asyncio.wait_for(self._urgent.wait(), _PAUSE_SECONDS)
            except TimeoutError:
                continue

    async def write_segments(self, connection: Connection, job_id: str) -> None:
        """Write all segments of a job that are not there, within a transaction."""
        await _insert_segments(
            connection, ((job_id, number, some) for number, some in self._segments.get(job_id, {}).items())
        )

    async def _write(self) -> None:
        changed, self._changed = self._changed, set()
        unwritten, self._unwritten = self._unwritten, set()
        segments = [(job_id, number, self._segments[job_id][number]) for job_id, number in self._kept(unwritten)]
        rows = list(self._progress_of(changed))
        try:
            async with self._database.transaction() as connection:
                cursor = connection.cursor()
                await cursor.executemany(
                    "INSERT INTO progress (job_id, revision, is_on_model, progress) SELECT id, %s, %s, %s FROM jobs"
                    " WHERE id = %s ON CONFLICT (job_id) DO UPDATE SET revision = excluded.revision,"
                    " is_on_model = excluded.is_on_model, progress = excluded.progress",
                    rows,
                )
                await _insert_segments(connection, segments)
                notices = [Notice.of(live.job) for live in self._known(changed)]
                notices += [Notice(job_id, has_segments=True) for job_id in {job_id for job_id, _, _ in segments}]
                await notify(connection, notices)
        except StorageUnavailable:
            self._unwritten |= set(self._kept(unwritten))
            self._wake.set()
            raise

    def _kept(self, segments: Iterable[tuple[str, int]]) -> Iterator[tuple[str, int]]:
        """Yield those that no restart or end of their job has dropped, in order."""
        return (each for each in sorted(segments) if each[1] in self._segments.get(each[0], ()))

    def _progress_of(self, job_ids: Iterable[str]) -> Iterator[tuple[Any, ...]]:
        for live in self._known(job_ids):
            progress = Jsonb(PROGRESS.dump_python(live.progress, mode="json"))
            yield live.revision, live.progress.started_at is not None, progress, UUID(live.job.id)

    def _known(self, job_ids: Iterable[str]) -> Iterator[LiveJob]:
        for job_id in job_ids:
            try:
                yield self._registry.get(job_id)
            except UnknownJob:
                continue


async def _insert_segments(connection: Connection, segments: Iterable[tuple[str, int, tuple[Segment, ...]]]) -> None:
    rows = [
        (UUID(job_id), number, Jsonb(_SEGMENTS.dump_python(some, mode="json"))) for job_id, number, some in segments
    ]
    if rows:
        await connection.cursor().executemany(
            "INSERT INTO segments (job_id, number, segments) VALUES (%s, %s, %s) ON CONFLICT DO NOTHING", rows
        )


class SharedSegments(SegmentSubscriptions):
    """The segments of transcriptions on any node.

    Those of this node's work are written to the database, those of other nodes' are read from there. A transcription
    that begins again on another node publishes only what it has not published before.
    """

    def __init__(self, database: Database, registry: Registry, soft_state: SoftState) -> None:
        super().__init__()
        self._database = database
        self._registry = registry
        self._soft_state = soft_state
        self._written: dict[str, int] = {}
        self._published: dict[str, int] = {}

    def restart(self, job_id: str) -> None:
        super().restart(job_id)
        self._written[job_id] = 0
        self._soft_state.drop(job_id)

    def end(self, job_id: str) -> None:
        """Take note that this node no longer works on a job."""
        self._written.pop(job_id, None)

    def publish(self, job_id: str, segments: tuple[Segment, ...]) -> None:
        number = self._written.get(job_id, 0)
        self._written[job_id] = number + 1
        job = self._registry.get(job_id).job
        if job.streamed or not job.synchronous:
            self._soft_state.add_segments(job_id, number, segments, is_urgent=job.streamed)
        self._publish(job_id, number, segments)

    @contextmanager
    def subscribe(self, job_id: str) -> Iterator[Segments]:
        self._published.setdefault(job_id, 0)
        with super().subscribe(job_id) as segments:
            yield segments
        if not self.is_followed(job_id):
            self._published.pop(job_id, None)

    async def read(self, job_id: str) -> None:
        """Publish the segments of another node that are new to the subscribers of a job."""
        rows = await self._rows(job_id, start=self._published.get(job_id, 0))
        if not self.is_followed(job_id):
            return
        for number, segments in rows:
            self._publish(job_id, number, segments)

    async def read_so_far(self, job_id: str) -> Sequence[Segment]:
        if job_id in self._kept:
            return self.so_far(job_id)
        return [segment for _, segments in await self._rows(job_id, start=0) for segment in segments]

    def _publish(self, job_id: str, number: int, segments: tuple[Segment, ...]) -> None:
        if number < self._published.get(job_id, 0):
            if job_id in self._kept:
                self._kept[job_id] += segments
            return
        if self.is_followed(job_id):
            self._published[job_id] = number + 1
        super().publish(job_id, segments)

    async def _rows(self, job_id: str, *, start: int) -> list[tuple[int, tuple[Segment, ...]]]:
        """Return the segments from number ``start`` on, without those after a gap, which is filled later."""
        async with self._database.connection() as connection:
            cursor = await connection.execute(
                "SELECT number, segments FROM segments WHERE job_id = %s AND number >= %s ORDER BY number",
                (UUID(job_id), start),
            )
            return [
                (number, _SEGMENTS.validate_python(segments))
                for expected, (number, segments) in enumerate(await cursor.fetchall(), start)
                if number == expected
            ]
