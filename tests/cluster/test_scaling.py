"""The query with which KEDA sets the number of workers."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from app.domain.job import JobStatus
from tests.deploy.deployment import CLUSTER_KUBERNETES, documents
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from local_postgres import LocalPostgres

    from tests.cluster.nodes import Cluster

pytestmark = [pytest.mark.anyio, pytest.mark.full(reason="starts nodes of a cluster")]


async def test_scaling_counts_files_that_wait_and_those_being_transcribed(
    cluster: Cluster, postgres: LocalPostgres
) -> None:
    (scaling,) = (manifest for manifest in documents(CLUSTER_KUBERNETES) if manifest["kind"] == "ScaledObject")
    query = scaling["spec"]["triggers"][0]["metadata"]["query"]
    database = cluster.url.rpartition("/")[2]

    async def count() -> int:
        return int(await asyncio.to_thread(postgres.execute, query, database=database))

    api = await cluster.start("api")
    assert await count() == 0
    jobs = [await api.submit() for _ in range(3)]
    assert await count() == 3
    worker = await cluster.start("worker")
    worker.transcriber.finishing.hold()
    await worker.transcriber.finishing.reached(3)
    assert await count() == 3
    worker.transcriber.finishing.release()
    for job in jobs:
        await api.until(job, JobStatus.COMPLETED)

    async def is_empty() -> bool:
        return await count() == 0

    await eventually(is_empty)
