"""``Idempotency-Key``: the same request sent twice is one job."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from tests.support.fault_server import answer, fault_server, never_answer
from tests.support.service import serving
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from pathlib import Path

    import httpx

    from app.transcription.whisper import WhisperModel
    from tests.support.held_model import Held
    from tests.support.service import Running

pytestmark = [pytest.mark.anyio, pytest.mark.contract, pytest.mark.full(reason="starts a service for each test")]


async def submit(
    running: Running, file: Path, key: str, *, path: str = "transcriptions", **fields: str
) -> httpx.Response:
    content = await asyncio.to_thread(file.read_bytes)
    return await running.client.post(
        f"/v1/audio/{path}",
        files={"file": (file.name, content)},
        data=fields,
        headers={"Idempotency-Key": key},
        timeout=60,
    )


@pytest.mark.smoke
async def test_same_form_with_the_same_key_returns_the_first_job(running: Running, samples: Path) -> None:
    first = await submit(running, samples / "hello.wav", "one", stored_output="true", language="en")
    again = await submit(running, samples / "hello.wav", "one", language="en", stored_output="true")
    assert (first.status_code, again.status_code) == (200, 200)
    assert again.json() == first.json()
    assert again.headers["location"] == first.headers["location"]
    job = await running.finished(first.json()["job_id"])
    assert job["status"] == "completed"
    later = await submit(running, samples / "hello.wav", "one", stored_output="true", language="en")
    assert later.json()["job_id"] == job["job_id"]
    assert await running.jobs_with_files() == {job["job_id"]}


@pytest.mark.parametrize(
    ("file", "path", "fields"),
    [
        ("numbers.mp3", "transcriptions", {}),
        ("hello.wav", "translations", {}),
        ("hello.wav", "transcriptions", {"prompt": "other"}),
        ("hello.wav", "transcriptions", {"replace[hello]": "other"}),
        ("hello.wav", "transcriptions", {"timestamp_granularities[]": "word"}),
        ("hello.wav", "transcriptions", {"languages[]": "en"}),
        ("hello.wav", "transcriptions", {"vad_parameters[threshold]": "0.4"}),
    ],
)
@pytest.mark.smoke
async def test_other_form_with_the_same_key_is_rejected(
    running: Running, samples: Path, file: str, path: str, fields: dict[str, str]
) -> None:
    first = await submit(running, samples / "hello.wav", "one", stored_output="true")
    other = await submit(running, samples / file, "one", path=path, stored_output="true", **fields)
    error = other.json()["error"]
    assert (other.status_code, error["code"]) == (400, "idempotency_key_reused")
    assert first.json()["job_id"] in error["message"]
    assert await running.jobs_with_files() == {first.json()["job_id"]}


async def test_ten_concurrent_requests_with_one_key_are_one_job(running: Running, samples: Path) -> None:
    responses = await asyncio.gather(
        *(submit(running, samples / "hello.wav", "one", stored_output="true") for _ in range(10))
    )
    assert len({response.json()["job_id"] for response in responses}) == 1
    assert (await running.client.get("/v1/jobs")).json()["total_jobs"] == 1


async def test_replay_replaces_the_upload_url(tmp_path: Path, model: WhisperModel, samples: Path, held: Held) -> None:
    async with (
        fault_server(answer(200)) as target,
        serving(tmp_path / "data", lambda: model, url_allowed_hosts="127.0.0.1") as running,
    ):
        old, new = (target.url(f"/bucket/key?Signature={name}") for name in ("first", "second"))
        first = await submit(running, samples / "hello.wav", "one", upload_presigned_url=old)
        again = await submit(running, samples / "hello.wav", "one", upload_presigned_url=new)
        assert again.json()["job_id"] == first.json()["job_id"]
        held.open.set()
        assert (await running.finished(first.json()["job_id"]))["status"] == "completed"
        (put,) = target.requests
        assert "Signature=second" in put.target
        other = await submit(
            running, samples / "hello.wav", "one", upload_presigned_url=target.url("/bucket/other?Signature=third")
        )
        assert other.status_code == 400


async def test_replay_during_the_upload_changes_nothing(tmp_path: Path, model: WhisperModel, samples: Path) -> None:
    async with (
        fault_server(never_answer()) as target,
        serving(tmp_path / "data", lambda: model, url_allowed_hosts="127.0.0.1") as running,
    ):
        first = await submit(
            running, samples / "hello.wav", "one", upload_presigned_url=target.url("/bucket/key?Signature=first")
        )
        job_id = first.json()["job_id"]
        await running.until_progress(job_id, "Uploading results")
        await submit(
            running, samples / "hello.wav", "one", upload_presigned_url=target.url("/bucket/key?Signature=second")
        )
        (upload,) = running.service.jobs.store.get(job_id).job.uploads
        assert upload.url.endswith("first")
        await running.client.delete(f"/v1/jobs/{job_id}")


async def test_key_can_be_reused_when_its_job_is_forgotten(running: Running, samples: Path) -> None:
    first = await running.finished(
        (await submit(running, samples / "hello.wav", "k", stored_output="1")).json()["job_id"]
    )
    await running.client.delete(f"/v1/jobs/{first['job_id']}")
    second = await submit(running, samples / "numbers.mp3", "k", stored_output="true")
    assert second.status_code == 200
    assert second.json()["job_id"] != first["job_id"]


async def test_idempotency_keys_belong_to_an_api_key(tmp_path: Path, model: WhisperModel, samples: Path) -> None:
    async with serving(tmp_path / "data", lambda: model, api_keys="sk-one,sk-two") as running:
        ids = set()
        for key in ("sk-one", "sk-two"):
            running.client.headers["Authorization"] = f"Bearer {key}"
            ids.add((await submit(running, samples / "hello.wav", "same", stored_output="true")).json()["job_id"])
        assert len(ids) == 2


async def test_synchronous_replay_joins_the_running_request(running: Running, samples: Path, held: Held) -> None:
    requests = [asyncio.create_task(submit(running, samples / "hello.wav", "one")) for _ in range(2)]
    await eventually(lambda: [request.clients for request in running.service.sync_requests._requests.values()] == [2])
    held.open.set()
    assert [(await request).json()["text"].split()[0] for request in requests] == ["hello", "hello"]
    assert held.decoded == 1
    await eventually(lambda: not running.service.jobs.store.live_jobs())


@pytest.mark.parametrize("key", ["", "k" * 256])
@pytest.mark.smoke
async def test_key_of_invalid_length_is_rejected(running: Running, samples: Path, key: str) -> None:
    response = await submit(running, samples / "hello.wav", key, stored_output="true")
    assert response.status_code == 400
    assert "must have 1 to 255 characters" in response.json()["error"]["message"]


async def test_synchronous_requests_with_one_key_all_get_the_transcript(running: Running, samples: Path) -> None:
    responses = []
    for _ in range(6):
        requests = [asyncio.create_task(submit(running, samples / "hello.wav", "one"))]
        await asyncio.wait(requests, timeout=0.3)
        requests += [asyncio.create_task(submit(running, samples / "hello.wav", "one")) for _ in range(4)]
        responses += await asyncio.gather(*requests)
    assert {response.status_code for response in responses} == {200}
    assert len({response.json()["text"] for response in responses}) == 1
    await eventually(lambda: not running.service.jobs.store.live_jobs())


async def test_full_queue_accepts_a_replay(tmp_path: Path, model: WhisperModel, samples: Path, held: Held) -> None:
    async with serving(tmp_path / "data", lambda: model, max_queued_jobs=1, max_concurrent_requests=1) as running:
        first = await submit(running, samples / "hello.wav", "one", stored_output="true")
        await running.until_progress(first.json()["job_id"], "Transcribing audio")
        await running.until_waiting(0)
        second = await submit(running, samples / "numbers.mp3", "two", stored_output="true")
        await running.until_waiting(1)
        assert (await submit(running, samples / "hello.wav", "three", stored_output="true")).status_code == 429
        again = await submit(running, samples / "numbers.mp3", "two", stored_output="true")
        assert again.json()["job_id"] == second.json()["job_id"]
        held.open.set()
        await running.finished(second.json()["job_id"])


async def test_streams_ignore_the_key(running: Running, samples: Path, held: Held) -> None:
    requests = [asyncio.create_task(submit(running, samples / "hello.wav", "one", stream="true")) for _ in range(2)]
    await eventually(lambda: len(running.service.jobs.store.live_jobs()) == 2)
    held.open.set()
    for response in await asyncio.gather(*requests):
        assert '"type":"transcript.text.done"' in response.text
