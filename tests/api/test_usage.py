"""``/v1/organization/usage/audio_transcriptions``: seconds of audio and requests by day, read with OpenAI's client."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import openai
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from app.domain.errors import QuotaExceeded
from app.domain.usage import DAY_SECONDS, Usage, UsageKey
from app.jobs.usage import Quotas, UsageLedger
from tests.api.test_keys_and_limits import bearer
from tests.faults.forked_program import forked_program
from tests.support.service import serving
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from openai.types.admin.organization import UsageAudioTranscriptionsResponse

    from app.transcription.whisper import WhisperModel
    from tests.support.service import Running

pytestmark = [pytest.mark.anyio, pytest.mark.contract, pytest.mark.full(reason="starts a service for each test")]

PATH = "/v1/organization/usage/audio_transcriptions"
KEYS: dict[str, Any] = {"api_keys": "ann:alpha-0123456789,beta-0123456789", "metrics_key": "operator-0123456789"}
#: The first 16 digits of the SHA-256 of beta-0123456789.
BETA = "50a161ba16171602"
TODAY = int(time.time()) // DAY_SECONDS


@asynccontextmanager
async def usage_of(running: Running, key: str = "any") -> AsyncIterator[Any]:
    """Yield the method of OpenAI's client that asks for usage."""
    url = f"{running.address}/v1"
    async with openai.AsyncOpenAI(base_url=url, api_key=key, admin_api_key=key, max_retries=0) as client:
        yield client.admin.organization.usage.audio_transcriptions


def counted(page: UsageAudioTranscriptionsResponse) -> list[list[tuple[Any, ...]]]:
    """Return the results of each bucket: the key, the model, the seconds and the requests."""
    return [
        [
            (result.api_key_id, result.model, result.seconds, result.num_model_requests)
            for result in bucket.results
            if result.object == "organization.usage.audio_transcriptions.result"
        ]
        for bucket in page.data
    ]


async def until_counted(running: Running, requests: int, key: str | None = None) -> None:
    """Wait until this many requests of today are counted, which in a cluster takes up to a second."""

    async def is_counted() -> bool:
        headers = {} if key is None else bearer(key)
        days = (await running.client.get(PATH, headers=headers, params={"start_time": TODAY * DAY_SECONDS})).json()
        counted = [result["num_model_requests"] for day in days["data"] for result in day["results"]]
        return sum(map(int, counted)) == requests

    await eventually(is_counted)


@pytest.mark.smoke
async def test_requests_and_jobs_are_counted_and_survive_a_restart(
    tmp_path: Path, model: WhisperModel, samples: Path
) -> None:
    start = int(time.time())
    async with serving(tmp_path / "data", lambda: model) as running:
        await running.transcribe(samples / "hello.wav")
        await running.transcribe(samples / "hello.wav", stream=True)
        await running.finished(await running.submit(samples / "hello.wav", stored_output=True))
        assert (await running.transcribe(samples / "hello.wav", temperature="7")).status_code == 400
        await until_counted(running, 3)
        async with usage_of(running) as usage:
            page = await usage(start_time=start, group_by=["model"])
        (transcript,) = {key.model for key in running.service.jobs.store.usage._usage}
        assert transcript == "demo"
        assert (page.object, page.has_more, page.next_page) == ("page", False, None)
        assert page.data[0].start_time <= start < page.data[0].end_time
        results = [result for bucket in counted(page) for result in bucket]
        assert sum(result[3] for result in results) == 3
        assert sum(result[2] for result in results) == pytest.approx(3 * 6, abs=3)
    async with serving(tmp_path / "data", lambda: model) as running, usage_of(running) as usage:
        assert counted(await usage(start_time=start, group_by=["model"])) == counted(page)


def test_usage_of_a_job_is_counted_once_although_the_process_is_killed(tmp_path: Path, samples: Path) -> None:
    with forked_program(tmp_path) as running:
        running.until_ready()
        running.until(running.submit(samples / "hello.wav", stored_output="true"), "completed")
        running.kill()
    with forked_program(tmp_path) as running:
        running.until_ready()
        days = running.client.get(PATH, params={"start_time": (TODAY - 1) * DAY_SECONDS}).json()["data"]
        assert [result["num_model_requests"] for day in days for result in day["results"]] == [1]


async def test_key_sees_its_own_usage_and_the_operator_all(tmp_path: Path, model: WhisperModel) -> None:
    async with serving(tmp_path / "data", lambda: model, **KEYS) as running:
        ledger = running.service.jobs.store.usage
        ann = next(iter(running.service.settings.api_keys)).fingerprint
        for owner, name, seconds in ((ann, "small", 10.4), (ann, "tiny", 20.4), (BETA, "small", 40.0)):
            ledger.add(UsageKey(TODAY, owner, name), Usage(seconds, 1))
        day: dict[str, Any] = {"start_time": TODAY * DAY_SECONDS, "end_time": (TODAY + 1) * DAY_SECONDS}
        async with usage_of(running, "alpha-0123456789") as usage:
            assert counted(await usage(**day)) == [[(None, None, 31, 2)]]
            assert counted(await usage(**day, api_key_ids=[BETA])) == [[]]
            assert counted(await usage(**day, group_by=["api_key_id", "model"])) == [
                [("ann", "small", 10, 1), ("ann", "tiny", 20, 1)]
            ]
        async with usage_of(running, "operator-0123456789") as usage:
            assert counted(await usage(**day)) == [[(None, None, 71, 3)]]
            assert counted(await usage(**day, group_by=["api_key_id"])) == [[(BETA, None, 40, 1), ("ann", None, 31, 2)]]
            assert counted(await usage(**day, models=["small"], api_key_ids=["ann"])) == [[(None, None, 10, 1)]]
        for key, path in (("wrong", PATH), ("operator-0123456789", "/v1/jobs")):
            response = await running.client.get(path, headers=bearer(key), params={"start_time": 0})
            assert response.status_code == 401


async def test_days_without_usage_are_there_and_pages_continue(tmp_path: Path, model: WhisperModel) -> None:
    async with serving(tmp_path / "data", lambda: model) as running, usage_of(running) as usage:
        running.service.jobs.store.usage.add(UsageKey(100, "", "small"), Usage(7.0, 2))
        asked: dict[str, Any] = {"start_time": 98 * DAY_SECONDS + 5, "end_time": 103 * DAY_SECONDS, "limit": 2}
        pages = [await usage(**asked)]
        while pages[-1].has_more:
            pages.append(await usage(**asked, page=pages[-1].next_page))
        assert [counted(page) for page in pages] == [[[], []], [[(None, None, 7, 2)], []], [[]]]
        starts = [bucket.start_time for page in pages for bucket in page.data]
        assert starts == [day * DAY_SECONDS for day in range(98, 103)]
        assert len((await usage(start_time=0)).data) == 7
        assert (await usage(start_time=int(time.time()) + 10 * DAY_SECONDS)).data == []


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("", "start_time"),
        ("start_time=x", "start_time"),
        ("start_time=-1", "start_time"),
        ("start_time=0&bucket_width=1h", "bucket_width"),
        ("start_time=0&limit=32", "limit"),
        ("start_time=0&group_by[]=size", "group_by"),
        ("start_time=0&page=2", "page"),
        ("start_time=0&project_ids[]=p", "project_ids"),
        ("start_time=0&user_ids=u", "user_ids"),
    ],
)
async def test_invalid_query_is_400_and_names_the_parameter(running: Running, query: str, param: str) -> None:
    response = await running.client.get(f"{PATH}?{query}")
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)


async def test_key_with_a_quota_is_refused_when_it_is_used_up(
    tmp_path: Path, model: WhisperModel, samples: Path
) -> None:
    settings: dict[str, Any] = {"api_keys": "ann:alpha-0123456789:10,bob:beta-0123456789"}
    async with serving(tmp_path / "data", lambda: model, **settings) as running:
        audio = ("hello.wav", (samples / "hello.wav").read_bytes())

        async def create(key: str, **fields: Any) -> Any:
            url = f"{running.address}/v1"
            async with openai.AsyncOpenAI(base_url=url, api_key=key, max_retries=2) as client:
                return await client.audio.transcriptions.create(model="whisper-1", file=audio, **fields)

        for _ in range(2):  # 6 s each: the second one exceeds the quota, and is finished
            await create("alpha-0123456789")
        await until_counted(running, 2, "alpha-0123456789")
        for fields in ({}, {"extra_body": {"stored_output": True}}, {"stream": True}):
            with pytest.raises(openai.RateLimitError) as caught:
                await create("alpha-0123456789", **fields)
            error = caught.value
            assert (error.code, error.type) == ("insufficient_quota", "insufficient_quota")
            assert "has used its 10 s of audio for today: send the request again after 00:00 UTC" in error.message
            assert error.response.headers["x-should-retry"] == "false"
        metrics = (await running.client.get("/metrics")).text
        refused = [line for line in metrics.splitlines() if "http_requests_total{" in line and 'status="429"' in line]
        assert [line.rpartition(" ")[2] for line in refused] == ["3.0"]  # the SDK did not retry
        await create("beta-0123456789")
        jobs = await running.client.get("/v1/jobs", headers=bearer("alpha-0123456789"))
        assert jobs.status_code == 200


async def test_session_counts_and_ends_when_the_quota_is_used_up(
    tmp_path: Path, model: WhisperModel, samples: Path
) -> None:
    start = int(time.time())
    audio = await asyncio.to_thread((samples / "hello.wav").read_bytes)
    async with serving(tmp_path / "data", lambda: model, api_keys="ann:alpha-0123456789:1") as running:
        url = f"{running.address}/v1"
        async with openai.AsyncOpenAI(base_url=url, api_key="alpha-0123456789", max_retries=0) as client:
            secret = await client.realtime.client_secrets.create(session={"type": "transcription"})
            async with client.realtime.connect(extra_query={"intent": "transcription"}) as session:
                await session.session.update(
                    session={"type": "transcription", "audio": {"input": {"turn_detection": None}}}
                )
                await session.input_audio_buffer.append(audio=base64.b64encode(audio[44:]).decode())
                await session.input_audio_buffer.commit()
                events = [event async for event in session]
            completed, error = events[-2:]
            assert completed.type == "conversation.item.input_audio_transcription.completed"
            assert completed.usage.type == "duration"
            assert error.type == "error"
            assert (error.error.type, error.error.code) == ("insufficient_quota", "insufficient_quota")
            for key in ("alpha-0123456789", secret.value):
                with pytest.raises(InvalidStatus) as caught:
                    await connect(
                        url.replace("http", "ws") + "/realtime?intent=transcription",
                        additional_headers={"Authorization": f"Bearer {key}"},
                    )
                response = caught.value.response
                assert response.status_code == 429
                assert json.loads(bytes(response.body or b""))["error"]["code"] == "insufficient_quota"
                assert response.headers["x-should-retry"] == "false"
        async with usage_of(running, "alpha-0123456789") as usage:
            page = await usage(start_time=start, group_by=["api_key_id", "model"])
        results = [result for bucket in counted(page) for result in bucket]
        assert results == [("ann", "demo", round(completed.usage.seconds), 1)]


def test_quota_begins_again_with_each_day() -> None:
    now = [20_000 * DAY_SECONDS - 1.0]
    ledger = UsageLedger()
    quotas = Quotas(ledger, {"ann": 10, "none": 0}, now=lambda: now[0])
    ledger.add(UsageKey(19_999, "ann", "small"), Usage(9.9, 1))
    quotas.check("ann")
    ledger.add(UsageKey(19_999, "ann", "tiny"), Usage(0.1, 1))
    for refused in ("ann", "none"):
        with pytest.raises(QuotaExceeded):
            quotas.check(refused)
    quotas.check("bob")
    now[0] += 1
    quotas.check("ann")
