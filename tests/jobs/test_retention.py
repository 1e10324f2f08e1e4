"""When jobs are forgotten, and which never are."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.errors import UndecodableAudio, UnknownJob
from app.domain.job import Delivery, DeliveryStatus, Job, JobStatus
from app.jobs.retention import Retention, sweep, sweep_forever
from tests.domain.strategies import unhurried
from tests.jobs.rig import a_job, upload_to
from tests.support.fault_server import fault_server, never_answer

if TYPE_CHECKING:
    from tests.jobs.rig import Rig

HOUR, WEEK = 3600.0, 604_800.0
RETENTION = Retention(finished_seconds=HOUR, undelivered_seconds=WEEK)
QUEUED, PROCESSING, COMPLETED, FAILED, CANCELLED = JobStatus


def ended(status: JobStatus = COMPLETED, *, at: float = 1000.0, **changes: Any) -> Job:
    return (
        a_job(**changes)
        .changed(has_result=changes.get("has_result", False))
        .moved_to(PROCESSING, at=1.0)
        .moved_to(status, at=at)
    )


def with_delivery(status: DeliveryStatus, *, has_result: bool = True, **changes: Any) -> Job:
    return ended(FAILED, delivery=Delivery(status=status), has_result=has_result, **changes)


def test_job_that_runs_or_waits_never_expires() -> None:
    for job in (a_job(), a_job().moved_to(PROCESSING, at=1.0)):
        assert RETENTION.expires_at(job) is None
        assert not RETENTION.is_over(job, now=1e12)


@pytest.mark.parametrize("status", [COMPLETED, FAILED, CANCELLED])
def test_finished_job_is_kept_from_its_end(status: JobStatus) -> None:
    job = ended(status)
    assert RETENTION.expires_at(job) == 1000.0 + HOUR
    assert not RETENTION.is_over(job, now=1000.0 + HOUR - 0.001)
    assert RETENTION.is_over(job, now=1000.0 + HOUR)


def test_result_that_could_not_be_delivered_is_kept_longer() -> None:
    assert RETENTION.expires_at(with_delivery(DeliveryStatus.FAILED)) == 1000.0 + WEEK
    assert RETENTION.expires_at(with_delivery(DeliveryStatus.DELIVERED)) == 1000.0 + HOUR


def test_failure_without_a_result_is_kept_no_longer_though_it_could_not_be_reported() -> None:
    assert RETENTION.expires_at(with_delivery(DeliveryStatus.FAILED, has_result=False)) == 1000.0 + HOUR


def test_undelivered_result_is_kept_no_shorter_than_others() -> None:
    retention = Retention(finished_seconds=WEEK, undelivered_seconds=HOUR)
    assert retention.expires_at(with_delivery(DeliveryStatus.FAILED)) == 1000.0 + WEEK


@unhurried
@given(
    st.floats(0, 1e9),
    st.floats(0, 1e9),
    st.floats(0, 1e9),
    st.sampled_from([COMPLETED, FAILED, CANCELLED]),
    st.sampled_from([None, *DeliveryStatus]),
)
def test_job_is_over_from_its_expiry_on_and_never_before_its_retention(
    finished: float, undelivered: float, end: float, status: JobStatus, delivery: DeliveryStatus | None
) -> None:
    retention = Retention(finished_seconds=finished, undelivered_seconds=undelivered)
    job = ended(status, at=end, has_result=True, delivery=Delivery(status=delivery) if delivery else None)
    expires_at = retention.expires_at(job)
    assert expires_at is not None
    assert expires_at >= end + finished
    assert retention.is_over(job, now=expires_at)
    assert not retention.is_over(job, now=expires_at - 1.0)


@pytest.mark.anyio
async def test_sweep_forgets_what_is_over_with_its_files(rig: Rig) -> None:
    jobs = [await rig.submit() for _ in range(3)]
    for job in jobs:
        await rig.ended(job)
    ends = [rig.now(job).ended_at or 0.0 for job in jobs]
    assert await rig.files(jobs[0]) == ["result.json"]

    await sweep(rig.registry, rig.runner, RETENTION, now=min(ends) + HOUR - 0.001)
    assert len(rig.registry.everything()) == 3
    await sweep(rig.registry, rig.runner, RETENTION, now=max(ends) + HOUR)
    assert rig.registry.everything() == []
    assert [await rig.files(job) for job in jobs] == [[], [], []]
    with pytest.raises(UnknownJob):
        rig.now(jobs[0])


@pytest.mark.anyio
async def test_sweep_leaves_jobs_that_run_and_those_of_waiting_clients(rig: Rig) -> None:
    waited_for = await rig.submit(synchronous=True)
    await rig.ended(waited_for)
    rig.transcriber.on_model.hold()
    running = await rig.submit()
    await rig.transcriber.on_model.reached(2)
    await sweep(rig.registry, rig.runner, RETENTION, now=1e12)
    assert {job.id for job in rig.registry.everything()} == {waited_for.id, running.id}
    rig.transcriber.on_model.release()
    assert (await rig.ended(running)).status is COMPLETED


@pytest.mark.anyio
async def test_sweep_leaves_a_failed_job_whose_failure_is_still_being_reported(rig: Rig) -> None:
    rig.transcriber.error = UndecodableAudio("No.")
    async with fault_server(never_answer()) as target:
        job = await rig.submit(**upload_to(target.url()))
        await target.came.wait()
        await sweep(rig.registry, rig.runner, RETENTION, now=1e12)
        assert rig.now(job).status is FAILED
        assert rig.runner.is_running(job.id)
        await rig.runner.forget(job.id)


@pytest.mark.anyio
async def test_sweeper_forgets_without_being_asked(rig: Rig) -> None:
    job = await rig.submit()
    sweeper = asyncio.create_task(
        sweep_forever(rig.registry, rig.runner, Retention(finished_seconds=0, undelivered_seconds=0))
    )
    async with asyncio.timeout(10):
        await rig.registry.removed.wait()
    assert rig.registry.everything() == []
    assert not sweeper.done()
    sweeper.cancel()
    await asyncio.wait([sweeper])
    assert job.id in rig.registry.history
