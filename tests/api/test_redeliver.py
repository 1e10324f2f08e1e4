"""``POST /v1/jobs/{id}/redeliver``: what is refused, with which sentence, and what arrives where."""

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

pytestmark = pytest.mark.anyio

FRESH_WANTED: Final = (
    "The URL that this job was submitted with is not kept any more, or has expired: send a fresh one as "
    '{"upload_presigned_url": "https://…"}.'
)
NO_OBJECT: Final = 'The body must be a JSON object such as {"upload_presigned_url": "https://…"}, or empty.'
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
    """``body`` goes as JSON, bytes as they are."""
    content = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
    return await running.client.post(f"/v1/jobs/{job_id}/redeliver", content=content, headers=headers)


def check_refused(answered: httpx.Response, sentence: str, *, status: int = 400, **members: str | None) -> None:
    error = answered.json()["error"]
    assert (answered.status_code, error["message"]) == (status, sentence)
    assert {"type": error["type"], **{name: error[name] for name in members}} == {
        "type": "invalid_request_error",
        **members,
    }
    assert "secret" not in answered.text


async def stored(running: Running, samples: Path, **fields: str) -> str:
    """A job whose result is stored and was to be delivered nowhere."""
    job_id = await running.submit(samples / "hello.wav", stored_output="true", **fields)
    assert (await running.finished(job_id))["status"] == "completed"
    return job_id


def expiring(url: str, *, at: float) -> str:
    return f"{url.partition('?')[0]}?AWSAccessKeyId=A&Signature=secret&Expires={at:.0f}"


# What is refused.


async def test_unknown_job_and_another_keys_job_are_404(tmp_path: Path, model: WhisperModel, samples: Path) -> None:
    async with serving(tmp_path / "data", lambda: model, api_keys="alpha,beta") as running:
        running.client.headers["Authorization"] = "Bearer alpha"
        job_id = await stored(running, samples)
        running.client.headers["Authorization"] = "Bearer beta"
        for other in (job_id, "4f0c"):
            answered = await redeliver(running, other, {"upload_presigned_url": "https://b.example/k"})
            assert answered.status_code == 404
            assert answered.json()["error"]["code"] == "job_not_found"
        del running.client.headers["Authorization"]
        assert (await redeliver(running, job_id)).status_code == 401


async def test_job_that_has_not_ended_or_was_cancelled_or_has_no_result_is_refused(
    running: Running, samples: Path, held: Held
) -> None:
    job_id = await running.submit(samples / "hello.wav", stored_output="true")
    not_ended = f"Job {job_id} has not ended: wait until its status is completed or failed, then ask again."
    for body in (None, {"upload_presigned_url": "https://b.example/k"}):
        check_refused(await redeliver(running, job_id, body), not_ended, code="job_not_ended")
    await running.client.delete(f"/v1/jobs/{job_id}")
    held.open.set()
    check_refused(
        await redeliver(running, job_id, {"upload_presigned_url": "https://b.example/k"}),
        f"Job {job_id} was cancelled: submit it again.",
        code="job_cancelled",
    )
    assert (await running.job(job_id))["status"] == "cancelled"
    job_id = await running.submit(samples / "references.json", stored_output="true")
    before = await running.finished(job_id)
    assert before["status"] == "failed"
    check_refused(
        await redeliver(running, job_id, {"upload_presigned_url": "https://b.example/k"}),
        f"Job {job_id} has no result that could be delivered: submit it again.",
        code="no_result",
    )
    assert await running.job(job_id) == before


async def test_body_that_can_not_be_honoured_is_refused_and_changes_nothing(running: Running, samples: Path) -> None:
    job_id = await stored(running, samples)
    before = await running.job(job_id)
    url, headers = "upload_presigned_url", "upload_headers"
    no_string = "`upload_presigned_url` must be a string."
    no_strings = '`upload_headers` must be a JSON object of strings, such as {"key": "value"}.'
    allowed = "https://b.example/k"
    cases: list[tuple[Any, str, str | None]] = [
        (b"{", NO_OBJECT, None),
        (b"upload_presigned_url=https://b.example/k", NO_OBJECT, None),
        (b"\xff\xfe", NO_OBJECT, None),
        (b"[" * 50_000, NO_OBJECT, None),
        ([allowed], NO_OBJECT, None),
        (allowed, NO_OBJECT, None),
        (7, NO_OBJECT, None),
        (b"null", NO_OBJECT, None),
        (None, FRESH_WANTED, url),
        (b" \r\n", FRESH_WANTED, url),
        ({}, FRESH_WANTED, url),
        ({url: None}, FRESH_WANTED, url),
        ({url: 7}, no_string, url),
        ({url: [allowed]}, no_string, url),
        ({url: {"href": allowed}}, no_string, url),
        ({url: allowed, headers: "x-amz-meta-a: b"}, no_strings, headers),
        ({url: allowed, headers: ["x-amz-meta-a"]}, no_strings, headers),
        ({url: allowed, headers: {"x-amz-meta-a": 1}}, no_strings, headers),
        ({url: allowed, headers: {"x-amz-meta-a": None}}, no_strings, headers),
        ({url: ""}, "upload_presigned_url is empty: send a URL that starts with https://.", url),
        (
            {url: EXPIRED},
            "upload_presigned_url expired at 2001-09-09 01:46:40 UTC: sign a new URL that is valid for longer.",
            url,
        ),
    ]
    for body, sentence, param in cases:
        check_refused(await redeliver(running, job_id, body), sentence, param=param)
    assert await running.job(job_id) == before


async def test_url_headers_and_bodies_that_are_refused_at_submission_are_refused_here(
    running: Running, samples: Path
) -> None:
    job_id = await stored(running, samples)
    before = await running.job(job_id)
    for url, words in REFUSED_URLS.items():
        answered = await redeliver(running, job_id, {"upload_presigned_url": url})
        assert answered.status_code == 400, url
        assert words in answered.json()["error"]["message"]
        assert "secret" not in answered.text
    for headers in ({"x-a": "\ud800"}, {"\ud800": "a"}, {"x-a": "b\r\nx-c: d"}, {"x a": "b"}, {"Host": "c"}):
        body = {"upload_presigned_url": "https://b.example/k", "upload_headers": headers}
        answered = await redeliver(running, job_id, body)
        assert answered.status_code == 400, headers
        assert answered.json()["error"]["param"] == "upload_headers"
    check_refused(
        await redeliver(running, job_id, b" " * 65_537), "The body is too large: at most 65536 bytes are allowed."
    )
    other_method = await running.client.get(f"/v1/jobs/{job_id}/redeliver")
    assert (other_method.status_code, other_method.headers["Allow"]) == (405, "POST")
    assert await running.job(job_id) == before


async def test_url_that_has_expired_since_is_refused_and_a_fresh_one_works(running: Running, samples: Path) -> None:
    async with fault_server(answer(403), answer(200)) as target:
        url = expiring(target.url("/key"), at=math.ceil(time.time() + 5))
        job_id = await running.submit(samples / "hello.wav", upload_presigned_url=url)
        assert (await running.finished(job_id))["status"] == "failed"
        await eventually(lambda: time.time() > float(url.rpartition("=")[2]))
        check_refused(await redeliver(running, job_id), FRESH_WANTED, param="upload_presigned_url")
        again = await redeliver(running, job_id, {"upload_presigned_url": target.url("/fresh")})
        assert again.status_code == 200
        assert (await running.finished(job_id))["status"] == "completed"


# What arrives.


async def test_failed_delivery_is_made_again_to_the_url_that_is_kept_until_it_arrives(
    running: Running, samples: Path
) -> None:
    missing = answer(404, b"<Error><Code>NoSuchBucket</Code></Error>")
    async with fault_server(answer(403), missing, answer(200)) as target:
        address = target.url("/key").partition("?")[0]
        job_id = await running.submit(samples / "hello.wav", upload_presigned_url=target.url("/key"))
        before = await running.finished(job_id)
        assert (before["status"], before["error"]) == ("failed", f"HTTP 403 (attempt 1/3) to {address}")
        assert (await redeliver(running, job_id)).status_code == 200
        again = await running.finished(job_id)
        assert (again["status"], again["error"]) == ("failed", f"HTTP 404 NoSuchBucket (attempt 1/3) to {address}")
        answered = await redeliver(running, job_id)
        assert answered.status_code == 200
        assert (answered.json()["status"], answered.json()["progress"]) == ("processing", "Uploading results")
        job = await running.finished(job_id)
    assert job["status"] == "completed"
    assert job["delivery"] == {"status": "delivered", "attempts": 1}
    assert not job.keys() & {"error", "error_type"}
    assert job["start_time"] == before["start_time"]
    assert job["end_time"] > again["end_time"] > before["end_time"]
    assert len({request.body for request in target.requests}) == 1


async def test_failed_delivery_is_made_again_to_a_fresh_url_with_its_headers(running: Running, samples: Path) -> None:
    async with fault_server(answer(403)) as target, fault_server(answer(200)) as other:
        job_id = await running.submit(samples / "hello.wav", upload_presigned_url=target.url("/key"))
        await running.finished(job_id)
        query = "?X-Amz-SignedHeaders=host%3Bx-amz-meta-call&X-Amz-Signature=secret"
        fresh = {
            "upload_presigned_url": other.url("/fresh").partition("?")[0] + query,
            "upload_headers": {"x-amz-meta-call": "17"},
        }
        answered = await redeliver(running, job_id, fresh)
        assert answered.status_code == 200
        assert "secret" not in answered.text
        assert (await running.finished(job_id))["status"] == "completed"
    (request,) = other.requests
    assert (request.method, request.target) == ("PUT", f"/fresh{query}")
    assert request.headers["x-amz-meta-call"] == "17"
    assert request.body == target.requests[0].body


async def test_completed_job_is_delivered_once_more_and_its_first_url_is_not_kept(
    running: Running, samples: Path
) -> None:
    async with fault_server(answer(200)) as target, fault_server(answer(200)) as other:
        job_id = await running.submit(
            samples / "hello.wav", upload_presigned_url=target.url("/key"), metadata='{"call": "17"}'
        )
        assert (await running.finished(job_id))["status"] == "completed"
        check_refused(await redeliver(running, job_id), FRESH_WANTED, param="upload_presigned_url")
        for number in range(2):
            answered = await redeliver(running, job_id, {"upload_presigned_url": other.url(f"/{number}")})
            assert answered.status_code == 200
            assert (await running.finished(job_id))["status"] == "completed"
    assert [request.body for request in other.requests] == [target.requests[0].body] * 2


async def test_stored_result_is_delivered_for_the_first_time_in_the_format_that_was_asked_for(
    running: Running, samples: Path
) -> None:
    formats = {
        "json": ("application/json", '{"job_id":"'),
        "srt": ("text/plain; charset=utf-8", "1\n00:00:0"),
        "text": ("text/plain; charset=utf-8", "hello this is a test"),
    }
    async with fault_server(answer(200)) as target:
        for response_format, (media_type, beginning) in formats.items():
            job_id = await stored(running, samples, response_format=response_format)
            assert "delivery" not in await running.job(job_id)
            # The URL may have been escaped for JSON twice.
            url = target.url("/key?a=1").replace("?", "?b=2\\u0026")
            answered = await redeliver(running, job_id, {"upload_presigned_url": url})
            assert answered.json()["delivery"] == {"status": "pending", "attempts": 0}
            job = await running.finished(job_id)
            assert (job["status"], job["delivery"]["status"]) == ("completed", "delivered")
            request = target.requests[-1]
            assert request.target == "/key?b=2&a=1"
            assert request.headers["content-type"] == media_type
            assert request.body.decode().startswith(beginning)


async def test_job_that_is_being_delivered_again_has_not_ended(running: Running, samples: Path) -> None:
    job_id = await stored(running, samples)
    async with fault_server(never_answer()) as target:
        body = {"upload_presigned_url": target.url("/key")}
        assert (await redeliver(running, job_id, body)).status_code == 200
        await target.came.wait()
        answered = await redeliver(running, job_id, body)
        assert answered.json()["error"]["code"] == "job_not_ended"
        transcript = await running.client.get(f"/v1/jobs/{job_id}/result")
        assert transcript.json()["text"].startswith("hello")
        cancelled = (await running.client.delete(f"/v1/jobs/{job_id}")).json()
        assert (cancelled["status"], cancelled["result_available"]) == ("cancelled", True)


async def test_it_works_after_a_restart_with_the_url_that_is_kept_and_with_a_fresh_one(
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
