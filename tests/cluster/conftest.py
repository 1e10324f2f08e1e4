"""An empty database and a cluster for each test."""

from __future__ import annotations

from contextlib import AsyncExitStack
from itertools import count
from typing import TYPE_CHECKING

import pytest

from app.cluster import schema
from app.cluster.database import Database
from tests.cluster.nodes import Cluster
from tests.support.cluster_mode import MIGRATED

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from local_postgres import LocalPostgres

_numbers = count()


async def migrate(url: str) -> None:
    """Create the tables of a cluster."""
    database = Database(url)
    await database.open()
    await schema.migrate(database)
    await database.close()


@pytest.fixture
def database_url(postgres: LocalPostgres) -> str:
    """A database with empty tables."""
    return postgres.create_database(f"test_{next(_numbers)}", template=MIGRATED)


@pytest.fixture
async def cluster(database_url: str, tmp_path: Path) -> AsyncIterator[Cluster]:
    async with AsyncExitStack() as stack:
        yield Cluster(url=database_url, folder=tmp_path, stack=stack)
