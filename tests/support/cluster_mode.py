"""With ``--cluster``, the services of tests are nodes of clusters."""

from __future__ import annotations

from contextlib import contextmanager
from itertools import count
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from local_postgres import LocalPostgres

CLUSTER_SECRET: Final = "0123456789abcdef0123456789abcdef"
#: The database with the tables of a cluster, from which others are copied.
MIGRATED: Final = "migrated"


class ClusterMode:
    """While it is on, each service is the only node of a cluster, with a database and an object store of its own."""

    def __init__(self) -> None:
        self._server: LocalPostgres | None = None
        self._databases: dict[Path, str] = {}
        self._ended: set[Path] = set()
        self._numbers = count()

    @contextmanager
    def on(self, server: LocalPostgres) -> Iterator[None]:
        """Be on during the block, with a server that has the database ``MIGRATED``."""
        self._server = server
        try:
            yield
        finally:
            self._server = None

    def settings(self, data_dir: Path) -> dict[str, str]:
        """Return what a service with this folder needs besides. When it is started again, that is the same."""
        if self._server is None:
            return {}
        name = self._databases.get(data_dir)
        if name is None:
            name = self._databases[data_dir] = f"service_{next(self._numbers)}"
            _execute(self._server, f"CREATE DATABASE {name} TEMPLATE {MIGRATED}")
        self._ended.discard(data_dir)
        return {
            "database_url": self._server.url(name),
            "spool_url": f"file://{data_dir.with_name(f'{data_dir.name}-objects')}",
            "cluster_secret": CLUSTER_SECRET,
            "whisper_model": "demo",  # as auto would choose, which nodes must not
        }

    def ended(self, data_dir: Path) -> None:
        """Take note that the service with this folder has ended; the test may start it again."""
        if data_dir in self._databases:
            self._ended.add(data_dir)

    def drop(self) -> None:
        """Drop the databases of services that have ended."""
        while self._ended:
            assert self._server is not None
            name = self._databases.pop(self._ended.pop())
            _execute(self._server, f"DROP DATABASE {name} WITH (FORCE)")


def _execute(server: LocalPostgres, statement: str) -> None:
    import psycopg  # only for clusters

    with psycopg.connect(server.url(), autocommit=True) as connection:
        connection.execute(statement.encode())


cluster_mode: Final = ClusterMode()
