"""``POST /v1/jobs/{id}/redeliver``: rejected requests and their messages, and repeated deliveries."""

from __future__ import annotations

import json
import math
import time
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

import pytest

from tests.support.fault_server import answer, fault_server, never_answer
from tests.support.service import serving
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from pathlib import Path

    import httpx

    from app.delivery.attempts import Clock
    from app.transcription.whisper import WhisperModel
    from tests.support.held_model import Held
    from tests.support.service import Running

pytestmark = [pytest.mark.anyio, pytest.mark.contract, pytest.mark.full(reason="starts a service for each test")]

NEEDS_FRESH_URL: Final = (
    "The URL that this job was submitted with is no longer kept or has expired: send a fresh one as "
    '{"upload_presigned_url": "https://…"}.'
)
NOT_AN_OBJECT: Final = 'The body must be a JSON object such as {"upload_presigned_url": "https://…"}, or empty.'
EXPIRED: Final = "https://b.s3.amazonaws.com/k?AWSAccessKeyId=A&Signature=secret&Expires=1000000000"

SIGNED: Final = "X-Amz-Signature=secret&X-Amz-SignedHeaders=host"
REFUSED_URLS: Final = {
    "ftp://b.example/k": "has the scheme ftp: only https is allowed.",
    "http://b.example/k?token=secret": "uses plain http, which is only allowed for hosts in URL_ALLOWED_HOSTS",
    "https://10.0.0.1/k?token=secret": "names 10.0.0.1, which is not a public address",
    "https://user:secret@b.example/k": "has a user or password",
    "b.example/k?token=secret": "is not a URL",
    "https://b.example/\ud800": "is not a URL",
    f"https://b.example/k?{SIGNED}&x-amz-checksum-crc32=AAAAAA==": "WHEN_REQUIRED",
    f"https://b.example/k?{SIGNED};x-amz-meta-a": "was signed with the headers x-amz-meta-a",
}


async def redeliver(running: Running, job_id: str, body: Any = None, **headers: str) -> httpx.Response:
    """Send ``body`` as JSON, or unchanged if it is bytes."""
    content = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
    return await running.client.post(f"/v1/jobs/{job_id}/redeliver", content=content, headers=headers)


def check_rejected(response: httpx.Response, message: str, *, status: int = 400, **members: str | None) -> None:
    error = response.json()["error"]
    assert (response.status_code, error["message"]) == (status, message)
    assert {"type": error["type"], **{name: error[name] for name in members}} == {
        "type": "invalid_request_error",
        **members,
    }
    assert "secret" not in response.text


async def stored(running: Running, samples: Path, **fields: str) -> str:
    """Submit a job that only stores its result, wait for its end and return its id."""
    job_id = await running.submit(samples / "hello.wav", stored_output="true", **fields)
    assert (await running.finished(job_id))["status"] == "completed"
    return job_id


def expiring(url: str, *, at: float) -> str:
    return f"{url.partition('?')[0]}?AWSAccessKeyId=A&Signature=secret&Expires={at:.0f}"


# Rejected requests.


async def test_unknown_job_and_job_of_another_key_are_404(tmp_path: Path, model: WhisperModel, samples: Path) -> None:
    async with serving(tmp_path / "data", lambda: model, api_keys="alpha,beta") as running:
        running.client.headers["Authorization"] = "Bearer alpha"
        job_id = await stored(running, samples)
        running.client.headers["Authorization"] = "Bearer beta"
        for other in (job_id, "4f0c"):
            response = await redeliver(running, other, {"upload_presigned_url": "https://b.example/k"})
            assert response.status_code == 404
            assert response.json()["error"]["code"] == "job_not_found"
        del running.client.headers["Authorization"]
        assert (await redeliver(running, job_id)).status_code == 401


@pytest.mark.smoke
async def test_job_without_a_finished_result_is_rejected(running: Running, samples: Path, held: Held) -> None:
    job_id = await running.submit(samples / "hello.wav", stored_output="true")
    not_ended = f"Job {job_id} has not ended: wait until its status is completed or failed, then try again."
    for body in (None, {"upload_presigned_url": "https://b.example/k"}):
        check_rejected(await redeliver(running, job_id, body), not_ended, code="job_not_ended")
    await running.client.delete(f"/v1/jobs/{job_id}")
    held.open.set()
    check_rejected(
        await redeliver(running, job_id, {"upload_presigned_url": "https://b.example/k"}),
        f"Job {job_id} was cancelled: submit it again.",
        code="job_cancelled",
    )
    assert (await running.job(job_id))["status"] == "cancelled"
    job_id = await running.submit(samples / "references.json", stored_output="true")
    before = await running.finished(job_id)
    assert before["status"] == "failed"
    check_rejected(
        await redeliver(running, job_id, {"upload_presigned_url": "https://b.example/k"}),
        f"Job {job_id} has no result to deliver: submit it again.",
        code="no_result",
    )
    assert await running.job(job_id) == before


@pytest.mark.smoke
async def test_invalid_body_is_rejected_and_changes_nothing(running: Running, samples: Path) -> None:
    job_id = await stored(running, samples)
    before = await running.job(job_id)
    url, headers = "upload_presigned_url", "upload_headers"
    not_a_string = "`upload_presigned_url` must be a string, or an array of strings."
    not_one = "`upload_presigned_url` must have a URL for each upload of the job, 1 in all (document), got {}."
    not_strings = '`upload_headers` must be a JSON object of strings, such as {"key": "value"}.'
    allowed = "https://b.example/k"
    cases: list[tuple[Any, str, str | None]] = [
        (b"{", NOT_AN_OBJECT, None),
        (b"upload_presigned_url=https://b.example/k", NOT_AN_OBJECT, None),
        (b"\xff\xfe", NOT_AN_OBJECT, None),
        (b"[" * 50_000, NOT_AN_OBJECT, None),
        ([allowed], NOT_AN_OBJECT, None),
        (allowed, NOT_AN_OBJECT, None),
        (7, NOT_AN_OBJECT, None),
        (b"null", NOT_AN_OBJECT, None),
        (None, NEEDS_FRESH_URL, url),
        (b" \r\n", NEEDS_FRESH_URL, url),
        ({}, NEEDS_FRESH_URL, url),
        ({url: None}, NEEDS_FRESH_URL, url),
        ({url: 7}, not_a_string, url),
        ({url: [allowed, 7]}, not_a_string, url),
        ({url: []}, not_one.format(0), url),
        ({url: [allowed, f"{allowed}2"]}, not_one.format(2), url),
        ({url: {"href": allowed}}, not_a_string, url),
        ({url: allowed, headers: "x-amz-meta-a: b"}, not_strings, headers),
        ({url: allowed, headers: ["x-amz-meta-a"]}, not_strings, headers),
        ({url: allowed, headers: {"x-amz-meta-a": 1}}, not_strings, headers),
        ({url: allowed, headers: {"x-amz-meta-a": None}}, not_strings, headers),
        ({url: ""}, "upload_presigned_url is empty: send a URL that starts with https://.", url),
        (
            {url: EXPIRED},
            "upload_presigned_url expired at 2001-09-09 01:46:40 UTC: sign a new URL that is valid for longer.",
            url,
        ),
    ]
    for body, message, param in cases:
        check_rejected(await redeliver(running, job_id, body), message, param=param)
    assert await running.job(job_id) == before


async def test_urls_and_headers_follow_the_rules_of_submission(running: Running, samples: Path) -> None:
    job_id = await stored(running, samples)
    before = await running.job(job_id)
    for url, words in REFUSED_URLS.items():
        response = await redeliver(running, job_id, {"upload_presigned_url": url})
        assert response.status_code == 400, url
        assert words in response.json()["error"]["message"]
        assert "secret" not in response.text
    for headers in ({"x-a": "\ud800"}, {"\ud800": "a"}, {"x-a": "b\r\nx-c: d"}, {"x a": "b"}, {"Host": "c"}):
        body = {"upload_presigned_url": "https://b.example/k", "upload_headers": headers}
        response = await redeliver(running, job_id, body)
        assert response.status_code == 400, headers
        assert response.json()["error"]["param"] == "upload_headers"
    check_rejected(await redeliver(running, job_id, b" " * 65_537), "The body must have at most 65536 bytes.")
    other_method = await running.client.get(f"/v1/jobs/{job_id}/redeliver")
    assert (other_method.status_code, other_method.headers["Allow"]) == (405, "POST")
    assert await running.job(job_id) == before


async def test_expired_url_is_rejected_and_a_fresh_one_works(running: Running, samples: Path) -> None:
    async with fault_server(answer(403), answer(200)) as target:
        url = expiring(target.url("/key"), at=math.ceil(time.time() + 5))
        job_id = await running.submit(samples / "hello.wav", upload_presigned_url=url)
        assert (await running.finished(job_id))["status"] == "failed"
        await eventually(lambda: time.time() > float(url.rpartition("=")[2]))
        check_rejected(await redeliver(running, job_id), NEEDS_FRESH_URL, param="upload_presigned_url")
        again = await redeliver(running, job_id, {"upload_presigned_url": target.url("/fresh")})
        assert again.status_code == 200
        assert (await running.finished(job_id))["status"] == "completed"


# Deliveries.


async def test_failed_delivery_is_repeated_to_the_stored_url(running: Running, samples: Path) -> None:
    missing = answer(404, b"<Error><Code>NoSuchBucket</Code></Error>")
    async with fault_server(answer(403), missing, answer(200)) as target:
        address = target.url("/key").partition("?")[0]
        job_id = await running.submit(samples / "hello.wav", upload_presigned_url=target.url("/key"))
        before = await running.finished(job_id)
        assert (before["status"], before["error"]) == ("failed", f"HTTP 403 (attempt 1/3) to {address}")
        assert (await redeliver(running, job_id)).status_code == 200
        again = await running.finished(job_id)
        assert (again["status"], again["error"]) == ("failed", f"HTTP 404 NoSuchBucket (attempt 1/3) to {address}")
        response = await redeliver(running, job_id)
        assert response.status_code == 200
        assert (response.json()["status"], response.json()["progress"]) == ("processing", "Uploading results")
        job = await running.finished(job_id)
    assert job["status"] == "completed"
    assert job["delivery"] == {"status": "delivered", "attempts": 1}
    assert not job.keys() & {"error", "error_type"}
    assert job["start_time"] == before["start_time"]
    assert job["end_time"] > again["end_time"] > before["end_time"]
    assert len({request.body for request in target.requests}) == 1


async def test_failed_delivery_is_repeated_to_a_fresh_url_with_headers(running: Running, samples: Path) -> None:
    async with fault_server(answer(403)) as target, fault_server(answer(200)) as other:
        job_id = await running.submit(samples / "hello.wav", upload_presigned_url=target.url("/key"))
        await running.finished(job_id)
        query = "?X-Amz-SignedHeaders=host%3Bx-amz-meta-call&X-Amz-Signature=secret"
        fresh = {
            "upload_presigned_url": other.url("/fresh").partition("?")[0] + query,
            "upload_headers": {"x-amz-meta-call": "17"},
        }
        response = await redeliver(running, job_id, fresh)
        assert response.status_code == 200
        assert "secret" not in response.text
        assert (await running.finished(job_id))["status"] == "completed"
    (request,) = other.requests
    assert (request.method, request.target) == ("PUT", f"/fresh{query}")
    assert request.headers["x-amz-meta-call"] == "17"
    assert request.body == target.requests[0].body


@pytest.mark.smoke
async def test_delivered_job_needs_a_fresh_url(running: Running, samples: Path) -> None:
    async with fault_server(answer(200)) as target, fault_server(answer(200)) as other:
        job_id = await running.submit(
            samples / "hello.wav", upload_presigned_url=target.url("/key"), metadata='{"call": "17"}'
        )
        assert (await running.finished(job_id))["status"] == "completed"
        check_rejected(await redeliver(running, job_id), NEEDS_FRESH_URL, param="upload_presigned_url")
        for number in range(2):
            response = await redeliver(running, job_id, {"upload_presigned_url": other.url(f"/{number}")})
            assert response.status_code == 200
            assert (await running.finished(job_id))["status"] == "completed"
    assert [request.body for request in other.requests] == [target.requests[0].body] * 2


async def test_stored_result_is_delivered_in_the_requested_format(running: Running, samples: Path) -> None:
    formats = {
        "json": ("application/json", '{"job_id":"'),
        "srt": ("text/plain; charset=utf-8", "1\n00:00:0"),
        "text": ("text/plain; charset=utf-8", "hello this is a test"),
    }
    async with fault_server(answer(200)) as target:
        for response_format, (media_type, beginning) in formats.items():
            job_id = await stored(running, samples, response_format=response_format)
            assert "delivery" not in await running.job(job_id)
            # The URL may be JSON-escaped twice.
            url = target.url("/key?a=1").replace("?", "?b=2\\u0026")
            response = await redeliver(running, job_id, {"upload_presigned_url": url})
            assert response.json()["delivery"] == {"status": "pending", "attempts": 0}
            job = await running.finished(job_id)
            assert (job["status"], job["delivery"]["status"]) == ("completed", "delivered")
            request = target.requests[-1]
            assert request.target == "/key?b=2&a=1"
            assert request.headers["content-type"] == media_type
            assert request.body.decode().startswith(beginning)


async def test_job_being_redelivered_has_not_ended(running: Running, samples: Path) -> None:
    job_id = await stored(running, samples)
    async with fault_server(never_answer()) as target:
        body = {"upload_presigned_url": target.url("/key")}
        assert (await redeliver(running, job_id, body)).status_code == 200
        await target.came.wait()
        response = await redeliver(running, job_id, body)
        assert response.json()["error"]["code"] == "job_not_ended"
        transcript = await running.client.get(f"/v1/jobs/{job_id}/result")
        assert transcript.json()["text"].startswith("hello")
        cancelled = (await running.client.delete(f"/v1/jobs/{job_id}")).json()
        assert (cancelled["status"], cancelled["result_available"]) == ("cancelled", True)


async def test_redelivery_works_after_a_restart(
    tmp_path: Path, model: WhisperModel, samples: Path, clock: Clock
) -> None:
    settings: dict[str, Any] = {"url_allowed_hosts": "127.0.0.1", "delivery_max_age_seconds": 0}
    async with fault_server(*[answer(503)] * 6, answer(200)) as target:
        async with serving(tmp_path / "data", lambda: model, clock=clock, **settings) as running:
            jobs = [
                await running.submit(samples / "hello.wav", upload_presigned_url=target.url(f"/{number}"))
                for number in range(2)
            ]
            for job_id in jobs:
                assert (await running.finished(job_id))["status"] == "failed"
        async with serving(tmp_path / "data", lambda: model, clock=clock, **settings) as running:
            fresh = {"upload_presigned_url": target.url(f"/{quote('fresh one')}")}
            for job_id, body in zip(jobs, (None, fresh), strict=True):
                assert (await running.job(job_id))["status"] == "failed"
                assert (await redeliver(running, job_id, body)).status_code == 200
                job = await running.finished(job_id)
                assert (job["status"], job.get("error")) == ("completed", None)
    assert [request.target.partition("?")[0] for request in target.requests[6:]] == ["/0", "/fresh%20one"]
    assert {request.body for request in target.requests[6:]} == {request.body for request in target.requests[:6]}
