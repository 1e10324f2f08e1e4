"""The journal: the durable value of every background job, and usage, in a SQLite database.

One thread writes, and commits together whatever has come together. With ``synchronous=FULL`` a commit is on the disk
before its caller continues. Erased secrets are overwritten (``secure_delete``); their copies in the write-ahead log go
with the next checkpoint, a moment later.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sqlite3
import threading
import time
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Final

from pydantic import TypeAdapter, ValidationError

from app.domain.errors import DiskFull, JournalFailed, ServiceError
from app.domain.job import Job
from app.domain.usage import Usage, UsageKey
from app.jobs.space import disk_full
from app.jobs.spool import sync_folder

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from app.jobs.service_clock import ServiceClock


logger = logging.getLogger(__name__)

_VERSION: Final = 3
_SCHEMA: Final = """
    CREATE TABLE jobs (number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, job TEXT NOT NULL) STRICT;
    CREATE TABLE service_clock (one INTEGER PRIMARY KEY CHECK (one = 1), seconds REAL NOT NULL) STRICT;
"""
#: Added later. Versions that don't know the table leave it alone, so it needs no version of its own.
_USAGE_SCHEMA: Final = """
    CREATE TABLE IF NOT EXISTS usage (
        day INTEGER NOT NULL, owner TEXT NOT NULL, model TEXT NOT NULL,
        seconds REAL NOT NULL, requests INTEGER NOT NULL,
        PRIMARY KEY (day, owner, model)
    ) STRICT, WITHOUT ROWID
"""
_WRITE: Final = "INSERT INTO jobs (id, job) VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET job = excluded.job"
_DELETE: Final = "DELETE FROM jobs WHERE id = ?"
_SAVE_CLOCK: Final = (
    "INSERT INTO service_clock (one, seconds) VALUES (1, ?) ON CONFLICT DO UPDATE SET seconds = excluded.seconds"
)
_ADD_USAGE: Final = (
    "INSERT INTO usage (day, owner, model, seconds, requests) VALUES (?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET "
    "seconds = seconds + excluded.seconds, requests = requests + excluded.requests"
)
#: The number of changes that share a commit, at most.
_MAX_BATCH: Final = 512
#: The write-ahead log is truncated when nothing was written for this long, and after this many commits or seconds.
_IDLE_SECONDS: Final = 1.0
_COMMITS_BETWEEN_CHECKPOINTS: Final = 1000
_SECONDS_BETWEEN_CHECKPOINTS: Final = 30.0
#: The time that a commit waits for another process that reads the file.
_BUSY_MILLISECONDS: Final = 30_000
#: With less free space than this, an I/O error counts as a full disk.
_NEARLY_FULL_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class _Change:
    """Statements with their values, and a future that is resolved once all of them are durable."""

    statements: tuple[tuple[str, tuple[Any, ...]], ...]
    durable: Future[None] = field(default_factory=Future)


@cache
def job_adapter() -> TypeAdapter[Job]:
    """Return the adapter between jobs and JSON. It is built once, because that takes 25 ms of CPU."""
    return TypeAdapter(Job)


def journal_entry(job: Job) -> bytes:
    """Return a job as JSON, without the fields that have their defaults: they would be most of an entry."""
    return job_adapter().dump_json(job, exclude_defaults=True)


class Journal:
    """A journal in the file ``path``, readable by its owner only. ``transactions`` counts the commits."""

    def __init__(self, path: Path, service_clock: ServiceClock) -> None:
        self._path = path
        self._service_clock = service_clock
        self._jobs = job_adapter()
        self._changes: SimpleQueue[_Change | None] = SimpleQueue()
        self._connection: sqlite3.Connection | None = None
        self._writer: threading.Thread | None = None
        self._submitting = threading.Lock()
        self._since_checkpoint = 0
        self._checkpoint_at = time.monotonic()
        self.transactions = 0
        #: The usage that the journal had when it was opened.
        self.usage: Sequence[tuple[UsageKey, Usage]] = ()

    def open(self) -> Sequence[Job]:
        """Open the journal and return its jobs in the order of acceptance; continue its service clock. Blocks.

        Raises:
            ServiceError: the journal can't be used.
        """
        try:
            _make_private(self._path)
            connection = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
            try:
                self._prepare(connection)
                jobs = self._read(connection)
            except BaseException:
                connection.close()
                raise
        except (OSError, sqlite3.Error, ValueError) as exc:
            raise ServiceError(
                f"The journal {self._path} can't be read ({_reason(exc)}): replace it by a backup of DATA_DIR, or "
                "move the folder away to start without its jobs."
            ) from exc
        self._connection = connection
        self._since_checkpoint = 1  # a process that was killed leaves erased secrets in the log
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
                f"The journal {self._path} was written by a later version of this service: start that version, or "
                "use another DATA_DIR."
            )
        if version == 0:
            connection.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version={_VERSION}; COMMIT")
            sync_folder(self._path.parent)
        elif version < _VERSION:
            self._upgrade(connection, version)
        connection.execute(_USAGE_SCHEMA)

    def _upgrade(self, connection: sqlite3.Connection, version: int) -> None:
        """Rewrite a journal of an earlier version, in one transaction."""
        connection.execute("BEGIN IMMEDIATE")
        try:
            if version == 1:
                connection.execute("ALTER TABLE uptime RENAME TO service_clock")
            for number, entry in connection.execute("SELECT number, job FROM jobs").fetchall():
                members = json.loads(entry)
                for upgraded in (_upgraded_from_1, _upgraded_from_2)[version - 1 :]:
                    members = upgraded(members)
                job = self._jobs.validate_python(members)
                connection.execute("UPDATE jobs SET job = ? WHERE number = ?", (journal_entry(job).decode(), number))
            connection.execute(f"PRAGMA user_version={_VERSION}")
            connection.execute("COMMIT")
        except BaseException:
            with suppress(sqlite3.Error):
                connection.execute("ROLLBACK")
            raise

    def _read(self, connection: sqlite3.Connection) -> list[Job]:
        for (seconds,) in connection.execute("SELECT seconds FROM service_clock"):
            self._service_clock.continue_from(seconds)
        self.usage = tuple(
            (UsageKey(day, owner, model), Usage(seconds, requests))
            for day, owner, model, seconds, requests in connection.execute("SELECT * FROM usage")
        )
        return [self._jobs.validate_json(job) for (job,) in connection.execute("SELECT job FROM jobs ORDER BY number")]

    async def write(self, job: Job, used: tuple[UsageKey, Usage] | None = None) -> None:
        """Write a job, and return once this value would survive a power failure. Usage is added in the same commit.

        Raises:
            DiskFull: there is no space for it; it was not written.
            JournalFailed: it could not be written for another reason.
        """
        usage = () if used is None else (_added(*used),)
        await self._durably(_Change(((_WRITE, (job.id, journal_entry(job).decode())), *usage)))

    def add_usage(self, key: UsageKey, usage: Usage) -> None:
        """Add usage with the next commit, without waiting for it. It is lost if the process is killed before."""
        with self._submitting:
            if self._writer is None:
                return
            change = _Change((_added(key, usage),))
            change.durable.add_done_callback(_log_lost_usage)
            self._changes.put(change)

    async def delete(self, job_id: str) -> None:
        """Delete a job for good, with the same errors."""
        await self._durably(_Change(((_DELETE, (job_id,)),)))

    async def save_service_clock(self) -> None:
        """Write the service clock, with the same errors; every commit does that too."""
        await self._durably(_Change(((_SAVE_CLOCK, (self._service_clock.seconds,)),)))

    def close(self) -> None:
        """Write everything that is still to be written, and leave no erased secret in the files. Blocks."""
        with self._submitting:  # nothing is submitted after the end mark, where it would not be written
            writer, self._writer = self._writer, None
            if writer is None or self._connection is None:
                return
            self._changes.put(_Change(((_SAVE_CLOCK, (self._service_clock.seconds,)),)))
            self._changes.put(None)
        writer.join()
        self._connection.close()
        self._connection = None

    async def _durably(self, change: _Change) -> None:
        with self._submitting:
            if self._writer is None:
                raise JournalFailed("The journal is closed.")
            self._changes.put(change)
        await asyncio.wrap_future(change.durable)

    def _write_forever(self) -> None:
        assert self._connection is not None  # noqa: S101  # opened before the thread was started
        closing = False
        while not closing:
            submitted = self._next_batch()
            closing = None in submitted
            if changes := [change for change in submitted if change is not None]:
                self._commit(self._connection, changes)
            if not submitted or closing or self._log_is_long:
                self._truncate_log(self._connection)

    @property
    def _log_is_long(self) -> bool:
        return (
            self._since_checkpoint >= _COMMITS_BETWEEN_CHECKPOINTS
            or time.monotonic() - self._checkpoint_at >= _SECONDS_BETWEEN_CHECKPOINTS
        )

    def _next_batch(self) -> list[_Change | None]:
        """Return the changes to write together, or an empty list if it is time to truncate the log."""
        changes: list[_Change | None] = []
        with suppress(Empty):
            changes.append(self._changes.get(timeout=_IDLE_SECONDS if self._since_checkpoint else None))
            while len(changes) < _MAX_BATCH:
                changes.append(self._changes.get_nowait())
        return changes

    def _commit(self, connection: sqlite3.Connection, changes: list[_Change]) -> None:
        self._since_checkpoint += 1  # a commit that fails may be in the log in part
        try:
            connection.execute("BEGIN IMMEDIATE")
            for change in changes:
                for statement, values in change.statements:
                    connection.execute(statement, values)
            connection.execute(_SAVE_CLOCK, (self._service_clock.seconds,))
            connection.execute("COMMIT")
        except sqlite3.Error as exc:
            if connection.in_transaction:
                with suppress(sqlite3.Error):
                    connection.execute("ROLLBACK")
            error = self._translated(exc)
            for change in changes:
                _resolve(change.durable, error)
            return
        self.transactions += 1
        for change in changes:
            _resolve(change.durable, None)

    def _truncate_log(self, connection: sqlite3.Connection) -> None:
        """Truncate the write-ahead log; while another process reads the journal, that is left for a moment later."""
        connection.execute("PRAGMA busy_timeout=0")
        try:
            (busy, _, _) = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        except sqlite3.Error:
            busy = True
        connection.execute(f"PRAGMA busy_timeout={_BUSY_MILLISECONDS}")
        if not busy:
            self._since_checkpoint, self._checkpoint_at = 0, time.monotonic()

    def _translated(self, exc: sqlite3.Error) -> DiskFull | JournalFailed:
        code = getattr(exc, "sqlite_errorcode", 0) & 0xFF
        space = os.statvfs(self._path.parent)
        if code == sqlite3.SQLITE_FULL or (
            code == sqlite3.SQLITE_IOERR and space.f_bavail * space.f_frsize < _NEARLY_FULL_BYTES
        ):
            return disk_full()
        return JournalFailed(f"The journal {self._path} can't be written ({exc}): check the disk and start again.")


def _upgraded_from_1(entry: Any) -> Any:
    """Return an entry of version 1 with the names of version 2.

    Version 1 also kept progress: a job on the model was processing. It is queued until its result is stored now.
    """
    if not isinstance(entry, dict):
        return entry
    renamed = {_RENAMED_SINCE_1.get(name, name): value for name, value in entry.items() if name != "progress"}
    if renamed.get("status") == "processing" and not renamed.get("has_result"):
        renamed |= {"status": "queued", "started_at": None, "progress_percent": 0.0}
    return renamed


def _upgraded_from_2(entry: Any) -> Any:
    """Return an entry of version 2 with the lists of version 3: its jobs had at most one upload, and no targets."""
    if not isinstance(entry, dict):
        return entry
    upload, entry = entry.get("upload"), {name: value for name, value in entry.items() if name != "upload"}
    if isinstance(upload, dict):
        entry["uploads"] = [{**upload, "format": upload.get("rendering", {}).get("format")}]
    for name in ("delivery", "webhook_delivery"):
        if isinstance(state := entry.get(name), dict):
            target = {member: state[member] for member in ("status", "attempts", "last_error") if member in state}
            entry[name] = {**state, "targets": [target]}
    return entry


_RENAMED_SINCE_1: Final = {
    "attempts": "starts",
    "notification": "webhook_delivery",
    "ended_uptime": "ended_service_seconds",
}


def _added(key: UsageKey, usage: Usage) -> tuple[str, tuple[Any, ...]]:
    return _ADD_USAGE, (key.day, key.owner, key.model, usage.seconds, usage.requests)


def _log_lost_usage(durable: Future[None]) -> None:
    if (error := durable.exception()) is not None:
        logger.warning("⚠️ The usage of a request was not recorded: %s", error)


def _resolve(future: Future[None], error: Exception | None) -> None:
    if not future.set_running_or_notify_cancel():
        return
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(error)


def _make_private(path: Path) -> None:
    """Create the file if there is none, and make it readable by its owner only.

    SQLite gives its other files the same mode.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        os.fchmod(descriptor, 0o600)
    finally:
        os.close(descriptor)


def _reason(exc: Exception) -> str:
    if isinstance(exc, ValidationError):
        return f"it has an invalid job: {exc.errors()[0]['msg']}"
    return str(exc)
