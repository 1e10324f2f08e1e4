"""The order in which jobs of several owners are taken from the queue."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from app.domain.job import JobStatus

if TYPE_CHECKING:
    from tests.cluster.nodes import Cluster, Node

pytestmark = [pytest.mark.anyio, pytest.mark.full(reason="starts nodes of a cluster")]


async def owners(node: Node) -> list[str]:
    """Return the owners of the jobs that wait, in the order in which they will be taken."""
    async with node.jobs._database.connection() as connection:
        cursor = await connection.execute(
            "SELECT jobs.owner FROM procrastinate_jobs task JOIN jobs ON jobs.task_id = task.id"
            " WHERE task.status = 'todo' ORDER BY task.priority DESC, task.id"
        )
        return [owner for (owner,) in await cursor.fetchall()]


async def test_owners_take_turns(cluster: Cluster) -> None:
    node = await cluster.start("api")
    for owner in ("a", "a", "a", "a", "b", "b", "c"):
        await node.submit(owner=owner)
    assert await owners(node) == ["a", "a", "b", "c", "a", "b", "a"]


async def test_owner_who_was_served_before_takes_turns_with_new_ones(cluster: Cluster) -> None:
    node, worker = await cluster.start("api"), await cluster.start("worker")
    for job in [await node.submit(owner="a") for _ in range(5)]:
        await node.until(job, JobStatus.COMPLETED)
    await worker.jobs.drain(0.0)
    for owner in ("b", "b", "b", "a", "b"):
        await node.submit(owner=owner)
    assert await owners(node) == ["b", "b", "a", "b", "b"]
