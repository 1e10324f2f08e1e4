"""API keys, the queue's limit and readiness are checked before the first byte of a body."""

from __future__ import annotations

import asyncio
from threading import Event
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.service import serving
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from pathlib import Path

    import httpx

    from app.transcription.whisper import WhisperModel
    from tests.support.held_model import Held

pytestmark = [pytest.mark.anyio, pytest.mark.contract]


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


async def test_requests_require_one_of_the_keys(tmp_path: Path, model: WhisperModel) -> None:
    async with serving(tmp_path / "data", lambda: model, api_keys="alpha, beta") as running:
        for headers in (
            {},
            bearer("gamma"),
            {"Authorization": "Bearer"},
            {"Authorization": "alpha"},
            {"Authorization": "Basic alpha"},
        ):
            response = await running.client.get("/v1/jobs", headers=headers)
            assert response.status_code == 401
            assert response.json()["error"]["code"] == "invalid_api_key"
            assert "alpha" not in response.text
        assert (await running.client.get("/v1/jobs", headers=bearer("beta"))).status_code == 200
        assert (await running.client.get("/health")).status_code == 200


async def test_each_key_sees_only_its_own_jobs(tmp_path: Path, model: WhisperModel, samples: Path) -> None:
    async with serving(tmp_path / "data", lambda: model, api_keys="alpha,beta") as running:
        files = {"file": ("hello.wav", (samples / "hello.wav").read_bytes())}
        response = await running.client.post(
            "/v1/audio/transcriptions", files=files, data={"stored_output": "true"}, headers=bearer("alpha")
        )
        path = response.json()["status_url"]
        assert response.headers["location"] == path
        assert (await running.client.get(path, headers=bearer("alpha"))).status_code == 200
        assert (await running.client.get(path, headers=bearer("beta"))).status_code == 404
        assert (await running.client.delete(path, headers=bearer("beta"))).status_code == 404
        assert (await running.client.get("/v1/jobs", headers=bearer("beta"))).json()["total_jobs"] == 0


async def test_rejection_reaches_a_client_that_is_still_sending(tmp_path: Path, model: WhisperModel) -> None:
    async with serving(tmp_path / "data", lambda: model, api_keys="alpha") as running:
        port = int(running.address.rpartition(":")[2])
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: x\r\nContent-Length: 50000000\r\n\r\n")
        for _ in range(50):
            writer.write(b"x" * 100_000)
            await writer.drain()
        async with asyncio.timeout(60):
            head = await reader.readuntil(b"\r\n\r\n")
        assert b" 401 " in head
        assert b"connection: close" in head.lower()
        writer.close()


async def test_rejected_client_gets_no_100_continue(tmp_path: Path, model: WhisperModel) -> None:
    async with serving(tmp_path / "data", lambda: model, api_keys="alpha") as running:
        port = int(running.address.rpartition(":")[2])
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(
            b"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\nExpect: 100-continue\r\n\r\n"
        )
        async with asyncio.timeout(60):
            assert b" 401 " in await reader.readline()
        writer.close()


async def test_aborted_upload_leaves_nothing(
    tmp_path: Path, model: WhisperModel, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(tmp_path / "data", lambda: model) as running:
        port = int(running.address.rpartition(":")[2])
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(
            b"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: x\r\nContent-Length: 5000000\r\n"
            b"Content-Type: multipart/form-data; boundary=x\r\n\r\n"
            b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n' + b"a" * 3_000_000
        )
        await writer.drain()
        await eventually(lambda: running.service.jobs.intake.arriving_count() == 1)
        writer.close()
        await eventually(lambda: running.service.jobs.intake.arriving_count() == 0)
        assert await running.jobs_with_files() == set()
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


async def test_full_queue_is_429_with_a_computed_retry_after(
    tmp_path: Path, model: WhisperModel, samples: Path, held: Held
) -> None:
    settings: dict[str, Any] = {"max_queued_jobs": 2, "max_concurrent_requests": 1}
    async with serving(tmp_path / "data", lambda: model, **settings) as running:
        running_job = await running.submit(samples / "hello.wav", stored_output="true")
        await running.until(running_job, "processing")
        for waiting in range(2):
            await running.until_waiting(waiting)
            await running.submit(samples / "hello.wav", stored_output="true")
        await running.until_waiting(2)
        for fields in ({"stored_output": "true"}, {}):
            response = await running.transcribe(samples / "hello.wav", **fields)
            assert response.status_code == 429
            assert response.json()["error"]["code"] == "queue_full"
            assert 1 <= int(response.headers["retry-after"]) <= 120
        held.open.set()


async def test_requests_are_503_until_the_model_is_loaded(tmp_path: Path, model: WhisperModel, samples: Path) -> None:
    loaded = Event()

    def load() -> WhisperModel:
        loaded.wait(30)
        return model

    async with serving(tmp_path / "data", load, wait_for_model=False) as running:
        try:
            health = (await running.client.get("/health")).json()
            assert health["status"] == "loading"
            assert health["model"]["loaded"] is False
            ready = await running.client.get("/health/ready")
            assert (ready.status_code, ready.headers["retry-after"]) == (503, "10")
            rejected = await running.transcribe(samples / "hello.wav")
            assert rejected.status_code == 503
            assert "retry-after" in rejected.headers
        finally:
            loaded.set()
        await eventually(running.is_ready)
        assert (await running.transcribe(samples / "hello.wav")).status_code == 200


#: Every route below /v1 except the open one, and two that do not exist.
ROUTES = (
    ("POST", "/v1/audio/transcriptions"),
    ("POST", "/v1/audio/translations"),
    ("POST", "/openai/v1/audio/transcriptions"),
    ("POST", "/v1//audio/transcriptions/"),
    ("POST", "/openai/deployments/demo/audio/transcriptions"),
    ("GET", "/v1/jobs"),
    ("GET", "/v1/jobs/{job}"),
    ("GET", "/v1/jobs/{job}/result"),
    ("GET", "/v1/jobs/{job}/events"),
    ("GET", "/v1/jobs/{job}/partial"),
    ("GET", "/v1/jobs/{job}/audio"),
    ("HEAD", "/v1/jobs/{job}/audio"),
    ("POST", "/v1/jobs/{job}/audio/ticket"),
    ("GET", "/v1/jobs/{job}/waveform"),
    ("GET", "/v1/jobs/{job}/transcript"),
    ("PUT", "/v1/jobs/{job}/transcript"),
    ("PATCH", "/v1/jobs/{job}"),
    ("POST", "/v1/jobs/{job}/redeliver"),
    ("DELETE", "/v1/jobs/{job}"),
    ("GET", "/v1/events"),
    ("POST", "/v1/realtime/client_secrets"),
    ("GET", "/v1/models"),
    ("GET", "/v1/models/demo"),
    ("GET", "/v1/organization/usage/audio_transcriptions"),
    ("GET", "/v1/nothing"),
    ("PUT", "/v1/jobs"),
)


def code_of(response: httpx.Response) -> str:
    """Return the code of an error; the response to HEAD has no body, and gets the expected one."""
    if response.request.method == "HEAD":
        return {401: "invalid_api_key", 404: "job_not_found"}[response.status_code]
    return str(response.json()["error"]["code"])


async def test_every_route_requires_a_key_and_hides_jobs_of_others(
    tmp_path: Path, model: WhisperModel, samples: Path
) -> None:
    async with serving(tmp_path / "data", lambda: model, api_keys="a:alpha,b:beta") as running:
        published = {
            (method.upper(), path)
            for path, methods in (await running.description())["paths"].items()
            for method in methods
            if path.startswith("/v1/") and path != "/v1/server"
        }
        requested = {
            (method, path.replace("{job}", "{job_id}").replace("demo", "{model_id}")) for method, path in ROUTES
        }
        assert published <= requested
        running.client.headers.update(bearer("alpha"))
        job = await running.submit(samples / "hello.wav", stored_output="true")
        await running.until(job, "completed")
        del running.client.headers["authorization"]
        for method, path in ROUTES:
            target = path.format(job=job)
            for headers in ({}, bearer("wrong"), bearer("alphabeta"), {"Authorization": "Basic alpha"}):
                response = await running.client.request(method, target, headers=headers)
                assert (response.status_code, code_of(response)) == (401, "invalid_api_key"), (method, target)
                assert response.headers["www-authenticate"] == "Bearer"
            if "{job}" in path:
                response = await running.client.request(method, target, headers=bearer("beta"))
                assert (response.status_code, code_of(response)) == (404, "job_not_found"), (method, target)
        assert (await running.client.get(f"/v1/jobs?after={job}", headers=bearer("beta"))).status_code == 404
        assert (await running.client.get(f"/v1/jobs/{job}", headers=bearer("alpha"))).json()["status"] == "completed"


@pytest.mark.full(reason="sends thousands of requests")
async def test_many_wrong_keys_are_logged_briefly_and_change_nothing(
    tmp_path: Path, model: WhisperModel, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(tmp_path / "data", lambda: model, api_keys="alpha") as running:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(running.address.rpartition(":")[2]))
        for number in range(2000):
            writer.write(b"GET /v1/jobs HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer wrong%d\r\n\r\n" % number)
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 60)
            assert head.startswith(b"HTTP/1.1 401 ")
            await reader.readuntil(b"}}")
        writer.close()
        assert (await running.client.get("/v1/jobs", headers=bearer("alpha"))).status_code == 200
    messages = [record.getMessage() for record in caplog.records if "had no key" in record.getMessage()]
    assert 1 <= len(messages) <= 20
    assert "wrong1" not in caplog.text


async def test_log_names_the_key_of_a_job(
    tmp_path: Path, model: WhisperModel, samples: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    async with serving(tmp_path / "data", lambda: model, api_keys="billing:alpha-secret") as running:
        running.client.headers.update(bearer("alpha-secret"))
        job = await running.submit(samples / "hello.wav", stored_output="true")
        await running.until(job, "completed")
    assert f"Job {job} accepted, key billing" in caplog.text
    assert "alpha-secret" not in caplog.text


async def test_key_is_checked_before_anything_else(tmp_path: Path, model: WhisperModel) -> None:
    async with serving(tmp_path / "data", lambda: model, api_keys="alpha", max_upload_bytes=1) as running:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(running.address.rpartition(":")[2]))
        writer.write(b"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\nno form")
        async with asyncio.timeout(60):
            assert (await reader.readline()).startswith(b"HTTP/1.1 401 ")
        writer.close()
        assert await running.jobs_with_files() == set()
