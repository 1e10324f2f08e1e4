"""The official OpenAI client against the running service."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import openai
import pytest

from tests.support.service import serving

if TYPE_CHECKING:
    from pathlib import Path

    from app.transcription.whisper import WhisperModel

pytestmark = pytest.mark.anyio


async def test_the_sdk_gets_what_it_gets_from_openai(tmp_path: Path, model: WhisperModel, samples: Path) -> None:
    async with serving(tmp_path / "data", lambda: model, api_keys="sk-test") as running:
        client = openai.AsyncOpenAI(base_url=f"{running.address}/v1", api_key="sk-test", max_retries=0)
        audio = await asyncio.to_thread((samples / "hello.wav").read_bytes)
        file = ("hello.wav", audio)
        plain = await client.audio.transcriptions.create(model="whisper-1", file=file)
        assert plain.text == "hello this is a test the job is complete now"
        verbose = await client.audio.transcriptions.create(
            model="whisper-1",
            file=file,
            response_format="verbose_json",
            timestamp_granularities=["word", "segment"],
            language="en",
            temperature=0,
        )
        assert verbose.words is not None
        assert verbose.segments is not None
        assert verbose.words[0].word == "hello"
        assert verbose.segments[0].id == 0
        assert isinstance(verbose.duration, float)
        text = await client.audio.transcriptions.create(model="whisper-1", file=file, response_format="srt")
        assert text.startswith("1\n00:00:0")
        with pytest.raises(openai.NotFoundError, match="whisper-1"):
            await client.audio.transcriptions.create(model="gpt-4o-transcribe", file=file)
        with pytest.raises(openai.BadRequestError, match="empty"):
            await client.audio.transcriptions.create(model="whisper-1", file=("empty.wav", b""))
        with pytest.raises(openai.AuthenticationError):
            await client.with_options(api_key="wrong").audio.transcriptions.create(model="whisper-1", file=file)
        await client.close()
