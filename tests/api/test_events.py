"""``GET /v1/events``: all changes of a key's jobs as one stream, which continues after a disconnect."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from app.api import events as events_module
from app.domain.job import Progress
from app.jobs import changes as changes_module
from tests.api.test_keys_and_limits import bearer
from tests.jobs.rig import a_job
from tests.support.service import serving
from tests.support.waiting import LIMIT_SECONDS, eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    import httpx

    from app.transcription.whisper import WhisperModel
    from tests.support.held_model import Held
    from tests.support.service import Running

pytestmark = [pytest.mark.anyio, pytest.mark.contract, pytest.mark.full(reason="starts a service for each test")]


@dataclass(frozen=True, slots=True)
class Received:
    """An event of the stream; ``id`` is empty if it has none."""

    name: str
    id: str
    data: dict[str, Any]


class Stream:
    """The events of one connection, without those about health unless they are asked for."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self._lines = response.aiter_lines()

    async def next(self, *, with_health: bool = False) -> Received:
        fields: dict[str, str] = {}
        while (line := await self.line()) is not None:
            name, _, value = line.partition(": ")
            fields[name] = value
            if line or "data" not in fields:
                continue
            event = Received(fields["event"], fields.get("id", ""), json.loads(fields["data"]))
            fields = {}
            if with_health or event.name != "health":
                return event
        raise AssertionError("The stream has ended.")

    async def line(self) -> str | None:
        """Return the next line, or None at the end of the stream."""
        async with asyncio.timeout(LIMIT_SECONDS):
            return await anext(self._lines, None)

    async def until(self, condition: Callable[[Received], bool]) -> list[Received]:
        """Return the events up to the first that meets the condition."""
        received = [await self.next()]
        while not condition(received[-1]):
            received.append(await self.next())
        return received

    async def until_status(self, job_id: str, status: str) -> list[Received]:
        return await self.until(lambda event: event.data.get("job_id") == job_id and event.data["status"] == status)


@asynccontextmanager
async def following(running: Running, *, after: str | None = None, **headers: str) -> AsyncIterator[Stream]:
    sent = headers if after is None else {**headers, "Last-Event-ID": after}
    async with running.client.stream("GET", "/v1/events", headers=sent, timeout=LIMIT_SECONDS) as response:
        assert response.status_code == 200
        yield Stream(response)


@pytest.mark.smoke
async def test_job_is_followed_from_its_submission_to_its_deletion(running: Running, samples: Path) -> None:
    async with following(running) as stream:
        assert stream.response.headers["content-type"].startswith("text/event-stream")
        hello = await stream.next()
        assert (hello.name, hello.data) == ("hello", {"cursor": hello.id})
        job_id = await running.submit(samples / "hello.wav", stored_output="true")
        received = await stream.until_status(job_id, "completed")
        assert {event.name for event in received} == {"job"}
        assert received[-1].data == {
            **await running.finished(job_id),
            "elapsed_time": received[-1].data["elapsed_time"],
        }
        await running.client.patch(f"/v1/jobs/{job_id}", json={"name": "Interview"})
        assert (await stream.next()).data["name"] == "Interview"
        await running.client.delete(f"/v1/jobs/{job_id}")
        removed = await stream.next()
        assert (removed.name, removed.data) == ("removed", {"job_id": job_id})
        ids = [hello.id, *(event.id for event in received), removed.id]
    numbers = [int(event_id.rpartition("-")[2]) for event_id in ids]
    assert numbers == sorted(set(numbers))
    assert len({event_id.partition("-")[0] for event_id in ids}) == 1


@pytest.mark.smoke
async def test_stream_continues_with_what_has_changed_meanwhile(running: Running, samples: Path) -> None:
    unchanged, changed, deleted = [
        await running.submit(samples / "hello.wav", stored_output="true", name=name) for name in ("a", "b", "c")
    ]
    for job_id in (unchanged, changed, deleted):
        await running.finished(job_id)
    async with following(running) as stream:
        cursor = (await stream.next()).id
    await running.client.patch(f"/v1/jobs/{changed}", json={"name": "d"})
    await running.client.patch(f"/v1/jobs/{changed}", json={"name": "e"})
    await running.client.delete(f"/v1/jobs/{deleted}")
    async with following(running, after=cursor) as stream:
        hello, job, removed = [await stream.next() for _ in range(3)]
        assert (hello.name, hello.id) == ("hello", cursor)
        assert (job.name, job.data["job_id"], job.data["name"]) == ("job", changed, "e")
        assert (removed.name, removed.data) == ("removed", {"job_id": deleted})
    async with following(running, after=job.id) as stream:
        assert [(await stream.next()).id for _ in range(2)] == [job.id, removed.id]


@pytest.mark.parametrize("cursor", ["{boot}-999999", "0123456789ab-0", "{boot}", "{boot}-x", "nothing", "9" * 5000])
@pytest.mark.smoke
async def test_unknown_cursor_resets_the_stream(shared: Running, cursor: str) -> None:
    boot_id = shared.service.jobs.changes.boot_id
    async with following(shared, after=cursor.format(boot=boot_id)) as stream:
        reset = await stream.next()
    assert (reset.name, reset.data) == ("reset", {"cursor": reset.id})
    assert reset.id.startswith(f"{boot_id}-")


async def test_cursor_that_is_older_than_the_known_removals_resets_the_stream(
    running: Running, samples: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(changes_module, "_MOST_REMOVALS", 1)
    async with following(running) as stream:
        cursor = (await stream.next()).id
    for _ in range(2):
        job_id = await running.submit(samples / "hello.wav", stored_output="true")
        await running.finished(job_id)
        await running.client.delete(f"/v1/jobs/{job_id}")
    async with following(running, after=cursor) as stream:
        assert [(await stream.next()).name for _ in range(2)] == ["hello", "reset"]


@pytest.mark.smoke
async def test_each_key_follows_its_own_jobs(tmp_path: Path, model: WhisperModel, samples: Path) -> None:
    async with serving(tmp_path / "data", lambda: model, api_keys="sk-one,sk-two") as running:
        assert (await running.client.get("/v1/events")).status_code == 401
        async with following(running, **bearer("sk-one")) as one, following(running, **bearer("sk-two")) as two:
            await one.next()
            cursor = (await two.next()).id
            jobs = {}
            for key in ("sk-one", "sk-two"):
                running.client.headers.update(bearer(key))
                jobs[key] = await running.submit(samples / "hello.wav", stored_output="true")
                await running.finished(jobs[key])
            for key, stream in (("sk-one", one), ("sk-two", two)):
                received = await stream.until_status(jobs[key], "completed")
                assert {event.data["job_id"] for event in received} == {jobs[key]}
        async with following(running, after=cursor, **bearer("sk-one")) as stream:
            assert [(await stream.next()).data.get("job_id") for _ in range(2)] == [None, jobs["sk-one"]]


async def test_synchronous_requests_are_no_events(running: Running, samples: Path) -> None:
    async with following(running) as stream:
        await stream.next()
        assert (await running.transcribe(samples / "hello.wav")).status_code == 200
        job_id = await running.submit(samples / "hello.wav", stored_output="true")
        received = await stream.until_status(job_id, "completed")
    assert {event.data["job_id"] for event in received} == {job_id}


async def test_jobs_that_move_up_in_the_queue_are_events(
    tmp_path: Path, model: WhisperModel, samples: Path, held: Held
) -> None:
    async with serving(tmp_path / "data", lambda: model, max_concurrent_requests=1) as running:
        first = await running.submit(samples / "numbers.mp3", stored_output="true")
        await running.until_progress(first, "Transcribing audio")
        second, third = [await running.submit(samples / "numbers.mp3", stored_output="true") for _ in range(2)]
        await running.until_position(third, 2)
        async with following(running) as stream:
            await stream.next()
            await running.client.delete(f"/v1/jobs/{second}")
            received = await stream.until(
                lambda event: event.data["job_id"] == third and event.data.get("queue_position") == 1
            )
        assert [event for event in received if event.data["job_id"] == second][-1].data["status"] == "cancelled"
        held.open.set()
        await running.finished(third)


@pytest.mark.one_process(reason="changes jobs past the API")
async def test_step_of_a_long_queue_publishes_few_of_its_jobs(running: Running, held: Held) -> None:
    store = running.service.jobs.store
    jobs = [a_job(id=f"job-{number:04}") for number in range(1000)]
    for job in jobs:
        await store.admit(job)
    async with following(running) as stream:
        await stream.next()
        store.report_progress("job-0000", Progress.on_model, at=1.0)
        received = await stream.until(lambda event: event.data["job_id"] == "job-0009")
        assert [event.data["job_id"] for event in received] == [f"job-{number:04}" for number in range(10)]
        assert [event.data.get("queue_position") for event in received] == [None, *range(1, 10)]
        for number in range(1, 100):
            store.report_progress(f"job-{number:04}", Progress.on_model, at=1.0)
        received = await stream.until(lambda event: event.data["job_id"] == "job-0999")
        assert received[-1].data["queue_position"] == 900
    held.open.set()


@pytest.mark.smoke
@pytest.mark.one_process(reason="changes jobs past the API")
async def test_changes_in_quick_succession_are_one_event(running: Running, held: Held) -> None:
    store = running.service.jobs.store
    job = await store.admit(a_job())
    async with following(running) as stream:
        await stream.next()
        for percent in range(1, 101):
            store.report_progress(job.id, Progress.transcribed, language="english", percent=float(percent))
        event = await stream.next()
        assert event.data["progress_percent"] == 100.0
        store.report_progress(job.id, Progress.transcribed, language="german", percent=None)
        assert (await stream.next()).data["language"] == "german"
    held.open.set()


async def test_health_is_sent_at_the_start_and_when_it_changes(
    running: Running, samples: Path, held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events_module, "_HEALTH_SECONDS", 0.05)
    async with following(running) as stream:
        await stream.next()
        health = await stream.next(with_health=True)
        report = (await running.client.get("/health")).json()
        assert (health.name, health.id) == ("health", "")
        assert health.data == {name: report[name] for name in ("status", "device", "model", "concurrency")}
        job_id = await running.submit(samples / "hello.wav", stored_output="true")
        while health.name != "health" or health.data["concurrency"]["active_transcriptions"] != 1:
            health = await stream.next(with_health=True)
        held.open.set()
        await running.finished(job_id)
        while health.name != "health" or health.data["concurrency"]["completed"] != 1:
            health = await stream.next(with_health=True)


@pytest.mark.smoke
async def test_quiet_stream_is_kept_alive(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events_module, "KEEP_ALIVE_SECONDS", 0.1)
    monkeypatch.setattr(events_module, "_HEALTH_SECONDS", 0.05)
    async with running.client.stream("GET", "/v1/events") as response:
        async for line in response.aiter_lines():
            if line == ": keep-alive":
                break


@pytest.mark.smoke
async def test_many_streams_receive_the_same_events_and_leave_nothing(running: Running, samples: Path) -> None:
    feed = running.feed

    async def follow(ready: asyncio.Event, job_ids: asyncio.Future[str]) -> list[Received]:
        async with following(running) as stream:
            await stream.next()
            ready.set()
            return await stream.until_status(await job_ids, "completed")

    ready = [asyncio.Event() for _ in range(20)]
    job_id: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    streams = [asyncio.create_task(follow(event, job_id)) for event in ready]
    for event in ready:
        await event.wait()
    assert feed.count == 20
    job_id.set_result(await running.submit(samples / "hello.wav", stored_output="true"))
    first, *others = await asyncio.gather(*streams)
    assert first
    assert [events[-1] for events in others] == [first[-1]] * 19
    await eventually(lambda: not feed.count)


async def test_streams_end_when_the_service_has_drained(running: Running) -> None:
    async with following(running) as stream:
        await stream.next()
        await running.service.drain()
        while await stream.line() is not None:
            pass
