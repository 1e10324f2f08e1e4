"""Jobs that are deleted while they complete: each has one final status, which its webhook event agrees with."""

from __future__ import annotations

import asyncio
import json
from collections import Counter, defaultdict
from random import Random
from typing import TYPE_CHECKING, Final
from uuid import uuid4

import pytest

from app.domain.job import JobStatus, Webhook
from app.jobs.journal import Journal
from tests.jobs.rig import Rig, open_rig, upload_to
from tests.support.fault_server import fault_server, response_head
from tests.support.service_clock import FakeServiceClock
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from app.domain.job import Job
    from tests.support.fault_server import Connection, FaultServer

pytestmark = [pytest.mark.anyio, pytest.mark.full(reason="deletes a hundred jobs in mid-flight")]

#: Jobs at once. Each is deleted at a random moment of the time that they take.
TOGETHER: Final = 20
DAY_SECONDS: Final = 86_400.0


class Receiver:
    """A receiver that accepts results, and webhook events once ``takes_events`` is set. It records refused ones too."""

    def __init__(self) -> None:
        self.takes_events = False
        self.results: Counter[str] = Counter()
        self.events: defaultdict[str, set[tuple[str, bytes]]] = defaultdict(set)
        self.taken: Counter[str] = Counter()

    async def __call__(self, connection: Connection) -> None:
        request = await connection.read_request()
        job_id = request.target.rpartition("/")[2]
        status = 200
        if request.method == "PUT":
            self.results[job_id] += 1
        else:
            self.events[job_id].add((request.headers["webhook-id"], request.body))
            self.taken[job_id] += self.takes_events
            status = 200 if self.takes_events else 503
        await connection.send(response_head(status, {"Content-Length": "0", "Connection": "close"}))


def a_rig(root: Path) -> AbstractAsyncContextManager[Rig]:
    service_clock = FakeServiceClock()
    journal = Journal(root / "journal.sqlite3", service_clock)
    return open_rig(root, journal=journal, service_clock=service_clock, max_age_seconds=DAY_SECONDS, forget=False)


async def race(rig: Rig, server: FaultServer, seconds: float) -> Job:
    """Submit a job, delete it after ``seconds`` unless it has ended, and return its final state."""
    job_id = str(uuid4())
    job = await rig.submit(
        id=job_id,
        webhook=Webhook(url=server.url(f"/event/{job_id}")),
        **upload_to(server.url(f"/result/{job_id}")),
    )
    await asyncio.sleep(seconds)
    if rig.now(job).is_active:
        await rig.intake.cancel(job_id)
    return await rig.put_off(job, rounds=1)


async def usual_seconds(rig: Rig, server: FaultServer) -> float:
    """Return how many seconds as many jobs take on this machine at the moment."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    jobs = await asyncio.gather(*(rig.submit(**upload_to(server.url("/usual"))) for _ in range(TOGETHER)))
    await asyncio.gather(*(rig.ended(job) for job in jobs))
    seconds = loop.time() - began
    for job in jobs:
        await rig.intake.forget(job.id)
    return seconds


async def test_job_deleted_while_it_completes_has_one_final_status(tmp_path: Path, *, long: bool) -> None:
    number = 1000 if long else 100
    chance = Random(0)  # noqa: S311  # no cryptography
    receiver = Receiver()
    async with fault_server(receiver) as server:
        async with a_rig(tmp_path) as rig:
            ended: list[Job] = []
            for _ in range(number // TOGETHER):
                latest = 1.2 * await usual_seconds(rig, server)
                moments = [chance.uniform(0, latest) for _ in range(TOGETHER)]
                ended += await asyncio.gather(*(race(rig, server, seconds) for seconds in moments))
            ends = {job.id: [status for status in rig.registry.statuses(job.id) if status.is_final] for job in ended}
        first_events = {job_id: set(events) for job_id, events in receiver.events.items()}
        receiver.takes_events = True
        async with a_rig(tmp_path) as rig:
            rig.service_clock.advance(60)
            await eventually(lambda: len(receiver.taken) == number)
            await eventually(lambda: all(job.is_settled for job in rig.jobs()))
            reopened = {job.id: job.status for job in rig.jobs()}
    assert ends == {job_id: [status] for job_id, status in reopened.items()}
    counts = Counter(reopened.values())
    assert counts[JobStatus.COMPLETED] + counts[JobStatus.CANCELLED] == number
    assert min(counts[JobStatus.COMPLETED], counts[JobStatus.CANCELLED]) > 0, f"All jobs have the same status: {counts}"
    for job_id, status in reopened.items():
        assert receiver.results[job_id] == 1 or (status is JobStatus.CANCELLED and receiver.results[job_id] <= 1)
        assert receiver.taken[job_id] == 1
        ((_, body),) = receiver.events[job_id]
        assert receiver.events[job_id] == first_events[job_id]
        event = json.loads(body)
        assert (event["type"], event["data"]["status"]) == (f"job.{status}", status)
