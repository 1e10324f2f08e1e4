"""Asynchronous jobs, from submission to the object in the bucket."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import time
import wave
from typing import TYPE_CHECKING, Any
from uuid import UUID

import httpx
import pytest

from tests.support.disks import filled, small_disk
from tests.support.fault_server import answer, fault_server
from tests.support.service import Running, serving
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from pathlib import Path

    from local_s3 import LocalS3

    from app.delivery.attempts import Clock
    from app.transcription.whisper import WhisperModel
    from tests.support.held_model import Held

pytestmark = [pytest.mark.anyio, pytest.mark.contract]

HELLO = "hello this is a test the job is complete now"


async def stored(store: LocalS3, key: str) -> bytes:
    content = await asyncio.to_thread(lambda: store.client().get_object(Bucket="results", Key=key)["Body"].read())
    return bytes(content)


async def test_result_is_uploaded_to_the_bucket(running: Running, store: LocalS3, samples: Path) -> None:
    accepted = await running.transcribe(
        samples / "hello.wav",
        upload_presigned_url=store.presign_put("results", "job.json"),
        metadata='{"case": "7"}',
        best_of="3",
        **{"timestamp_granularities[]": "word"},
    )
    assert accepted.status_code == 200
    body = accepted.json()
    assert str(UUID(body["job_id"], version=4)) == body["job_id"]
    assert body["status"] == "in_progress"
    assert body["status_url"] == accepted.headers["location"] == f"/v1/jobs/{body['job_id']}"
    assert body["warnings"] == ["`best_of` is not supported and was ignored."]
    job = await running.finished(body["job_id"])
    assert job["status"] == "completed"
    assert job["progress"] == "Done"
    assert job["progress_percent"] == 100
    assert job["attempts"] == 1
    assert job["delivery"]["status"] == "delivered"
    assert job["delivery"]["attempts"] == 1
    assert job["delivery"]["expires_at"] == pytest.approx(time.time() + 3600, abs=120)
    assert job["language"] == "english"
    assert job["audio_duration"] == pytest.approx(5.22, abs=0.01)
    assert job["metadata"] == {"case": "7"}
    document = json.loads(await stored(store, "job.json"))
    assert list(document) == [
        *("job_id", "status", "task", "language", "duration", "text", "segments", "words", "usage", "model"),
        *("processing_time", "metadata", "warnings"),
    ]
    assert document["text"] == HELLO
    assert len(document["words"]) == 10
    assert (await running.job(body["job_id"], include_result="true"))["result"] == document


@pytest.mark.parametrize(
    ("fields", "begins"),
    [
        ({"response_format": "srt"}, b"1\n00:00:0"),
        ({"response_format": "vtt"}, b"WEBVTT\n\n"),
        ({"response_format": "text"}, HELLO.encode() + b"\n"),
        ({"response_format": "srt", "upload_format": "json"}, b'{"text":"hello'),
        ({"upload_format": "verbose_json"}, b'{"task":"transcribe"'),
        ({"response_format": "verbose_json"}, b'{"job_id":"'),
    ],
)
@pytest.mark.full(reason="repeats an upload for each format")
async def test_upload_has_the_requested_format(
    shared: Running, store: LocalS3, samples: Path, fields: dict[str, str], begins: bytes
) -> None:
    url = store.presign_put("results", "format")
    job_id = await shared.submit(samples / "hello.wav", upload_presigned_url=url, **fields)
    assert (await shared.finished(job_id))["status"] == "completed"
    assert (await stored(store, "format")).startswith(begins)


async def test_stored_output_is_kept_until_it_is_deleted(running: Running, samples: Path) -> None:
    job_id = await running.submit(samples / "hello.wav", stored_output="true")
    job = await running.finished(job_id)
    assert job["status"] == "completed"
    assert job["result_available"] is True
    assert job["result_expires_at"] == pytest.approx(job["end_time"] + 3600)
    assert "delivery" not in job
    assert (await running.job(job_id, include_result="true"))["result"]["text"] == HELLO
    assert (await running.client.delete(f"/v1/jobs/{job_id}")).json() == {"job_id": job_id, "deleted": True}
    assert (await running.client.get(f"/v1/jobs/{job_id}")).status_code == 404
    assert await running.jobs_with_files() == set()


@pytest.mark.full(reason="takes more than a second")
async def test_audio_is_downloaded_from_a_presigned_url(running: Running, store: LocalS3, samples: Path) -> None:
    await asyncio.to_thread(store.client().upload_file, str(samples / "numbers.mp3"), "results", "numbers.mp3")
    url = store.presign_get("results", "numbers.mp3")
    job_id = await running.submit(s3_presigned_url=url.replace("&", "\\u0026"), stored_output="true")
    job = await running.finished(job_id)
    assert job["input_source"] == "url"
    assert (await running.job(job_id, include_result="true"))["result"]["text"].startswith("my number is seven")
    waited = await running.transcribe(audio_url=url)
    assert waited.json()["text"].startswith("my number is seven")


async def test_failure_document_is_uploaded(
    running: Running, store: LocalS3, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "noise.mp3").write_bytes(b"\0" * 5000)
    url = store.presign_put("results", "failed.json")
    with caplog.at_level(logging.INFO, logger="app"):
        job_id = await running.submit(tmp_path / "noise.mp3", upload_presigned_url=url, metadata='{"a": "b"}')
        job = await running.finished(job_id)
    assert (job["status"], job["progress"], job["error_type"]) == ("failed", "Failed", "UndecodableAudio")
    assert job["result_available"] is False
    assert job["delivery"]["status"] == "delivered"
    document = json.loads(await stored(store, "failed.json"))
    assert document == {
        "job_id": job_id,
        "status": "failed",
        "error": job["error"],
        "error_type": "UndecodableAudio",
        "processing_time": 0.0,
        "metadata": {"a": "b"},
    }
    assert f"❌ Background job {job_id} failed: UndecodableAudio: {job['error']}" in caplog.text
    assert "Traceback" not in caplog.text
    assert "X-Amz-Signature" not in caplog.text


async def test_log_lines_are_those_of_the_contract(
    running: Running, store: LocalS3, samples: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await asyncio.to_thread(store.client().upload_file, str(samples / "hello.wav"), "results", "hello.wav")
    with caplog.at_level(logging.INFO, logger="app"):
        job_id = await running.submit(
            s3_presigned_url=store.presign_get("results", "hello.wav"),
            upload_presigned_url=store.presign_put("results", "logged.json"),
        )
        await running.finished(job_id)
    size = len(await stored(store, "logged.json"))
    lines = [record.getMessage() for record in caplog.records if record.name.startswith("app.")]
    assert lines[:-1] == [
        f"📥 Job {job_id}: Downloading audio from pre-signed URL...",
        f"⏳ Job {job_id} waiting for GPU availability...",
        f"🎬 Job {job_id} acquired GPU slot, starting processing...",
        f"🎙️ Job {job_id}: Starting transcription...",
        f"📤 Job {job_id}: Uploading results to user URL...",
        f"✅ Successfully uploaded result to user-provided URL ({size} bytes)",
    ]
    assert re.fullmatch(rf"✅ Background job {job_id} completed successfully in \d+\.\d+s", lines[-1])


@pytest.mark.full(reason="transcribes long recordings")
async def test_jobs_beyond_the_slots_are_queued(running: Running, samples: Path, tmp_path: Path) -> None:
    long = tmp_path / "long.wav"  # long enough that no job ends while others are submitted
    with wave.open(str(samples / "hello.wav"), "rb") as source, wave.open(str(long), "wb") as target:
        target.setparams(source.getparams())
        target.writeframes(source.readframes(source.getnframes()) * 60)
    ids = [await running.submit(long, stored_output="true") for _ in range(10)]
    await eventually(lambda: running.service.pool.active == 3)
    health = (await running.client.get("/health")).json()["concurrency"]
    assert health["active_transcriptions"] == 3
    assert health["available_slots"] == 0
    assert health["active_jobs"] == health["queued"] + health["processing"]

    async def are_numbered() -> bool:
        jobs = (await running.client.get("/v1/jobs", params={"status": "queued"})).json()
        positions = sorted(job.get("queue_position", 0) for job in jobs["jobs"].values())
        is_numbered = bool(positions) and positions == list(range(1, jobs["total_jobs"] + 1))
        assert not is_numbered or all(job["eta_seconds"] > 0 for job in jobs["jobs"].values())
        return is_numbered

    await eventually(are_numbered)
    everything = (await running.client.get("/v1/jobs", params={"limit": 4})).json()
    assert list(everything["jobs"]) == ids[:-5:-1]
    page = await running.client.get("/v1/jobs", params={"limit": 100, "after": ids[-4]})
    assert list(page.json()["jobs"]) == ids[-5::-1]
    for job_id in ids:
        await running.client.delete(f"/v1/jobs/{job_id}")
    await eventually(lambda: not running.service.pool.active)
    assert await running.jobs_with_files() == set()


async def test_cancelled_job_uploads_nothing(running: Running, store: LocalS3, samples: Path) -> None:
    url = store.presign_put("results", "cancelled.json")
    job_id = await running.submit(samples / "long.opus", upload_presigned_url=url)
    await running.until(job_id, "processing")
    job = (await running.client.delete(f"/v1/jobs/{job_id}")).json()
    assert (job["status"], job["progress"]) == ("cancelled", "Cancelled")
    await eventually(lambda: not running.service.pool.active)
    listing = await asyncio.to_thread(store.client().list_objects_v2, Bucket="results", Prefix="cancelled")
    assert "Contents" not in listing
    assert await running.job(job_id) == job
    assert job["delivery"].items() >= {"status": "failed", "last_error": "The job was cancelled."}.items()
    assert "next_attempt_at" not in job["delivery"]
    assert "error" not in job
    (upload,) = running.service.jobs.store.get(job_id).job.uploads
    assert not upload.is_kept


@pytest.mark.full(reason="takes more than a second")
@pytest.mark.one_process(reason="a node recovers nothing: the queue has the jobs of all")
async def test_health_counts_the_jobs_of_an_earlier_process(
    tmp_path: Path, model: WhisperModel, samples: Path, clock: Clock, held: Held
) -> None:
    """The earlier process leaves an ended job, an undelivered one and two without a result.

    A synchronous request does not survive its process.
    """
    settings: dict[str, Any] = {"url_allowed_hosts": "127.0.0.1"}
    async with fault_server(answer(503)) as receiver:
        async with serving(tmp_path / "data", lambda: model, clock=clock, **settings) as running:
            health = (await running.client.get("/health")).json()
            assert health["recovered"] == {"jobs": 0, "requeued": 0, "undelivered": 0}
            held.open.set()
            await running.finished(await running.submit(samples / "hello.wav", stored_output="true"))
            undelivered = await running.submit(samples / "hello.wav", upload_presigned_url=receiver.url("/key"))
            await eventually(lambda: is_postponed(running, undelivered))
            held.open.clear()
            waiting = asyncio.create_task(running.transcribe(samples / "hello.wav"))
            await eventually(lambda: running.service.pool.active == 1)
            unfinished = [await running.submit(samples / "hello.wav", stored_output="true") for _ in range(2)]
        with pytest.raises(httpx.TransportError):  # the client was closed before the service
            await waiting
        async with serving(
            tmp_path / "data", lambda: model, clock=clock, **settings, max_concurrent_requests=1
        ) as running:
            health = (await running.client.get("/health")).json()
            assert health["recovered"] == {"jobs": 4, "requeued": 2, "undelivered": 1}
            assert health["concurrency"].items() >= {"active_jobs": 3, "completed": 1, "failed": 0}.items()
            held.open.set()
            for job_id in unfinished:
                await running.finished(job_id)
            assert (await running.client.get("/health")).json()["recovered"] == health["recovered"]


async def is_postponed(running: Running, job_id: str) -> bool:
    return "next_attempt_at" in (await running.job(job_id))["delivery"]


@pytest.mark.one_process(reason="the database has the jobs of a cluster")
async def test_full_disk_rejects_deletion_and_redelivery(tmp_path: Path, model: WhisperModel, samples: Path) -> None:
    settings: dict[str, Any] = {"url_allowed_hosts": "127.0.0.1", "spool_min_free_bytes": 0}
    with small_disk(tmp_path / "disk", size="4m") as disk:
        async with (
            fault_server(answer(200)) as receiver,
            serving(disk / "data", lambda: model, **settings) as running,
        ):
            job_id = await running.submit(samples / "hello.wav", stored_output="true")
            job = await running.finished(job_id)
            body = {"upload_presigned_url": receiver.url("/key")}
            with filled(disk):
                for rejected in (
                    await running.client.delete(f"/v1/jobs/{job_id}"),
                    await running.client.post(f"/v1/jobs/{job_id}/redeliver", json=body),
                ):
                    assert (rejected.status_code, rejected.json()["error"]["code"]) == (507, "disk_full")
                    assert 1 <= int(rejected.headers["Retry-After"]) <= 120
                assert await running.job(job_id) == job
                assert receiver.connections == 0
            assert (await running.client.post(f"/v1/jobs/{job_id}/redeliver", json=body)).status_code == 200
            assert (await running.finished(job_id))["delivery"]["status"] == "delivered"
            assert (await running.client.delete(f"/v1/jobs/{job_id}")).json() == {"job_id": job_id, "deleted": True}


async def test_finished_jobs_are_forgotten_after_their_retention(
    tmp_path: Path, model: WhisperModel, samples: Path
) -> None:
    async with serving(tmp_path / "data", lambda: model, job_retention_seconds=0.2) as running:
        job_id = await running.submit(samples / "hello.wav", stored_output="true")
        await eventually(lambda: not running.service.jobs.store.live_jobs())
        assert (await running.client.get(f"/v1/jobs/{job_id}")).status_code == 404
        await running.until_no_files()


@pytest.mark.full(reason="takes more than a second")
async def test_undelivered_result_is_kept_longer(
    tmp_path: Path, model: WhisperModel, samples: Path, clock: Clock
) -> None:
    settings: dict[str, Any] = {"job_retention_seconds": 0.1, "url_allowed_hosts": "127.0.0.1"}
    async with (
        fault_server(answer(403)) as receiver,
        serving(tmp_path / "data", lambda: model, clock=clock, **settings) as running,
    ):
        job_id = await running.submit(samples / "hello.wav", upload_presigned_url=receiver.url("/bucket/key"))
        job = await running.finished(job_id)
        assert job["status"] == "failed"
        assert job["error"] == f"HTTP 403 (attempt 1/3) to {receiver.url('/bucket/key')}"
        assert job["error_type"] == "DeliveryFailed"
        assert job["result_available"] is True
        assert job["result_expires_at"] == pytest.approx(job["end_time"] + 604800)
        await asyncio.sleep(0.4)
        assert (await running.job(job_id, include_result="true"))["result"]["text"] == HELLO
        assert len(receiver.requests) == 1


async def test_url_that_expires_within_the_queue_time_is_a_warning(
    running: Running, samples: Path, store: LocalS3
) -> None:
    running.service.jobs.estimate.finished(500.0)
    url = store.presign_put("results", "soon.json", expires_in=60)
    response = await running.transcribe(samples / "hello.wav", upload_presigned_url=url)
    (warning,) = response.json()["warnings"]
    assert "sign URLs for at least an hour" in warning
    assert (await running.finished(response.json()["job_id"]))["warnings"] == [warning]


@pytest.mark.full(reason="transcribes long recordings")
async def test_submission_is_accepted_while_the_model_is_busy(running: Running, samples: Path) -> None:
    busy = [await running.submit(samples / "long.opus", stored_output="true") for _ in range(3)]
    await running.until(busy[0], "processing")
    responses = [await running.transcribe(samples / "hello.wav", stored_output="true") for _ in range(3)]
    assert [accepted.status_code for accepted in responses] == [200] * 3
    for accepted in responses:
        assert (await running.finished(accepted.json()["job_id"]))["status"] == "completed"


@pytest.mark.full(reason="requests a result in each format")
async def test_stored_result_is_available_in_every_format(running: Running, samples: Path) -> None:
    granularities = {"timestamp_granularities[]": "word,segment"}
    job_id = await running.submit(samples / "hello.wav", stored_output="true", **granularities)
    await running.finished(job_id)
    for name in ("json", "verbose_json", "text", "srt", "vtt", "lrc", "tsv"):
        later = await running.client.get(f"/v1/jobs/{job_id}/result", params={"response_format": name})
        waited = await running.transcribe(samples / "hello.wav", response_format=name, **granularities)
        assert later.status_code == 200
        assert later.headers["content-type"] == waited.headers["content-type"]
        if name == "json":
            warnings = ["`timestamp_granularities` requires `response_format=verbose_json` and was ignored."]
            assert waited.json() == {**later.json(), "warnings": warnings}
        elif name == "verbose_json":  # probabilities may differ in their last digits
            assert later.json().keys() == waited.json().keys()
            assert later.json()["text"] == waited.json()["text"]
        else:
            assert later.text == waited.text
    document = await running.client.get(f"/v1/jobs/{job_id}/result", params={"response_format": "document"})
    assert document.json() == (await running.job(job_id, include_result="true"))["result"]
    segments = {segment["id"]: segment["text"] for segment in document.json()["segments"]}
    for word in document.json()["words"]:
        assert segments[word["segment"]][word["offset"] :].startswith(word["word"])
    assert document.json()["words"][0]["word"] == "hello"


async def test_results_have_utterances_and_hours_on_request(running: Running, samples: Path) -> None:
    job_id = await running.submit(samples / "hello.wav", stored_output="true")
    await running.finished(job_id)

    async def result(**params: str) -> httpx.Response:
        return await running.client.get(f"/v1/jobs/{job_id}/result", params=params)

    plain = (await result(response_format="document")).json()
    with_utterances = (await result(response_format="document", utterances="true")).json()
    (utterance,) = with_utterances.pop("utterances")
    assert with_utterances == plain
    assert [sentence["text"] for sentence in utterance["sentences"]] == [utterance["text"]] == [plain["text"]]
    assert (utterance["start"], utterance["end"]) == (plain["segments"][0]["start"], plain["segments"][-1]["end"])
    assert " --> 00:00:0" not in (await result(response_format="vtt")).text
    assert " --> 00:00:0" in (await result(response_format="vtt", always_include_hours="true")).text


async def test_document_has_the_utterances_of_the_form(running: Running, samples: Path) -> None:
    job_id = await running.submit(samples / "hello.wav", stored_output="true", utterances="true")
    await running.finished(job_id)
    job = await running.job(job_id, include_result="true")
    assert "words" not in job["result"]
    assert len(job["result"]["utterances"]) == 1
    without = await running.client.get(
        f"/v1/jobs/{job_id}/result", params={"response_format": "document", "utterances": "false"}
    )
    assert without.json() == {name: value for name, value in job["result"].items() if name != "utterances"}


async def test_missing_result_is_400_with_the_state(running: Running, samples: Path) -> None:
    job_id = await running.submit(samples / "long.opus", stored_output="true")
    early = await running.client.get(f"/v1/jobs/{job_id}/result")
    assert early.status_code == 400
    assert early.json()["error"]["code"] == "no_result"
    assert "result_available" in early.json()["error"]["message"]
    wrong = await running.client.get(f"/v1/jobs/{job_id}/result", params={"response_format": "docx"})
    assert wrong.json()["error"]["param"] == "response_format"
    assert (await running.client.get("/v1/jobs/none/result")).status_code == 404
