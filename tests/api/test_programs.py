"""Requests of programs made for OpenAI's API, as their public source sends them, and what they read of the response."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from tests.support.service import serving

if TYPE_CHECKING:
    from pathlib import Path

    from app.transcription.whisper import WhisperModel
    from tests.support.service import Running

pytestmark = [pytest.mark.anyio, pytest.mark.contract]

TEXT = "hello this is a test the job is complete now"


@pytest.fixture
async def audio(samples: Path) -> bytes:
    return await asyncio.to_thread((samples / "hello.wav").read_bytes)


@pytest.mark.parametrize("language", [{"language": "en"}, {}])
async def test_open_webui(shared: Running, audio: bytes, language: dict[str, str]) -> None:
    """``backend/open_webui/routers/audio.py`` of open-webui/open-webui; it keeps the whole body, and shows ``text``."""
    response = await shared.client.post(
        "/v1/audio/transcriptions",
        headers={"Authorization": "Bearer sk-any"},
        files={"file": ("4f1a.wav", audio)},
        data={"model": "whisper-1", **language},
    )
    assert response.status_code == 200
    assert response.json()["text"] == TEXT


async def test_open_webui_shows_the_sentence_of_an_error(shared: Running) -> None:
    response = await shared.client.post(
        "/v1/audio/transcriptions", files={"file": ("4f1a.wav", b"nothing")}, data={"model": "whisper-1"}
    )
    assert response.json()["error"].get("message", "").startswith("The file could not be decoded")


async def test_n8n(shared: Running, audio: bytes) -> None:
    """``nodes/vendors/OpenAi/v2/actions/audio/transcribe.operation.ts`` of n8n-io/n8n; the body is the item's JSON."""
    response = await shared.client.post(
        "/v1/audio/transcriptions",
        headers={"Authorization": "Bearer sk-any"},
        data={"model": "whisper-1", "language": "en", "temperature": "0.2"},
        files={"file": ("data.wav", audio, "audio/wav")},
    )
    assert response.headers["content-type"] == "application/json"
    assert "hello" in response.json()["text"]


async def test_n8n_translates(shared: Running, audio: bytes) -> None:
    """``translate.operation.ts`` beside it."""
    response = await shared.client.post(
        "/v1/audio/translations",
        data={"model": "whisper-1"},
        files={"file": ("data.wav", audio, "audio/wav")},
    )
    assert response.json()["text"] == TEXT


async def test_speakr_finds_the_service_and_its_models(tmp_path: Path, model: WhisperModel) -> None:
    """The probes of ``connectors/asr_endpoint.py`` of murtaza-nasir/speakr, which have the key of its address."""
    async with serving(tmp_path, lambda: model, api_keys="sk-meetings") as running:
        assert (await running.client.get("/health")).status_code < 500
        response = await running.client.get("/v1/models", auth=("speakr", "sk-meetings"))
    models = response.json()["data"]
    assert [(each["id"], each["owned_by"]) for each in models][:2] == [
        ("demo", models[0]["owned_by"]),
        ("whisper-1", models[0]["owned_by"]),
    ]
