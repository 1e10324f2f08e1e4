"""The store: journalled before it is visible, and unchanged if the journal fails."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

import pytest

from app.domain.errors import DiskFull, IllegalTransition, JournalFailed, UnknownJob
from app.domain.job import Job, JobStatus, LiveJob, Progress
from app.jobs import transitions
from app.jobs.registry import Registry
from app.jobs.space import disk_full
from app.jobs.store import JobStore
from tests.jobs.rig import a_job, open_rig, upload_to
from tests.support.fault_server import answer, fault_server
from tests.support.scripted_journal import ScriptedJournal
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from pathlib import Path


pytestmark = pytest.mark.anyio

QUEUED, PROCESSING, COMPLETED, FAILED, CANCELLED = JobStatus


class Books:
    """A store with its registry and a scripted journal."""

    def __init__(self) -> None:
        self.journal = ScriptedJournal()
        self.registry = Registry()
        self.store = JobStore(self.journal, registry=self.registry)

    async def with_job(self, **changes: Any) -> Job:
        return await self.store.admit(a_job(**changes))

    def now(self, job_id: str) -> Job:
        return self.store.get(job_id).job


@pytest.fixture
def books() -> Books:
    return Books()


async def started(books: Books, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
    """Start ``work`` as a task and wait until it waits for the journal."""
    books.journal.hold()
    task = asyncio.create_task(work)
    await books.journal.arrived.wait()
    return task


def moved(job: Job) -> Job:
    return job.moved_to(PROCESSING, at=1.0)


def processing(live: LiveJob) -> Job:
    return moved(live.job)


def completed(live: LiveJob) -> Job:
    return live.job.moved_to(COMPLETED, at=1.0)


def unchanged(live: LiveJob) -> Job:
    return live.job


# The journal comes first.


async def test_new_job_is_journalled_before_it_is_visible(books: Books) -> None:
    job = a_job()
    task = await started(books, books.store.admit(job))
    assert not books.store.knows(job.id)
    books.journal.release()
    assert await task is job
    assert books.now(job.id) == books.journal.kept[job.id] == job


async def test_change_is_journalled_before_it_is_visible(books: Books) -> None:
    job = await books.with_job()
    task = await started(books, books.store.commit(job.id, processing))
    assert books.now(job.id).status is QUEUED
    books.journal.release()
    assert (await task).status is PROCESSING
    assert books.now(job.id) == books.journal.kept[job.id] == moved(job)


async def test_job_is_deleted_from_the_journal_first(books: Books) -> None:
    job = await books.with_job()
    task = await started(books, books.store.forget(job.id))
    assert books.store.knows(job.id)
    books.journal.release()
    await task
    assert not books.store.knows(job.id)
    assert books.journal.kept == {}


async def test_progress_during_a_commit_is_not_lost(books: Books) -> None:
    job = await books.with_job()
    task = await started(books, books.store.commit(job.id, transitions.work_started, node="here"))
    books.store.report_progress(job.id, Progress.decoded, 10.0)
    books.journal.release()
    await task
    live = books.store.get(job.id)
    assert (live.job.starts, live.audio_duration) == (1, 10.0)


async def test_change_is_computed_once(books: Books) -> None:
    job, calls = await books.with_job(), 0

    def counted(live: LiveJob) -> Job:
        nonlocal calls
        calls += 1
        return moved(live.job)

    await books.store.commit(job.id, counted)
    assert calls == 1


async def test_commit_passes_arguments_on_to_its_change(books: Books) -> None:
    job = await books.with_job(starts=2, begun_on="here")
    await books.store.commit(job.id, transitions.start_withdrawn, node="here")
    assert books.now(job.id).starts == 1


async def test_revisions_count_progress_and_commits(books: Books) -> None:
    job = await books.with_job()
    books.store.report_progress(job.id, Progress.decoded, 10.0)
    live = await books.store.commit(job.id, processing)
    assert (live.revision, live.job.revision, books.journal.kept[job.id].revision) == (2, 2, 2)


async def test_changes_wait_only_for_those_of_the_same_job(books: Books) -> None:
    one, other = await books.with_job(), await books.with_job()
    books.journal.hold(lambda job: job is not None and job.id == one.id)
    changes = [
        asyncio.create_task(books.store.commit(one.id, transitions.work_started, node="here")) for _ in range(30)
    ]
    await books.journal.arrived.wait()
    await books.store.commit(other.id, processing)
    assert not any(change.done() for change in changes)
    books.journal.release()
    await asyncio.gather(*changes)
    assert books.now(one.id).starts == 30
    assert [job.starts for job in books.journal.written(one.id)] == list(range(31))


async def test_unchanged_job_is_not_written(books: Books) -> None:
    job = await books.with_job()
    assert await books.store.commit(job.id, unchanged) is books.store.get(job.id)
    assert len(books.journal.changes) == 1


# Changes that can't be written.


@pytest.mark.parametrize("failure", [disk_full(), JournalFailed("No.")])
async def test_failing_journal_changes_nothing(books: Books, failure: Exception) -> None:
    job = await books.with_job(idempotency_key="one")
    books.journal.failures.extend([failure] * 3)
    for work in (
        books.store.admit(a_job(idempotency_key="two")),
        books.store.commit(job.id, processing),
        books.store.forget(job.id),
    ):
        with pytest.raises(type(failure)):
            await work
    assert [live.job for live in books.store.live_jobs()] == [job]
    assert books.store.get(job.id).revision == job.revision
    assert await books.store.with_key("two", owner="") is None
    assert books.journal.kept == {job.id: job}
    assert (await books.store.commit(job.id, processing)).status is PROCESSING


async def test_illegal_change_is_not_written(books: Books) -> None:
    job = await books.with_job()
    with pytest.raises(IllegalTransition):
        await books.store.commit(job.id, completed)
    assert books.now(job.id) == job
    assert len(books.journal.changes) == 1


async def test_unknown_job_can_not_be_changed_or_forgotten(books: Books) -> None:
    with pytest.raises(UnknownJob):
        await books.store.commit("4f0c", processing)
    with pytest.raises(UnknownJob):
        await books.store.forget("4f0c")
    assert books.journal.changes == []


async def test_cancelled_caller_leaves_registry_and_journal_consistent(books: Books) -> None:
    job, new = await books.with_job(), a_job()
    books.journal.hold()
    tasks = [
        asyncio.create_task(books.store.commit(job.id, processing)),
        asyncio.create_task(books.store.admit(new)),
    ]
    await books.journal.arrived.wait()
    for task in tasks:
        task.cancel()
    books.journal.release()
    await asyncio.wait(tasks)
    assert all(task.cancelled() for task in tasks)
    assert {live.job.id: live.job for live in books.store.live_jobs()} == books.journal.kept
    assert books.journal.kept == {job.id: moved(job), new.id: new}


# One key, two requests.


async def test_concurrent_requests_with_one_key_are_one_job(books: Books) -> None:
    first, second = a_job(idempotency_key="one"), a_job(idempotency_key="one")
    task = await started(books, books.store.admit(first))
    meeting = asyncio.create_task(books.store.admit(second))
    await asyncio.sleep(0)
    books.journal.release()
    assert await task is first
    assert await meeting is first
    assert list(books.journal.kept) == [first.id]


async def test_key_of_a_job_that_was_not_written_is_free(books: Books) -> None:
    first, second = a_job(idempotency_key="one"), a_job(idempotency_key="one")
    books.journal.failures.append(disk_full())
    results = await asyncio.gather(books.store.admit(first), books.store.admit(second), return_exceptions=True)
    assert isinstance(results[0], DiskFull)
    assert results[1] is second
    assert list(books.journal.kept) == [second.id]


async def test_one_key_of_two_owners_is_two_jobs(books: Books) -> None:
    jobs = [a_job(idempotency_key="one", owner=owner) for owner in ("alpha", "beta")]
    task = await started(books, books.store.admit(jobs[0]))
    other = asyncio.create_task(books.store.admit(jobs[1]))
    books.journal.release()
    assert [await task, await other] == jobs


# Synchronous jobs.


async def test_synchronous_request_is_never_journalled(tmp_path: Path) -> None:
    journal = ScriptedJournal()
    async with open_rig(tmp_path, journal=journal) as rig:
        for error in (None, ValueError("No.")):
            rig.transcriber.error = error
            job = await rig.submit(synchronous=True, idempotency_key="one")
            await rig.runner.outcome(job.id)
            await rig.intake.forget(job.id)
        rig.transcriber.error = None
        rig.transcriber.on_model.hold()
        job = await rig.submit(synchronous=True)
        await rig.transcriber.on_model.reached(3)
        await rig.intake.cancel(job.id)
        assert journal.changes == []


async def test_every_step_of_a_background_job_is_journalled(tmp_path: Path) -> None:
    journal = ScriptedJournal()
    async with open_rig(tmp_path, journal=journal) as rig, fault_server(answer(200)) as target:
        job = await rig.submit(**upload_to(target.url()))
        now = await rig.ended(job)
        assert journal.kept[job.id] == now
        steps = [(value.starts, value.has_result, value.status.is_final) for value in journal.written(job.id)]
        assert steps == [(0, False, False), (1, False, False), (1, True, False), (1, True, True)]
        await rig.intake.forget(job.id)
        assert journal.kept == {}


# Two ends of one job.


async def test_job_cancelled_during_its_completion_is_completed(tmp_path: Path) -> None:
    journal = ScriptedJournal()
    async with open_rig(tmp_path, journal=journal) as rig:
        journal.hold(lambda job: job is not None and job.status is COMPLETED)
        job = await rig.submit()
        await journal.arrived.wait()
        cancelling = asyncio.create_task(rig.intake.cancel(job.id))
        await asyncio.sleep(0)
        journal.release()
        assert (await cancelling).status is COMPLETED
        assert await rig.ended(job) == journal.kept[job.id]
        assert rig.registry.statuses(job.id) == [QUEUED, PROCESSING, COMPLETED]
        assert await rig.files(job) == ["result.json"]


async def test_job_completed_during_its_cancellation_is_cancelled(tmp_path: Path) -> None:
    journal = ScriptedJournal()
    async with open_rig(tmp_path, journal=journal) as rig:
        rig.transcriber.finishing.hold()
        job = await rig.submit()
        await rig.transcriber.finishing.reached()
        journal.hold(lambda job: job is not None and job.status is CANCELLED)
        cancelling = asyncio.create_task(rig.intake.cancel(job.id))
        await journal.arrived.wait()
        rig.transcriber.finishing.release()
        await eventually(lambda: (rig.root / "jobs" / job.id / "result.json").exists())
        journal.release()
        assert (await cancelling).status is CANCELLED
        assert rig.now(job) == journal.kept[job.id]
        assert rig.registry.statuses(job.id) == [QUEUED, PROCESSING, CANCELLED]
        assert not rig.now(job).has_result
        assert await rig.files(job) == []


async def test_journal_failure_during_work_stops_the_service(tmp_path: Path) -> None:
    """The next process continues with what is in the journal."""
    journal = ScriptedJournal()
    async with open_rig(tmp_path, journal=journal) as rig:
        rig.transcriber.on_model.hold()
        job = await rig.submit()
        await rig.transcriber.on_model.reached()
        failure = JournalFailed("No.")
        journal.failures.extend([failure] * 2)
        rig.transcriber.on_model.release()
        await eventually(lambda: bool(rig.deaths))
        assert rig.deaths == [failure]
        assert journal.kept[job.id].is_active
        assert rig.now(job).is_active


# A full disk.


@pytest.mark.full(reason="takes more than a second")
async def test_patient_commit_waits_for_space(books: Books, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    job = await books.with_job()
    books.journal.failures.append(disk_full())
    async with asyncio.timeout(60):
        assert (await books.store.commit_patiently(job.id, processing)).status is PROCESSING
    assert caplog.messages == [f"⚠️ Job {job.id}: the disk is full; waiting for space for the journal"]
    assert books.journal.kept[job.id].status is PROCESSING


async def test_patient_commit_can_be_cancelled(books: Books) -> None:
    job = await books.with_job()
    books.journal.failures.extend([disk_full()] * 100)
    task = asyncio.create_task(books.store.commit_patiently(job.id, processing))
    await eventually(lambda: len(books.journal.failures) < 100)
    task.cancel()
    async with asyncio.timeout(60):
        await asyncio.wait([task])
    assert task.cancelled()
    assert books.now(job.id) == job
    books.journal.failures.clear()
    assert (await books.store.commit(job.id, processing)).status is PROCESSING


async def test_patient_commit_does_not_wait_for_other_errors(books: Books) -> None:
    job = await books.with_job()
    books.journal.failures.append(JournalFailed("No."))
    with pytest.raises(JournalFailed):
        await books.store.commit_patiently(job.id, processing)
