"""The queue of tasks: procrastinate's, with worker loops that outlast a database that is away for a while.

A task's arguments name a job and nothing else. A task that ends is deleted; one that raises goes back to the queue.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import math
import time
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

import procrastinate
import psycopg
from procrastinate import exceptions
from procrastinate.job_context import AbortReason
from procrastinate.worker import Worker

from app.domain.errors import StorageUnavailable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

    from procrastinate import connector as connectors
    from procrastinate.job_context import JobContext
    from procrastinate.jobs import Job as Task

    from app.cluster.database import Connection, Database

    #: Works on the job with this id; ``argument`` is the rest of the task's name, such as the kind of a delivery.
    Work = Callable[[str, str], Awaitable[None]]

logger = logging.getLogger(__name__)

#: Seconds after which a worker loop without a sign of life is taken for dead; it gives three in that time.
STALE_SECONDS: Final = 30.0
#: The most connections of a node for its worker loops.
_MAX_CONNECTIONS: Final = 6
_PAUSE_SECONDS: Final = 1.0
#: Seconds between two looks into a queue, should a notification have been missed; procrastinate loses one that comes in
#: the moment in which it finds nothing.
_POLL_SECONDS: Final = 1.0
_ABORT_POLL_SECONDS: Final = 5.0
#: The wait before a task is tried again that failed because storage is away, or because of a bug.
_STORAGE_SECONDS: Final = 5
_BUG_SECONDS: Final = 30
#: The longest name of a model in the name of a queue: PostgreSQL's channels have at most 63 bytes.
_MAX_MODEL_BYTES: Final = 32


class Lane(StrEnum):
    """The queues of a model: for clients that wait, for short files and for long ones."""

    NOW = "now"
    SHORT = "short"
    LONG = "long"


FETCH: Final = "fetch"
DELIVER: Final = "deliver"


def queue_of(lane: Lane, model: str) -> str:
    """Return the name of a model's queue."""
    name = model.encode()
    if len(name) > _MAX_MODEL_BYTES:
        tail = hashlib.blake2b(name, digest_size=6).hexdigest()
        model = f"{name[: _MAX_MODEL_BYTES - len(tail) - 1].decode(errors='ignore')}-{tail}"
    return f"{lane.value}:{model}"


class PutBack(Exception):
    """The task could not be finished here and goes back to the queue; its job is none the worse for it."""


class _Again(procrastinate.BaseRetryStrategy):
    """Puts every task that raised back into the queue; one that was aborted because of its job ends there."""

    def get_retry_decision(self, *, exception: BaseException, job: Task) -> procrastinate.RetryDecision:
        seconds = _BUG_SECONDS
        if isinstance(exception, (PutBack, asyncio.CancelledError)):
            seconds = 0
        elif isinstance(exception, StorageUnavailable):
            seconds = _STORAGE_SECONDS
        else:
            logger.error("The task %s failed, and is tried again in %d s", job.task_name, seconds, exc_info=exception)
        return procrastinate.RetryDecision(retry_in={"seconds": seconds})


class _PatientConnector(procrastinate.PsycopgConnector):
    """A connector for which a database that is away for a moment is no reason to stop a worker loop.

    A failed fetch is not repeated, because it may have taken a task all the same: it counts as an empty queue, and
    `TaskQueue.return_lost` finds the task.
    """

    def __init__(self, database: Database) -> None:
        super().__init__(pool_factory=lambda **_: database.create_pool("queue", connections=_MAX_CONNECTIONS))
        self._database = database
        #: When it loses its patience, so that a node can stop while the database is away.
        self.patient_until = math.inf

    async def listen_notify(self, on_notification: connectors.Notify, channels: Iterable[str]) -> None:
        while True:
            with suppress(StorageUnavailable):
                async with self._database.listening(*channels) as notifications:
                    async for notification in notifications:
                        await on_notification(channel=notification.channel, payload=notification.payload)
            await asyncio.sleep(_PAUSE_SECONDS)

    async def execute_query_async(self, query: Any, **arguments: Any) -> None:
        while True:
            try:
                await super().execute_query_async(query, **arguments)
            except exceptions.ConnectorException as exc:
                if isinstance(exc.__cause__, psycopg.errors.RaiseException):
                    return  # the task was taken from this node, and another has ended it
                if not _is_away(exc) or time.monotonic() > self.patient_until:
                    raise
            else:
                return
            await asyncio.sleep(_PAUSE_SECONDS)

    async def execute_query_one_async(self, query: Any, **arguments: Any) -> dict[str, Any]:
        try:
            row: dict[str, Any] = await super().execute_query_one_async(query, **arguments)
        except exceptions.ConnectorException as exc:
            if "fetch_job" not in query or not _is_away(exc):
                raise
            return {"id": None}
        return row


def _is_away(exc: Exception) -> bool:
    return isinstance(exc.__cause__, (psycopg.OperationalError, psycopg.errors.ReadOnlySqlTransaction))


@dataclass(frozen=True, slots=True, kw_only=True)
class Loop:
    """A worker loop: its name, its queues and how many tasks it works on at once."""

    name: str
    queues: Sequence[str]
    tasks: int


class TaskQueue:
    """Enqueues tasks, cancels them, and works on them with the functions that were registered."""

    def __init__(self, database: Database, *, stale_seconds: float, grace_seconds: float) -> None:
        for noisy in ("procrastinate", "psycopg.pool"):
            logging.getLogger(noisy).setLevel(logging.CRITICAL)  # what concerns a job is logged here
        self._connector = _PatientConnector(database)
        self._app = procrastinate.App(connector=self._connector)
        self._database = database
        self._stale_seconds = stale_seconds
        self._grace_seconds = grace_seconds
        self._running: set[int] = set()
        self._workers: list[Worker] = []
        self._loops = 0
        self._ended = asyncio.Event()
        self._draining = False
        self._suspects: set[int] = set()

    def register(self, name: str, work: Work) -> None:
        """Have ``work`` called for the tasks of this name."""

        async def run(context: JobContext, job_id: str, argument: str = "") -> None:
            assert context.job.id is not None  # noqa: S101  # it comes from the database
            self._running.add(context.job.id)
            try:
                await work(job_id, argument)
            except asyncio.CancelledError:
                if context.abort_reason() is not AbortReason.USER_REQUEST:
                    raise
            finally:
                self._running.discard(context.job.id)

        self._app.task(name=name, queue=name, pass_context=True, retry=_Again())(run)

    async def open(self) -> None:
        await self._app.open_async()

    async def close(self) -> None:
        await self._app.close_async()

    async def enqueue(
        self,
        connection: Connection,
        name: str,
        job_id: str,
        *,
        queue: str | None = None,
        argument: str = "",
        priority: int = 0,
        seconds: float = 0.0,
    ) -> int:
        """Enqueue a task within a transaction, to begin in ``seconds``, and return its id."""
        arguments = {"job_id": job_id, **({"argument": argument} if argument else {})}
        cursor = await connection.execute(
            "SELECT unnest(procrastinate_defer_jobs_v1(ARRAY[ROW(%s, %s, %s, NULL, NULL, %s,"
            " CASE WHEN %s > 0 THEN now() + make_interval(secs => %s) END)"
            "::procrastinate_job_to_defer_v1]))",
            (queue or name, name, priority, psycopg.types.json.Jsonb(arguments), seconds, seconds),
        )
        row = await cursor.fetchone()
        assert row is not None  # noqa: S101  # the function returns the id of each task
        return int(row[0])

    async def cancel(self, connection: Connection, task_id: int) -> None:
        """Remove a task from the queue, or have it cancelled where it is worked on."""
        await connection.execute("SELECT procrastinate_cancel_job_v1(%s, true, true)", (task_id,))

    # The worker loops of this node.

    async def run(self, loop: Loop) -> None:
        """Work on the tasks of some queues until `drain`."""
        self._loops += 1
        try:
            await self._run(loop)
        finally:
            self._loops -= 1
            if not self._loops:
                self._ended.set()

    async def drained(self) -> None:
        """Wait until the worker loops have ended after `drain`."""
        if self._loops:
            await self._ended.wait()

    async def _run(self, loop: Loop) -> None:
        while not self._draining:
            worker = Worker(
                self._app,
                queues=loop.queues,
                name=loop.name,
                concurrency=loop.tasks,
                fetch_job_polling_interval=_POLL_SECONDS,
                abort_job_polling_interval=_ABORT_POLL_SECONDS,
                delete_jobs="always",
                shutdown_graceful_timeout=self._grace_seconds,
                install_signal_handlers=False,
                update_heartbeat_interval=self._stale_seconds / 3,
                stalled_worker_timeout=self._stale_seconds,
            )
            self._workers.append(worker)
            try:
                await worker.run()  # type: ignore[no-untyped-call]  # its authors annotate no None
            except exceptions.ConnectorException as exc:  # such as a worker that was taken for dead and is back
                if not self._draining:
                    logger.warning("⚠️ The worker loop %s begins again: %s", loop.name, exc.__cause__ or exc)
            finally:
                self._workers.remove(worker)
            if not self._draining:
                await asyncio.sleep(_PAUSE_SECONDS)

    def drain(self) -> None:
        """Take no more tasks; those that run go on, and the loops end with them."""
        self._draining = True
        self._connector.patient_until = time.monotonic() + self._grace_seconds
        for worker in self._workers:
            worker.stop()  # type: ignore[no-untyped-call]  # likewise

    async def return_lost(self) -> None:
        """Put tasks back that the database says run here, and that do not, since a response to a fetch was lost.

        A task has to be seen twice, because one that was just fetched is not running yet.
        """
        workers = [worker.worker_id for worker in self._workers if worker.worker_id is not None]
        async with self._database.connection() as connection:
            cursor = await connection.execute(
                "SELECT id FROM procrastinate_jobs WHERE status = 'doing' AND worker_id = ANY(%s)", (workers,)
            )
            lost = {task_id for (task_id,) in await cursor.fetchall()} - self._running
            for task_id in lost & self._suspects:
                logger.warning("⚠️ Task %d was lost on its way to this node, and goes back to the queue", task_id)
                await self.put_back(connection, task_id)
        self._suspects = lost

    async def put_back(self, connection: Connection, task_id: int) -> None:
        """Make a task wait again whose worker no longer works on it."""
        await connection.execute("SELECT procrastinate_retry_job_v2(%s, now(), NULL, NULL, NULL)", (task_id,))

    async def put_back_stalled(self, connection: Connection) -> int:
        """Put the tasks of worker loops back that have given no sign of life for too long; return their number."""
        cursor = await connection.execute(
            "SELECT task.id FROM procrastinate_jobs task LEFT JOIN procrastinate_workers worker"
            " ON worker.id = task.worker_id WHERE task.status = 'doing' AND (worker.id IS NULL"
            " OR worker.last_heartbeat < now() - make_interval(secs => %s)) FOR UPDATE OF task SKIP LOCKED",
            (self._stale_seconds,),
        )
        stalled = [task_id for (task_id,) in await cursor.fetchall()]
        for task_id in stalled:
            await self.put_back(connection, task_id)
        return len(stalled)
