"""Jobs whose result is uploaded in several formats, from the form to the store."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.fault_server import answer, fault_server, never_answer
from tests.support.service import serving
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from pathlib import Path

    from local_s3 import LocalS3

    from app.delivery.attempts import Clock
    from app.transcription.whisper import WhisperModel
    from tests.support.held_model import Held
    from tests.support.service import Running

pytestmark = [pytest.mark.anyio, pytest.mark.contract, pytest.mark.full(reason="starts a service for each test")]

HELLO = "hello this is a test the job is complete now"
SETTINGS: dict[str, Any] = {"url_allowed_hosts": "127.0.0.1"}


def states(job: dict[str, Any]) -> list[tuple[str, str, int]]:
    """Return the format, status and attempts of each upload."""
    return [(upload["format"], upload["status"], upload["attempts"]) for upload in job["delivery"]["uploads"]]


async def test_real_store_receives_each_format(running: Running, store: LocalS3, samples: Path) -> None:
    urls = [
        store.presign_put("results", "several.json", Metadata={"call": "17"}),
        store.presign_put("results", "several.srt", expires_in=1800),
        store.presign_put("results", "several.vtt", ContentType="text/vtt; charset=utf-8"),
    ]
    job_id = await running.submit(
        samples / "hello.wav",
        **{
            "upload_presigned_url[]": urls,
            "upload_format[]": ["document", "srt", "vtt"],
            "upload_headers[]": ['{"x-amz-meta-call": "17"}', "{}", "{}"],
        },
    )
    job = await running.finished(job_id)
    assert job["status"] == "completed"
    assert states(job) == [(chosen, "delivered", 1) for chosen in ("document", "srt", "vtt")]
    delivery = job["delivery"]
    assert (delivery["status"], delivery["attempts"]) == ("delivered", 3)
    assert delivery["expires_at"] == delivery["uploads"][1]["expires_at"] < delivery["uploads"][0]["expires_at"]
    for extension, beginning in (("json", '{"job_id":"'), ("srt", "1\n00:00:0"), ("vtt", "WEBVTT\n\n")):
        key = f"several.{extension}"
        stored = await asyncio.to_thread(store.client().get_object, Bucket="results", Key=key)
        content = (await asyncio.to_thread(stored["Body"].read)).decode()
        assert content.startswith(beginning)
    assert "Signature" not in json.dumps(job)


async def test_real_store_that_refuses_one_receives_the_others(shared: Running, store: LocalS3, samples: Path) -> None:
    urls = [store.presign_put("results", f"refused.{number}") for number in range(3)]
    urls[0] = urls[0].replace("refused.0", "other.0")
    job_id = await shared.submit(samples / "hello.wav", upload_presigned_url=urls, upload_format="text")
    job = await shared.finished(job_id)
    cause = f"HTTP 403 SignatureDoesNotMatch (attempt 1/3) to {store.endpoint}/results/other.0"
    assert (job["status"], job["error"], job["error_type"]) == ("failed", cause, "DeliveryFailed")
    assert states(job) == [("text", "failed", 1), ("text", "delivered", 1), ("text", "delivered", 1)]
    assert job["delivery"]["uploads"][0]["last_error"] == job["delivery"]["last_error"] == cause
    fresh = [store.presign_put("results", f"fresh.{number}") for number in range(3)]
    response = await shared.client.post(f"/v1/jobs/{job_id}/redeliver", json={"upload_presigned_url": fresh})
    assert (response.status_code, response.json()["status"]) == (200, "processing")
    job = await shared.finished(job_id)
    assert (job["status"], states(job)) == ("completed", [("text", "delivered", 1)] * 3)
    listing = await asyncio.to_thread(store.client().list_objects_v2, Bucket="results", Prefix="fresh.")
    assert [entry["Key"] for entry in listing["Contents"]] == ["fresh.0", "fresh.1", "fresh.2"]


async def test_uploads_under_way_are_shown_one_by_one(
    tmp_path: Path, model: WhisperModel, samples: Path, clock: Clock
) -> None:
    async with (
        fault_server(answer(200)) as first,
        fault_server(never_answer()) as second,
        serving(tmp_path / "data", lambda: model, clock=clock, **SETTINGS) as running,
    ):
        job_id = await running.submit(
            samples / "hello.wav",
            upload_presigned_url=[first.url("/a?sig=secret"), second.url("/b?sig=secret")],
            upload_format=["srt", "text"],
        )
        await second.came.wait()
        job = await running.job(job_id)
        assert (job["status"], job["progress"]) == ("processing", "Uploading results")
        assert states(job) == [("srt", "delivered", 1), ("text", "pending", 0)]
        cancelled = (await running.client.delete(f"/v1/jobs/{job_id}")).json()
        assert states(cancelled) == [("srt", "delivered", 1), ("text", "failed", 0)]
        assert cancelled["delivery"]["last_error"] == "The job was cancelled."


async def test_passing_failure_shows_the_upload_that_is_left(
    tmp_path: Path, model: WhisperModel, samples: Path, clock: Clock
) -> None:
    async with (
        fault_server(answer(200)) as first,
        fault_server(answer(503)) as second,
        serving(tmp_path / "data", lambda: model, clock=clock, **SETTINGS) as running,
    ):
        job_id = await running.submit(
            samples / "hello.wav", upload_presigned_url=[first.url("/a"), second.url("/b")], upload_format="text"
        )

        async def is_postponed() -> bool:
            return "next_attempt_at" in (await running.job(job_id))["delivery"]

        await eventually(is_postponed)
        job = await running.job(job_id)
        assert (job["status"], job["delivery"]["status"], job["delivery"]["attempts"]) == ("processing", "pending", 4)
        assert states(job) == [("text", "delivered", 1), ("text", "pending", 3)]
        assert job["delivery"]["last_error"] == f"HTTP 503 (attempt 3/3) to {second.url('/b')}"
    assert [request.body.decode() for request in first.requests] == [f"{HELLO}\n"]


@pytest.mark.parametrize("name", ["upload_presigned_url", "upload_presigned_url[]"])
async def test_replay_replaces_all_urls_before_the_upload(
    tmp_path: Path, model: WhisperModel, samples: Path, held: Held, name: str
) -> None:
    async with (
        fault_server(answer(200)) as target,
        serving(tmp_path / "data", lambda: model, **SETTINGS) as running,
    ):
        content = await asyncio.to_thread((samples / "hello.wav").read_bytes)

        async def submitted(signature: str, *paths: str) -> Any:
            urls = [target.url(f"{path}?Signature={signature}") for path in paths]
            response = await running.client.post(
                "/v1/audio/transcriptions",
                files={"file": ("hello.wav", content)},
                data={name: urls, "upload_format": ["srt", "text"]},
                headers={"Idempotency-Key": "one"},
            )
            return response.json()

        job_id = (await submitted("first", "/a", "/b"))["job_id"]
        assert (await submitted("second", "/a", "/b"))["job_id"] == job_id
        assert (await submitted("third", "/b", "/a"))["error"]["code"] == "idempotency_key_reused"
        held.open.set()
        assert (await running.finished(job_id))["status"] == "completed"
    assert [request.target for request in target.requests] == ["/a?Signature=second", "/b?Signature=second"]
