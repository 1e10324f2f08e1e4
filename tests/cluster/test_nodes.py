"""The nodes for clients know what the workers can do."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING

import pytest

from app.domain.job import JobStatus
from app.jobs.estimate import Speed
from app.transcription.models import ModelState
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from tests.cluster.nodes import Cluster, Node

pytestmark = [pytest.mark.anyio, pytest.mark.full(reason="starts nodes of a cluster")]


class FixedSpeed(Speed):
    """A measurement that is always the same."""

    def __init__(self) -> None:
        super().__init__(time.monotonic)

    @property
    def measured(self) -> float:
        return 10.0


def slots(node: Node) -> tuple[int, int]:
    """Return the slots that a node shows, and those in use."""
    capacity = node.jobs.capacity()
    return capacity.slots, capacity.active


def eta(node: Node, job_id: str) -> float | None:
    view = node.jobs.views.one(node.jobs.store.get(job_id))
    return view.get("eta_seconds")


async def test_estimate_is_that_of_all_living_workers(cluster: Cluster) -> None:
    api, first, second = [await cluster.start(role) for role in ("api", "worker", "worker")]
    first.jobs.estimate.model = FixedSpeed()
    first.jobs.estimate.finished(20.0, 60.0)
    for worker in (first, second):
        worker.transcriber.on_model.hold()
    jobs = [await api.submit() for _ in range(14)]  # one takes at most 11
    await eventually(lambda: slots(api) == (6, 6))
    assert slots(first) == (3, 3)
    await eventually(lambda: api.jobs.estimate.next_place_seconds() == 20.0 / 6)
    assert api.jobs.estimate.wait_seconds(7) == 40.0
    await eventually(lambda: eta(api, jobs[-1].id) == 7.0)  # 14 jobs of 10 s, by two workers
    late = await cluster.start("api")  # which has heard of none of them
    assert late.jobs.store.untranscribed_elsewhere + len(late.jobs.store.untranscribed()) == 14
    await late.read(jobs[0])
    assert eta(late, jobs[0].id) == 7.0
    await second.end()
    await eventually(lambda: slots(api) == (3, 3))


async def test_job_that_no_worker_can_do_is_shown_and_waits(cluster: Cluster, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="app.cluster.nodes")
    both = ("small", "large-v3")
    api = await cluster.start("api", models=both)
    await cluster.start("worker")
    job = await api.submit(model="large-v3")
    await eventually(lambda: api.jobs.capacity().unserved == {"large-v3": 1})
    served = await api.submit()
    await api.until(served, JobStatus.COMPLETED)
    other = await api.submit(model="large-v3")
    await eventually(lambda: api.jobs.capacity().unserved == {"large-v3": 2})
    assert api.jobs.capacity().workers == 1
    assert eta(api, job.id) is None
    warnings = [record.message for record in caplog.records if "large-v3" in record.message]
    assert warnings == ["⚠️ Jobs wait for the model large-v3, which no worker has now: start one that has it"]
    await cluster.start("worker", models=both)
    for each in (job, other):
        await api.until(each, JobStatus.COMPLETED)
    await eventually(lambda: api.jobs.capacity().unserved == {})
    assert caplog.records[-1].message == "No job waits any longer for a worker with the model large-v3"


async def test_models_are_shown_as_the_workers_have_them(cluster: Cluster) -> None:
    api, worker = await cluster.start("api"), await cluster.start("worker")
    assert not api.models.default.is_known
    known = ModelState(name="small", loaded=True, is_known=True, device="cuda", languages=frozenset({"en", "de"}))
    worker.models.update("small", known)
    await eventually(lambda: api.models.default == known)
    await worker.end()
    await worker.jobs._leave()
    await eventually(lambda: not api.models.default.loaded)
    assert api.models.default.is_known


async def test_nodes_that_were_silent_while_the_database_was_away_still_count(cluster: Cluster) -> None:
    api = await cluster.start("api")
    worker = await cluster.start("worker")
    await eventually(lambda: slots(api) == (3, 0))
    await worker.end()  # and gives no sign of life from now on
    api.jobs._nodes.database_is_away()
    async with api.jobs._database.connection() as connection:
        await connection.execute("UPDATE procrastinate_workers SET last_heartbeat = now() - interval '1 hour'")
        await api.jobs._nodes.read(connection)
        assert slots(api) == (3, 0)
    await eventually(lambda: slots(api) == (0, 0))


async def test_jobs_that_ended_while_notices_were_lost_are_not_waited_for(cluster: Cluster) -> None:
    api, worker = await cluster.start("api"), await cluster.start("worker")
    worker.transcriber.on_model.hold()
    ended, left = await api.submit(), await api.submit()
    await worker.transcriber.on_model.reached(2)
    await asyncio.gather(*(api.read(job) for job in (ended, left)))
    async with api.jobs._database.connection() as connection:
        await connection.execute("DELETE FROM jobs WHERE id = %s", (ended.id,))  # with no notice
    assert len(api.jobs.store.untranscribed()) == 2
    await api.jobs.store.catch_up()
    assert [live.job.id for live in api.jobs.store.untranscribed()] == [left.id]
