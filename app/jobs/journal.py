"""The journal as a SQLite database with one writer, which commits together whatever has come together.

WAL with ``synchronous=FULL``: a commit has been synced to the disk before anybody hears of it. Erased secrets are
overwritten (``secure_delete``); the copies in the write-ahead log go with the next checkpoint, a moment later.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
import time
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Final, Protocol

from pydantic import TypeAdapter, ValidationError

from app.domain.errors import DiskFull, JournalFailed, ServiceError
from app.domain.job import Job
from app.jobs.spool import disk_full, sync_folder

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from app.jobs.service_clock import ServiceClock


_VERSION: Final = 1
_SCHEMA: Final = """
    CREATE TABLE jobs (number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, job TEXT NOT NULL) STRICT;
    CREATE TABLE uptime (one INTEGER PRIMARY KEY CHECK (one = 1), seconds REAL NOT NULL) STRICT;
"""
_WRITE: Final = "INSERT INTO jobs (id, job) VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET job = excluded.job"
_DELETE: Final = "DELETE FROM jobs WHERE id = ?"
_BEAT: Final = "INSERT INTO uptime (one, seconds) VALUES (1, ?) ON CONFLICT DO UPDATE SET seconds = excluded.seconds"
#: At most so many changes share a commit.
_MOST_TOGETHER: Final = 512
#: The log is emptied when nothing has come for so long, and after so many commits or seconds in any case.
_IDLE_SECONDS: Final = 1.0
_COMMITS_BETWEEN_CHECKPOINTS: Final = 1000
_SECONDS_BETWEEN_CHECKPOINTS: Final = 30.0
#: How long a commit waits for somebody who looks into the file.
_BUSY_MILLISECONDS: Final = 30_000
#: Below this much free space an error of the disk is taken for a full one.
_NEARLY_FULL_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class _Change:
    """One statement, and who waits for it to be durable."""

    statement: str
    values: tuple[Any, ...]
    durable: Future[None] = field(default_factory=Future)


class SqliteJournal:
    """A journal in the file ``path``, readable by its owner only. ``transactions`` counts the commits."""

    def __init__(self, path: Path, service_clock: ServiceClock) -> None:
        self._path = path
        self._service_clock = service_clock
        self._jobs: TypeAdapter[Job] = TypeAdapter(Job)
        self._changes: SimpleQueue[_Change | None] = SimpleQueue()
        self._connection: sqlite3.Connection | None = None
        self._writer: threading.Thread | None = None
        self._taking = threading.Lock()
        self._since_checkpoint = 0
        self._checkpoint_at = time.monotonic()
        self.transactions = 0

    def open(self) -> Sequence[Job]:
        """See :meth:`Journal.open`."""
        try:
            _make_private(self._path)
            connection = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
            try:
                self._prepare(connection)
                jobs = self._read(connection)
            except BaseException:
                connection.close()
                raise
        except (OSError, sqlite3.Error, ValidationError) as exc:
            raise ServiceError(
                f"The journal {self._path} can't be read ({_reason(exc)}): put a backup of DATA_DIR in its place, or "
                "move the folder away to begin without the jobs in it."
            ) from exc
        self._connection = connection
        self._since_checkpoint = 1  # a process that was killed leaves what it has erased in the log
        self._writer = threading.Thread(target=self._write_forever, name="journal", daemon=True)
        self._writer.start()
        return jobs

    def _prepare(self, connection: sqlite3.Connection) -> None:
        for pragma in (
            "secure_delete=ON",
            "journal_mode=WAL",
            "synchronous=FULL",
            "journal_size_limit=4194304",
            f"busy_timeout={_BUSY_MILLISECONDS}",
        ):
            connection.execute(f"PRAGMA {pragma}")
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version > _VERSION:
            raise ServiceError(
                f"The journal {self._path} was written by a later version of this service: start that one, or name "
                "another DATA_DIR."
            )
        if version == 0:
            connection.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version={_VERSION}; COMMIT")
            sync_folder(self._path.parent)

    def _read(self, connection: sqlite3.Connection) -> list[Job]:
        for (seconds,) in connection.execute("SELECT seconds FROM uptime"):
            self._service_clock.continue_from(seconds)
        return [self._jobs.validate_json(job) for (job,) in connection.execute("SELECT job FROM jobs ORDER BY number")]

    async def write(self, job: Job) -> None:
        """See :meth:`Journal.write`."""
        await self._durably(_Change(_WRITE, (job.id, self._jobs.dump_json(job).decode())))

    async def delete(self, job_id: str) -> None:
        """See :meth:`Journal.delete`."""
        await self._durably(_Change(_DELETE, (job_id,)))

    async def beat(self) -> None:
        """See :meth:`Journal.beat`."""
        await self._durably(_Change(_BEAT, (self._service_clock.seconds,)))

    def close(self) -> None:
        """See :meth:`Journal.close`."""
        with self._taking:  # nothing comes after the last change, where nobody would write it
            writer, self._writer = self._writer, None
            if writer is None or self._connection is None:
                return
            self._changes.put(_Change(_BEAT, (self._service_clock.seconds,)))
            self._changes.put(None)
        writer.join()
        self._connection.close()
        self._connection = None

    async def _durably(self, change: _Change) -> None:
        with self._taking:
            if self._writer is None:
                raise JournalFailed("The journal is closed.")
            self._changes.put(change)
        await asyncio.wrap_future(change.durable)

    def _write_forever(self) -> None:
        assert self._connection is not None  # noqa: S101  # opened before the thread was started
        going_on = True
        while going_on:
            changes = self._next()
            if None in changes:
                going_on = False
            if wanted := [change for change in changes if change is not None]:
                self._commit(self._connection, wanted)
            if not changes or not going_on or self._log_is_long:
                self._empty_log(self._connection)

    @property
    def _log_is_long(self) -> bool:
        return (
            self._since_checkpoint >= _COMMITS_BETWEEN_CHECKPOINTS
            or time.monotonic() - self._checkpoint_at >= _SECONDS_BETWEEN_CHECKPOINTS
        )

    def _next(self) -> list[_Change | None]:
        """What is to be written together; nothing if nothing came for a while and the log is to be emptied."""
        changes: list[_Change | None] = []
        with suppress(Empty):
            changes.append(self._changes.get(timeout=_IDLE_SECONDS if self._since_checkpoint else None))
            while len(changes) < _MOST_TOGETHER:
                changes.append(self._changes.get_nowait())
        return changes

    def _commit(self, connection: sqlite3.Connection, changes: list[_Change]) -> None:
        self._since_checkpoint += 1  # also what fails may have come into the log, in part
        try:
            connection.execute("BEGIN IMMEDIATE")
            for change in changes:
                connection.execute(change.statement, change.values)
            connection.execute(_BEAT, (self._service_clock.seconds,))
            connection.execute("COMMIT")
        except sqlite3.Error as exc:
            if connection.in_transaction:
                with suppress(sqlite3.Error):
                    connection.execute("ROLLBACK")
            error = self._renamed(exc)
            for change in changes:
                _resolve(change.durable, error)
            return
        self.transactions += 1
        for change in changes:
            _resolve(change.durable, None)

    def _empty_log(self, connection: sqlite3.Connection) -> None:
        """Where somebody reads the journal meanwhile, this is tried again a moment later."""
        connection.execute("PRAGMA busy_timeout=0")
        try:
            (busy, _, _) = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        except sqlite3.Error:
            busy = True
        connection.execute(f"PRAGMA busy_timeout={_BUSY_MILLISECONDS}")
        if not busy:
            self._since_checkpoint, self._checkpoint_at = 0, time.monotonic()

    def _renamed(self, exc: sqlite3.Error) -> DiskFull | JournalFailed:
        code = getattr(exc, "sqlite_errorcode", 0) & 0xFF
        space = os.statvfs(self._path.parent)
        if code == sqlite3.SQLITE_FULL or (
            code == sqlite3.SQLITE_IOERR and space.f_bavail * space.f_frsize < _NEARLY_FULL_BYTES
        ):
            return disk_full()
        return JournalFailed(f"The journal {self._path} can't be written ({exc}): see to the disk and start again.")


def _resolve(future: Future[None], error: Exception | None) -> None:
    if not future.set_running_or_notify_cancel():
        return
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(error)


def _make_private(path: Path) -> None:
    """The file, which its owner only may read, also where it was put back with other rights.

    SQLite gives its other files the same mode.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        os.fchmod(descriptor, 0o600)
    finally:
        os.close(descriptor)


def _reason(exc: Exception) -> str:
    if isinstance(exc, ValidationError):
        return f"a job in it is not understood: {exc.errors()[0]['msg']}"
    return str(exc)


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
