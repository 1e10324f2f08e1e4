"""Retention: when jobs are forgotten and their URLs erased."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.errors import DiskFull, UndecodableAudio, UnknownJob
from app.domain.formats import ResponseFormat
from app.domain.job import Delivery, DeliveryStatus, Job, JobStatus, Upload, Webhook
from app.jobs.retention import Retention
from app.jobs.sweeper import Sweeper
from tests.domain.strategies import unhurried
from tests.jobs.rig import a_job, one_target, open_rig, upload_to
from tests.support.fault_server import answer, fault_server, never_answer
from tests.support.scripted_journal import ScriptedJournal
from tests.support.service_clock import FakeServiceClock
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from pathlib import Path

    from tests.jobs.rig import Rig

HOUR, DAY, WEEK = 3600.0, 86_400.0, 604_800.0
QUEUED, PROCESSING, COMPLETED, FAILED, CANCELLED = JobStatus
#: The clock advances between two readings, and small corrections of it are ignored.
SLACK = 6.0


def ended(status: JobStatus = COMPLETED, *, at: float = 1000.0, service_seconds: float = 0.0, **changes: Any) -> Job:
    job = a_job(**changes).moved_to(PROCESSING, at=1.0).moved_to(status, at=at)
    return replace(job, ended_service_seconds=service_seconds)


def with_delivery(status: DeliveryStatus, *, has_result: bool = True, **changes: Any) -> Job:
    return ended(FAILED, delivery=one_target(status=status), has_result=has_result, **changes)


def kept_seconds(job: Job, *, finished: float = HOUR, undelivered: float = WEEK) -> float:
    """Return how many seconds of the service clock a job is kept."""
    service_clock = FakeServiceClock()
    retention = Retention(finished_seconds=finished, undelivered_seconds=undelivered)
    for seconds in sorted({finished, undelivered}):
        service_clock.continue_from(seconds - 0.001)
        assert not retention.is_over(job, service_seconds=service_clock.seconds)
        service_clock.continue_from(seconds)
        if retention.is_over(job, service_seconds=service_clock.seconds):
            return seconds
    raise AssertionError


def test_active_job_never_expires() -> None:
    service_clock = FakeServiceClock(1e12)
    retention = Retention(finished_seconds=HOUR, undelivered_seconds=WEEK)
    for job in (a_job(), a_job().moved_to(PROCESSING, at=1.0)):
        assert retention.expires_at(job, now=service_clock.now()) is None
        assert not retention.is_over(job, service_seconds=service_clock.seconds)


@pytest.mark.parametrize("status", [COMPLETED, FAILED, CANCELLED])
def test_finished_job_is_kept_from_its_end(status: JobStatus) -> None:
    assert kept_seconds(ended(status)) == HOUR


def test_retention_begins_with_the_end_of_the_job() -> None:
    service_clock = FakeServiceClock(5000.0 + HOUR - 0.001)
    retention = Retention(finished_seconds=HOUR, undelivered_seconds=WEEK)
    job = ended(service_seconds=5000.0)
    assert not retention.is_over(job, service_seconds=service_clock.seconds)
    service_clock.advance(0.001)
    assert retention.is_over(job, service_seconds=service_clock.seconds)


@pytest.mark.parametrize("seconds", [60.0, DAY])
def test_job_is_kept_as_long_as_it_asked_for(seconds: float) -> None:
    retention = Retention(finished_seconds=HOUR, undelivered_seconds=WEEK)
    job = ended(service_seconds=5000.0, retention_seconds=seconds, has_result=True)
    assert not retention.is_over(job, service_seconds=5000.0 + seconds - 0.001)
    assert retention.is_over(job, service_seconds=5000.0 + seconds)
    now = FakeServiceClock(5000.0).now()
    moved = now.unix - job.ended_at if job.ended_at else 0.0
    assert retention.expires_at(job, now=now) == pytest.approx(1000.0 + moved + seconds, abs=SLACK)


def test_undelivered_result_is_kept_longer_than_it_asked_for() -> None:
    retention = Retention(finished_seconds=HOUR, undelivered_seconds=WEEK)
    job = with_delivery(DeliveryStatus.FAILED, retention_seconds=60.0)
    assert not retention.is_over(job, service_seconds=WEEK - 0.001)
    assert retention.is_over(job, service_seconds=WEEK)


def test_undelivered_result_is_kept_longer() -> None:
    assert kept_seconds(with_delivery(DeliveryStatus.FAILED)) == WEEK
    assert kept_seconds(with_delivery(DeliveryStatus.DELIVERED)) == HOUR


def test_undelivered_failure_document_does_not_prolong_retention() -> None:
    assert kept_seconds(with_delivery(DeliveryStatus.FAILED, has_result=False)) == HOUR


def test_undelivered_result_is_never_kept_shorter() -> None:
    assert kept_seconds(with_delivery(DeliveryStatus.FAILED), finished=WEEK, undelivered=HOUR) == WEEK


def test_retention_waits_for_due_deliveries() -> None:
    service_clock = FakeServiceClock(1e12)
    retention = Retention(finished_seconds=0, undelivered_seconds=0)
    reported = ended(FAILED, **upload_to("https://a.example/key"))
    notified = ended(webhook=Webhook(url="https://a.example/hook"), webhook_delivery=Delivery())
    for job in (reported, notified):
        assert not retention.is_over(job, service_seconds=service_clock.seconds)
    assert retention.is_over(
        replace(reported, delivery=one_target(status=DeliveryStatus.DELIVERED)), service_seconds=service_clock.seconds
    )
    assert retention.is_over(
        replace(notified, webhook_delivery=one_target(status=DeliveryStatus.FAILED)),
        service_seconds=service_clock.seconds,
    )


def test_downtime_does_not_count_and_moves_the_expiry() -> None:
    """It ran for a hundred seconds since the end, and was down for a day."""
    now = time.time()
    job = ended(at=now - 100 - DAY, service_seconds=7.0)
    service_clock = FakeServiceClock(107.0)
    retention = Retention(finished_seconds=HOUR, undelivered_seconds=WEEK)
    assert not retention.is_over(job, service_seconds=service_clock.seconds)
    assert retention.expires_at(job, now=service_clock.now()) == pytest.approx(now + HOUR - 100, abs=SLACK)


@pytest.mark.parametrize("set_forward", [-10 * 365 * DAY, 10 * 365 * DAY])
def test_clock_jump_does_not_change_retention(set_forward: float) -> None:
    now = time.time()
    job = ended(at=now - set_forward - 100)
    service_clock = FakeServiceClock(100.0)
    retention = Retention(finished_seconds=HOUR, undelivered_seconds=WEEK)
    assert not retention.is_over(job, service_seconds=service_clock.seconds)
    assert retention.expires_at(job, now=service_clock.now()) == pytest.approx(now + HOUR - 100, abs=SLACK)
    service_clock.advance(HOUR - 100)
    assert retention.is_over(job, service_seconds=service_clock.seconds)


def test_expiry_is_stable_while_the_clock_is_corrected() -> None:
    service_clock = FakeServiceClock()
    retention = Retention(finished_seconds=HOUR, undelivered_seconds=WEEK)
    job = ended(at=time.time())
    for correction in (-3.0, 0.0, 3.0):
        service_clock.continue_from(correction)
        assert retention.expires_at(job, now=service_clock.now()) == (job.ended_at or 0) + HOUR


@unhurried
@given(
    st.floats(0, 1e9),
    st.floats(0, 1e9),
    st.floats(0, 1e9),
    st.floats(0, 2e9),
    st.floats(0, 4e9),
    st.sampled_from([COMPLETED, FAILED, CANCELLED]),
    st.sampled_from([None, DeliveryStatus.DELIVERED, DeliveryStatus.FAILED]),
)
def test_retention_is_over_at_the_announced_expiry(
    finished: float,
    undelivered: float,
    end: float,
    later: float,
    clock: float,
    status: JobStatus,
    delivery: DeliveryStatus | None,
) -> None:
    service_clock = FakeServiceClock(end + later)
    retention = Retention(finished_seconds=finished, undelivered_seconds=undelivered)
    job = ended(
        status,
        at=clock,
        service_seconds=end,
        has_result=True,
        delivery=one_target(status=delivery) if delivery else None,
    )
    expires_at = retention.expires_at(job, now=service_clock.now())
    assert expires_at is not None
    left = expires_at - time.time()
    assert left >= finished - later - SLACK
    if retention.is_over(job, service_seconds=service_clock.seconds):
        assert left <= SLACK
    else:
        assert left >= -SLACK


@pytest.mark.anyio
async def test_sweep_forgets_expired_jobs_with_their_files(rig: Rig) -> None:
    jobs = [await rig.submit() for _ in range(3)]
    for job in jobs:
        await rig.ended(job)
    assert await rig.files(jobs[0]) == ["result.json"]

    rig.service_clock.advance(HOUR - 0.001)
    await rig.sweeper.sweep()
    assert len(rig.jobs()) == 3
    rig.service_clock.advance(0.001)
    await rig.sweeper.sweep()
    assert rig.jobs() == []
    assert [await rig.files(job) for job in jobs] == [[], [], []]
    with pytest.raises(UnknownJob):
        rig.now(jobs[0])


@pytest.mark.anyio
async def test_sweep_leaves_running_and_synchronous_jobs(rig: Rig) -> None:
    waited_for = await rig.submit(synchronous=True)
    await rig.ended(waited_for)
    rig.transcriber.on_model.hold()
    running = await rig.submit()
    await rig.transcriber.on_model.reached(2)
    rig.service_clock.advance(1e12)
    await rig.sweeper.sweep()
    assert {job.id for job in rig.jobs()} == {waited_for.id, running.id}
    rig.transcriber.on_model.release()
    assert (await rig.ended(running)).status is COMPLETED


@pytest.mark.anyio
async def test_sweep_leaves_a_job_with_a_running_delivery(rig: Rig) -> None:
    rig.transcriber.error = UndecodableAudio("No.")
    async with fault_server(never_answer()) as target:
        job = await rig.submit(**upload_to(target.url()))
        await target.came.wait()
        rig.service_clock.advance(1e12)
        await rig.sweeper.sweep()
        assert rig.now(job).status is FAILED
        assert rig.runner.is_running(job.id)
        await rig.intake.forget(job.id)


@pytest.mark.anyio
async def test_sweep_leaves_a_job_with_a_later_round(tmp_path: Path) -> None:
    async with open_rig(tmp_path / "data", max_age_seconds=DAY) as rig, fault_server(answer(503)) as target:
        job = await rig.submit(**upload_to(target.url()))
        await rig.put_off(job, rounds=1)
        await rig.sweeper.sweep()
        assert rig.now(job).status is PROCESSING
        assert await rig.files(job) == ["result.json"]


@pytest.mark.anyio
@pytest.mark.parametrize("expires_in", [-10.0, HOUR])
async def test_sweep_erases_expired_upload_urls(tmp_path: Path, expires_in: float) -> None:
    """Until then it serves to deliver the result again."""
    journal = ScriptedJournal()
    upload = Upload(
        url="", headers=(("x-amz-acl", "secret"),), format=ResponseFormat.JSON, expires_at=time.time() + expires_in
    )
    # For the delivery it is long ago, so that it is tried at all.
    async with (
        open_rig(tmp_path / "data", journal=journal, now=lambda: 0.0) as rig,
        fault_server(answer(403)) as target,
    ):
        job = await rig.submit(uploads=(replace(upload, url=target.url()),), delivery=Delivery())
        assert (await rig.ended(job)).status is FAILED
        await rig.sweeper.sweep()
        for known in (rig.now(job), journal.kept[job.id]):
            (upload,) = known.uploads
            assert known.has_result
            assert upload.is_kept == (expires_in > 0)
            assert bool(upload.headers) == (expires_in > 0)


def without_retention(rig: Rig) -> Sweeper:
    """Return a sweeper for which every retention is over, and which sweeps often."""
    return Sweeper(
        store=rig.store,
        intake=rig.intake,
        runner=rig.runner,
        retention=Retention(finished_seconds=0, undelivered_seconds=0),
        service_clock=rig.service_clock,
    )


@pytest.mark.anyio
async def test_sweeper_runs_by_itself(rig: Rig) -> None:
    job = await rig.submit()
    sweeping = asyncio.create_task(without_retention(rig).run())
    async with asyncio.timeout(60):
        await rig.registry.removed.wait()
    assert rig.jobs() == []
    assert not sweeping.done()
    sweeping.cancel()
    await asyncio.wait([sweeping])
    assert job.id in rig.registry.history


async def has_no_files(rig: Rig, job: Job) -> bool:
    return await rig.files(job) == []


@pytest.mark.anyio
async def test_sweeper_survives_a_full_disk(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    journal = ScriptedJournal()
    async with open_rig(tmp_path / "data", journal=journal) as rig:
        job = await rig.submit()
        await rig.ended(job)
        journal.failures.append(DiskFull("The disk is full.", retry_after_seconds=60))
        sweeping = asyncio.create_task(without_retention(rig).run())
        await eventually(lambda: "expired jobs will be forgotten later" in caplog.text)
        async with asyncio.timeout(60):
            await rig.registry.removed.wait()
        assert journal.kept == {}
        await eventually(lambda: has_no_files(rig, job))
        sweeping.cancel()
        await asyncio.wait([sweeping])
