"""Requests that wait for their transcript."""

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

pytestmark = pytest.mark.anyio

#: Samples that the demo model writes down without a mistake, whichever way they are asked for.
EXACT = ("hello.wav", "numbers.mp3", "upload.ogg", "report.m4a", "code.flac", "colours.webm", "phone_8k.wav")


@pytest.mark.parametrize("name", EXACT)
async def test_sample_is_transcribed_exactly(
    running: Running, samples: Path, references: dict[str, dict[str, Any]], name: str
) -> None:
    answer = await running.transcribe(samples / name)
    assert answer.status_code == 200
    assert answer.json()["text"] == references[name]["text"]
    assert answer.json()["usage"]["type"] == "duration"


async def test_long_recording_is_transcribed_window_by_window(
    running: Running, samples: Path, references: dict[str, dict[str, Any]]
) -> None:
    answer = await running.transcribe(samples / "long.opus", response_format="verbose_json")
    wanted, got = references["long.opus"]["text"].split(), answer.json()["text"].split()
    assert sum(one != other for one, other in zip(wanted, got, strict=False)) + abs(len(wanted) - len(got)) <= 4
    assert [segment["id"] for segment in answer.json()["segments"]] == list(range(len(answer.json()["segments"])))
    assert answer.json()["duration"] == pytest.approx(76.53, abs=0.05)


async def test_silence_gives_an_empty_transcript(running: Running, samples: Path) -> None:
    answer = await running.transcribe(samples / "silence.wav", response_format="verbose_json")
    assert answer.status_code == 200
    assert answer.json() == {
        "task": "transcribe",
        "language": "english",
        "duration": 3.0,
        "text": "",
        "segments": [],
        "usage": {"type": "duration", "seconds": 3},
    }


async def test_verbose_json_has_openais_fields_and_honest_times(
    running: Running, samples: Path, references: dict[str, dict[str, Any]]
) -> None:
    answer = await running.transcribe(samples / "hello.wav", response_format="verbose_json")
    body = answer.json()
    assert body["language"] == "english"
    assert "words" not in body
    for segment, reference in zip(body["segments"], references["hello.wav"]["segments"], strict=True):
        assert segment["text"].strip() == reference["text"]
        assert segment["start"] == pytest.approx(reference["start"], abs=0.6)
        assert segment["end"] == pytest.approx(reference["end"], abs=0.6)


async def test_words_stand_at_the_top_level_and_inside_their_recording(
    running: Running, samples: Path, references: dict[str, dict[str, Any]]
) -> None:
    fields = {"response_format": "verbose_json", "timestamp_granularities[]": "word"}
    answer = await running.transcribe(samples / "hello.wav", **fields)
    body = answer.json()
    assert "segments" not in body
    truth = references["hello.wav"]
    spoken = [word for segment in truth["segments"] for word in segment["words"]]
    assert [word["word"] for word in body["words"]] == [word["word"] for word in spoken]
    for got, wanted in zip(body["words"], spoken, strict=True):
        assert got["start"] == pytest.approx(wanted["start"], abs=0.7)
        assert got["start"] <= got["end"] <= truth["duration"]


async def test_both_granularities_give_both(running: Running, samples: Path) -> None:
    answer = await running.transcribe(
        samples / "hello.wav", response_format="verbose_json", timestamp_granularities="segment,word"
    )
    assert len(answer.json()["segments"]) == 2
    assert len(answer.json()["words"]) == 10


async def test_text_srt_and_vtt_are_plain_text(running: Running, samples: Path) -> None:
    text = await running.transcribe(samples / "hello.wav", response_format="text")
    srt = await running.transcribe(samples / "hello.wav", response_format="srt")
    vtt = await running.transcribe(samples / "hello.wav", response_format="vtt")
    for answer in (text, srt, vtt):
        assert answer.headers["content-type"] == "text/plain; charset=utf-8"
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
    answer = await running.transcribe(samples / "hello.wav", **fields)
    assert answer.json()["text"] == "hello this is a test the job is complete now"


async def test_ignored_fields_are_said_in_warnings(running: Running, samples: Path) -> None:
    answer = await running.transcribe(samples / "hello.wav", enable_diarization="true", some_unknown_field="x")
    assert answer.json()["warnings"] == ["`enable_diarization` is not supported and was ignored."]


async def test_nothing_of_a_synchronous_request_is_left(running: Running, samples: Path, tmp_path: Path) -> None:
    await running.transcribe(samples / "hello.wav")
    await eventually(lambda: not running.service.jobs.store.live_jobs())
    assert not list((tmp_path / "data" / "jobs").iterdir())
    assert (await running.client.get("/v1/jobs")).json() == {"total_jobs": 0, "jobs": {}}


async def test_work_of_a_client_that_went_away_is_cancelled_after_the_grace(
    tmp_path: Path, model: WhisperModel, samples: Path
) -> None:
    async with serving(tmp_path / "data", lambda: model, grace_seconds=0.3) as running:
        waiting = asyncio.create_task(running.transcribe(samples / "long.opus"))
        await eventually(lambda: running.service.pool.active == 1)
        waiting.cancel()
        await eventually(lambda: not running.service.pool.active and not running.service.jobs.store.live_jobs())
        await eventually(lambda: not list((tmp_path / "data" / "jobs").iterdir()))


async def test_audio_behind_a_url_that_fails_is_a_bad_request(tmp_path: Path, model: WhisperModel) -> None:
    settings: dict[str, Any] = {"url_allowed_hosts": "127.0.0.1", "upload_max_attempts": 1}
    async with serving(tmp_path / "data", lambda: model, **settings) as running:
        answer = await running.transcribe(url="http://127.0.0.1:9/audio.wav?X-Amz-Signature=secret")
    assert answer.status_code == 400
    message = answer.json()["error"]["message"]
    assert message == "Connection refused (attempt 1/1) from http://127.0.0.1:9/audio.wav"


async def test_channels_are_marked_on_segments_and_words(running: Running, samples: Path) -> None:
    answer = await running.transcribe(
        samples / "two_speakers_stereo.flac",
        response_format="verbose_json",
        multichannel="true",
        **{"timestamp_granularities[]": "word,segment"},
    )
    body = answer.json()
    assert {segment["channel"] for segment in body["segments"]} == {0, 1}
    assert {word["channel"] for word in body["words"]} == {0, 1}
    mixed = await running.transcribe(samples / "two_speakers_stereo.flac", response_format="verbose_json")
    assert not any("channel" in segment for segment in mixed.json()["segments"])
