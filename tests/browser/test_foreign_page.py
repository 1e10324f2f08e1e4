"""A page of another origin in a browser, and a service without keys: requests are rejected, or allowed by setting."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

import pytest

from tests.support.fault_server import answer, fault_server_in_thread
from tests.support.service import serving

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from selenium.webdriver import Chrome

    from app.transcription.whisper import WhisperModel
    from tests.support.service import Running

pytestmark = [pytest.mark.anyio, pytest.mark.full(reason="starts a browser")]

_PAGE: Final = b'<!doctype html><link rel="icon" href="data:,"><p>Another page'
#: Submits a job as any page can, without asking the server first, and returns what the page learns.
_SUBMIT: Final = """
const [address, done] = arguments
const form = new FormData()
form.append('stored_output', 'true')
form.append('file', new Blob(['not audio']), 'call.wav')
const send = mode => fetch(`${address}/v1/audio/transcriptions`, { method: 'POST', body: form, mode })
send('no-cors').catch(() => {}).then(() => send('cors'))
  .then(response => response.json()).then(done, error => done(String(error)))
"""
#: Deletes and renames need the permission of the server, which the browser asks for first.
_RENAME: Final = """
const [address, job, done] = arguments
const body = JSON.stringify({ name: 'renamed' })
const headers = { 'Content-Type': 'application/json', 'Idempotency-Key': 'x' }
fetch(`${address}/v1/jobs/${job}`, { method: 'PATCH', body, headers })
  .then(response => response.json()).then(done, error => done(String(error)))
"""


@pytest.fixture
def origin(browser: Chrome) -> Iterator[str]:
    """The origin of a page that is open in the browser: this machine at another port."""
    with fault_server_in_thread(answer(200, _PAGE, Content_Type="text/html")) as server:
        browser.get(f"http://127.0.0.1:{server.port}/")
        yield f"http://127.0.0.1:{server.port}"


async def run(browser: Chrome, script: str, *arguments: str) -> Any:
    return await asyncio.to_thread(lambda: browser.execute_async_script(script, *arguments))


async def jobs(running: Running) -> dict[str, Any]:
    listed: dict[str, Any] = (await running.client.get("/v1/jobs")).json()["jobs"]
    return listed


async def test_page_of_the_same_host_at_another_port_submits_nothing(
    browser: Chrome, origin: str, tmp_path: Path, model: WhisperModel
) -> None:
    assert origin
    async with serving(tmp_path / "data", lambda: model) as running:
        assert "TypeError" in await run(browser, _SUBMIT, running.address)
        assert await jobs(running) == {}


async def test_page_of_an_allowed_origin_submits_and_renames(
    browser: Chrome, origin: str, tmp_path: Path, model: WhisperModel
) -> None:
    async with serving(tmp_path / "data", lambda: model, cors_allowed_origins=origin) as running:
        accepted = await run(browser, _SUBMIT, running.address)
        renamed = await run(browser, _RENAME, running.address, accepted["job_id"])
        assert renamed["name"] == "renamed"
        assert len(await jobs(running)) == 2
