"""Connections to PostgreSQL, and its errors as those of the service."""

from __future__ import annotations

from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, Final

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict
from psycopg_pool import AsyncConnectionPool

from app.domain.errors import ServiceError, StorageUnavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    Connection = psycopg.AsyncConnection[tuple[Any, ...]]

#: The most connections of a node for its own statements; those of its queue and its notices come on top.
_MAX_CONNECTIONS: Final = 8
#: How long a statement waits for a connection before its caller learns that the database is away. The pool tries to
#: connect for as long, and begins again with the next statement: later it would pause for longer and longer.
WAIT_SECONDS: Final = 5.0
_RETRY_SECONDS: Final = 5
#: A node that stands still in the middle of a transaction, or is cut off, loses its locks after this time. Otherwise
#: nobody could change the same jobs or do the upkeep.
_IDLE_SECONDS: Final = 10
#: Options of connections that notice soon when their database is gone, also if its machine is and no packet comes back.
#: DATABASE_URL can say otherwise. Where it names several servers, that one is used which takes changes.
_OPTIONS: Final = {
    "application_name": "transcription-service",
    "target_session_attrs": "read-write",
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}
#: The least that libpq takes for connect_timeout.
_LEAST_CONNECT_SECONDS: Final = 2
#: The same for the other end: sessions of a node that is cut off end, before it needs as many new ones. It also loses
#: its locks then, as one does that stands still in the middle of a transaction: nobody else could change the same jobs
#: or do the upkeep.
_SESSION: Final = f"""
    SET idle_in_transaction_session_timeout = {_IDLE_SECONDS * 1000};
    SET tcp_keepalives_idle = 5;
    SET tcp_keepalives_interval = 2;
    SET tcp_keepalives_count = 3;
    SET tcp_user_timeout = 10000
"""
#: The time without a notification after which a connection that listens is checked.
_CHECK_SECONDS: Final = 10.0


def unavailable() -> StorageUnavailable:
    """Return the error for a database that can't be reached."""
    return StorageUnavailable(
        "The database of this service can't be reached: try again later.", retry_after_seconds=_RETRY_SECONDS
    )


@contextmanager
def translated() -> Iterator[None]:
    """Translate the failures of a database that is away, or is only a standby, into StorageUnavailable."""
    try:
        yield
    except (
        psycopg.OperationalError,
        psycopg.InterfaceError,
        psycopg.errors.IdleInTransactionSessionTimeout,
        psycopg.errors.ReadOnlySqlTransaction,
    ) as exc:
        raise unavailable() from exc


class Database:
    """A pool of connections to the database ``url``, which is a secret. Usable after `open`."""

    def __init__(self, url: str) -> None:
        try:
            given = conninfo_to_dict(url)
        except psycopg.Error:
            raise ServiceError(
                "DATABASE_URL is not the address of a PostgreSQL database: write it as "
                "postgresql://user:password@host:5432/name."
            ) from None
        servers = 1 + str(given.get("hostaddr") or given.get("host") or "").count(",")
        options = {**_OPTIONS, "connect_timeout": max(_LEAST_CONNECT_SECONDS, int(WAIT_SECONDS / servers))}
        self._url = url
        self._options: dict[str, Any] = {name: value for name, value in options.items() if name not in given}
        self._pool = self.create_pool("jobs", connections=_MAX_CONNECTIONS)

    def create_pool(self, name: str, *, connections: int) -> AsyncConnectionPool:
        """Return a pool of connections on which each statement is a transaction of its own, which is to be opened."""
        return AsyncConnectionPool(
            self._url,
            kwargs={**self._options, "autocommit": True},
            min_size=1,
            max_size=connections,
            timeout=WAIT_SECONDS,
            reconnect_timeout=WAIT_SECONDS,
            open=False,
            configure=_configure,
            check=_check,
            name=name,
        )

    async def open(self) -> None:
        """Open the pool.

        Raises:
            ServiceError: the database can't be reached.
        """
        try:
            await self._pool.open(wait=True, timeout=WAIT_SECONDS)
        except psycopg.Error as exc:
            await self._pool.close()
            raise ServiceError(
                "The database of DATABASE_URL can't be reached: check the address, the user and the password, and that "
                "PostgreSQL is running and takes changes, as a standby does not."
            ) from exc

    async def close(self) -> None:
        await self._pool.close()

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """Yield a connection on which each statement is a transaction of its own.

        Raises:
            StorageUnavailable: the database can't be reached.
        """
        with translated():
            async with self._pool.connection() as connection:
                yield connection

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """Yield a connection whose statements are committed together at the end of the block, if it raises nothing.

        Raises:
            StorageUnavailable: the database can't be reached; if it was lost during the commit, the statements may have
                been committed.
        """
        async with self.connection() as connection, connection.transaction():
            yield connection

    @asynccontextmanager
    async def long_transaction(self) -> AsyncIterator[Connection]:
        """Do the same, for a transaction that waits for other work than its statements."""
        async with self.transaction() as connection:
            await connection.execute("SET LOCAL idle_in_transaction_session_timeout = 0")
            yield connection

    @asynccontextmanager
    async def listening(self, *channels: str) -> AsyncIterator[AsyncIterator[psycopg.Notify]]:
        """Yield the notifications on some channels from now on, by a connection of their own, with the same errors."""
        with translated():
            async with await psycopg.AsyncConnection.connect(self._url, autocommit=True, **self._options) as connection:
                await _configure(connection)
                for channel in channels:
                    await connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(channel)))
                yield _notifications(connection)

    async def seconds(self) -> float:
        """Return the database's clock, in Unix seconds."""
        async with self.connection() as connection:
            cursor = await connection.execute("SELECT extract(epoch FROM clock_timestamp())::float8")
            row = await cursor.fetchone()
        assert row is not None  # noqa: S101  # it has no condition
        return float(row[0])


async def _configure(connection: Connection) -> None:
    await connection.execute(_SESSION)


async def _check(connection: Connection) -> None:
    """Close a connection, and raise an error, if its server takes no changes any longer: another one is the primary."""
    cursor = await connection.execute("SHOW transaction_read_only")
    if await cursor.fetchone() != ("off",):
        await connection.close()
        raise psycopg.errors.ReadOnlySqlTransaction("The server takes no changes.")


async def _notifications(connection: Connection) -> AsyncIterator[psycopg.Notify]:
    """Yield notifications for as long as the connection is that to the primary."""
    while True:
        async for notification in connection.notifies(timeout=_CHECK_SECONDS):
            yield notification
        await _check(connection)
