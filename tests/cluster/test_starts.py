"""Deaths of nodes are charged to a file only if the node worked on no other, and only once."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from app.cluster import schema
from app.domain.job import JobStatus

if TYPE_CHECKING:
    from app.domain.job import Job
    from tests.cluster.nodes import Cluster, Node

pytestmark = [pytest.mark.anyio, pytest.mark.full(reason="starts nodes of a cluster")]


async def counted(node: Node, job: Job) -> tuple[int, int]:
    """Return the starts and the lone deaths of a job."""
    now = (await node.read(job)).job
    return now.starts, now.lone_deaths


async def take_over(node: Node, job: Job) -> None:
    """Have a node work on a job as if the one that has it had been taken for dead."""
    await node.jobs._tasks.transcribe(job.id, "")


async def test_death_is_charged_to_a_file_that_was_alone(cluster: Cluster) -> None:
    dead = await cluster.start("worker")
    dead.transcriber.on_model.hold()
    job = await dead.submit()
    await dead.transcriber.on_model.reached()
    other = await cluster.start("worker")
    await take_over(other, job)
    assert await counted(other, job) == (2, 1)


async def test_death_is_charged_to_none_of_several_files(cluster: Cluster) -> None:
    dead = await cluster.start("worker")
    dead.transcriber.on_model.hold()
    jobs = [await dead.submit(), await dead.submit(synchronous=True), await dead.submit()]
    await dead.transcriber.on_model.reached(3)
    other = await cluster.start("worker")
    await take_over(other, jobs[0])
    assert [await counted(other, job) for job in jobs] == [(2, 0), (1, 0), (1, 0)]
    await take_over(other, jobs[2])  # the death was settled for all of them
    assert await counted(other, jobs[2]) == (2, 0)


async def test_requests_that_end_with_their_node_were_at_work_too(cluster: Cluster) -> None:
    cluster.stale_seconds = 60.0  # nobody gives a sign of life in this test
    dead = await cluster.start("all")
    dead.transcriber.on_model.hold()
    job, request = await dead.submit(), await dead.submit(synchronous=True)
    await dead.transcriber.on_model.reached(2)
    api = await cluster.start("api")
    async with api.jobs._database.connection() as connection:
        await connection.execute("DELETE FROM nodes WHERE id = %s", (dead.jobs.node,))
    await api.jobs._upkeep.keep_up()
    assert not api.jobs.store.knows(request.id)
    assert await counted(api, job) == (1, 0)
    assert (await api.read(job)).job.begun_on is None


async def test_node_does_not_take_itself_for_dead(cluster: Cluster) -> None:
    cluster.stale_seconds = 60.0
    node = await cluster.start("all")
    node.transcriber.on_model.hold()
    job = await node.submit()
    await node.transcriber.on_model.reached()
    async with node.jobs._database.connection() as connection:
        await connection.execute("DELETE FROM nodes WHERE id = %s", (node.jobs.node,))
    await node.jobs._upkeep.keep_up()
    assert await counted(node, job) == (1, 0)
    await node.jobs.drain(0.0)
    assert await counted(node, job) == (0, 0)


async def test_node_that_was_taken_for_dead_takes_no_start_back(cluster: Cluster) -> None:
    paused = await cluster.start("worker")
    paused.transcriber.on_model.hold()
    job = await paused.submit()
    await paused.transcriber.on_model.reached()
    other = await cluster.start("worker")
    other.transcriber.on_model.hold()
    taken_over = asyncio.create_task(take_over(other, job))
    await other.transcriber.on_model.reached()
    await paused.jobs.drain(0.0)
    assert paused.transcriber.cancelled == 1
    assert await counted(other, job) == (2, 1)
    other.transcriber.on_model.release()
    await taken_over
    assert await counted(other, job) == (2, 1)


async def test_tables_of_version_1_get_what_is_new(cluster: Cluster) -> None:
    node = await cluster.start("api")
    async with node.jobs._database.connection() as connection:
        await connection.execute("ALTER TABLE jobs DROP COLUMN begun_on")
        await connection.execute("UPDATE cluster_version SET version = 1")
    assert await schema.migrate(node.jobs._database) == schema.VERSION
    job = await node.submit()
    await cluster.start("worker")
    await node.until(job, JobStatus.COMPLETED)
