"""``/docs`` in a real browser: it needs no internet, says what there is, and its form works as it stands."""

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
    from tests.browser.docs_page import Answer
    from tests.support.service import Running

pytestmark = [pytest.mark.anyio, pytest.mark.full(reason="starts a browser")]

HELLO = "hello this is a test the job is complete now"
HELLO_SRT = """\
1
00:00:00,408 --> 00:00:01,688
hello this is a test

2
00:00:02,928 --> 00:00:04,768
the job is complete now"""
TRANSCRIPTIONS = "/v1/audio/transcriptions"
FORMS = {TRANSCRIPTIONS: "TranscriptionForm", "/v1/audio/translations": "TranslationForm"}
#: The audio itself: one of them is to be given.
WITHOUT_DEFAULT = {"file", "s3_presigned_url"}


@pytest.fixture
async def running(tmp_path: Path, model: WhisperModel) -> AsyncIterator[Running]:
    async with serving(tmp_path / "data", lambda: model) as service:
        yield service


@pytest.fixture
async def docs(browser: Chrome, running: Running) -> AsyncIterator[DocsPage]:
    """The page, opened; whatever is done with it, it has no errors."""
    page = DocsPage(browser, running.address)
    await asyncio.to_thread(page.open)
    yield page
    assert await asyncio.to_thread(page.console_errors) == []


async def described(running: Running) -> dict[str, Any]:
    description: dict[str, Any] = (await running.client.get("/openapi.json")).json()
    return description


@pytest.mark.smoke
async def test_page_is_loaded_from_this_server_alone(docs: DocsPage) -> None:
    loaded = await asyncio.to_thread(docs.loaded)
    assert f"{docs.address}/openapi.json" in loaded
    assert [url for url in loaded if not url.startswith(f"{docs.address}/")] == []


async def test_page_shows_every_operation(docs: DocsPage, running: Running) -> None:
    paths = (await described(running))["paths"]
    there_are = {(method, path) for path, operations in paths.items() for method in operations}
    assert await asyncio.to_thread(docs.operations) == there_are


async def test_forms_say_what_each_field_is_and_its_default(docs: DocsPage, running: Running) -> None:
    schemas = (await described(running))["components"]["schemas"]
    for path, form in FORMS.items():
        fields = await asyncio.to_thread(_fields, docs, path)
        expected = {name: field["description"].replace("`", "") for name, field in schemas[form]["properties"].items()}
        assert fields == expected
        assert {name for name, text in fields.items() if "Default: " not in text} == WITHOUT_DEFAULT


def _fields(docs: DocsPage, path: str) -> dict[str, str]:
    return docs.operation("post", path).fields()


async def test_form_transcribes_a_file_as_it_stands_and_with_a_format_chosen(docs: DocsPage, samples: Path) -> None:
    def transcribe_twice() -> tuple[Answer, Answer]:
        operation = docs.operation("post", TRANSCRIPTIONS)
        operation.choose_file(samples / "hello.wav")
        as_it_stands = operation.execute()
        operation.choose("response_format", "srt")
        return as_it_stands, operation.execute()

    answer, subtitles = await asyncio.to_thread(transcribe_twice)
    assert (answer.status, subtitles.status) == ("200", "200")
    assert json.loads(answer.body)["text"] == HELLO
    assert subtitles.body == HELLO_SRT


async def test_jobs_are_listed(docs: DocsPage, running: Running, samples: Path) -> None:
    job_id = await running.submit(samples / "hello.wav", stored_output="true")
    answer = await asyncio.to_thread(lambda: docs.operation("get", "/v1/jobs").execute())
    assert answer.status == "200"
    assert job_id in answer.body
    await running.finished(job_id)


async def test_key_that_is_missing_can_be_given(browser: Chrome, tmp_path: Path, model: WhisperModel) -> None:
    async with serving(tmp_path / "data", lambda: model, api_keys="sk-test") as running:
        page = DocsPage(browser, running.address)

        def with_and_without_the_key() -> tuple[Answer, list[str], Answer]:
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
