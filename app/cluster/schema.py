"""The tables of a cluster, their versions, and ``python -m app migrate``."""

from __future__ import annotations

import asyncio
import re
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Final

from procrastinate.schema import SchemaManager

from app.domain.errors import ServiceError

if TYPE_CHECKING:
    from app.cluster.database import Connection, Database

#: The version of the tables that this program works with. A change that versions before it can work with leaves
#: ``_OLDEST`` alone, so that nodes can be upgraded one after the other.
VERSION: Final = 2
#: The oldest version of the program that can work with these tables.
_OLDEST: Final = 2
#: An arbitrary number for a lock, so that only one process migrates at a time.
_LOCK: Final = 7_233_519_011

_STEPS: Final[tuple[str, ...]] = (
    """
    CREATE TABLE jobs (
        number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        id uuid NOT NULL UNIQUE,
        owner text NOT NULL,
        status text NOT NULL,
        name text NOT NULL,
        synchronous boolean NOT NULL,
        node uuid,
        idempotency_key text,
        needs_transcription boolean NOT NULL,
        next_deliveries jsonb NOT NULL,
        result_name text NOT NULL,
        revision bigint NOT NULL,
        task_id bigint,
        expires_at double precision,
        has_kept_urls boolean NOT NULL,
        job bytea NOT NULL
    );
    CREATE UNIQUE INDEX jobs_key ON jobs (owner, idempotency_key) WHERE idempotency_key IS NOT NULL;
    CREATE INDEX jobs_of_owner ON jobs (owner, number DESC) WHERE NOT synchronous;
    CREATE INDEX jobs_without_result ON jobs (number) WHERE needs_transcription;
    CREATE INDEX jobs_to_deliver ON jobs (number) WHERE next_deliveries <> '{}';
    CREATE INDEX jobs_synchronous ON jobs (node) WHERE synchronous;
    CREATE INDEX jobs_to_forget ON jobs (expires_at) WHERE expires_at IS NOT NULL;
    CREATE INDEX jobs_with_urls ON jobs (number) WHERE has_kept_urls;
    CREATE TABLE tags (owner text, queue text, tag bigint NOT NULL, PRIMARY KEY (owner, queue));
    CREATE TABLE nodes (
        id uuid PRIMARY KEY,
        worker_id bigint NOT NULL,
        role text NOT NULL,
        models text[] NOT NULL,
        slots integer NOT NULL,
        active integer NOT NULL,
        speed double precision
    );
    CREATE TABLE usage (
        day integer,
        owner text,
        model text,
        seconds double precision NOT NULL,
        requests bigint NOT NULL,
        PRIMARY KEY (day, owner, model)
    );
    CREATE UNLOGGED TABLE progress (
        job_id uuid PRIMARY KEY,
        revision bigint NOT NULL,
        is_on_model boolean NOT NULL,
        progress jsonb NOT NULL
    );
    CREATE UNLOGGED TABLE segments (
        job_id uuid, number integer, segments jsonb NOT NULL, PRIMARY KEY (job_id, number)
    );
    """,
    """
    ALTER TABLE jobs ADD COLUMN begun_on uuid;
    CREATE INDEX jobs_begun ON jobs (begun_on) WHERE begun_on IS NOT NULL;
    DROP TABLE nodes;
    CREATE TABLE nodes (id uuid PRIMARY KEY, worker_id bigint NOT NULL, state jsonb NOT NULL);
    """,
)
_VERSIONS: Final = """
    CREATE TABLE cluster_version (
        one integer PRIMARY KEY CHECK (one = 1),
        version integer NOT NULL,
        oldest integer NOT NULL,
        procrastinate text NOT NULL
    )
"""
_MIGRATION: Final = re.compile(r"(?P<version>\d+\.\d+\.\d+)_")


async def migrate(database: Database) -> int:
    """Bring the tables up to date, in one transaction, and return their version.

    Raises:
        ServiceError: they were made by a later version of the program.
        StorageUnavailable: the database can't be reached.
    """
    async with database.transaction() as connection:
        await connection.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
        present, queue_version = await _versions(connection)
        _reject_later(present)
        if queue_version is None:
            await connection.execute(await asyncio.to_thread(SchemaManager.get_schema))
            await connection.execute(_VERSIONS)
            await connection.execute("INSERT INTO cluster_version VALUES (1, 0, 0, '')")
        else:
            for step in await asyncio.to_thread(_queue_steps, after=queue_version):
                await connection.execute(step)
        for step in _STEPS[present:]:
            await connection.execute(step)
        await connection.execute(
            "UPDATE cluster_version SET version = %s, oldest = %s, procrastinate = %s",
            (VERSION, _OLDEST, await asyncio.to_thread(metadata.version, "procrastinate")),
        )
    return VERSION


async def check(database: Database) -> None:
    """Raise ServiceError if the tables are not those of this version of the program."""
    async with database.connection() as connection:
        present, queue_version = await _versions(connection)
        cursor = await connection.execute("SELECT oldest FROM cluster_version") if queue_version is not None else None
        row = await cursor.fetchone() if cursor is not None else None
    if row is not None and present > VERSION and row[0] <= VERSION:
        return  # a later version of the program is being rolled out
    _reject_later(present)
    steps = await asyncio.to_thread(_queue_steps, after=queue_version or "")
    if present < VERSION or steps:
        raise ServiceError(
            f"The tables of the database have version {present} and this program needs {VERSION}: run "
            "`python -m app migrate` once, with the same settings, and start again."
        )


async def _versions(connection: Connection) -> tuple[int, str | None]:
    """Return the version of the tables, 0 if there are none, and that of procrastinate's tables."""
    cursor = await connection.execute("SELECT to_regclass('cluster_version') IS NOT NULL")
    row = await cursor.fetchone()
    if row is None or not row[0]:
        return 0, None
    cursor = await connection.execute("SELECT version, procrastinate FROM cluster_version")
    row = await cursor.fetchone()
    assert row is not None  # noqa: S101  # it was inserted with the table
    return int(row[0]), str(row[1])


def _reject_later(present: int) -> None:
    if present > VERSION:
        raise ServiceError(
            f"The tables of the database have version {present}, from a later version of this program, which knows "
            f"{VERSION}: start that version."
        )


def _queue_steps(*, after: str) -> list[str]:
    """Return procrastinate's own migrations that came after a version of it, in order."""
    steps = sorted(Path(SchemaManager.get_migrations_path()).glob("*.sql"))
    versions = [(match, path) for path in steps if (match := _MIGRATION.match(path.name)) is not None]
    return [path.read_text(encoding="utf-8") for match, path in versions if _key(match["version"]) > _key(after)]


def _key(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])
