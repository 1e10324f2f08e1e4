"""``GET /v1/jobs/{id}/events``: a job as server-sent events."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from app.api import jobs
from tests.support.service import serving
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    import httpx

    from app.transcription.whisper import WhisperModel
    from tests.support.held_model import Held
    from tests.support.service import Running

pytestmark = [pytest.mark.anyio, pytest.mark.contract, pytest.mark.full(reason="starts a service for each test")]


class Events:
    """The events of one connection, as (number, job)."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self._lines = response.aiter_lines()

    async def next(self) -> tuple[int, dict[str, Any]] | None:
        number = None
        async for line in self._lines:
            if line.startswith("id: "):
                number = int(line[4:])
            elif line.startswith("data: "):
                assert number is not None
                return number, json.loads(line[6:])
        return None

    async def rest(self) -> list[tuple[int, dict[str, Any]]]:
        received = []
        while (event := await self.next()) is not None:
            received.append(event)
        return received


@asynccontextmanager
async def following(running: Running, job_id: str, *, seen: int | None = None) -> AsyncIterator[Events]:
    headers = {} if seen is None else {"Last-Event-ID": str(seen)}
    async with running.client.stream("GET", f"/v1/jobs/{job_id}/events", headers=headers, timeout=60) as response:
        yield Events(response)


@pytest.mark.smoke
async def test_job_is_followed_with_its_progress_to_the_end(tmp_path: Path, model: WhisperModel, samples: Path) -> None:
    async with serving(tmp_path / "data", lambda: model, whisper_batch_size="1") as running:
        job_id = await running.submit(samples / "long.opus", stored_output="true")
        async with following(running, job_id) as events:
            assert events.response.headers["content-type"].startswith("text/event-stream")
            received = await events.rest()
    numbers = [number for number, _ in received]
    assert numbers == sorted(numbers)
    states = [(number, job.get("queue_position")) for number, job in received]  # a place in the queue has no number
    assert len(set(states)) == len(states)
    percents = [job["progress_percent"] for _, job in received]
    assert percents == sorted(percents)
    assert any(0 < percent < 100 for percent in percents)
    assert all(job["job_id"] == job_id for _, job in received)
    assert [job["status"] for _, job in received if job["status"] in ("completed", "failed", "cancelled")] == [
        "completed"
    ]
    assert received[-1][1]["progress"] == "Done"


async def test_reconnected_client_receives_only_new_events(running: Running, samples: Path, held: Held) -> None:
    job_id = await running.submit(samples / "hello.wav", stored_output="true")
    await running.until_progress(job_id, "Transcribing audio")
    async with following(running, job_id) as events:
        event = await events.next()
        assert event is not None
    await eventually(lambda: not running.service.jobs.subscriptions.count)
    async with following(running, job_id, seen=event[0]) as events:
        rest = asyncio.create_task(events.rest())
        await eventually(lambda: bool(running.service.jobs.subscriptions.count))
        held.open.set()
        received = await rest
    assert all(number > event[0] for number, _ in received)
    assert received[-1][1]["status"] == "completed"
    async with following(running, job_id) as events:
        assert [job["status"] for _, job in await events.rest()] == ["completed"]
    async with following(running, job_id, seen=received[-1][0]) as events:
        assert events.response.status_code == 204


async def test_change_of_queue_position_is_an_event(
    tmp_path: Path, model: WhisperModel, samples: Path, held: Held
) -> None:
    async with serving(tmp_path / "data", lambda: model, max_concurrent_requests=1) as running:
        first = await running.submit(samples / "numbers.mp3", stored_output="true")
        await running.until_progress(
            first, "Transcribing audio"
        )  # among several, the first whose audio is decoded gets the slot
        second, third = [await running.submit(samples / "numbers.mp3", stored_output="true") for _ in range(2)]
        await running.until_position(third, 2)
        async with following(running, third) as events:
            event = await events.next()
            assert event is not None
            assert event[1]["queue_position"] == 2
            await running.client.delete(f"/v1/jobs/{second}")
            while event is not None and event[1]["queue_position"] == 2:  # other changes are events too
                event = await events.next()
            assert event is not None
            assert event[1]["queue_position"] == 1
            held.open.set()
            assert (await events.rest())[-1][1]["status"] == "completed"


async def test_cancelled_job_ends_its_stream(running: Running, samples: Path, held: Held) -> None:
    job_id = await running.submit(samples / "hello.wav", stored_output="true")
    await running.until_progress(job_id, "Transcribing audio")
    async with following(running, job_id) as events:
        await events.next()
        await running.client.delete(f"/v1/jobs/{job_id}")
        held.open.set()
        assert (await events.rest())[-1][1]["status"] == "cancelled"


async def test_unchanged_job_is_repeated_to_keep_the_connection_alive(
    running: Running, samples: Path, held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "KEEP_ALIVE_SECONDS", 0.1)
    job_id = await running.submit(samples / "hello.wav", stored_output="true")
    await running.until_progress(job_id, "Transcribing audio")
    async with following(running, job_id) as events:
        first, second = await events.next(), await events.next()
        assert first is not None
        assert second is not None
        assert first[0] == second[0]
        assert first[1]["elapsed_time"] < second[1]["elapsed_time"]
        held.open.set()
        await events.rest()


async def test_unknown_job_and_job_of_another_key_are_404(tmp_path: Path, model: WhisperModel, samples: Path) -> None:
    async with serving(tmp_path / "data", lambda: model, api_keys="sk-one,sk-two") as running:
        running.client.headers["Authorization"] = "Bearer sk-one"
        job_id = await running.submit(samples / "hello.wav", stored_output="true")
        running.client.headers["Authorization"] = "Bearer sk-two"
        for path in (job_id, "none"):
            response = await running.client.get(f"/v1/jobs/{path}/events")
            assert response.status_code == 404
            assert response.json()["error"]["code"] == "job_not_found"


@pytest.mark.parametrize("seen", ["9" * 5000, "-1", "1.5", "²"])
@pytest.mark.smoke
async def test_invalid_last_event_id_is_ignored(running: Running, samples: Path, seen: str) -> None:
    job_id = await running.submit(samples / "hello.wav", stored_output="true")
    await running.finished(job_id)
    response = await running.client.get(f"/v1/jobs/{job_id}/events", headers={b"Last-Event-ID": seen.encode()})
    assert response.status_code == 200


async def test_disconnected_client_leaves_no_subscription(running: Running, samples: Path, held: Held) -> None:
    job_id = await running.submit(samples / "hello.wav", stored_output="true")
    async with following(running, job_id) as events:
        await events.next()
        assert running.service.jobs.subscriptions.count
    await eventually(lambda: not running.service.jobs.subscriptions.count)
    held.open.set()
    assert (await running.finished(job_id))["status"] == "completed"
