"""Names of jobs: where they come from, renaming, and finding jobs by them; and what a job shows of its request."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from app.domain.job import JobStatus
from tests.api.test_keys_and_limits import bearer
from tests.support.service import Running, serving

if TYPE_CHECKING:
    from pathlib import Path

    from local_s3 import LocalS3

    from app.transcription.whisper import WhisperModel
    from tests.support.held_model import Held

pytestmark = [pytest.mark.anyio, pytest.mark.contract]


async def submitted(running: Running, samples: Path, disposition: bytes, **fields: str) -> dict[str, Any]:
    """Submit a job whose file has this Content-Disposition after its name, and return the job."""
    parts = {"stored_output": "true", **fields}.items()
    body = b"".join(
        b'--b\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s\r\n' % (name.encode(), value.encode())
        for name, value in parts
    )
    audio = (samples / "hello.wav").read_bytes()
    body += b'--b\r\nContent-Disposition: form-data; name="file"%s\r\n\r\n%s\r\n--b--\r\n' % (disposition, audio)
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    accepted = await running.client.post("/v1/audio/transcriptions", content=body, headers=headers)
    assert accepted.status_code == 200, accepted.text
    return await running.job(accepted.json()["job_id"])


@pytest.mark.parametrize(
    ("disposition", "name"),
    [
        (b'; filename="call.mp3"', "call.mp3"),
        ('; filename="bücher.mp3"'.encode(), "bücher.mp3"),
        (b"; filename*=UTF-8''b%C3%BCcher%20%3C1%3E.mp3", "bücher <1>.mp3"),
        (b"; filename=\"call.mp3\"; filename*=UTF-8''b%C3%BCcher.mp3", "bücher.mp3"),
        (b'; filename="../../etc/passwd"', "passwd"),
        ('; filename="a\u202egpj.mp3"'.encode(), "agpj.mp3"),
        (b'; filename="<img src=x onerror=alert(1)>.mp3"', "<img src=x onerror=alert(1)>.mp3"),
        (b'; filename="\xff.mp3"', "\ufffd.mp3"),
        (b'; filename="%s"' % (b"x" * 300), "x" * 255),
        (b'; filename=""', None),
        (b"; filename*=", None),
        (b"; filename*=broken", "broken"),
    ],
)
async def test_job_is_named_after_its_file(
    shared: Running, samples: Path, disposition: bytes, name: str | None
) -> None:
    assert (await submitted(shared, samples, disposition)).get("name") == name


async def test_name_of_the_form_comes_first(shared: Running, samples: Path) -> None:
    job = await submitted(shared, samples, b'; filename="call.mp3"', name=" Interview\n7 ")
    assert job["name"] == "Interview7"
    job = await submitted(shared, samples, b'; filename="call.mp3"', name="\u202e")
    assert job["name"] == "call.mp3"


async def test_job_is_named_after_its_url(shared: Running, store: LocalS3) -> None:
    url = store.presign_get("results", "calls/call 7.mp3")
    job_id = await shared.submit(s3_presigned_url=url, stored_output="true")
    assert (await shared.job(job_id))["name"] == "call 7.mp3"


@pytest.mark.full(reason="takes more than a second")
async def test_job_shows_what_was_asked_for(shared: Running, samples: Path) -> None:
    plain = await shared.finished(await shared.submit(samples / "hello.wav", stored_output="true"))
    assert (plain["task"], plain["timestamp_granularities"]) == ("transcribe", ["segment"])
    assert "multichannel" not in plain
    fields = {"timestamp_granularities[]": ["word", "segment"], "multichannel": "true"}
    job_id = await shared.submit(samples / "hello.wav", stored_output="true", **fields)
    assert "processing_time" not in await shared.job(job_id)
    await shared.finished(job_id)
    job = await shared.job(job_id, include_result="true")
    assert (job["timestamp_granularities"], job["multichannel"]) == (["segment", "word"], True)
    assert job["processing_time"] == job["result"]["processing_time"] > 0


@pytest.mark.full(reason="takes more than a second")
async def test_renamed_job_keeps_its_name_after_a_restart(tmp_path: Path, model: WhisperModel, samples: Path) -> None:
    async with serving(tmp_path / "data", lambda: model) as running:
        job_id = await running.submit(samples / "hello.wav", stored_output="true")
        finished = await running.finished(job_id)
        renamed = await running.client.patch(f"/v1/jobs/{job_id}", json={"name": "Interview\u202e 7"})
        assert renamed.status_code == 200
        assert renamed.json() == {**finished, "name": "Interview 7"}
    async with serving(tmp_path / "data", lambda: model) as running:
        job = await running.job(job_id)
        assert job["name"] == "Interview 7"
        assert job["processing_time"] == finished["processing_time"]
        for nothing in (None, "", " \n"):
            await running.client.patch(f"/v1/jobs/{job_id}", json={"name": "x"})
            assert "name" not in (await running.client.patch(f"/v1/jobs/{job_id}", json={"name": nothing})).json()


async def test_running_job_can_be_renamed(running: Running, samples: Path, held: Held) -> None:
    job_id = await running.submit(samples / "hello.wav", stored_output="true")
    await running.until_progress(job_id, "Transcribing audio")
    renamed = (await running.client.patch(f"/v1/jobs/{job_id}", json={"name": "later"})).json()
    assert (renamed["name"], renamed["status"]) == ("later", "processing")
    held.open.set()
    assert (await running.finished(job_id))["name"] == "later"


@pytest.mark.parametrize(
    "body", [b"", b"[]", b'{"name": 7}', b"{}", b'{"name": "x", "status": "completed"}', b"\xff", b'{"name": ["x"]}']
)
async def test_other_changes_are_rejected_with_an_example(shared: Running, samples: Path, body: bytes) -> None:
    job_id = await shared.submit(samples / "hello.wav", stored_output="true")
    rejected = await shared.client.patch(f"/v1/jobs/{job_id}", content=body)
    assert rejected.status_code == 400
    assert '{"name": "Interview"}' in rejected.json()["error"]["message"]
    assert (await shared.job(job_id))["name"] == "hello.wav"


async def test_lone_surrogate_in_a_name_is_removed(shared: Running, samples: Path) -> None:
    job_id = await shared.submit(samples / "hello.wav", stored_output="true")
    renamed = await shared.client.patch(f"/v1/jobs/{job_id}", content=b'{"name": "a\\ud800b"}')
    assert renamed.json()["name"] == "ab"


async def test_job_of_another_key_cannot_be_renamed(tmp_path: Path, model: WhisperModel, samples: Path) -> None:
    async with serving(tmp_path / "data", lambda: model, api_keys="sk-one,sk-two") as running:
        running.client.headers.update(bearer("sk-one"))
        job_id = await running.submit(samples / "hello.wav", stored_output="true")
        for path in (job_id, "none"):
            refused = await running.client.patch(f"/v1/jobs/{path}", json={"name": "x"}, headers=bearer("sk-two"))
            assert (refused.status_code, refused.json()["error"]["code"]) == (404, "job_not_found")
        assert (await running.job(job_id))["name"] == "hello.wav"


@pytest.mark.full(reason="takes more than a second")
async def test_jobs_are_listed_by_name_and_activity(running: Running, samples: Path, held: Held) -> None:
    first = await running.submit(samples / "hello.wav", stored_output="true", name="Straße")
    await running.until_progress(first, "Transcribing audio")
    second = await running.submit(samples / "hello.wav", stored_output="true", name="strasse 2")
    third = await running.submit(samples / "hello.wav", stored_output="true", name="other")
    await running.client.delete(f"/v1/jobs/{third}")

    async def listed(**params: str | int) -> tuple[list[str], int]:
        page = (await running.client.get("/v1/jobs", params=params)).json()
        return list(page["jobs"]), page["total_jobs"]

    assert await listed(status="active") == ([second, first], 2)
    assert await listed(q="STRASSE") == ([second, first], 2)
    assert await listed(q="STRASSE", limit=1) == ([second], 2)
    assert await listed(q="STRASSE", limit=1, after=second) == ([first], 2)
    assert await listed(q=third[:13]) == ([third], 1)
    assert await listed(q="other", status="active") == ([], 0)
    assert await listed(q=" ", status="cancelled") == ([third], 1)
    held.open.set()
    await running.finished(first)
    await running.finished(second)
    assert await listed(status="active") == ([], 0)
    assert [await listed(status=status.value) for status in JobStatus] == [
        *([([], 0)] * 2),
        ([second, first], 2),
        ([], 0),
        ([third], 1),
    ]


@pytest.mark.parametrize(("name", "value"), [("status", "busy"), ("q", "x" * 256)])
async def test_invalid_filter_is_rejected_by_name(shared: Running, name: str, value: str) -> None:
    rejected = await shared.client.get("/v1/jobs", params={name: value})
    assert rejected.status_code == 400
    assert rejected.json()["error"]["param"] == name
    assert rejected.json()["error"]["message"].startswith(f"`{name}` is invalid: ")
