"""Jobs from their acceptance to their end: what is PUT, what is logged, what is kept."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from app.domain.errors import (
    BodyTooLarge,
    DeliveryFailed,
    DownloadFailed,
    TranscriptionFailed,
    UndecodableAudio,
)
from app.domain.formats import ResponseFormat
from app.domain.job import DeliveryKind, DeliveryStatus, JobStatus
from app.domain.transcript import Diarization, TranscriptionOptions
from app.jobs.retention import Retention
from app.jobs.serializers import success_document
from tests.jobs.rig import AUDIO, upload_to
from tests.support.fake_transcriber import GREETING, Checkpoint
from tests.support.fault_server import answer, endless_body, fault_server, never_answer

if TYPE_CHECKING:
    from app.domain.job import Job
    from tests.jobs.rig import Rig
    from tests.support.fault_server import Connection

pytestmark = pytest.mark.anyio

QUEUED, PROCESSING, COMPLETED, FAILED, CANCELLED = JobStatus
WEEK = 604_800.0


@pytest.fixture(autouse=True)
def every_line_is_caught(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="app")


def lines(caplog: pytest.LogCaptureFixture, *, least: int = logging.INFO) -> list[str]:
    """Return the lines that the service logged, with varying seconds replaced by #."""
    return [
        re.sub(r"in \d+\.\ds$", "in #s", record.getMessage())
        for record in caplog.records
        if record.name.startswith("app.") and record.levelno >= least
    ]


def traces(caplog: pytest.LogCaptureFixture, *, level: int) -> list[type[BaseException] | None]:
    """Return the types of the exceptions whose tracebacks were logged at exactly this level."""
    return [record.exc_info[0] for record in caplog.records if record.exc_info and record.levelno == level]


async def run(rig: Rig, **changes: Any) -> Job:
    return await rig.ended(await rig.submit(**changes))


# Success.


async def test_job_from_url_to_url_logs_the_documented_lines(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    async with fault_server(answer(200, AUDIO)) as source, fault_server(answer(200)) as target:
        job = await run(rig, source_url=source.url("/talk.mp3?sig=secret"), **upload_to(target.url("/key?sig=secret")))
    (put,) = target.requests
    assert lines(caplog) == [
        f"📥 Job {job.id}: Downloading audio from pre-signed URL...",
        f"⏳ Job {job.id} waiting for GPU availability...",
        f"🎬 Job {job.id} acquired GPU slot, starting processing...",
        f"🎙️ Job {job.id}: Starting transcription...",
        f"📤 Job {job.id}: Uploading results to user URL...",
        f"✅ Successfully uploaded result to user-provided URL ({len(put.body)} bytes)",
        f"✅ Background job {job.id} completed successfully in #s",
    ]
    assert "secret" not in caplog.text
    assert traces(caplog, level=logging.ERROR) == []
    assert (job.source_url, job.uploads[0].url) == ("", "")  # they are no longer needed


async def test_job_shows_the_documented_phrases_and_statuses(rig: Rig) -> None:
    async with fault_server(answer(200, AUDIO)) as source, fault_server(answer(200)) as target:
        job = await run(rig, source_url=source.url(), **upload_to(target.url()))
    assert rig.registry.statuses(job.id) == [QUEUED, PROCESSING, COMPLETED]
    assert rig.registry.phrases(job.id) == [
        "Waiting for GPU availability",
        "Downloading audio",
        "Waiting for GPU availability",
        "Transcribing audio",
        "Uploading results",
        "Done",
    ]


async def test_completed_job_keeps_only_its_result(rig: Rig) -> None:
    async with fault_server(answer(200)) as target:
        job = await run(rig, **upload_to(target.url()))
    assert (job.status, rig.live(job).phrase, job.progress_percent) == (COMPLETED, "Done", 100.0)
    assert (job.language, job.audio_duration, job.has_result) == ("german", 10.0, True)
    assert (job.error, job.error_type) == (None, None)
    assert job.starts == 1
    assert job.delivery is not None
    assert (job.delivery.status, job.delivery.attempts, job.delivery.last_error) == (DeliveryStatus.DELIVERED, 1, None)
    assert job.accepted_at <= (job.started_at or 0) <= (job.ended_at or 0)
    assert await rig.files(job) == ["result.json"]
    assert (await asyncio.to_thread(rig.spool.result, job.id))[0] == GREETING


async def test_kept_recording_stays_with_its_result(rig: Rig) -> None:
    job = await rig.submit(keep_audio=True)
    assert rig.now(job).has_recording
    ended = await rig.ended(job)
    assert ended.status is COMPLETED
    assert ended.has_recording
    assert await rig.files(job) == ["audio", "result.json", "waveform.json"]
    assert rig.spool.space.claimed == len(AUDIO)
    await rig.intake.forget(job.id)
    assert await rig.files(job) == []
    assert rig.spool.space.claimed == 0


async def test_failed_job_keeps_no_recording(rig: Rig) -> None:
    rig.transcriber.undecodable = UndecodableAudio("No.")
    job = await rig.submit(keep_audio=True)
    ended = await rig.ended(job)
    assert (ended.status, ended.has_recording) == (FAILED, False)
    assert await rig.files(job) == []


async def test_uploaded_document_equals_the_stored_result(rig: Rig) -> None:
    async with fault_server(answer(200)) as target:
        job = await run(rig, metadata={"call": "17"}, warnings=("It was late.",), **upload_to(target.url("/key?a=b")))
    (put,) = target.requests
    assert (put.method, put.target) == ("PUT", "/key?a=b")
    assert put.headers["content-type"] == "application/json"
    transcript, seconds = await asyncio.to_thread(rig.spool.result, job.id)
    assert json.loads(put.body) == success_document(job, job.rendering, transcript, processing_time=seconds)


@pytest.mark.parametrize(
    ("format_", "media_type", "beginning"),
    [
        (ResponseFormat.SRT, "text/plain; charset=utf-8", "1\n00:00:00,500 --> "),
        (ResponseFormat.VTT, "text/vtt; charset=utf-8", "WEBVTT\n\n"),
        (ResponseFormat.TEXT, "text/plain; charset=utf-8", "Grüße an alle."),
        (ResponseFormat.JSON, "application/json", '{"text":"Grüße an alle."'),
    ],
)
async def test_upload_has_the_requested_format_and_type(
    rig: Rig, format_: ResponseFormat, media_type: str, beginning: str
) -> None:
    async with fault_server(answer(200)) as target:
        await run(rig, **upload_to(target.url("/key"), format_))
    (put,) = target.requests
    assert put.headers["content-type"] == media_type
    assert put.body.decode().startswith(beginning)


async def test_job_without_upload_uploads_nothing(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    job = await run(rig)
    assert (job.status, job.has_result, job.delivery) == (COMPLETED, True, None)
    assert not any("upload" in line.lower() for line in lines(caplog))


async def test_synchronous_request_is_not_called_a_background_job(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    job = await run(rig, synchronous=True)
    assert lines(caplog)[-1] == f"✅ Request {job.id} completed successfully in #s"


async def test_transcriber_gets_the_audio_and_the_options(rig: Rig) -> None:
    options = TranscriptionOptions(language="de", beam_size=2)
    rig.transcriber.decoding.hold()
    job = await rig.submit(options=options)
    await rig.transcriber.decoding.reached()
    (call,) = rig.transcriber.calls
    assert call.options == options
    assert await asyncio.to_thread(call.source.read_bytes) == AUDIO
    rig.transcriber.decoding.release()
    await rig.ended(job)


async def test_downloaded_audio_reaches_the_transcriber(rig: Rig) -> None:
    rig.transcriber.decoding.hold()
    async with fault_server(answer(200, b"from afar")) as source:
        job = await rig.submit(source_url=source.url())
        await rig.transcriber.decoding.reached()
    assert await asyncio.to_thread(rig.transcriber.calls[0].source.read_bytes) == b"from afar"
    rig.transcriber.decoding.release()
    assert (await rig.ended(job)).status is COMPLETED


async def test_progress_is_the_finished_share_of_the_audio(rig: Rig) -> None:
    rig.transcriber.finishing.hold()
    job = await rig.submit()
    await rig.transcriber.finishing.reached()
    seen = [value.percent for value in rig.registry.history[job.id]]
    assert sorted(set(seen)) == [0.0, 40.0, 95.0]
    assert seen == sorted(seen)
    assert (rig.live(job).status, rig.live(job).phrase) == (PROCESSING, "Transcribing audio")
    assert (rig.live(job).language, rig.live(job).audio_duration) == ("german", 10.0)
    rig.transcriber.finishing.release()
    await rig.ended(job)


async def test_voices_that_are_still_heard_count_and_are_named(rig: Rig) -> None:
    rig.transcriber.finishing.hold()
    job = await rig.submit(options=TranscriptionOptions(diarization=Diarization()))
    await rig.transcriber.finishing.reached()
    seen = [value.percent for value in rig.registry.history[job.id]]
    assert sorted(set(seen)) == [0.0, 25.0]
    assert seen == sorted(seen)
    assert (rig.live(job).status, rig.live(job).phrase) == (PROCESSING, "Telling speakers apart")
    rig.transcriber.finishing.release()
    assert (await rig.ended(job)).status is COMPLETED


BY_REFERENCES = TranscriptionOptions(diarization=Diarization(), known_speakers=("Anna", "Bo"))


async def test_references_are_heard_and_then_deleted(rig: Rig) -> None:
    rig.transcriber.decoding.hold()
    job = await rig.submit(references=(b"Anna", b"Bo"), options=BY_REFERENCES)
    await rig.transcriber.decoding.reached()
    (call,) = rig.transcriber.calls
    heard = [await asyncio.to_thread(reference.read_bytes) for reference in call.references]
    assert heard == [b"Anna", b"Bo"]
    rig.transcriber.decoding.release()
    assert (await rig.ended(job)).status is COMPLETED
    assert await rig.files(job) == ["result.json"]


async def test_job_that_lost_a_reference_fails(rig: Rig) -> None:
    job = await rig.ended(await rig.submit(references=(b"Anna",), options=BY_REFERENCES))
    assert (job.status, job.error_type) == (FAILED, "AudioLost")
    assert job.error == "A reference of this job is no longer in DATA_DIR: submit it again."


async def test_channels_are_no_voices(rig: Rig) -> None:
    job = await rig.submit(options=TranscriptionOptions(diarization=Diarization(), multichannel=True))
    await rig.ended(job)
    assert 95.0 in [value.percent for value in rig.registry.history[job.id]]
    assert "Telling speakers apart" not in rig.registry.phrases(job.id)


async def test_segments_so_far_are_kept_for_jobs_alone(rig: Rig) -> None:
    rig.transcriber.finishing.hold()
    job, request = await rig.submit(), await rig.submit(synchronous=True)
    await rig.transcriber.finishing.reached(times=2)
    assert rig.segments.so_far(job.id) == list(GREETING.segments)
    assert rig.segments.so_far(request.id) == ()
    rig.transcriber.finishing.release()
    await rig.ended(job)
    await rig.ended(request)
    assert rig.segments.so_far(job.id) == ()


async def test_job_is_queued_until_its_first_slot(rig: Rig) -> None:
    rig.transcriber.on_model.hold()
    jobs = [await rig.submit() for _ in range(5)]
    await rig.transcriber.on_model.reached(3)
    await rig.transcriber.decoding.reached(5)
    assert [rig.live(job).status for job in jobs] == [PROCESSING] * 3 + [QUEUED] * 2
    assert rig.queued() == [job.id for job in jobs[3:]]
    rig.transcriber.on_model.release()
    assert [(await rig.ended(job)).status for job in jobs] == [COMPLETED] * 5
    assert rig.transcriber.most_active == 3


async def test_passing_upload_failures_are_retried(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    async with fault_server(answer(503), answer(503), answer(200)) as target:
        job = await run(rig, **upload_to(target.url()))
    assert job.status is COMPLETED
    assert job.delivery is not None
    assert (job.delivery.status, job.delivery.attempts, job.delivery.last_error) == (DeliveryStatus.DELIVERED, 3, None)
    deliveries = [value.delivery(DeliveryKind.UPLOAD) for value in rig.registry.history[job.id]]
    assert (2, "HTTP 503") in [(delivery.attempts, delivery.last_error) for delivery in deliveries if delivery]
    assert [line for line in lines(caplog) if "Attempt" in line or "Retry" in line] == [
        "⚠️ Attempt 1/3: HTTP 503",
        "🔄 Retry attempt 2/3 after 2s delay...",
        "⚠️ Attempt 2/3: HTTP 503",
        "🔄 Retry attempt 3/3 after 4s delay...",
    ]
    assert rig.waits == [2.0, 4.0]


async def test_upload_holds_no_slot(rig: Rig) -> None:
    async with fault_server(never_answer()) as target:
        job = await rig.submit(**upload_to(target.url()))
        await target.came.wait()
        assert rig.transcriber.active == 0
        assert (rig.live(job).status, rig.live(job).phrase) == (PROCESSING, "Uploading results")
        await rig.intake.cancel(job.id)


# Failure.


async def test_expected_failure_is_one_line_with_its_traceback_at_debug(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    rig.transcriber.undecodable = UndecodableAudio("The file is no audio.")
    job = await run(rig)
    assert lines(caplog, least=logging.ERROR) == [
        f"❌ Background job {job.id} failed: UndecodableAudio: The file is no audio."
    ]
    assert traces(caplog, level=logging.ERROR) == []
    assert traces(caplog, level=logging.DEBUG) == [UndecodableAudio]
    assert (job.status, job.error, job.error_type) == (FAILED, "The file is no audio.", "UndecodableAudio")
    assert (rig.live(job).phrase, job.has_result) == ("Failed", False)
    assert job.ended_at is not None
    assert await rig.files(job) == []


@pytest.mark.parametrize("error", [ZeroDivisionError("Oops"), TranscriptionFailed("The model broke")])
async def test_unexpected_failure_is_followed_by_its_traceback(
    rig: Rig, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    rig.transcriber.error = error
    job = await run(rig)
    name = type(error).__name__
    assert lines(caplog, least=logging.ERROR)[0] == f"❌ Background job {job.id} failed: {name}: {error}"
    assert traces(caplog, level=logging.ERROR) == [type(error)]
    assert "fake_transcriber.py" in caplog.text
    assert (job.status, job.error_type) == (FAILED, name)


async def test_failure_without_a_message_is_named_by_its_type(rig: Rig) -> None:
    rig.transcriber.error = RuntimeError()
    assert (await run(rig)).error == "RuntimeError"


async def test_failure_message_has_no_signature(rig: Rig) -> None:
    rig.transcriber.error = RuntimeError("GET https://b.example/k?X-Amz-Signature=secret broke")
    assert (await run(rig)).error == "GET https://b.example/k?… broke"


async def test_failure_document_is_put_to_the_upload_url(rig: Rig) -> None:
    rig.transcriber.undecodable = UndecodableAudio("The file is no audio.")
    async with fault_server(answer(200)) as target:
        job = await run(rig, metadata={"call": "17"}, **upload_to(target.url("/key"), ResponseFormat.SRT))
    (put,) = target.requests
    assert put.headers["content-type"] == "application/json"
    document = json.loads(put.body)
    assert document.pop("processing_time") == 0.0
    assert document == {
        "job_id": job.id,
        "status": "failed",
        "error": "The file is no audio.",
        "error_type": "UndecodableAudio",
        "metadata": {"call": "17"},
    }
    assert job.delivery is not None
    assert job.delivery.status is DeliveryStatus.DELIVERED
    assert not job.uploads[0].is_kept
    assert rig.registry.statuses(job.id) == [QUEUED, FAILED]


async def test_job_is_failed_while_its_failure_document_is_delivered(rig: Rig) -> None:
    rig.transcriber.error = UndecodableAudio("No.")
    async with fault_server(never_answer()) as target:
        job = await rig.submit(**upload_to(target.url()))
        await target.came.wait()
        assert rig.now(job).status is FAILED
        assert rig.runner.is_running(job.id)
        await rig.intake.forget(job.id)


async def test_undeliverable_failure_document_is_logged(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    rig.transcriber.undecodable = UndecodableAudio("The file is no audio.")
    async with fault_server(answer(403)) as target:
        job = await run(rig, **upload_to(target.url("/key?sig=secret")))
        address = target.url("/key")
    assert (job.status, job.error, job.error_type) == (FAILED, "The file is no audio.", "UndecodableAudio")
    assert job.delivery is not None
    assert job.delivery.status is DeliveryStatus.FAILED
    assert job.delivery.last_error == f"HTTP 403 (attempt 1/3) to {address}"
    assert len(target.requests) == 1
    assert lines(caplog, least=logging.ERROR)[-1] == (
        f"Job {job.id}: its failure document could not be delivered: {job.delivery.last_error}"
    )
    assert traces(caplog, level=logging.ERROR) == []
    assert "secret" not in caplog.text


async def test_failed_delivery_fails_the_job_and_keeps_its_result(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    async with fault_server(answer(503)) as target:
        job = await run(rig, **upload_to(target.url("/key?sig=secret")))
        address = target.url("/key")
    assert (job.status, job.error_type) == (FAILED, "DeliveryFailed")
    assert job.error == f"HTTP 503 (attempt 3/3) to {address}"
    assert len(target.requests) == 3
    assert all(b"completed" in request.body for request in target.requests)
    assert job.delivery is not None
    assert (job.delivery.status, job.delivery.attempts) == (DeliveryStatus.FAILED, 3)
    assert job.delivery.last_error == job.error
    assert job.has_result
    assert await rig.files(job) == ["result.json"]
    assert (await asyncio.to_thread(rig.spool.result, job.id))[0] == GREETING
    assert job.uploads[0].is_kept  # it may be delivered again
    retention = Retention(finished_seconds=1.0, undelivered_seconds=WEEK)
    assert retention.expires_at(job, now=rig.service_clock.now()) == (job.ended_at or 0) + WEEK
    assert lines(caplog, least=logging.ERROR) == [
        "❌ All 3 upload attempts failed",
        f"❌ Background job {job.id} failed: DeliveryFailed: {job.error}",
    ]
    assert traces(caplog, level=logging.ERROR) == []
    assert traces(caplog, level=logging.DEBUG) == [DeliveryFailed]
    assert "secret" not in caplog.text


async def test_final_response_of_the_store_ends_the_job_at_once(rig: Rig) -> None:
    denied = b"<Error><Code>AccessDenied</Code></Error>"
    async with fault_server(answer(403, denied)) as target:
        job = await run(rig, **upload_to(target.url("/key")))
        assert job.error == f"HTTP 403 AccessDenied (attempt 1/3) to {target.url('/key')}"
    assert len(target.requests) == 1
    assert rig.waits == []


async def test_failed_download_fails_the_job(rig: Rig) -> None:
    async with fault_server(answer(404)) as source, fault_server(answer(200)) as target:
        job = await run(rig, source_url=source.url("/talk.mp3?sig=secret"), **upload_to(target.url("/key")))
        assert job.error == f"HTTP 404 (attempt 1/3) from {source.url('/talk.mp3')}"
    assert (job.status, job.error_type) == (FAILED, DownloadFailed.__name__)
    assert rig.registry.statuses(job.id) == [QUEUED, FAILED]
    assert rig.transcriber.calls == []
    assert json.loads(target.requests[0].body)["error_type"] == "DownloadFailed"
    assert await rig.files(job) == []


async def test_download_over_the_limit_fails_the_job(rig: Rig) -> None:
    async with fault_server(endless_body()) as source:
        job = await run(rig, source_url=source.url())
    assert (job.status, job.error_type) == (FAILED, BodyTooLarge.__name__)
    assert await rig.files(job) == []


async def test_at_most_eight_downloads_run_at_once(rig: Rig) -> None:
    asked = Checkpoint()
    asked.hold()

    async def wait(connection: Connection) -> None:
        await connection.read_request()
        await asked.pass_by()

    async with fault_server(wait) as source:
        jobs = [await rig.submit(source_url=source.url()) for _ in range(10)]
        async with asyncio.timeout(60):
            await asked.reached(8)
        phrases = Counter(rig.live(job).phrase.value for job in jobs)  # those that come together begin in any order
        assert phrases == {"Downloading audio": 8, "Waiting for GPU availability": 2}
        assert source.connections == 8
        for job in jobs:
            await rig.intake.cancel(job.id)


async def test_estimate_learns_from_the_time_on_the_model(rig: Rig) -> None:
    await run(rig)
    assert 0 <= rig.estimate.wait_seconds(0) < 10.0


# Windows after the end.


@pytest.mark.parametrize("forgotten", [False, True])
async def test_window_after_the_end_of_its_job_is_ignored(rig: Rig, *, forgotten: bool) -> None:
    """The model looks between windows whether it should stop, so that one may still come."""
    rig.transcriber.on_model.hold()
    job = await rig.submit()
    await rig.transcriber.on_model.reached()
    await rig.intake.cancel(job.id)
    if forgotten:
        await rig.intake.forget(job.id)
    else:
        before = rig.now(job)
    (call,) = rig.transcriber.calls
    for window in rig.transcriber.windows():
        call.listener.on_window(window)
    if not forgotten:
        assert rig.now(job) == before
