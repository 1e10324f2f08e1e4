"""Intake and supervision: cancelling, draining and waiting for jobs."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

import pytest

from app.domain.errors import DiskFull, Draining, EngineFailed, QueueFull, ShutDown, UndecodableAudio, UnknownJob
from app.domain.job import DeliveryStatus, JobStatus
from app.domain.log_context import current_job
from app.jobs.journal import Journal
from app.transcription.models import ModelRegistry
from tests.jobs.rig import AUDIO, a_job, open_rig, upload_to
from tests.support.fault_server import answer, fault_server, never_answer
from tests.support.scripted_journal import ScriptedJournal
from tests.support.service_clock import FakeServiceClock
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from app.domain.job import Job
    from tests.jobs.rig import Rig
    from tests.support.fault_server import Connection

pytestmark = pytest.mark.anyio

QUEUED, PROCESSING, COMPLETED, FAILED, CANCELLED = JobStatus


@asynccontextmanager
async def open_journalled(root: Path, *, slots: int = 3) -> AsyncIterator[Rig]:
    """Open a rig that leaves everything for the next one in the same folder."""
    service_clock = FakeServiceClock()
    journal = Journal(root / "journal.sqlite3", service_clock)
    async with open_rig(root, slots=slots, journal=journal, service_clock=service_clock, forget=False) as rig:
        yield rig


async def check_cancelled(rig: Rig, job: Job) -> None:
    """Cancelled for good: nothing of it runs, holds a slot, or lies on the disk."""
    now = rig.live(job)
    assert (now.status, now.phrase) == (CANCELLED, "Cancelled")
    assert now.job.ended_at is not None
    assert not rig.runner.is_running(job.id)
    assert rig.transcriber.active == 0
    assert await rig.files(job) == []


# Cancelling.


async def test_job_cancelled_at_once_leaves_nothing(rig: Rig) -> None:
    rig.transcriber.decoding.hold()
    job = await rig.submit()
    answered = (await rig.intake.cancel(job.id)).job
    assert answered.status is CANCELLED
    await check_cancelled(rig, job)
    assert rig.now(job) == answered
    assert rig.registry.statuses(job.id) == [QUEUED, CANCELLED]


async def test_job_stopped_before_its_first_step_can_be_started_again(rig: Rig) -> None:
    job = await rig.store.admit(a_job())
    await asyncio.to_thread(rig.put_audio, job.id, AUDIO)
    rig.runner.start(job.id)
    await rig.runner.stop(job.id)
    assert not rig.runner.is_running(job.id)
    assert rig.transcriber.calls == []
    assert rig.now(job) == job
    rig.runner.start(job.id)
    assert (await rig.ended(job)).status is COMPLETED


async def test_cancelled_job_leaves_the_queue(tmp_path: Path) -> None:
    async with open_rig(tmp_path, slots=1) as rig:
        rig.transcriber.on_model.hold()
        first = await rig.submit()
        await rig.transcriber.on_model.reached()
        second, third = await rig.submit(), await rig.submit()
        await rig.transcriber.decoding.reached(3)
        await rig.intake.cancel(second.id)
        assert rig.queued() == [third.id]
        rig.transcriber.on_model.release()
        assert [(await rig.ended(job)).status for job in (first, second, third)] == [COMPLETED, CANCELLED, COMPLETED]
        await check_cancelled(rig, second)


@pytest.mark.parametrize("stage", ["decoding", "on_model", "finishing"])
async def test_cancelled_transcription_releases_its_slot(rig: Rig, stage: str) -> None:
    checkpoint = getattr(rig.transcriber, stage)
    checkpoint.hold()
    async with fault_server(answer(200)) as target:
        job = await rig.submit(**upload_to(target.url()))
        await checkpoint.reached()
        assert (await rig.intake.cancel(job.id)).status is CANCELLED
        assert rig.transcriber.cancelled == 1
        await check_cancelled(rig, job)
        checkpoint.release()
        await rig.ended(await rig.submit())
        assert target.connections == 0


async def test_cancelled_download_closes_its_connection(rig: Rig) -> None:
    async with fault_server(never_answer()) as source:
        job = await rig.submit(source_url=source.url())
        await source.came.wait()
        await rig.intake.cancel(job.id)
        await check_cancelled(rig, job)
    assert rig.transcriber.calls == []


async def test_cancelled_upload_is_not_retried(rig: Rig) -> None:
    async with fault_server(never_answer()) as target:
        job = await rig.submit(**upload_to(target.url()))
        await target.came.wait()
        cancelled = (await rig.intake.cancel(job.id)).job
        assert cancelled.status is CANCELLED
        assert not rig.runner.is_running(job.id)
        assert target.connections == 1
    assert cancelled.delivery is not None
    assert (cancelled.delivery.status, cancelled.delivery.last_error) == (
        DeliveryStatus.FAILED,
        "The job was cancelled.",
    )
    assert cancelled.delivery.next_attempt_at is None
    assert not cancelled.uploads[0].is_kept
    assert rig.now(job) == cancelled
    assert cancelled.has_result
    assert await rig.files(job) == ["result.json"]
    assert rig.registry.statuses(job.id) == [QUEUED, PROCESSING, CANCELLED]


async def test_cancelling_is_logged_but_not_as_a_failure(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="app")
    rig.transcriber.on_model.hold()
    job = await rig.submit()
    await rig.transcriber.on_model.reached()
    await rig.intake.cancel(job.id)
    assert caplog.messages[-1] == f"🛑 Job {job.id} cancelled"
    assert [record for record in caplog.records if record.levelno > logging.INFO] == []


async def test_cancelling_an_ended_job_changes_nothing(rig: Rig) -> None:
    job = await rig.submit()
    before = await rig.ended(job)
    assert (await rig.intake.cancel(job.id)).job == before
    assert rig.now(job) == before
    assert await rig.files(job) == ["result.json"]


async def test_unknown_job_can_not_be_cancelled(rig: Rig) -> None:
    with pytest.raises(UnknownJob):
        await rig.intake.cancel("4f0c")


async def test_concurrent_cancels_of_one_job_succeed(rig: Rig) -> None:
    rig.transcriber.on_model.hold()
    job = await rig.submit()
    await rig.transcriber.on_model.reached()
    both = await asyncio.gather(rig.intake.cancel(job.id), rig.intake.cancel(job.id))
    assert [each.status for each in both] == [CANCELLED, CANCELLED]
    await check_cancelled(rig, job)


async def test_start_during_a_cancel_does_not_change_the_job(tmp_path: Path) -> None:
    journal = ScriptedJournal()
    async with open_rig(tmp_path, journal=journal) as rig:
        job = await rig.store.admit(a_job())
        await asyncio.to_thread(rig.put_audio, job.id, AUDIO)
        journal.hold(lambda job: job is not None and job.status is CANCELLED)
        cancelling = asyncio.create_task(rig.intake.cancel(job.id))
        await journal.arrived.wait()
        rig.runner.start(job.id)
        await eventually(lambda: len(rig.transcriber.calls) == 1)
        journal.release()
        answered = (await cancelling).job
        assert (answered.status, answered.starts) == (CANCELLED, 0)
        assert rig.now(job) == journal.kept[job.id] == answered
        assert rig.live(job).revision == answered.revision
        await check_cancelled(rig, job)


async def test_download_ending_during_a_cancel_does_not_change_the_job(tmp_path: Path) -> None:
    journal, sending = ScriptedJournal(), asyncio.Event()

    async def send_later(connection: Connection) -> None:
        await sending.wait()
        await answer(200, AUDIO)(connection)

    async with open_rig(tmp_path, journal=journal) as rig, fault_server(send_later) as source:
        job = await rig.submit(source_url=source.url())
        await source.came.wait()
        journal.hold(lambda job: job is not None and job.status is CANCELLED)
        cancelling = asyncio.create_task(rig.intake.cancel(job.id))
        await journal.arrived.wait()
        sending.set()

        async def has_arrived() -> bool:
            return await rig.files(job) == ["audio"]

        await eventually(has_arrived)
        journal.release()
        answered = (await cancelling).job
        assert rig.now(job) == journal.kept[job.id] == answered
        assert rig.live(job).revision == answered.revision
        await check_cancelled(rig, job)


@pytest.mark.full(reason="takes more than a second")
async def test_cancel_racing_with_the_end_leaves_one_final_status(rig: Rig) -> None:
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
            answered = (await rig.intake.cancel(job.id)).job
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
    await rig.intake.forget(job.id)
    with pytest.raises(UnknownJob):
        rig.now(job)
    assert await rig.files(job) == []
    await rig.intake.forget(job.id)


async def test_forgetting_stops_running_work(rig: Rig) -> None:
    rig.transcriber.on_model.hold()
    job = await rig.submit()
    await rig.transcriber.on_model.reached()
    await rig.intake.forget(job.id)
    assert rig.transcriber.cancelled == 1
    assert rig.jobs() == []
    assert not rig.runner.is_running(job.id)
    assert await rig.files(job) == []


# The queue.


async def test_full_queue_is_rejected_with_retry_after(tmp_path: Path) -> None:
    async with open_rig(tmp_path, slots=1, max_queued=2) as rig:
        rig.transcriber.on_model.hold()
        await rig.submit()
        await rig.transcriber.on_model.reached()
        jobs = [await rig.submit(synchronous=number == 0) for number in range(2)]
        with (
            pytest.raises(QueueFull, match="2 requests are waiting and MAX_QUEUED_JOBS allows 2") as caught,
            rig.intake.reserved_place(),
        ):
            pass
        assert caught.value.retry_after_seconds == 10
        await rig.intake.cancel(jobs[0].id)
        with rig.intake.reserved_place():
            pass


async def test_arriving_requests_hold_a_place_in_the_queue(tmp_path: Path) -> None:
    async with open_rig(tmp_path, max_queued=2) as rig:
        with rig.intake.reserved_place():
            with suppress(LookupError), rig.intake.reserved_place():
                with pytest.raises(QueueFull), rig.intake.reserved_place():
                    pass
                raise LookupError
            with rig.intake.reserved_place():
                pass


@pytest.mark.parametrize(("seconds", "retry"), [(0.001, 1), (7.2, 8), (1e6, 120)])
async def test_retry_after_of_a_full_queue_is_1_to_120_seconds(tmp_path: Path, seconds: float, retry: int) -> None:
    async with open_rig(tmp_path, slots=1, max_queued=1) as rig:
        rig.estimate.finished(seconds)
        with rig.intake.reserved_place(), pytest.raises(QueueFull) as caught, rig.intake.reserved_place():
            pass
        assert caught.value.retry_after_seconds == retry


async def test_draining_service_rejects_new_work(rig: Rig) -> None:
    await rig.drain(1.0)
    with pytest.raises(Draining, match="shutting down") as caught, rig.intake.reserved_place():
        pass
    assert 1 <= caught.value.retry_after_seconds <= 120


async def test_log_lines_carry_their_job(rig: Rig) -> None:
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


async def test_outcome_is_the_error_or_none(rig: Rig) -> None:
    job = await rig.submit(synchronous=True)
    assert await rig.runner.outcome(job.id) is None
    rig.transcriber.error = UndecodableAudio("No.")
    job = await rig.submit(synchronous=True)
    assert await rig.runner.outcome(job.id) is rig.transcriber.error


async def test_outcome_of_a_cancelled_job_does_not_hang(rig: Rig) -> None:
    rig.transcriber.on_model.hold()
    for _ in range(2):
        job = await rig.submit(synchronous=True)
        waiter = asyncio.create_task(rig.runner.outcome(job.id))
        await asyncio.sleep(0)
        await rig.intake.cancel(job.id)
        async with asyncio.timeout(60):
            assert isinstance(await waiter, ShutDown)
    async with asyncio.timeout(60):
        assert await rig.runner.outcome(job.id) is None


async def test_cancelled_wait_for_an_outcome_leaves_the_job_running(rig: Rig) -> None:
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


async def test_drain_lets_jobs_on_the_model_finish(rig: Rig) -> None:
    rig.transcriber.on_model.hold()
    async with fault_server(answer(200)) as target:
        jobs = [await rig.submit(**upload_to(target.url())) for _ in range(2)]
        await rig.transcriber.on_model.reached(2)
        drained = asyncio.create_task(rig.drain(30.0))
        await asyncio.sleep(0)
        assert rig.runner.draining
        rig.transcriber.on_model.release()
        async with asyncio.timeout(60):
            await drained
    assert [rig.now(job).status for job in jobs] == [COMPLETED, COMPLETED]
    assert len(target.requests) == 2


async def test_drain_of_an_idle_service_returns_at_once(rig: Rig) -> None:
    async with asyncio.timeout(60):
        await rig.drain(600.0)


async def test_drain_requeues_waiting_jobs_at_once(tmp_path: Path) -> None:
    """One job on the model, one in the line before it, one being decoded, one being downloaded."""
    journal = ScriptedJournal()
    async with (
        open_rig(tmp_path, slots=1, journal=journal) as rig,
        fault_server(answer(200)) as target,
        fault_server(never_answer()) as source,
    ):
        transcriber = rig.transcriber
        transcriber.on_model.hold()
        first = await rig.submit(**upload_to(target.url()))
        await transcriber.on_model.reached()
        queued = [await rig.submit(**upload_to(target.url()))]
        await transcriber.decoding.reached(2)
        transcriber.decoding.hold()
        queued.append(await rig.submit(**upload_to(target.url())))
        await transcriber.decoding.reached(3)
        queued.append(await rig.submit(source_url=source.url(), **upload_to(target.url())))
        await source.came.wait()
        drained = asyncio.create_task(rig.drain(600.0))
        async with asyncio.timeout(60):
            await asyncio.gather(*(rig.runner.outcome(job.id) for job in queued))
        assert not drained.done()
        for job in queued:
            assert not rig.runner.is_running(job.id)
            for known in (rig.now(job), journal.kept[job.id]):
                assert (known.status, known.starts, known.error) == (QUEUED, 0, None)
                assert known.upload_has_begun is False
        transcriber.on_model.release()
        async with asyncio.timeout(60):
            await drained
        assert rig.now(first).status is COMPLETED
        (put,) = target.requests
        assert json.loads(put.body)["job_id"] == first.id


async def test_drained_jobs_are_delivered_once_after_the_next_start(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One job on the model that does not end in time, and one in the line before it."""
    caplog.set_level(logging.INFO, logger="app")
    async with fault_server(answer(200)) as target:
        async with open_journalled(tmp_path, slots=1) as rig:
            rig.transcriber.on_model.hold()
            jobs = [await rig.submit(**upload_to(target.url()))]
            await rig.transcriber.on_model.reached()
            jobs.append(await rig.submit(**upload_to(target.url())))
            await rig.transcriber.decoding.reached(2)
            async with asyncio.timeout(60):
                await rig.drain(0.3)
            for job in jobs:
                assert not rig.runner.is_running(job.id)
                assert rig.now(job).is_active
                assert await rig.files(job) == ["audio"]
                assert f"Job {job.id} goes back to the queue, for the next start" in caplog.messages
        assert target.requests == []
        assert [record for record in caplog.records if record.levelno > logging.INFO] == []
        async with open_journalled(tmp_path, slots=1) as rig:
            assert [(job.id, job.status, job.starts) for job in rig.jobs()] == [(job.id, QUEUED, 0) for job in jobs]
            await rig.recovery.resume(ModelRegistry("small"))
            for job in jobs:
                assert ((await rig.ended(job)).status, rig.now(job).starts) == (COMPLETED, 1)
    assert sorted(json.loads(put.body)["job_id"] for put in target.requests) == sorted(job.id for job in jobs)


@pytest.mark.parametrize("grace", [0.0, 0.3])
async def test_drain_leaves_a_hanging_delivery_to_the_next_start(tmp_path: Path, grace: float) -> None:
    async with fault_server(never_answer(), answer(200)) as target:
        async with open_journalled(tmp_path) as rig:
            job = await rig.submit(**upload_to(target.url()))
            await eventually(lambda: len(target.requests) == 1)
            async with asyncio.timeout(60):
                await rig.drain(grace)
            assert not rig.runner.is_running(job.id)
            assert (rig.now(job).status, rig.now(job).has_result) == (PROCESSING, True)
            assert rig.now(job).has_delivery_due
        async with open_journalled(tmp_path) as rig:
            assert (await rig.ended(job)).status is COMPLETED
            assert rig.transcriber.calls == []
    first, second = target.requests
    assert first.body == second.body


async def test_drain_without_grace_withdraws_the_start(rig: Rig) -> None:
    rig.transcriber.on_model.hold()
    job = await rig.submit()
    await rig.transcriber.on_model.reached()
    assert rig.now(job).starts == 1
    async with asyncio.timeout(60):
        await rig.drain(0)
    assert (rig.live(job).status, rig.now(job).starts, rig.now(job).error) == (PROCESSING, 0, None)
    assert not rig.runner.is_running(job.id)
    assert rig.transcriber.active == 0


async def test_drain_fails_synchronous_requests_in_time(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    """They wait longer than background jobs, even if they are not on the model yet, because nothing of them is kept."""
    rig.transcriber.decoding.hold()
    job = await rig.submit(synchronous=True)
    await rig.transcriber.decoding.reached()
    drained = asyncio.create_task(rig.drain(0.6))
    await asyncio.sleep(0.1)
    assert rig.now(job).is_active
    async with asyncio.timeout(60):
        await drained
    now = rig.now(job)
    assert (now.status, now.error_type) == (FAILED, "ShutDown")
    assert now.error == "The service was shut down before the job had finished: submit it again."
    assert f"❌ Request {job.id} failed: ShutDown: {now.error}" in caplog.messages
    assert await rig.files(job) == []


async def test_outcome_of_a_drained_request_does_not_hang(rig: Rig) -> None:
    rig.transcriber.on_model.hold()
    job = await rig.submit(synchronous=True)
    await rig.transcriber.on_model.reached()
    waiter = asyncio.create_task(rig.runner.outcome(job.id))
    await rig.drain(0.1)
    async with asyncio.timeout(60):
        assert isinstance(await waiter, ShutDown)


async def test_job_cancelled_during_the_drain_stays_cancelled(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    rig.transcriber.on_model.hold()
    rig.transcriber.leaving.hold()
    job = await rig.submit()
    await rig.transcriber.on_model.reached()
    drained = asyncio.create_task(rig.drain(0.3))
    await rig.transcriber.leaving.reached()
    cancelled = asyncio.create_task(rig.intake.cancel(job.id))
    await asyncio.sleep(0)
    rig.transcriber.leaving.release()
    await asyncio.gather(drained, cancelled)
    gc.collect()
    assert rig.now(job).status is CANCELLED
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == []


@pytest.mark.parametrize(("synchronous", "status"), [(True, FAILED), (False, PROCESSING)])
async def test_request_arriving_during_the_drain_is_ended_too(
    rig: Rig, *, synchronous: bool, status: JobStatus
) -> None:
    """Its place was taken before the drain began, its body came later."""
    rig.transcriber.on_model.hold()
    with rig.intake.reserved_place():
        first = await rig.submit(synchronous=True)
        await rig.transcriber.on_model.reached()
        drained = asyncio.create_task(rig.drain(0.5))
        await eventually(lambda: rig.runner.draining)
        late = await rig.submit(synchronous=synchronous)
        await rig.transcriber.on_model.reached(2)
    await drained
    assert [rig.live(job).status for job in (first, late)] == [FAILED, status]
    assert not rig.runner.is_running(late.id)


# Submitting.


async def test_submitted_job_runs(rig: Rig) -> None:
    rig.transcriber.on_model.hold()
    job = a_job()
    assert await rig.intake.submit(job) is job
    assert rig.now(job).id == job.id
    assert rig.runner.is_running(job.id)
    await rig.intake.cancel(job.id)


async def test_job_runs_though_its_client_left_during_admission(tmp_path: Path) -> None:
    journal = ScriptedJournal()
    async with open_rig(tmp_path, journal=journal) as rig:
        job = a_job()
        await asyncio.to_thread(rig.put_audio, job.id, AUDIO)
        journal.hold()
        submitting = asyncio.create_task(rig.intake.submit(job))
        await journal.arrived.wait()
        assert rig.jobs() == []
        submitting.cancel()
        journal.release()
        await asyncio.wait([submitting])
        assert submitting.cancelled()
        assert (await rig.ended(job)).status is COMPLETED


async def test_job_that_can_not_be_journalled_is_not_admitted(tmp_path: Path) -> None:
    journal = ScriptedJournal()
    journal.failures.append(DiskFull("No space.", retry_after_seconds=60))
    async with open_rig(tmp_path, journal=journal) as rig:
        job = a_job()
        with pytest.raises(DiskFull):
            await rig.intake.submit(job)
        assert rig.jobs() == []
        assert not rig.runner.is_running(job.id)


async def test_replay_returns_the_first_job_and_starts_nothing(rig: Rig) -> None:
    first = await rig.submit(idempotency_key="one")
    await rig.ended(first)
    again = a_job(idempotency_key="one")
    assert (await rig.intake.submit(again)).id == first.id
    assert not rig.runner.is_running(again.id)
    assert len(rig.transcriber.calls) == 1


# The end of the engine.


async def test_engine_failure_leaves_background_jobs_to_the_next_start(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with fault_server(answer(200)) as target:
        async with open_journalled(tmp_path) as rig:
            rig.transcriber.error = EngineFailed("The engine died.", retry_after_seconds=60)
            rig.transcriber.on_model.hold()
            waiting, job = await rig.submit(synchronous=True), await rig.submit(**upload_to(target.url()))
            await rig.transcriber.on_model.reached(2)
            rig.transcriber.on_model.release()
            outcomes = await asyncio.gather(*(rig.runner.outcome(one.id) for one in (waiting, job)))
            assert outcomes == [rig.transcriber.error] * 2
            assert (rig.now(waiting).status, rig.now(waiting).error_type) == (FAILED, "EngineFailed")
            assert (rig.live(job).status, rig.now(job).error) == (PROCESSING, None)
            assert await rig.files(job) == ["audio"]
            assert not rig.runner.is_running(job.id)
            assert f"Job {job.id} goes back to the queue, for the next start: The engine died." in caplog.messages
        assert target.connections == 0
        async with open_journalled(tmp_path) as rig:
            assert [known.id for known in rig.jobs()] == [job.id]
            await rig.recovery.resume(ModelRegistry("small"))
            # The file may have been what killed it: that start counts.
            assert ((await rig.ended(job)).status, rig.now(job).starts) == (COMPLETED, 2)
    (put,) = target.requests
    assert json.loads(put.body)["status"] == "completed"
