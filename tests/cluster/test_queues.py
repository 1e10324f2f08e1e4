"""The order of waiting jobs: clients that wait first, short files beside long ones, owners in turn."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import pytest

from app.cluster.queue import Lane, queue_of
from app.domain.errors import QueueFull
from app.domain.job import JobStatus
from tests.jobs.rig import upload_to
from tests.support.fault_server import answer, fault_server
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from tests.cluster.nodes import Cluster, Node


async def waiting(node: Node) -> list[tuple[str, str]]:
    """Return the queue and the job of each waiting task, in the order in which they are taken."""
    async with node.jobs._database.connection() as connection:
        cursor = await connection.execute(
            "SELECT queue_name, args->>'job_id' FROM procrastinate_jobs ORDER BY priority DESC, id"
        )
        return await cursor.fetchall()


async def has_no_task(node: Node) -> bool:
    return not await waiting(node)


async def has_result(node: Node, job_id: str) -> bool:
    """Return whether a job has its result, and no task on its way to it."""
    return node.jobs.store.get(job_id).job.has_result and all(queue == "deliver" for queue, _ in await waiting(node))


@pytest.mark.anyio
@pytest.mark.full(reason="starts a node of a cluster")
async def test_owners_take_turns_however_many_jobs_one_has(cluster: Cluster) -> None:
    node = await cluster.start("api")
    many = [(await node.submit(owner="many")).id for _ in range(6)]
    few = [(await node.submit(owner="few")).id for _ in range(2)]
    order = [job_id for _, job_id in await waiting(node)]
    assert order == [*many[:2], few[0], many[2], few[1], *many[3:]]


@pytest.mark.anyio
@pytest.mark.full(reason="starts a node of a cluster")
async def test_owner_that_was_away_saves_up_no_turns(cluster: Cluster) -> None:
    node = await cluster.start("api")
    for _ in range(3):
        await node.submit(owner="busy")
    async with node.jobs._database.connection() as connection:
        await connection.execute("DELETE FROM procrastinate_jobs WHERE id <= 2")  # as if they had been taken
    late = (await node.submit(owner="late")).id
    assert [job_id for _, job_id in await waiting(node)][1] == late


@pytest.mark.anyio
@pytest.mark.full(reason="starts a node of a cluster")
async def test_task_for_a_later_time_holds_nobody_back(cluster: Cluster) -> None:
    node = await cluster.start("api")
    busy = [(await node.submit(owner="busy")).id for _ in range(5)]
    async with node.jobs._database.connection() as connection:
        await connection.execute(
            "UPDATE procrastinate_jobs SET scheduled_at = now() + interval '1 hour' WHERE args->>'job_id' = %s",
            (busy[0],),
        )
        await connection.execute("DELETE FROM procrastinate_jobs WHERE args->>'job_id' = ANY(%s)", (busy[1:3],))
    new = (await node.submit(owner="new")).id
    assert [job_id for _, job_id in await waiting(node)] == [busy[0], *busy[3:], new]


@pytest.mark.anyio
@pytest.mark.full(reason="starts nodes of a cluster")
async def test_owners_take_turns_with_deliveries(cluster: Cluster) -> None:
    worker = await cluster.start("worker")  # which delivers nothing itself
    async with fault_server(answer(200)) as target:
        owners = {}
        for owner in ["many"] * 6 + ["few"] * 2:
            job = await worker.submit(owner=owner, **upload_to(target.url(f"/{owner}")))
            owners[job.id] = owner
            await eventually(partial(has_result, worker, job.id))
        order = [(queue, owners[job_id]) for queue, job_id in await waiting(worker)]
        assert order == [("deliver", owner) for owner in ("many", "many", "few", "many", "few", "many", "many", "many")]
        await cluster.start("api")
        await eventually(lambda: len(target.requests) == len(owners))


@pytest.mark.anyio
@pytest.mark.full(reason="starts nodes of a cluster")
async def test_owner_who_was_served_before_takes_turns_with_new_ones(cluster: Cluster) -> None:
    node, worker = await cluster.start("api"), await cluster.start("worker")
    for job in [await node.submit(owner="old") for _ in range(5)]:
        await node.until(job, JobStatus.COMPLETED)
    await eventually(lambda: has_no_task(node))
    await worker.jobs.drain(0.0)
    new = [(await node.submit(owner="new")).id for _ in range(3)]
    old = (await node.submit(owner="old")).id
    assert [job_id for _, job_id in await waiting(node)] == [*new[:2], old, new[2]]


@pytest.mark.anyio
@pytest.mark.full(reason="starts a node of a cluster")
async def test_queue_is_that_of_the_model_and_the_length(cluster: Cluster) -> None:
    node = await cluster.start("api")
    long = await node.submit(audio=bytes(2_000_001))
    short = await node.submit()
    now = await node.submit(synchronous=True)
    queues = {job_id: queue for queue, job_id in await waiting(node)}
    assert [queues[job.id] for job in (long, short, now)] == ["long:small", "short:small", "now:small"]
    assert next(iter(queues)) == now.id


@pytest.mark.anyio
@pytest.mark.full(reason="starts a node of a cluster")
async def test_full_queue_rejects_requests_at_every_node(cluster: Cluster) -> None:
    first, second = await cluster.start("api", queued=2), await cluster.start("api", queued=2)
    for _ in range(2):
        await first.submit()
    await eventually(lambda: second.jobs.store.queued_count == 2)
    with pytest.raises(QueueFull), second.jobs.intake.reserved_place():
        pass
    positions = second.jobs.store.queue_positions
    await eventually(lambda: sorted(positions().values()) == [1, 2])


@pytest.mark.parametrize("model", ["small", "Systran/faster-distil-whisper-large-v3", "\u00fc" * 60])
def test_name_of_a_queue_fits_into_a_channel(model: str) -> None:
    names = {queue_of(lane, model) for lane in Lane}
    assert len(names) == len(Lane)
    assert all(len(f"procrastinate_queue_v1#{name}".encode()) <= 63 for name in names)
    assert queue_of(Lane.NOW, f"{model}-other") != queue_of(Lane.NOW, model)
