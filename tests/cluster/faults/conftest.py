"""A cluster of whole programs for each test, with an S3 of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from local_s3 import LocalS3

from tests.cluster.faults.programs import BUCKET, ClusterPrograms
from tests.support.program import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def store(tmp_path: Path) -> Iterator[LocalS3]:
    """A real S3 with an empty bucket, which a test can stop and start again."""
    with LocalS3(tmp_path / "s3", port=int(free_port())) as running:
        running.create_bucket(BUCKET)
        yield running


@pytest.fixture
def programs(database_url: str, store: LocalS3, tmp_path: Path) -> Iterator[ClusterPrograms]:
    with ClusterPrograms(tmp_path, database_url=database_url, store=store) as running:
        yield running
