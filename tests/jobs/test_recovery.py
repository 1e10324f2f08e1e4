"""The start after a stop or a crash, from everything that can be on the disk."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import time
from dataclasses import asdict, dataclass, replace
from itertools import product
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

import pytest

from app.domain.formats import ResponseFormat
from app.domain.job import MAX_STARTS, Delivery, DeliveryStatus, Job, JobStatus, Upload, Webhook
from app.domain.transcript import TranscriptionOptions
from app.jobs.journal import Journal
from app.jobs.space import disk_full
from app.jobs.store import boot_of_machine
from app.transcription.models import ModelRegistry
from tests.jobs.rig import AUDIO, a_job, open_rig, upload_to
from tests.support.fake_transcriber import GREETING
from tests.support.fault_server import answer, fault_server
from tests.support.scripted_journal import ScriptedJournal
from tests.support.service_clock import FakeServiceClock
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from tests.jobs.rig import Rig

pytestmark = pytest.mark.anyio

QUEUED, PROCESSING, COMPLETED, FAILED, CANCELLED = JobStatus
PENDING, DELIVERED, GIVEN_UP = DeliveryStatus
MODELS: Final = ModelRegistry("small")
RESULT: Final = json.dumps({"transcript": asdict(GREETING), "processing_time": 1.5}).encode()
HOUR: Final = 3600.0
TEN_YEARS: Final = 10 * 365 * 86_400.0


class Left:
    """The state left by an earlier process: rows in its journal, and folders for some of them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.journal = ScriptedJournal()

    def row(self, **changes: Any) -> Job:
        """Add a job to the journal."""
        job = a_job(**changes)
        self.journal.kept[job.id] = job
        return job

    def file(self, job: Job | str, **contents: bytes) -> None:
        """Write files to the job's folder; underscores in their names stand for dots."""
        folder = self.root / "jobs" / (job if isinstance(job, str) else job.id)
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in contents.items():
            (folder / name.replace("_", ".")).write_bytes(content)

    def job(self, *, audio: bytes | None = AUDIO, **changes: Any) -> Job:
        """Add a job to the journal, with its audio in the spool."""
        job = self.row(**changes)
        if audio is not None:
            self.file(job, audio=audio)
        return job

    def found(self, **changes: Any) -> AbstractAsyncContextManager[Rig]:
        """Open a rig for the next process, before its model is loaded."""
        return open_rig(self.root, **{"journal": self.journal, "max_age_seconds": 86_400.0, "attempts": 1, **changes})


@pytest.fixture
def left(tmp_path: Path) -> Left:
    return Left(tmp_path)


def started(job: Job) -> Job:
    return replace(job.moved_to(PROCESSING, at=1.0), progress_percent=40.0, starts=1)


def document_of(body: bytes) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(body)
    return document


# Jobs without a result.


async def test_queued_jobs_continue_in_order_once_the_model_is_loaded(left: Left) -> None:
    jobs = [left.job() for _ in range(5)]
    async with left.found(slots=1) as rig:
        assert rig.queued() == [job.id for job in jobs]
        assert rig.transcriber.calls == []
        await rig.recovery.resume(MODELS)
        assert [(await rig.ended(job)).status for job in jobs] == [COMPLETED] * 5
        assert [call.source.parent.name for call in rig.transcriber.calls] == [job.id for job in jobs]
        assert [rig.now(job).starts for job in jobs] == [1] * 5


async def test_job_that_was_on_the_model_is_transcribed_again(left: Left) -> None:
    job = left.job()
    left.journal.kept[job.id] = started(job)
    async with left.found() as rig:
        now = rig.live(job)
        assert (now.status, now.phrase, now.percent, now.started_at) == (
            QUEUED,
            "Waiting for GPU availability",
            0.0,
            None,
        )
        await rig.recovery.resume(MODELS)
        assert (await rig.ended(job)).status is COMPLETED
        assert rig.now(job).starts == 2


async def test_job_without_its_audio_fails(left: Left) -> None:
    async with fault_server(answer(200)) as target:
        job = left.job(audio=None, **upload_to(target.url()))
        async with left.found() as rig:
            await rig.recovery.resume(MODELS)
            now = await rig.ended(job)
    assert (now.status, now.error_type) == (FAILED, "AudioLost")
    assert now.error == "The audio of this job is no longer in DATA_DIR: submit it again."
    assert now.delivery is not None
    assert now.delivery.status is DELIVERED
    assert document_of(target.requests[0].body)["error_type"] == "AudioLost"


async def test_only_incomplete_downloads_are_repeated(left: Left) -> None:
    async with fault_server(answer(200, b"whole")) as source:
        not_begun = left.job(audio=None, source_url=source.url("/not-begun"))
        begun = left.job(audio=None, source_url=source.url("/begun"))
        left.file(begun, audio_partial=b"wh")
        not_written_down = left.job(audio=b"whole", source_url=source.url("/not-written-down"))
        fetched = left.job(audio=b"whole", source_url="")
        async with left.found() as rig:
            rig.transcriber.on_model.hold()
            await rig.recovery.resume(MODELS)
            await rig.transcriber.decoding.reached(4)
            contents = [await asyncio.to_thread(call.source.read_bytes) for call in rig.transcriber.calls]
            rig.transcriber.on_model.release()
            jobs = (not_begun, begun, not_written_down, fetched)
            found = [await rig.ended(job) for job in jobs]
    assert contents == [b"whole"] * 4
    assert [job.status for job in found] == [COMPLETED] * 4
    assert [job.source_url for job in found] == [""] * 4
    assert sorted(request.target.partition("?")[0] for request in source.requests) == ["/begun", "/not-begun"]


# Jobs with a result.


@pytest.mark.parametrize("was_queued", [True, False])
async def test_stored_result_missing_in_the_journal_is_committed(left: Left, *, was_queued: bool) -> None:
    async with fault_server(answer(200)) as target, fault_server(answer(200)) as hook:
        job = left.job(webhook=Webhook(url=hook.url()), **upload_to(target.url()))
        if not was_queued:
            left.journal.kept[job.id] = started(job)
        left.file(job, result_json=RESULT)
        async with left.found() as rig:
            now = await rig.ended(job)
            await rig.recovery.resume(MODELS)
            assert rig.transcriber.calls == []
            assert await rig.files(job) == ["result.json"]
            assert left.journal.kept[job.id] == now
    assert (now.status, now.language, now.audio_duration) == (COMPLETED, "german", 10.0)
    document = document_of(target.requests[0].body)
    assert (document["text"], document["processing_time"]) == ("Grüße an alle.", 1.5)
    assert document_of(hook.requests[0].body)["type"] == "job.completed"


async def test_stored_result_without_an_upload_completes_the_job(left: Left) -> None:
    job = left.job()
    left.file(job, result_json=RESULT)
    async with left.found() as rig:
        assert rig.now(job).status is COMPLETED
        assert (await asyncio.to_thread(rig.spool.result, job.id))[0] == GREETING


async def test_results_are_delivered_before_the_model_is_loaded(left: Left) -> None:
    async with fault_server(answer(200)) as target:
        job = left.job(**upload_to(target.url()))
        left.journal.kept[job.id] = replace(started(job), has_result=True)
        left.file(job, result_json=RESULT)
        async with left.found() as rig:
            assert (await rig.ended(job)).status is COMPLETED
            assert rig.transcriber.calls == []
            assert await rig.files(job) == ["result.json"]
    assert document_of(target.requests[0].body)["processing_time"] == 1.5


@pytest.mark.parametrize(("audio", "end"), [(AUDIO, COMPLETED), (None, FAILED)])
async def test_missing_result_is_transcribed_again_if_the_audio_is_there(
    left: Left, audio: bytes | None, end: JobStatus
) -> None:
    job = left.job(audio=audio)
    left.journal.kept[job.id] = replace(started(job), has_result=True)
    async with left.found() as rig:
        assert (rig.now(job).status, rig.now(job).has_result) == (QUEUED, False)
        await rig.recovery.resume(MODELS)
        now = await rig.ended(job)
        assert (now.status, now.has_result) == (end, end is COMPLETED)


# Jobs that have ended.


async def test_ended_job_stays_as_it_was(left: Left) -> None:
    job = left.job(idempotency_key="one")
    ended = replace(started(job), has_result=True).moved_to(COMPLETED, at=2.0)
    left.journal.kept[job.id] = ended
    left.file(job, result_json=RESULT, audio_pcm=b"x")
    async with left.found() as rig:
        await rig.recovery.resume(MODELS)
        assert rig.now(job) == ended
        assert await rig.store.with_key("one", owner="") == rig.live(job)
        assert await rig.files(job) == ["result.json"]
        assert rig.transcriber.calls == []
        assert left.journal.changes == []


async def test_ended_job_without_its_result_does_not_promise_one(left: Left) -> None:
    job = left.row()
    left.journal.kept[job.id] = replace(started(job), has_result=True).moved_to(COMPLETED, at=2.0)
    async with left.found() as rig:
        assert (rig.now(job).status, rig.now(job).has_result) == (COMPLETED, False)


async def test_kept_recording_survives_and_counts_in_the_budget(left: Left) -> None:
    done = replace(left.row(keep_audio=True), status=COMPLETED, ended_at=1.0, has_result=True)
    left.journal.kept[done.id] = done
    left.file(done, audio=AUDIO, result_json=RESULT, audio_pcm=b"x")
    async with left.found() as rig:
        assert await rig.files(done) == ["audio", "result.json"]
        assert rig.now(done).has_recording
        assert rig.spool.space.claimed == len(AUDIO)


async def test_undelivered_webhook_event_keeps_its_id_and_body(left: Left) -> None:
    async with fault_server(answer(200)) as hook:
        job = left.row()
        webhook = Webhook(url=hook.url(), event_id="msg_1", body='{"type":"job.cancelled"}')
        ended = replace(job.moved_to(CANCELLED, at=2.0), webhook=webhook, webhook_delivery=Delivery())
        left.journal.kept[job.id] = ended
        async with left.found() as rig:
            now = await rig.ended(job)
    (request,) = hook.requests
    assert (request.headers["webhook-id"], request.body) == ("msg_1", b'{"type":"job.cancelled"}')
    assert now.webhook_delivery is not None
    assert now.webhook_delivery.status is DELIVERED


async def test_undelivered_failure_document_is_delivered(left: Left) -> None:
    async with fault_server(answer(200)) as target:
        job = left.job(**upload_to(target.url()))
        failed = replace(job, error="No.", error_type="UndecodableAudio").moved_to(FAILED, at=2.0)
        left.journal.kept[job.id] = failed
        async with left.found() as rig:
            assert (await rig.ended(job)).status is FAILED
            assert await rig.files(job) == []
    assert document_of(target.requests[0].body)["error"] == "No."


# Files.


async def test_unknown_and_unfinished_files_are_removed(left: Left, caplog: pytest.LogCaptureFixture) -> None:
    unknown = str(uuid4())
    left.file(unknown, audio=AUDIO, result_json=RESULT)
    left.file("not a job", note=b"x")
    job = left.job()
    left.file(job, audio_partial=b"x", audio_pcm=b"x", result_partial=b"x")
    async with left.found() as rig:
        assert await rig.files(job) == ["audio"]
        folders = {path.name for path in await asyncio.to_thread(list, (left.root / "jobs").iterdir())}
        assert folders == {job.id, "not a job"}
    assert "Removed the files of 1 submissions that had not been accepted" in caplog.messages


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A job as the journal has it, and which of its files are there."""

    job: Job
    audio: bool
    result: bool

    @property
    def files(self) -> list[str]:
        """The files that are there in the end."""
        has_result = self.result or (self.job.is_active and self.audio)
        if not has_result:
            return []
        kept = ["audio", "result.json"] if self.audio and self.job.keep_audio else ["result.json"]
        return kept if self.result or not self.job.keep_audio else [*kept, "waveform.json"]

    def check(self, now: Job) -> None:
        """Check the job at its end."""
        if not self.job.is_active:
            assert (now.status, now.has_result) == (self.job.status, self.job.has_result and self.result)
            return
        if self.audio or self.result:
            assert (now.status, now.has_result) == (COMPLETED, True)
        else:
            assert (now.status, now.error_type) == (FAILED, "AudioLost")
        for wanted, state in ((self.job.uploads, now.delivery), (self.job.webhook, now.webhook_delivery)):
            assert (state and state.status) == (DELIVERED if wanted else None)


def every_case(left: Left, target: str, hook: str) -> Iterator[Case]:
    for status, flags in product(JobStatus, list(product((False, True), repeat=6))):
        has_result, audio, result, upload, webhook, keep = flags
        if status is PROCESSING and has_result and not upload:
            continue  # its result has completed it
        destinations = {**(upload_to(target) if upload else {}), "webhook": Webhook(url=hook) if webhook else None}
        job = left.row(**destinations, keep_audio=keep)
        if status is not QUEUED:
            job = replace(started(job), has_result=has_result)
        if status.is_final:
            job = job.moved_to(status, at=2.0)
        left.journal.kept[job.id] = job
        left.file(job, **{"audio": AUDIO} if audio else {}, **{"result_json": RESULT} if result else {})
        yield Case(job=job, audio=audio, result=result)


@pytest.mark.full(reason="starts many services")
async def test_every_state_on_disk_comes_to_its_end(left: Left) -> None:
    """Every state in the journal, with and without each of the files."""
    async with fault_server(answer(200)) as target, fault_server(answer(200)) as hook:
        cases = list(every_case(left, target.url(), hook.url()))
        async with left.found() as rig:
            assert [job.id for job in rig.jobs()] == [case.job.id for case in cases]
            await rig.recovery.resume(MODELS)
            for case in cases:
                now = await rig.ended(case.job)
                case.check(now)
                assert await rig.files(case.job) == case.files
                # A result that is gone is missed at each start.
                kept = left.journal.kept[case.job.id]
                assert replace(kept, has_result=now.has_result) == now
            made = {call.source.parent.name for call in rig.transcriber.calls}
            assert made == {case.job.id for case in cases if case.job.is_active and not case.result}
            assert rig.deaths == []


async def test_process_that_dies_at_once_changes_nothing(left: Left) -> None:
    jobs = [left.job() for _ in range(3)]
    left.journal.kept[jobs[1].id] = started(jobs[1])
    before = dict(left.journal.kept)
    for _ in range(3):
        async with left.found(forget=False) as rig:
            assert rig.queued() == [job.id for job in jobs]
    assert left.journal.kept == before


# Files that kill the process.


async def die_at_work(left: Left, jobs: Sequence[Job], *, at_work: int = 1) -> None:
    """Run a process that dies when it has this many of the jobs on its model."""
    async with left.found() as rig:
        rig.transcriber.on_model.hold()
        await rig.recovery.resume(MODELS)
        await rig.transcriber.on_model.reached(at_work)
        dead = dict(left.journal.kept)
    left.journal.kept = dead  # what ends in order is put right; who dies does nothing more
    for job in jobs:
        left.file(job, audio=AUDIO)


async def test_file_that_kills_the_process_fails_after_three_starts(left: Left) -> None:
    async with fault_server(answer(200)) as target:
        job = left.job(**upload_to(target.url()))
        for starts in (1, 2, 3):
            await die_at_work(left, [job])
            assert left.journal.kept[job.id].starts == starts
        async with left.found() as rig:
            await rig.recovery.resume(MODELS)
            now = await rig.ended(job)
            assert rig.transcriber.calls == []
    assert (now.status, now.error_type, now.starts) == (FAILED, "TooManyStarts", 3)
    assert now.error == (
        "The service died all 3 times that it worked on this file, so it is not tried again: convert the file, or ask "
        "the server's operator to look into its log."
    )
    assert document_of(target.requests[0].body)["error_type"] == "TooManyStarts"


async def test_deaths_at_work_on_several_files_are_charged_to_none(left: Left) -> None:
    deadly, innocent = jobs = [left.job() for _ in range(2)]
    for _ in range(2):
        await die_at_work(left, jobs, at_work=2)
    assert [left.journal.kept[job.id].starts for job in jobs] == [2, 2]
    for _ in range(3):
        await die_at_work(left, jobs)  # now they are suspects, and run one at a time
    assert [left.journal.kept[job.id].starts for job in jobs] == [5, 2]
    async with left.found() as rig:
        await rig.recovery.resume(MODELS)
        assert (await rig.ended(innocent)).status is COMPLETED
        failed = await rig.ended(deadly)
    assert failed.error_type == "TooManyStarts"
    assert failed.error is not None
    assert failed.error.startswith("The service died all 5 times that it worked on this file")


async def test_file_that_is_never_alone_fails_after_ten_starts(left: Left) -> None:
    deadly, innocent = left.job(starts=MAX_STARTS), left.job(starts=MAX_STARTS - 1)
    async with left.found() as rig:
        await rig.recovery.resume(MODELS)
        assert (await rig.ended(deadly)).error_type == "TooManyStarts"
        assert (await rig.ended(innocent)).status is COMPLETED


async def test_death_with_a_waiting_client_is_not_charged_to_the_job(left: Left) -> None:
    job = left.job()
    for _ in range(3):
        await die_at_work(left, [job])
        left.file(str(uuid4()), audio=AUDIO)  # its request was at work, too, and is in no journal
    async with left.found() as rig:
        await rig.recovery.resume(MODELS)
        ended = await rig.ended(job)
    assert (ended.status, ended.starts) == (COMPLETED, 4)


async def test_power_losses_are_not_charged_to_the_file(left: Left) -> None:
    job = left.job()
    for _ in range(3):
        await die_at_work(left, [job])
        left.journal.kept[job.id] = replace(left.journal.kept[job.id], begun_on="the boot before")
    async with left.found() as rig:
        await rig.recovery.resume(MODELS)
        ended = await rig.ended(job)
    assert (ended.status, ended.starts) == (COMPLETED, 4)


async def test_service_starts_although_a_death_can_not_be_recorded(left: Left) -> None:
    job = left.job(starts=1, begun_on=await asyncio.to_thread(boot_of_machine))
    left.journal.failures.append(disk_full())
    async with left.found() as rig:
        assert rig.now(job).lone_deaths == 0
        await rig.recovery.resume(MODELS)
        assert (await rig.ended(job)).status is COMPLETED


def test_boots_of_a_machine_are_told_apart() -> None:
    assert boot_of_machine() == boot_of_machine()
    assert boot_of_machine() or sys.platform != "linux"


async def test_suspects_run_one_at_a_time(left: Left) -> None:
    suspects = [left.job(starts=2) for _ in range(3)]
    others = [left.job(starts=1) for _ in range(2)]
    async with left.found(slots=10) as rig:
        rig.transcriber.on_model.hold()
        await rig.recovery.resume(MODELS)
        await rig.transcriber.on_model.reached(3)
        at_work = {call.source.parent.name for call in rig.transcriber.calls}
        assert at_work == {suspects[0].id, *(job.id for job in others)}
        assert rig.now(suspects[0]).starts == 3
        assert [rig.now(job).starts for job in suspects[1:]] == [2, 2]  # they are not to pay for the first
        rig.transcriber.on_model.release()
        assert [(await rig.ended(job)).status for job in (*suspects, *others)] == [COMPLETED] * 5


async def test_orderly_stop_does_not_count_as_a_start(left: Left) -> None:
    jobs = [left.job(starts=2), left.job()]
    async with left.found(forget=False) as rig:
        rig.transcriber.on_model.hold()
        await rig.recovery.resume(MODELS)
        await rig.transcriber.on_model.reached(2)
        assert [left.journal.kept[job.id].starts for job in jobs] == [3, 1]
        await rig.drain(0)
    assert [left.journal.kept[job.id].starts for job in jobs] == [2, 0]
    assert [left.journal.kept[job.id].is_active for job in jobs] == [True, True]


async def test_stop_while_the_start_is_committed_does_not_count(left: Left) -> None:
    job = left.job()
    async with left.found(forget=False) as rig:
        left.journal.hold(lambda job: job is not None and job.starts == 1)
        await rig.recovery.resume(MODELS)
        await left.journal.arrived.wait()
        draining = asyncio.create_task(rig.drain(0))
        await asyncio.sleep(0.01)
        left.journal.release()
        await draining
    assert left.journal.kept[job.id].starts == 0


# Models that come and go.


async def test_job_of_a_removed_model_uses_the_default(left: Left) -> None:
    async with fault_server(answer(200)) as target:
        gone = left.job(
            model="large-v2", options=TranscriptionOptions(model="large-v2", beam_size=2), **upload_to(target.url())
        )
        served = left.job(model="tiny", options=TranscriptionOptions(model="tiny"))
        alias = left.job(model="small", options=TranscriptionOptions(model="whisper-1"))
        unnamed = left.job()
        async with left.found(slots=1) as rig:
            await rig.recovery.resume(ModelRegistry("small", ["tiny"]))
            found = [await rig.ended(job) for job in (gone, served, alias, unnamed)]
            models = {call.source.parent.name: call.options.model for call in rig.transcriber.calls}
            (options,) = [call.options for call in rig.transcriber.calls if call.source.parent.name == gone.id]
    assert models == {gone.id: "small", served.id: "tiny", alias.id: "whisper-1", unnamed.id: None}
    assert options == TranscriptionOptions(model="small", beam_size=2)
    warning = "The model large-v2 is no longer served here: small was used instead."
    assert [job.warnings for job in found] == [(warning,), (), (), ()]
    document = document_of(target.requests[0].body)
    assert (document["model"], document["warnings"]) == ("small", [warning])


# Logs and revisions.


async def test_recovered_jobs_are_logged(left: Left, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="app")
    async with fault_server(answer(503)) as target:
        left.job()
        undelivered = left.job(**upload_to(target.url()))
        left.file(undelivered, result_json=RESULT)
        ended = left.row()
        left.journal.kept[ended.id] = ended.moved_to(CANCELLED, at=1.0)
        async with left.found() as rig:
            recovered = rig.recovery.recovered
            assert (recovered.jobs, recovered.requeued, recovered.undelivered) == (3, 1, 1)
    assert "♻️ 3 jobs restored: 1 go back to the queue, 1 have something to deliver" in caplog.messages


async def test_empty_start_logs_nothing(left: Left, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="app")
    async with left.found() as rig:
        assert rig.recovery.recovered.jobs == 0
    assert caplog.messages == []


async def test_revisions_increase_across_restarts(left: Left) -> None:
    """Progress counts revisions that are not journalled."""
    job = left.job(revision=3)
    before = int(1000 * time.time())
    async with left.found() as rig:
        assert rig.live(job).revision >= before


# Clocks that jump.


@pytest.mark.parametrize("shift", [0.0, -HOUR, HOUR, -TEN_YEARS, TEN_YEARS])
async def test_clock_jump_between_processes_loses_and_delays_nothing(tmp_path: Path, shift: float) -> None:
    def journalled(service_clock: FakeServiceClock) -> Journal:
        return Journal(tmp_path / "journal.sqlite3", service_clock)

    service_clock, again = FakeServiceClock(), FakeServiceClock()
    fresh = Upload(url="", format=ResponseFormat.DOCUMENT)
    async with fault_server(answer(503), answer(403), answer(200)) as target:
        async with open_rig(
            tmp_path,
            attempts=1,
            max_age_seconds=86_400.0,
            service_clock=service_clock,
            journal=journalled(service_clock),
            forget=False,
        ) as first:
            put_off = await first.submit(**upload_to(target.url("/put-off")))
            await first.put_off(put_off, rounds=1)
            refused = await first.submit(**upload_to(target.url("/refused")))
            assert (await first.ended(refused)).status is FAILED
            finished = await first.submit()
            assert (await first.ended(finished)).status is COMPLETED
            first.transcriber.on_model.hold()
            waiting = await first.submit()
            await first.transcriber.on_model.reached(4)
        async with open_rig(
            tmp_path,
            attempts=1,
            max_age_seconds=86_400.0,
            service_clock=again,
            journal=journalled(again),
            now=lambda: time.time() + shift,
        ) as second:
            await second.recovery.resume(MODELS)
            for _ in range(3):
                await second.sweeper.sweep()
            jobs = (put_off, refused, finished, waiting)
            assert [job.id for job in second.jobs()] == [job.id for job in jobs]
            assert (await second.ended(waiting)).status is COMPLETED
            state = second.now(put_off).delivery
            assert state is not None
            assert state.next_round - again.seconds <= 30
            if state.next_attempt_at is not None:
                assert state.next_attempt_at - (time.time() + shift) <= 30
            second.service_clock.advance(30)
            assert (await second.ended(put_off)).status is COMPLETED
            await second.intake.redeliver(refused.id, (replace(fresh, url=target.url("/fresh")),))
            assert (await second.ended(refused)).status is COMPLETED
            for job in jobs:
                assert second.now(job).has_result
                assert (second.now(job).ended_at or 0) > 0
            # They are forgotten when they are due, by the seconds that the service ran.
            second.service_clock.advance(HOUR - 100)
            await second.sweeper.sweep()
            assert len(second.jobs()) == 4
            second.service_clock.advance(200)
            await second.sweeper.sweep()
            assert second.jobs() == []
            await eventually(lambda: not list((tmp_path / "jobs").iterdir()))
