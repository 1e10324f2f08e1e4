"""Numbers about all jobs and nodes, read once a second, since each request needs some of them."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any, Final

from app.cluster.database import unavailable
from app.domain.errors import StorageUnavailable
from app.domain.job import JobStatus
from app.domain.usage import DAY_SECONDS, Usage, UsageKey
from app.jobs.usage import UsageLedger

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping

    from app.cluster.database import Connection, Database
    from app.cluster.nodes import LivingNodes

_PAUSE_SECONDS: Final = 1.0
_BY_STATUS: Final = """
    SELECT CASE WHEN status = 'queued' AND is_on_model THEN 'processing' ELSE status END, count(*)
    FROM jobs LEFT JOIN progress ON job_id = id AND needs_transcription WHERE NOT synchronous GROUP BY 1
"""
_UNTRANSCRIBED: Final = """
    SELECT count(*), count(*) FILTER (WHERE is_on_model IS NOT TRUE)
    FROM jobs LEFT JOIN progress ON job_id = id WHERE needs_transcription
"""
_UNDELIVERED: Final = "SELECT count(*) FROM jobs WHERE next_deliveries <> '{}'"
#: A task that a worker has taken waits, too, until it has a slot.
_POSITIONS: Final = """
    SELECT args->>'job_id',
        row_number() OVER (PARTITION BY queue_name ORDER BY status = 'doing' DESC, priority DESC, id)
    FROM procrastinate_jobs LEFT JOIN progress ON job_id = (args->>'job_id')::uuid
    WHERE status IN ('todo', 'doing') AND task_name = 'transcribe' AND is_on_model IS NOT TRUE
"""
#: Up to this many waiting jobs, their places are read although nobody has asked for them.
_FEW_WAITING: Final = 1000


class SharedUsage(UsageLedger):
    """The usage of all nodes, a second ago at most."""

    def replace(self, entries: Iterable[tuple[UsageKey, Usage]]) -> None:
        """Replace entries by what the database has now."""
        for key, usage in entries:
            self._seconds[key.day, key.owner] += usage.seconds - self._usage[key].seconds
            self._usage[key] = usage


class ClusterCounts:
    """The numbers of jobs in each status, of those that wait and of those to be delivered; and the usage ledger.

    The living ``nodes`` are read with them.
    """

    def __init__(self, database: Database, nodes: LivingNodes) -> None:
        self._database = database
        self._nodes = nodes
        self._waiting: int | None = None
        self._positions_wanted_at = 0.0
        self._usage_from_day = 0
        self._new_usage: defaultdict[UsageKey, Usage] = defaultdict(Usage)
        self._positions: Mapping[str, int] = {}
        self._on_moves: Callable[[Collection[str]], None] = lambda _: None
        self.by_status: Counter[JobStatus] = Counter()
        self.undelivered = 0
        #: The jobs that have no result yet and may get one.
        self.untranscribed = 0
        self.usage = SharedUsage()

    @property
    def waiting(self) -> int:
        """The jobs that wait for their first slot, synchronous ones included.

        Raises:
            StorageUnavailable: the database could not be reached a moment ago.
        """
        if self._waiting is None:
            raise unavailable()
        return self._waiting

    @property
    def positions(self) -> Mapping[str, int]:
        """The places of waiting jobs in their queues, from 1, a second ago at most.

        Those of a long queue are only read while somebody asks for them.
        """
        self._positions_wanted_at = time.monotonic()
        return self._positions

    def on_moves(self, listener: Callable[[Collection[str]], None]) -> None:
        """Call ``listener`` with the ids of waiting jobs whose places have changed."""
        self._on_moves = listener

    async def run(self) -> None:
        """Read the numbers every second until cancelled."""
        while True:
            await asyncio.sleep(_PAUSE_SECONDS)
            try:
                await self.refresh()
            except StorageUnavailable:
                self._waiting = None
                self._nodes.database_is_away()

    async def refresh(self) -> None:
        """Read the numbers.

        Raises:
            StorageUnavailable: the database can't be reached.
        """
        async with self._database.connection() as connection:
            self.by_status = Counter(
                {JobStatus(status): count for status, count in await _rows(connection, _BY_STATUS)}
            )
            ((self.undelivered,),) = await _rows(connection, _UNDELIVERED)
            await self._write_new_usage(connection)
            await self._read_usage(connection)
            await self._nodes.read(connection)
            ((self.untranscribed, waiting),) = await _rows(connection, _UNTRANSCRIBED)
            if waiting <= _FEW_WAITING or time.monotonic() - self._positions_wanted_at < 2 * _PAUSE_SECONDS:
                await self._read_positions(connection)
            self._waiting = waiting

    async def _read_positions(self, connection: Connection) -> None:
        before, self._positions = self._positions, dict(await _rows(connection, _POSITIONS))
        if moved := {job_id for job_id, position in self._positions.items() if before.get(job_id) != position}:
            self._on_moves(moved)

    async def add_usage(self, connection: Connection, key: UsageKey, usage: Usage) -> None:
        """Add usage within a transaction."""
        await connection.execute(
            "INSERT INTO usage VALUES (%s, %s, %s, %s, %s) ON CONFLICT (day, owner, model) DO UPDATE SET"
            " seconds = usage.seconds + excluded.seconds, requests = usage.requests + excluded.requests",
            (key.day, key.owner, key.model, usage.seconds, usage.requests),
        )

    def add_usage_soon(self, key: UsageKey, usage: Usage) -> None:
        """Add usage with the next refresh. It counts here at once, and is lost if the process is killed before."""
        self.usage.add(key, usage)
        self._new_usage[key] += usage

    async def _write_new_usage(self, connection: Connection) -> None:
        while self._new_usage:
            key, usage = self._new_usage.popitem()
            try:
                await self.add_usage(connection, key, usage)
            except BaseException:
                self._new_usage[key] += usage
                raise

    async def _read_usage(self, connection: Connection) -> None:
        """Read the usage of all days at first, and later that of yesterday and today, which still changes."""
        rows = await _rows(connection, "SELECT * FROM usage WHERE day >= %s", self._usage_from_day)
        self.usage.replace(
            (key := UsageKey(day, owner, model), Usage(seconds, requests) + self._new_usage.get(key, Usage()))
            for day, owner, model, seconds, requests in rows
        )
        self._usage_from_day = int(time.time()) // DAY_SECONDS - 1


async def _rows(connection: Connection, statement: str, *values: Any) -> list[tuple[Any, ...]]:
    cursor = await connection.execute(statement, values)
    return await cursor.fetchall()
