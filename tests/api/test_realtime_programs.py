"""Sessions of programs made for OpenAI's realtime API: what they were seen to send, and what they read of it."""

from __future__ import annotations

import asyncio
import base64
import json
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pytest
from faster_whisper import decode_audio
from websockets.asyncio.client import connect

from tests.support.service import serving
from tests.support.waiting import LIMIT_SECONDS

if TYPE_CHECKING:
    from pathlib import Path

    from app.transcription.whisper import WhisperModel
    from tests.support.service import Running

pytestmark = [pytest.mark.anyio, pytest.mark.full(reason="transcribes live audio")]

TEXTS: Final = ["hello this is a test", "the job is complete now"]
_COMPLETED: Final = "conversation.item.input_audio_transcription.completed"
_FORMAT: Final = {"rate": 24000, "type": "audio/pcm"}
#: LiveKit sends 50 ms at once, wyoming-openai what it receives, a tenth of a second in the rate of the session.
_LIVEKIT_BYTES: Final = 2_400
_WYOMING_BYTES: Final = 4_800


@pytest.fixture(scope="module")
async def audio(samples: Path) -> bytes:
    """Two sentences with a pause between them, and silence after them."""
    decoded = await asyncio.to_thread(decode_audio, str(samples / "hello.wav"), sampling_rate=24_000)
    return bytes((np.concatenate([decoded, np.zeros(24_000)]) * 32767).astype("<i2").tobytes())


async def session_of(
    running: Running, query: str, transcription: dict[str, Any], *, parts: list[bytes], commits: bool, **members: Any
) -> list[dict[str, Any]]:
    """Return the events of a session whose audio comes in these parts, up to the texts of both sentences.

    A client that commits does that once, at the end.
    """
    address = f"{running.address.replace('http', 'ws')}/v1/realtime?{query}"
    audio_input = {"format": _FORMAT, "transcription": transcription, **members}
    session = {"type": "transcription", "audio": {"input": audio_input}}
    async with connect(address, additional_headers={"Authorization": "Bearer any"}) as socket:
        await socket.send(json.dumps({"session": session, "type": "session.update"}))
        for part in parts:
            await socket.send(
                json.dumps({"type": "input_audio_buffer.append", "audio": base64.b64encode(part).decode()})
            )
        if commits:
            await socket.send(json.dumps({"type": "input_audio_buffer.commit"}))
        events: list[dict[str, Any]] = []
        async with asyncio.timeout(LIMIT_SECONDS):
            while " ".join(event["transcript"] for event in events if event["type"] == _COMPLETED) != " ".join(TEXTS):
                events.append(json.loads(await socket.recv()))
                assert events[-1]["type"] != "error", events[-1]  # each of these programs gives up then
        return events


def divided(audio: bytes, size: int) -> list[bytes]:
    return [audio[start : start + size] for start in range(0, len(audio), size)]


async def test_livekit(shared: Running, audio: bytes) -> None:
    """livekit-plugins-openai 1.8.9 with ``use_realtime=True``: start and end of speech, texts, languages and times."""
    events = await session_of(
        shared,
        "intent=transcription&model=whisper-1",
        {"language": "en", "model": "whisper-1"},
        parts=divided(audio, _LIVEKIT_BYTES),
        commits=False,
        turn_detection={
            "type": "server_vad",
            "prefix_padding_ms": 600,
            "silence_duration_ms": 350,
            "threshold": 0.5,
        },
    )
    started, stopped = (
        {event["item_id"]: event for event in events if event["type"] == f"input_audio_buffer.speech_{kind}"}
        for kind in ("started", "stopped")
    )
    for completed in (event for event in events if event["type"] == _COMPLETED):
        item_id = completed["item_id"]
        assert stopped[item_id]["audio_end_ms"] > started[item_id]["audio_start_ms"]
        assert completed["languages"] == [{"code": "en"}]
        assert completed["usage"].get("input_tokens", 0) == 0


async def test_livekit_with_a_model_that_has_no_turn_detection(
    tmp_path: Path, model: WhisperModel, audio: bytes
) -> None:
    """The same with ``gpt-live-transcribe``, an alias here: its own detection commits, and ours must not."""
    async with serving(tmp_path / "data", lambda: model, whisper_model_aliases="gpt-live-transcribe") as running:
        events = await session_of(
            running,
            "intent=transcription&model=gpt-live-transcribe",
            {"keywords": [], "languages": ["en"], "model": "gpt-live-transcribe"},
            parts=divided(audio, _LIVEKIT_BYTES),
            commits=True,
        )
    types = [event["type"] for event in events]
    assert types.count("input_audio_buffer.committed") == 1
    assert "input_audio_buffer.speech_started" not in types


async def test_wyoming_openai(shared: Running, audio: bytes) -> None:
    """wyoming-openai 0.8.0 with ``STT_REALTIME_MODELS``: a session for each utterance, which it commits."""
    events = await session_of(
        shared,
        "intent=transcription",
        {"model": "whisper-1", "language": "en"},
        parts=divided(audio, _WYOMING_BYTES),
        commits=True,
        turn_detection=None,
    )
    deltas = [event["delta"] for event in events if event["type"].endswith(".delta")]
    assert "".join(deltas) == events[-1]["transcript"]
