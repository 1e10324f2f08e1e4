"""Synchronous requests."""

from __future__ import annotations

import asyncio
import json
import re
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.service import serving
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from pathlib import Path

    from app.transcription.whisper import WhisperModel
    from tests.support.service import Running

pytestmark = [pytest.mark.anyio, pytest.mark.contract]

#: Samples that the demo model transcribes without a mistake, with any options.
EXACT = ("hello.wav", "numbers.mp3", "upload.ogg", "report.m4a", "code.flac", "colours.webm", "phone_8k.wav")


@pytest.fixture
def running(shared: Running) -> Running:
    """The service of this module, because synchronous requests leave nothing behind."""
    return shared


@pytest.mark.parametrize("name", EXACT)
async def test_sample_is_transcribed_exactly(
    running: Running, samples: Path, references: dict[str, dict[str, Any]], name: str
) -> None:
    response = await running.transcribe(samples / name)
    assert response.status_code == 200
    assert response.json()["text"] == references[name]["text"]
    assert response.json()["usage"]["type"] == "duration"


async def test_long_recording_is_transcribed_window_by_window(
    running: Running, samples: Path, references: dict[str, dict[str, Any]]
) -> None:
    response = await running.transcribe(samples / "long.opus", response_format="verbose_json")
    expected, actual = references["long.opus"]["text"].split(), response.json()["text"].split()
    assert (
        sum(word != other for word, other in zip(expected, actual, strict=False)) + abs(len(expected) - len(actual))
        <= 4
    )
    assert [segment["id"] for segment in response.json()["segments"]] == list(range(len(response.json()["segments"])))
    assert response.json()["duration"] == pytest.approx(76.53, abs=0.05)


async def test_silence_has_an_empty_transcript(running: Running, samples: Path) -> None:
    response = await running.transcribe(samples / "silence.wav", response_format="verbose_json")
    assert response.status_code == 200
    assert response.json() == {
        "task": "transcribe",
        "language": "english",
        "duration": 3.0,
        "text": "",
        "segments": [],
        "usage": {"type": "duration", "seconds": 3},
    }


async def test_verbose_json_has_openais_fields_and_correct_times(
    running: Running, samples: Path, references: dict[str, dict[str, Any]]
) -> None:
    response = await running.transcribe(samples / "hello.wav", response_format="verbose_json")
    body = response.json()
    assert body["language"] == "english"
    assert "words" not in body
    for segment, reference in zip(body["segments"], references["hello.wav"]["segments"], strict=True):
        assert segment["text"].strip() == reference["text"]
        assert segment["start"] == pytest.approx(reference["start"], abs=0.6)
        assert segment["end"] == pytest.approx(reference["end"], abs=0.6)


async def test_words_are_at_the_top_level_and_within_the_recording(
    running: Running, samples: Path, references: dict[str, dict[str, Any]]
) -> None:
    fields = {"response_format": "verbose_json", "timestamp_granularities[]": "word"}
    response = await running.transcribe(samples / "hello.wav", **fields)
    body = response.json()
    assert "segments" not in body
    truth = references["hello.wav"]
    spoken = [word for segment in truth["segments"] for word in segment["words"]]
    assert [word["word"] for word in body["words"]] == [word["word"] for word in spoken]
    for actual, expected in zip(body["words"], spoken, strict=True):
        assert actual["start"] == pytest.approx(expected["start"], abs=0.7)
        assert actual["start"] <= actual["end"] <= truth["duration"]


async def test_both_granularities_can_be_combined(running: Running, samples: Path) -> None:
    response = await running.transcribe(
        samples / "hello.wav", response_format="verbose_json", timestamp_granularities="segment,word"
    )
    assert len(response.json()["segments"]) == 2
    assert len(response.json()["words"]) == 10


async def test_text_srt_and_vtt_are_plain_text(running: Running, samples: Path) -> None:
    text = await running.transcribe(samples / "hello.wav", response_format="text")
    srt = await running.transcribe(samples / "hello.wav", response_format="srt")
    vtt = await running.transcribe(samples / "hello.wav", response_format="vtt")
    for response in (text, srt, vtt):
        assert response.headers["content-type"] == "text/plain; charset=utf-8"
    assert text.text == "hello this is a test the job is complete now\n"
    time = r"\d\d:\d\d:\d\d,\d{3}"
    assert re.fullmatch(
        rf"1\n{time} --> {time}\nhello this is a test\n\n2\n{time} --> {time}\nthe job is complete now\n\n", srt.text
    )
    assert vtt.text.startswith("WEBVTT\n\n00:")


async def test_options_reach_the_model(running: Running, samples: Path) -> None:
    fields = {
        "language": "en",
        "prompt": "a call",
        "temperature": "0",
        "beam_size": "2",
        "keywords[]": "hello",
        "model": "whisper-1",
        "chunking_strategy": json.dumps({"type": "server_vad", "threshold": 0.4}),
        "vad_filter": "false",
    }
    response = await running.transcribe(samples / "hello.wav", **fields)
    assert response.json()["text"] == "hello this is a test the job is complete now"


async def test_ignored_field_gives_a_warning(running: Running, samples: Path) -> None:
    response = await running.transcribe(samples / "hello.wav", best_of="3", some_unknown_field="x")
    assert response.json()["warnings"] == ["`best_of` is not supported and was ignored."]


async def test_synchronous_request_leaves_nothing(running: Running, samples: Path) -> None:
    await running.transcribe(samples / "hello.wav")
    await eventually(lambda: not running.service.jobs.store.live_jobs())
    await running.until_no_files()
    assert (await running.client.get("/v1/jobs")).json() == {"total_jobs": 0, "jobs": {}}


@pytest.mark.full(reason="takes more than a second")
async def test_request_is_cancelled_some_time_after_its_client_disconnects(
    tmp_path: Path, model: WhisperModel, samples: Path
) -> None:
    async with serving(tmp_path / "data", lambda: model, grace_seconds=0.3) as running:
        waiting = asyncio.create_task(running.transcribe(samples / "long.opus"))
        await eventually(lambda: running.service.pool.active == 1)
        waiting.cancel()
        await eventually(lambda: not running.service.pool.active and not running.service.jobs.store.live_jobs())
        await running.until_no_files()


async def test_failed_download_is_a_bad_request(tmp_path: Path, model: WhisperModel) -> None:
    settings: dict[str, Any] = {"url_allowed_hosts": "127.0.0.1", "upload_max_attempts": 1}
    async with serving(tmp_path / "data", lambda: model, **settings) as running:
        response = await running.transcribe(url="http://127.0.0.1:9/audio.wav?X-Amz-Signature=secret")
    assert response.status_code == 400
    message = response.json()["error"]["message"]
    assert message == "Connection refused (attempt 1/1) from http://127.0.0.1:9/audio.wav"


@pytest.mark.full(reason="takes more than a second")
async def test_segments_and_words_have_their_channel(running: Running, samples: Path) -> None:
    response = await running.transcribe(
        samples / "two_speakers_stereo.flac",
        response_format="verbose_json",
        multichannel="true",
        **{"timestamp_granularities[]": "word,segment"},
    )
    body = response.json()
    assert {segment["channel"] for segment in body["segments"]} == {0, 1}
    assert {word["channel"] for word in body["words"]} == {0, 1}
    mixed = await running.transcribe(samples / "two_speakers_stereo.flac", response_format="verbose_json")
    assert not any("channel" in segment for segment in mixed.json()["segments"])
