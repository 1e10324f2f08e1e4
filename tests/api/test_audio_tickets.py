"""URLs of recordings that need no API key."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.service import Running, serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from app.transcription.whisper import WhisperModel

pytestmark = [pytest.mark.anyio, pytest.mark.contract]

ALPHA, BETA = {"Authorization": "Bearer alpha"}, {"Authorization": "Bearer beta"}


@pytest.fixture
async def guarded(tmp_path: Path, model: WhisperModel) -> AsyncIterator[Running]:
    async with serving(tmp_path / "data", lambda: model, api_keys="alpha,beta") as running:
        yield running


async def submit(running: Running, samples: Path, headers: dict[str, str], keep_audio: str = "true") -> str:
    response = await running.client.post(
        "/v1/audio/transcriptions",
        files={"file": ("hello.wav", (samples / "hello.wav").read_bytes())},
        data={"stored_output": "true", "keep_audio": keep_audio},
        headers=headers,
    )
    return str(response.json()["job_id"])


async def ticket_of(running: Running, job_id: str, headers: dict[str, str]) -> dict[str, Any]:
    response = await running.client.post(f"/v1/jobs/{job_id}/audio/ticket", headers=headers)
    assert response.status_code == 200, response.text
    ticket: dict[str, Any] = response.json()
    return ticket


async def test_ticket_opens_the_recording_and_nothing_else(
    guarded: Running, samples: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    client = guarded.client
    job_id, other = [await submit(guarded, samples, ALPHA) for _ in range(2)]
    ticket = await ticket_of(guarded, job_id, ALPHA)
    assert ticket["expires_at"] == pytest.approx(time.time() + 12 * 3600, abs=60)
    assert (await client.get(ticket["url"])).content == (samples / "hello.wav").read_bytes()
    assert (await client.get(ticket["url"], headers={"Range": "bytes=0-3"})).content == b"RIFF"
    assert (await client.head(ticket["url"])).status_code == 200
    query = ticket["url"].partition("?")[2]
    rejected = [
        await client.get(f"/v1/jobs/{job_id}/audio"),
        await client.get(f"/v1/jobs/{other}/audio?{query}"),
        await client.get(f"/v1/jobs/{job_id}?{query}"),
        await client.get(f"/v1/jobs/{job_id}/result?{query}"),
        await client.get(f"/v1/jobs?{query}"),
        await client.post(ticket["url"]),
        await client.delete(ticket["url"]),
        await client.get(f"{ticket['url']}x"),
        await client.get(ticket["url"], headers={"Authorization": "Bearer wrong"}),
    ]
    assert [response.status_code for response in rejected] == [401] * len(rejected)
    assert [response.json()["error"]["code"] for response in rejected].count("invalid_ticket") == 2
    secret = query.partition("=")[2]
    assert all(secret not in response.text for response in rejected)
    of_server = [record for record in caplog.records if not record.name.startswith("http")]  # which the client logs
    assert all(secret not in record.getMessage() for record in of_server)


async def test_ticket_ends_with_its_job(guarded: Running, samples: Path) -> None:
    job_id = await submit(guarded, samples, ALPHA)
    ticket = await ticket_of(guarded, job_id, ALPHA)
    await guarded.client.delete(f"/v1/jobs/{job_id}", headers=ALPHA)
    assert (await guarded.client.get(ticket["url"])).status_code == 404


@pytest.mark.one_process(reason="the nodes of a cluster share the secret that signs tickets")
async def test_ticket_ends_with_the_process(tmp_path: Path, model: WhisperModel, samples: Path) -> None:
    async with serving(tmp_path / "data", lambda: model, api_keys="alpha") as running:
        job_id = await submit(running, samples, ALPHA)
        before = await ticket_of(running, job_id, ALPHA)
    async with serving(tmp_path / "data", lambda: model, api_keys="alpha") as running:
        response = await running.client.get(before["url"])
        assert (response.status_code, response.json()["error"]["code"]) == (401, "invalid_ticket")
        after = await ticket_of(running, job_id, ALPHA)
        assert (await running.client.get(after["url"])).status_code == 200


async def test_only_the_owner_of_a_kept_recording_gets_a_ticket(guarded: Running, samples: Path) -> None:
    kept, unkept = await submit(guarded, samples, ALPHA), await submit(guarded, samples, ALPHA, keep_audio="false")
    for job_id, headers, status, code in (
        (kept, BETA, 404, "job_not_found"),
        (kept, {}, 401, "invalid_api_key"),
        (unkept, ALPHA, 404, "no_audio"),
    ):
        response = await guarded.client.post(f"/v1/jobs/{job_id}/audio/ticket", headers=headers)
        assert (response.status_code, response.json()["error"]["code"]) == (status, code)


async def test_requests_with_a_ticket_count_for_its_key(tmp_path: Path, model: WhisperModel, samples: Path) -> None:
    async with serving(tmp_path / "data", lambda: model, api_keys="alpha", rate_limit="4/day") as running:
        ticket = await ticket_of(running, await submit(running, samples, ALPHA), ALPHA)
        statuses = [(await running.client.get(ticket["url"])).status_code for _ in range(3)]
        assert statuses == [200, 200, 429]


async def test_server_without_keys_issues_tickets_too(running: Running, samples: Path) -> None:
    job_id = await submit(running, samples, {})
    ticket = await ticket_of(running, job_id, {})
    assert (await running.client.get(ticket["url"])).status_code == 200
