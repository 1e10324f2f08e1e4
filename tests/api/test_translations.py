"""``POST /v1/audio/translations``: the same as transcriptions, in English."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import openai
import pytest

from app.api.submission import TRANSLATION, SubmissionReader
from app.delivery.url_rules import UrlRules
from app.domain.access import AllowedHosts
from app.domain.errors import InvalidRequest
from app.domain.transcript import Task
from app.transcription.models import ModelRegistry

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.service import Running

pytestmark = [pytest.mark.anyio, pytest.mark.contract]


@pytest.mark.filterwarnings("ignore:deprecated:DeprecationWarning")  # the client says so of what OpenAI retires
@pytest.mark.full(reason="takes more than a second")
async def test_openais_client_gets_a_translation_in_every_format(running: Running, samples: Path) -> None:
    client = openai.AsyncOpenAI(base_url=f"{running.address}/v1", api_key="any", max_retries=0)
    file = ("hello.wav", await asyncio.to_thread((samples / "hello.wav").read_bytes))
    plain = await client.audio.translations.create(model="whisper-1", file=file)
    assert "hello this is a test" in plain.text
    verbose = await client.audio.translations.create(model="whisper-1", file=file, response_format="verbose_json")
    assert verbose.language == "english"
    assert verbose.segments
    for name in ("text", "srt", "vtt"):
        text = await client.audio.translations.create(model="whisper-1", file=file, response_format=name)
        assert "hello this is a test" in str(text)
    await client.close()


async def test_field_that_does_not_apply_to_translations_gives_a_warning(running: Running, samples: Path) -> None:
    with (samples / "hello.wav").open("rb") as audio:
        response = await running.client.post(
            "/v1/audio/translations", files={"file": audio}, data={"language": "de", "response_format": "verbose_json"}
        )
    body = response.json()
    assert body["task"] == "translate"
    assert body["warnings"] == ["`language` does not apply to translations and was ignored."]


@pytest.mark.parametrize("name", ["large-v3-turbo", "distil-large-v3", "small.en", "/models/faster-whisper-turbo"])
def test_model_that_cannot_translate_is_400_with_the_setting(name: str) -> None:
    models = ModelRegistry(name)
    reader = SubmissionReader(UrlRules(AllowedHosts()), has_webhook_secret=False, max_retention_seconds=7200)
    with pytest.raises(InvalidRequest, match="WHISPER_MODEL"):
        reader.read({}, has_file=True, models=models, operation=TRANSLATION)
    assert reader.read({}, has_file=True, models=models).options.task is Task.TRANSCRIBE
