"""A PostgreSQL for the tests of clusters, started once, and an empty database for each test."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from itertools import count
from typing import TYPE_CHECKING

import pytest
from local_postgres import LocalPostgres, PostgresMissing

from app.cluster import schema
from app.cluster.database import Database
from tests.cluster.nodes import Cluster
from tests.support.program import free_port

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

_TEMPLATE = "migrated"
_numbers = count()


@pytest.fixture(scope="session")
def postgres() -> Iterator[LocalPostgres]:
    """A running server with a database that has the tables of a cluster."""
    try:
        server = LocalPostgres(port=int(free_port()))
    except PostgresMissing as exc:
        pytest.skip(str(exc))
    with server:
        asyncio.run(migrate(server.create_database(_TEMPLATE)))
        yield server


async def migrate(url: str) -> None:
    """Create the tables of a cluster."""
    database = Database(url)
    await database.open()
    await schema.migrate(database)
    await database.close()


@pytest.fixture
def database_url(postgres: LocalPostgres) -> str:
    """A database with empty tables."""
    return postgres.create_database(f"test_{next(_numbers)}", template=_TEMPLATE)


@pytest.fixture
async def cluster(database_url: str, tmp_path: Path) -> AsyncIterator[Cluster]:
    async with AsyncExitStack() as stack:
        yield Cluster(url=database_url, folder=tmp_path, stack=stack)
