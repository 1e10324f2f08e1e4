"""Who cancels, drains or waits for jobs, and in which state that leaves them."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from app.domain.current import current_job
from app.domain.errors import Draining, QueueFull, ShutDown, UndecodableAudio, UnknownJob
from app.domain.job import JobStatus
from tests.jobs.rig import a_job, open_rig, upload_to
from tests.support.fault_server import answer, fault_server, never_answer

if TYPE_CHECKING:
    from pathlib import Path

    from app.domain.job import Job
    from tests.jobs.rig import Rig

pytestmark = pytest.mark.anyio

QUEUED, PROCESSING, COMPLETED, FAILED, CANCELLED = JobStatus


async def check_cancelled(rig: Rig, job: Job) -> None:
    """Cancelled for good: nothing of it runs, holds a permit, or lies on the disk."""
    now = rig.now(job)
    assert (now.status, now.progress) == (CANCELLED, "Cancelled")
    assert now.ended_at is not None
    assert not rig.runner.is_running(job.id)
    assert rig.transcriber.active == 0
    assert await rig.files(job) == []


# Cancelling.


async def test_job_cancelled_before_its_first_step_is_cancelled_and_leaves_nothing(rig: Rig) -> None:
    job = await rig.submit()
    assert (await rig.runner.cancel(job.id)).status is CANCELLED
    assert rig.transcriber.calls == []
    await check_cancelled(rig, job)
    assert rig.registry.statuses(job.id) == [QUEUED, CANCELLED]


async def test_job_cancelled_in_the_line_leaves_it(tmp_path: Path) -> None:
    async with open_rig(tmp_path, permits=1) as rig:
        rig.transcriber.on_model.hold()
        first = await rig.submit()
        await rig.transcriber.on_model.reached()
        second, third = await rig.submit(), await rig.submit()
        await rig.transcriber.decoding.reached(3)
        await rig.runner.cancel(second.id)
        assert rig.registry.waiting() == [third.id]
        rig.transcriber.on_model.release()
        assert [(await rig.ended(job)).status for job in (first, second, third)] == [COMPLETED, CANCELLED, COMPLETED]
        await check_cancelled(rig, second)


@pytest.mark.parametrize("stage", ["decoding", "on_model", "finishing"])
async def test_job_cancelled_in_the_transcriber_puts_nothing_and_frees_its_slot(rig: Rig, stage: str) -> None:
    checkpoint = getattr(rig.transcriber, stage)
    checkpoint.hold()
    async with fault_server(answer(200)) as target:
        job = await rig.submit(**upload_to(target.url()))
        await checkpoint.reached()
        assert (await rig.runner.cancel(job.id)).status is CANCELLED
        assert rig.transcriber.cancelled == 1
        await check_cancelled(rig, job)
        checkpoint.release()
        await rig.ended(await rig.submit())
        assert target.connections == 0


async def test_job_cancelled_while_downloading_hangs_up(rig: Rig) -> None:
    async with fault_server(never_answer()) as source:
        job = await rig.submit(source_url=source.url())
        await source.came.wait()
        await rig.runner.cancel(job.id)
        await check_cancelled(rig, job)
    assert rig.transcriber.calls == []


async def test_job_cancelled_while_uploading_is_cancelled_and_tried_no_more(rig: Rig) -> None:
    async with fault_server(never_answer()) as target:
        job = await rig.submit(**upload_to(target.url()))
        await target.came.wait()
        assert (await rig.runner.cancel(job.id)).status is CANCELLED
        assert not rig.runner.is_running(job.id)
        assert target.connections == 1
    # Either is honest: the transcript can still be had, or the job does not claim it.
    assert await rig.files(job) == (["result.json"] if rig.now(job).has_result else [])
    assert rig.registry.statuses(job.id) == [QUEUED, PROCESSING, CANCELLED]


async def test_cancelling_is_logged_and_is_no_failure(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="app")
    rig.transcriber.on_model.hold()
    job = await rig.submit()
    await rig.transcriber.on_model.reached()
    await rig.runner.cancel(job.id)
    assert caplog.messages[-1] == f"🛑 Job {job.id} cancelled"
    assert [record for record in caplog.records if record.levelno > logging.INFO] == []


async def test_finished_job_stays_as_it_is_when_cancelled(rig: Rig) -> None:
    job = await rig.submit()
    before = await rig.ended(job)
    assert await rig.runner.cancel(job.id) == before
    assert rig.now(job) == before
    assert await rig.files(job) == ["result.json"]


async def test_unknown_job_can_not_be_cancelled(rig: Rig) -> None:
    with pytest.raises(UnknownJob):
        await rig.runner.cancel("4f0c")


async def test_cancelled_twice_at_once_is_cancelled(rig: Rig) -> None:
    rig.transcriber.on_model.hold()
    job = await rig.submit()
    await rig.transcriber.on_model.reached()
    both = await asyncio.gather(rig.runner.cancel(job.id), rig.runner.cancel(job.id))
    assert [each.status for each in both] == [CANCELLED, CANCELLED]
    await check_cancelled(rig, job)


async def test_cancel_that_races_with_the_end_leaves_exactly_one_final_status(rig: Rig) -> None:
    loop = asyncio.get_running_loop()
    rounds, ends = 120, set[JobStatus]()
    async with fault_server(answer(200)) as target:
        began = loop.time()
        for _ in range(5):
            await rig.ended(await rig.submit(**upload_to(target.url())))
        usual = (loop.time() - began) / 5
        for number in range(rounds):
            job = await rig.submit(**upload_to(target.url()))
            task = asyncio.create_task(rig.ended(job))
            await asyncio.sleep(usual * 2 * number / rounds)
            answered = await rig.runner.cancel(job.id)
            assert await task == rig.now(job) == answered
            statuses = rig.registry.statuses(job.id)
            assert [status for status in statuses if status.is_final] == [answered.status]
            assert answered.status in (COMPLETED, CANCELLED)
            assert not rig.runner.is_running(job.id)
            # Either is honest: the transcript can still be had, or the job does not claim it.
            assert await rig.files(job) == (["result.json"] if answered.has_result else [])
            ends.add(answered.status)
    assert ends == {COMPLETED, CANCELLED}


# Forgetting.


async def test_forgotten_job_leaves_no_trace(rig: Rig) -> None:
    job = await rig.submit()
    await rig.ended(job)
    await rig.runner.forget(job.id)
    with pytest.raises(UnknownJob):
        rig.now(job)
    assert await rig.files(job) == []
    await rig.runner.forget(job.id)


async def test_forgetting_stops_what_still_runs(rig: Rig) -> None:
    rig.transcriber.on_model.hold()
    job = await rig.submit()
    await rig.transcriber.on_model.reached()
    await rig.runner.forget(job.id)
    assert rig.transcriber.cancelled == 1
    assert rig.registry.everything() == []
    assert not rig.runner.is_running(job.id)
    assert await rig.files(job) == []


# The line.


async def test_full_queue_is_refused_with_a_time_to_come_again(tmp_path: Path) -> None:
    async with open_rig(tmp_path, permits=1, max_queued=2) as rig:
        rig.transcriber.on_model.hold()
        await rig.submit()
        await rig.transcriber.on_model.reached()
        jobs = [await rig.submit(synchronous=number == 0) for number in range(2)]
        with (
            pytest.raises(QueueFull, match="2 requests wait and MAX_QUEUED_JOBS allows 2") as caught,
            rig.runner.place(),
        ):
            pass
        assert caught.value.retry_after_seconds == 10
        await rig.runner.cancel(jobs[0].id)
        with rig.runner.place():
            pass


async def test_places_are_taken_while_requests_arrive_and_given_back_whatever_becomes_of_them(tmp_path: Path) -> None:
    async with open_rig(tmp_path, max_queued=2) as rig:
        with rig.runner.place():
            with suppress(LookupError), rig.runner.place():
                with pytest.raises(QueueFull), rig.runner.place():
                    pass
                raise LookupError
            with rig.runner.place():
                pass


@pytest.mark.parametrize(("seconds", "retry"), [(0.001, 1), (7.2, 8), (1e6, 120)])
async def test_time_to_come_again_comes_from_the_queue_and_is_one_to_120_seconds(
    tmp_path: Path, seconds: float, retry: int
) -> None:
    async with open_rig(tmp_path, permits=1, max_queued=1) as rig:
        rig.estimate.finished(seconds)
        with rig.runner.place(), pytest.raises(QueueFull) as caught, rig.runner.place():
            pass
        assert caught.value.retry_after_seconds == retry


async def test_draining_service_takes_no_new_work(rig: Rig) -> None:
    await rig.runner.drain(1.0)
    with pytest.raises(Draining, match="shutting down") as caught, rig.runner.place():
        pass
    assert 1 <= caught.value.retry_after_seconds <= 120


async def test_jobs_name_themselves_to_the_log(rig: Rig) -> None:
    names: list[str] = []

    class Watching(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            job = current_job.get()
            names.append(job.id if job else f"nobody: {record.getMessage()}")

    handler = Watching()
    logger = logging.getLogger("app.jobs")
    level = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    try:
        job = await rig.submit()
        await rig.ended(job)
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
    assert set(names) == {job.id}
    assert current_job.get() is None


# Waiting for the outcome.


async def test_outcome_is_what_went_wrong_or_nothing(rig: Rig) -> None:
    job = await rig.submit(synchronous=True)
    assert await rig.runner.outcome(job.id) is None
    rig.transcriber.error = UndecodableAudio("No.")
    job = await rig.submit(synchronous=True)
    assert await rig.runner.outcome(job.id) is rig.transcriber.error


async def test_waiter_of_a_cancelled_job_does_not_hang(rig: Rig) -> None:
    rig.transcriber.on_model.hold()
    for _ in range(2):
        job = await rig.submit(synchronous=True)
        waiter = asyncio.create_task(rig.runner.outcome(job.id))
        await asyncio.sleep(0)
        await rig.runner.cancel(job.id)
        async with asyncio.timeout(10):
            assert isinstance(await waiter, ShutDown)
    async with asyncio.timeout(10):
        assert await rig.runner.outcome(job.id) is None


async def test_waiter_that_goes_away_takes_nothing_along(rig: Rig) -> None:
    rig.transcriber.on_model.hold()
    job = await rig.submit(synchronous=True)
    await rig.transcriber.on_model.reached()
    waiter = asyncio.create_task(rig.runner.outcome(job.id))
    await asyncio.sleep(0)
    waiter.cancel()
    await asyncio.wait([waiter])
    assert rig.runner.is_running(job.id)
    rig.transcriber.on_model.release()
    assert (await rig.ended(job)).status is COMPLETED


# Draining.


async def test_drain_lets_jobs_finish_that_can(rig: Rig) -> None:
    rig.transcriber.on_model.hold()
    async with fault_server(answer(200)) as target:
        jobs = [await rig.submit(**upload_to(target.url())) for _ in range(2)]
        await rig.transcriber.on_model.reached(2)
        drained = asyncio.create_task(rig.runner.drain(30.0))
        await asyncio.sleep(0)
        assert rig.runner.draining
        rig.transcriber.on_model.release()
        async with asyncio.timeout(10):
            await drained
    assert [rig.now(job).status for job in jobs] == [COMPLETED, COMPLETED]
    assert len(target.requests) == 2


async def test_drain_of_an_idle_service_takes_no_time(rig: Rig) -> None:
    async with asyncio.timeout(5):
        await rig.runner.drain(600.0)


async def test_drain_fails_what_can_not_finish_and_reports_it_in_time(tmp_path: Path) -> None:
    """One job on the model, one in the line before it, one being decoded."""
    async with open_rig(tmp_path, permits=1) as rig, fault_server(answer(200)) as target:
        transcriber = rig.transcriber
        transcriber.on_model.hold()
        jobs = [await rig.submit(**upload_to(target.url()))]
        await transcriber.on_model.reached()
        jobs.append(await rig.submit(**upload_to(target.url())))
        await transcriber.decoding.reached(2)
        transcriber.decoding.hold()
        jobs.append(await rig.submit(**upload_to(target.url())))
        await transcriber.decoding.reached(3)
        async with asyncio.timeout(3.0 + 1.0):
            await rig.runner.drain(3.0)
        for job in jobs:
            now = rig.now(job)
            assert (now.status, now.error_type) == (FAILED, "ShutDown")
            assert now.error == "The service was shut down before the job had finished: submit it again."
            assert await rig.files(job) == []
    documents = [json.loads(request.body) for request in target.requests]
    assert {document["job_id"] for document in documents} == {job.id for job in jobs}
    assert {document["error_type"] for document in documents} == {"ShutDown"}


async def test_drain_gives_up_on_a_store_that_does_not_answer(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    rig.transcriber.on_model.hold()
    async with fault_server(never_answer()) as target:
        job = await rig.submit(**upload_to(target.url()))
        await rig.transcriber.on_model.reached()
        async with asyncio.timeout(5):
            await rig.runner.drain(1.5)
        assert len(target.requests) == 1
    assert (rig.now(job).status, rig.now(job).error_type) == (FAILED, "ShutDown")
    assert not rig.runner.is_running(job.id)
    assert f"Job {job.id}: there was no time left to tell the user's URL of its end" in caplog.messages


async def test_drain_leaves_no_job_without_an_end(rig: Rig) -> None:
    """Also the one whose result is ready and whose store does not answer."""
    async with fault_server(never_answer()) as target:
        job = await rig.submit(**upload_to(target.url()))
        await target.came.wait()
        async with asyncio.timeout(5):
            await rig.runner.drain(0.3)
    assert not rig.runner.is_running(job.id)
    assert rig.now(job).status is FAILED
    assert rig.now(job).has_result


async def test_drain_without_grace_ends_at_once(rig: Rig) -> None:
    rig.transcriber.on_model.hold()
    job = await rig.submit()
    await rig.transcriber.on_model.reached()
    async with asyncio.timeout(5):
        await rig.runner.drain(0)
    assert rig.now(job).status is FAILED
    assert not rig.runner.is_running(job.id)


async def test_waiter_of_a_request_that_the_drain_ends_does_not_hang(rig: Rig) -> None:
    rig.transcriber.on_model.hold()
    job = await rig.submit(synchronous=True)
    await rig.transcriber.on_model.reached()
    waiter = asyncio.create_task(rig.runner.outcome(job.id))
    await rig.runner.drain(0.1)
    async with asyncio.timeout(10):
        assert isinstance(await waiter, ShutDown)


async def test_job_cancelled_while_the_drain_gives_it_up_stays_cancelled(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    rig.transcriber.on_model.hold()
    rig.transcriber.leaving.hold()
    job = await rig.submit()
    await rig.transcriber.on_model.reached()
    drained = asyncio.create_task(rig.runner.drain(0.3))
    await rig.transcriber.leaving.reached()
    cancelled = asyncio.create_task(rig.runner.cancel(job.id))
    await asyncio.sleep(0)
    rig.transcriber.leaving.release()
    await asyncio.gather(drained, cancelled)
    gc.collect()
    assert rig.now(job).status is CANCELLED
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == []


async def test_request_that_arrives_during_the_drain_is_ended_too(rig: Rig) -> None:
    """Its place was taken before the drain began, its body came later."""
    rig.transcriber.on_model.hold()
    with rig.runner.place():
        first = await rig.submit()
        drained = asyncio.create_task(rig.runner.drain(0.5))
        await rig.transcriber.on_model.reached()
        late = await rig.submit()
    await drained
    assert [rig.now(job).status for job in (first, late)] == [FAILED, FAILED]


async def test_job_is_known_before_its_task_has_begun(rig: Rig) -> None:
    job = a_job()
    rig.runner.submit(job)
    assert rig.now(job) == job
    assert rig.runner.is_running(job.id)
    await rig.runner.cancel(job.id)
