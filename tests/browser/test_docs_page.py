"""The page ``/docs`` in a browser: it needs no internet, describes all operations, and its form works."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.browser.docs_page import DocsPage
from tests.support.service import serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from selenium.webdriver import Chrome

    from app.transcription.whisper import WhisperModel
    from tests.browser.docs_page import ShownResponse
    from tests.support.service import Running

pytestmark = [pytest.mark.anyio, pytest.mark.full(reason="starts a browser")]

HELLO = "hello this is a test the job is complete now"
TRANSCRIPTIONS = "/v1/audio/transcriptions"
FORMS = {TRANSCRIPTIONS: "TranscriptionForm", "/v1/audio/translations": "TranslationForm"}
#: One of these is required.
WITHOUT_DEFAULT = {"file", "s3_presigned_url"}


@pytest.fixture(scope="module")
async def running(tmp_path_factory: pytest.TempPathFactory, model: WhisperModel) -> AsyncIterator[Running]:
    """A service for all tests of this module."""
    async with serving(tmp_path_factory.mktemp("data"), lambda: model) as service:
        yield service


@pytest.fixture
async def docs(browser: Chrome, running: Running) -> AsyncIterator[DocsPage]:
    """The page as an earlier test left it, or opened. The test fails if the page logs an error."""
    page = DocsPage(browser, running.address)
    if not await asyncio.to_thread(page.is_open):
        await asyncio.to_thread(page.open)
    yield page
    assert await asyncio.to_thread(page.console_errors) == []


async def described(running: Running) -> dict[str, Any]:
    description: dict[str, Any] = (await running.client.get("/openapi.json")).json()
    return description


@pytest.mark.smoke
async def test_page_loads_resources_from_this_server_only(docs: DocsPage) -> None:
    loaded = await asyncio.to_thread(docs.loaded)
    assert f"{docs.address}/openapi.json" in loaded
    assert [url for url in loaded if not url.startswith(f"{docs.address}/")] == []


async def test_page_shows_every_operation(docs: DocsPage, running: Running) -> None:
    paths = (await described(running))["paths"]
    operations = {(method, path) for path, methods in paths.items() for method in methods}
    assert await asyncio.to_thread(docs.operations) == operations


async def test_forms_describe_each_field_and_its_default(docs: DocsPage, running: Running) -> None:
    schemas = (await described(running))["components"]["schemas"]
    for path, form in FORMS.items():
        fields = await asyncio.to_thread(_fields, docs, path)
        expected = {name: field["description"].replace("`", "") for name, field in schemas[form]["properties"].items()}
        assert fields == expected
        assert {name for name, text in fields.items() if "Default: " not in text} == WITHOUT_DEFAULT


def _fields(docs: DocsPage, path: str) -> dict[str, str]:
    return docs.operation("post", path).fields()


async def test_form_transcribes_with_default_and_chosen_format(docs: DocsPage, running: Running, samples: Path) -> None:
    def transcribe_twice() -> tuple[ShownResponse, ShownResponse]:
        operation = docs.operation("post", TRANSCRIPTIONS)
        operation.choose_file(samples / "hello.wav")
        default = operation.execute()
        operation.choose("response_format", "srt")
        return default, operation.execute()

    response, subtitles = await asyncio.to_thread(transcribe_twice)
    assert (response.status, subtitles.status) == ("200", "200")
    assert json.loads(response.body)["text"] == HELLO
    expected = await running.transcribe(samples / "hello.wav", response_format="srt")
    assert subtitles.body == expected.text.strip()


async def test_jobs_are_listed(docs: DocsPage, running: Running, samples: Path) -> None:
    job_id = await running.submit(samples / "hello.wav", stored_output="true")
    response = await asyncio.to_thread(lambda: docs.operation("get", "/v1/jobs").execute())
    assert response.status == "200"
    assert job_id in response.body
    await running.finished(job_id)


async def test_missing_key_can_be_entered(browser: Chrome, tmp_path: Path, model: WhisperModel) -> None:
    async with serving(tmp_path / "data", lambda: model, api_keys="sk-test") as running:
        page = DocsPage(browser, running.address)

        def with_and_without_the_key() -> tuple[ShownResponse, list[str], ShownResponse]:
            page.open()
            operation = page.operation("get", "/v1/jobs")
            refused, errors = operation.execute(), page.console_errors()
            page.authorize("sk-test")
            return refused, errors, operation.execute()

        refused, errors, listed = await asyncio.to_thread(with_and_without_the_key)
        assert refused.status == "401"
        assert json.loads(refused.body)["error"]["code"] == "invalid_api_key"
        assert len(errors) == 1, errors
        assert "401 (Unauthorized)" in errors[0]
        assert listed.status == "200"
        assert await asyncio.to_thread(page.console_errors) == []
