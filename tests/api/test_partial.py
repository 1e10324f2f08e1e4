"""``GET /v1/jobs/{id}/partial``: the transcript of a running job so far, and of its result."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.api.test_keys_and_limits import bearer
from tests.support.service import serving

if TYPE_CHECKING:
    from pathlib import Path

    from app.transcription.whisper import WhisperModel
    from tests.support.held_model import Held
    from tests.support.service import Running

pytestmark = [pytest.mark.anyio, pytest.mark.contract]


async def partial(running: Running, job_id: str, start: int = 0) -> dict[str, Any]:
    response = await running.client.get(f"/v1/jobs/{job_id}/partial", params={"start": start})
    assert response.status_code == 200, response.text
    body: dict[str, Any] = response.json()
    return body


@pytest.mark.full(reason="transcribes a long recording")
async def test_segments_of_a_running_job_add_up_to_its_result(
    tmp_path: Path, model: WhisperModel, samples: Path
) -> None:
    collected: list[dict[str, Any]] = []
    words: list[dict[str, Any]] = []
    asked_while_running = 0
    async with serving(tmp_path / "data", lambda: model, whisper_batch_size="1") as running:
        fields = {"timestamp_granularities[]": ["word", "segment"]}
        job_id = await running.submit(samples / "long.opus", stored_output="true", **fields)
        body = await partial(running, job_id)
        while not body["is_final"]:
            assert body["start"] == len(collected)
            assert body["next"] == len(collected) + len(body["segments"])
            asked_while_running += bool(body["segments"])
            collected += body["segments"]
            words += body["words"]
            body = await partial(running, job_id, start=len(collected))
        collected += body["segments"]
        words += body["words"]
        assert asked_while_running
        result = (await running.job(job_id, include_result="true"))["result"]
        assert (collected, words) == (result["segments"], result["words"])
        assert body["attempt"] == 1
        await running.finished(job_id)
        assert not running.service.jobs.segments.so_far(job_id)


async def test_job_without_segments_has_an_empty_list(running: Running, samples: Path, held: Held) -> None:
    job_id = await running.submit(samples / "hello.wav", stored_output="true")
    await running.until_progress(job_id, "Transcribing audio")
    body = await partial(running, job_id)
    assert body == {"job_id": job_id, "start": 0, "next": 0, "is_final": False, "attempt": 1, "segments": []}
    assert (await partial(running, job_id, start=7))["next"] == 0
    await running.client.delete(f"/v1/jobs/{job_id}")
    held.open.set()
    assert (await partial(running, job_id)) == {**body, "attempt": 1}


async def test_result_is_final_and_begins_where_asked(shared: Running, samples: Path) -> None:
    job_id = await shared.submit(samples / "hello.wav", stored_output="true")
    await shared.finished(job_id)
    result = (await shared.job(job_id, include_result="true"))["result"]
    body = await partial(shared, job_id)
    count = len(result["segments"])
    assert (body["is_final"], body["next"], body["segments"]) == (True, count, result["segments"])
    assert "words" not in body
    assert (await partial(shared, job_id, start=count))["segments"] == []


@pytest.mark.parametrize("start", ["-1", "x", "1.5"])
async def test_invalid_start_is_rejected(shared: Running, samples: Path, start: str) -> None:
    job_id = await shared.submit(samples / "hello.wav", stored_output="true")
    response = await shared.client.get(f"/v1/jobs/{job_id}/partial", params={"start": start})
    assert (response.status_code, response.json()["error"]["param"]) == (400, "start")


async def test_job_of_another_key_is_404(tmp_path: Path, model: WhisperModel, samples: Path) -> None:
    async with serving(tmp_path / "data", lambda: model, api_keys="sk-one,sk-two") as running:
        running.client.headers.update(bearer("sk-one"))
        job_id = await running.submit(samples / "hello.wav", stored_output="true")
        for path in (job_id, "none"):
            refused = await running.client.get(f"/v1/jobs/{path}/partial", headers=bearer("sk-two"))
            assert (refused.status_code, refused.json()["error"]["code"]) == (404, "job_not_found")
