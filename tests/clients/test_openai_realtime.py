"""Live transcription with OpenAI's Python client."""

from __future__ import annotations

import asyncio
import base64
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pytest
from faster_whisper import decode_audio
from openai import AsyncOpenAI, AuthenticationError, OpenAI

from app.realtime.audio import AudioFormat, _g711_table
from tests.support.waiting import LIMIT_SECONDS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from openai.resources.realtime.realtime import AsyncRealtimeConnection

    from tests.support.service import Running

pytestmark = [pytest.mark.anyio, pytest.mark.full(reason="starts services")]

INTENT: Final = {"intent": "transcription"}
TEXTS: Final = ["hello this is a test", "the job is complete now"]
_PIECE_SECONDS: Final = 0.1


@pytest.fixture
async def client(running: Running, key: str) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(api_key=key, base_url=f"{running.address}/v1", max_retries=0) as opened:
        yield opened


def spoken(samples: Path, *, rate: int = 24_000) -> Any:
    """Return two sentences with a pause between them, and silence after them, as s16 samples."""
    decoded = (decode_audio(str(samples / "hello.wav"), sampling_rate=rate) * 32767).astype("<i2")
    return np.concatenate([decoded, np.zeros(rate, np.int16)])


async def send(connection: AsyncRealtimeConnection, content: bytes, *, bytes_per_second: int) -> None:
    """Send audio ten times as fast as it was spoken."""
    size = round(_PIECE_SECONDS * bytes_per_second)
    for start in range(0, len(content), size):
        piece = base64.b64encode(content[start : start + size]).decode()
        await connection.input_audio_buffer.append(audio=piece)
        await asyncio.sleep(_PIECE_SECONDS / 10)


async def until(connection: AsyncRealtimeConnection, kind: str) -> list[Any]:
    """Return the events up to the next one of this type."""
    events: list[Any] = []
    async with asyncio.timeout(LIMIT_SECONDS):
        while not events or events[-1].type != kind:
            events.append(await connection.recv())
            assert events[-1].type != "error" or kind == "error", events[-1]
    return events


@pytest.mark.smoke
async def test_server_finds_the_utterances(client: AsyncOpenAI, samples: Path) -> None:
    async with client.realtime.connect(extra_query=INTENT) as connection:
        (created,) = await until(connection, "session.created")
        assert created.session.type == "transcription"
        await connection.session.update(
            session={
                "type": "transcription",
                "audio": {
                    "input": {
                        "format": {"type": "audio/pcm", "rate": 24000},
                        "transcription": {"model": "whisper-1", "language": "en"},
                        "turn_detection": {"type": "server_vad", "silence_duration_ms": 400},
                    }
                },
                "include": ["item.input_audio_transcription.logprobs"],
            }
        )
        await until(connection, "session.updated")
        await send(connection, spoken(samples).tobytes(), bytes_per_second=48_000)
        events: list[Any] = []
        for text in TEXTS:
            events += await until(connection, "conversation.item.input_audio_transcription.completed")
            completed = events[-1]
            assert completed.transcript == text
            assert completed.usage.type == "duration"
            assert "".join(logprob.token for logprob in completed.logprobs).strip() == text
            started = [event.item_id for event in events if event.type == "input_audio_buffer.speech_started"]
            assert completed.item_id in started


@pytest.mark.smoke
async def test_words_come_as_deltas(client: AsyncOpenAI, samples: Path) -> None:
    async with client.realtime.connect(extra_query=INTENT) as connection:
        await send(connection, spoken(samples).tobytes(), bytes_per_second=48_000)
        kind = "conversation.item.input_audio_transcription"
        for text in TEXTS:
            events = await until(connection, f"{kind}.completed")
            item_id = events[-1].item_id
            deltas = [event.delta for event in events if event.type == f"{kind}.delta" and event.item_id == item_id]
            assert "".join(deltas) == text


@pytest.mark.parametrize("audio_format", list(AudioFormat))
async def test_client_commits_audio_of_each_format(
    client: AsyncOpenAI, samples: Path, audio_format: AudioFormat
) -> None:
    audio = spoken(samples, rate=audio_format.rate)
    if audio_format is AudioFormat.PCM:
        content = audio.tobytes()
    else:  # the byte whose sample is the nearest
        table = _g711_table(audio_format).astype(np.int32)
        order = np.argsort(table, kind="stable")
        content = order[np.searchsorted(table[order], audio.astype(np.int32)).clip(0, 255)].astype(np.uint8).tobytes()
    async with client.realtime.connect(extra_query=INTENT) as connection:
        update = {"audio": {"input": {"format": {"type": audio_format.value}, "turn_detection": None}}}
        session: Any = {"type": "transcription", **update}
        await connection.session.update(session=session)
        width = 2 if audio_format is AudioFormat.PCM else 1
        await send(connection, content, bytes_per_second=audio_format.rate * width)
        await connection.input_audio_buffer.commit()
        events = await until(connection, "conversation.item.input_audio_transcription.completed")
        assert events[-1].transcript == " ".join(TEXTS)
        assert events[-1].usage.seconds == pytest.approx(len(audio) / audio_format.rate, abs=0.02)


async def test_browser_opens_a_session_with_a_client_secret(running: Running, client: AsyncOpenAI) -> None:
    secret = await client.realtime.client_secrets.create(
        expires_after={"anchor": "created_at", "seconds": 60},
        session={"type": "transcription", "audio": {"input": {"transcription": {"language": "en", "prompt": "Names"}}}},
    )
    assert secret.value.startswith("ek_")
    assert secret.session.type == "transcription"
    async with AsyncOpenAI(api_key=secret.value, base_url=f"{running.address}/v1", max_retries=0) as browser:
        async with browser.realtime.connect(extra_query=INTENT) as connection:
            (created,) = await until(connection, "session.created")
            assert created.session.audio.input.transcription.prompt == "Names"
        with pytest.raises(AuthenticationError):
            await browser.models.list()  # the secret is for sessions only


async def test_semantic_vad_is_refused_with_a_sentence(client: AsyncOpenAI) -> None:
    async with client.realtime.connect(extra_query=INTENT) as connection:
        await connection.send(
            {
                "type": "session.update",
                "event_id": "mine",
                "session": {"type": "transcription", "audio": {"input": {"turn_detection": {"type": "semantic_vad"}}}},
            }
        )
        error = (await until(connection, "error"))[-1].error
        assert "no semantic_vad" in error.message
        assert (error.event_id, error.param) == ("mine", "session.audio.input.turn_detection.type")
        await connection.session.update(session={"type": "transcription"})
        await until(connection, "session.updated")  # the session goes on


async def test_synchronous_client(running: Running, key: str, samples: Path) -> None:
    audio = base64.b64encode(spoken(samples).tobytes()).decode()

    def transcribe() -> str:
        with (
            OpenAI(api_key=key, base_url=f"{running.address}/v1") as client,
            client.realtime.connect(extra_query=INTENT) as connection,
        ):
            connection.session.update(session={"type": "transcription", "audio": {"input": {"turn_detection": None}}})
            connection.input_audio_buffer.append(audio=audio)
            connection.input_audio_buffer.commit()
            for event in connection:
                if event.type == "conversation.item.input_audio_transcription.completed":
                    return event.transcript
        return ""

    assert await asyncio.to_thread(transcribe) == " ".join(TEXTS)
