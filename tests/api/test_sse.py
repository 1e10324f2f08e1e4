"""``stream=true``: the transcript as server-sent events, read by OpenAI's client and as raw bytes."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import openai
import pytest

from app.api.sse import TextDeltas
from app.domain.transcript import TranscriptionOptions
from tests.support.audio import silence, two_tracks
from tests.support.fake_transcriber import a_segment
from tests.support.service import serving
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from pathlib import Path

    from app.transcription.whisper import WhisperModel
    from tests.support.service import Running

pytestmark = [pytest.mark.anyio, pytest.mark.contract]


@pytest.fixture
def running(shared: Running) -> Running:
    """The service of this module, because no request leaves anything behind."""
    return shared


async def events_of(running: Running, file: Path, **fields: str) -> list[dict[str, Any]]:
    with file.open("rb") as audio:
        response = await running.client.post(
            "/v1/audio/transcriptions", files={"file": audio}, data={"stream": "true", **fields}, timeout=60
        )
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("text/event-stream")
    lines = [line for line in response.text.split("\n\n") if line and not line.startswith(":")]
    assert all(line.startswith("data: ") for line in lines)
    return [json.loads(line.removeprefix("data: ")) for line in lines]


@pytest.mark.full(reason="takes more than a second")
async def test_deltas_add_up_to_the_text_of_the_last_event(running: Running, samples: Path) -> None:
    *deltas, done = await events_of(running, samples / "long.opus")
    assert {event["type"] for event in deltas} == {"transcript.text.delta"}
    assert len(deltas) >= 2
    assert done["type"] == "transcript.text.done"
    assert "".join(event["delta"] for event in deltas) == done["text"]
    assert done["text"].startswith("good morning and welcome")
    usage = done["usage"]
    assert (usage["type"], usage["input_token_details"]) == ("tokens", {"audio_tokens": 766, "text_tokens": 0})
    words = len(done["text"].split())
    assert words <= usage["output_tokens"] < 4 * words
    assert (usage["input_tokens"], usage["total_tokens"]) == (766, 766 + usage["output_tokens"])
    await eventually(lambda: not running.service.jobs.store.live_jobs())
    assert not running.service.jobs.segments.count


@pytest.mark.full(reason="takes more than a second")
async def test_replacements_are_in_deltas_text_words_and_subtitles(running: Running, samples: Path) -> None:
    fields = {"replace[good  Morning]": "Guten Tag", "replace[Welcome]": "willkommen"}
    plain = (await running.transcribe(samples / "long.opus")).json()["text"]
    expected = plain.replace("good morning", "Guten Tag").replace("welcome", "willkommen")
    *deltas, done = await events_of(running, samples / "long.opus", **fields)
    assert "".join(event["delta"] for event in deltas) == done["text"] == expected
    verbose = await running.transcribe(
        samples / "long.opus", response_format="verbose_json", word_timestamps="true", **fields
    )
    body = verbose.json()
    assert body["text"] == "".join(segment["text"] for segment in body["segments"]).strip() == expected
    assert [word["word"] for word in body["words"]] == expected.split()
    srt = await running.transcribe(samples / "long.opus", response_format="srt", max_line_width="20", **fields)
    assert "Guten Tag and" in srt.text


@pytest.mark.full(reason="takes more than a second")
async def test_segments_of_voices_come_after_all_deltas(running: Running, samples: Path) -> None:
    *events, done = await events_of(running, samples / "two_speakers_stereo.flac", response_format="diarized_json")
    waited = (await running.transcribe(samples / "two_speakers_stereo.flac", response_format="diarized_json")).json()
    deltas = [event for event in events if event["type"] == "transcript.text.delta"]
    assert events == deltas + waited["segments"]
    assert "".join(event["delta"] for event in deltas) == done["text"] == waited["text"]
    ids = [event["segment_id"] for event in deltas]
    assert ids == sorted(set(ids))
    assert len(ids) > 2
    assert set(ids) <= {segment["id"] for segment in waited["segments"]}


async def test_segments_of_channels_come_with_their_deltas_and_names(running: Running, samples: Path) -> None:
    fields = {"response_format": "diarized_json", "multichannel": "true"}
    file = samples / "two_speakers_stereo.flac"
    *events, done = await events_of(running, file, **fields, **{"known_speaker_names[]": "Zoë"})
    assert [event["type"] for event in events[:2]] == ["transcript.text.delta", "transcript.text.segment"]
    deltas, segments = events[::2], events[1::2]
    assert "".join(event["delta"] for event in deltas) == done["text"]
    assert [event["segment_id"] for event in deltas] == [segment["id"] for segment in segments]
    assert [event["delta"].strip() for event in deltas] == [segment["text"] for segment in segments]
    assert {segment["speaker"] for segment in segments} == {"Zoë", "B"}


async def test_deltas_without_speakers_have_no_segment(running: Running, samples: Path) -> None:
    *deltas, _ = await events_of(running, samples / "hello.wav", diarize="true")
    assert [event.keys() for event in deltas] == [{"type", "delta"}]


async def test_silence_is_a_single_event(running: Running, samples: Path) -> None:
    (done,) = await events_of(running, samples / "silence.wav")
    assert (done["type"], done["text"]) == ("transcript.text.done", "")


async def test_warnings_of_the_transcript_are_in_every_response(running: Running, tmp_path: Path) -> None:
    source = two_tracks(tmp_path / "two.mkv", silence(1), silence(1))
    (streamed,) = await events_of(running, source)
    waited = await running.transcribe(source)
    for body in (streamed, waited.json()):
        assert body["warnings"] == [
            "The file has 2 audio tracks, of which number 1 was transcribed: `audio_track` selects another."
        ]


async def test_usage_counts_the_tokens_of_prompt_and_text(running: Running, samples: Path, model: WhisperModel) -> None:
    *_, done = await events_of(running, samples / "hello.wav", prompt="the report is ready", keywords="job")
    prompt = model.prompt(TranscriptionOptions(prompt="the report is ready", hotwords="job"))
    text_tokens = len(prompt) - 1
    written = len(model._hf_tokenizer.encode(" " + done["text"], add_special_tokens=False).ids)
    assert done["usage"] == {
        "type": "tokens",
        "input_tokens": 53 + text_tokens,
        "input_token_details": {"audio_tokens": 53, "text_tokens": text_tokens},
        "output_tokens": written,
        "total_tokens": 53 + text_tokens + written,
    }


async def test_languages_are_in_the_last_event(running: Running, samples: Path) -> None:
    *_, done = await events_of(running, samples / "hello.wav", languages="en,de")
    assert done["languages"] == [{"code": "en"}]


async def test_stream_is_ignored_with_other_formats(running: Running, samples: Path) -> None:
    verbose = await running.transcribe(samples / "hello.wav", stream="true", response_format="verbose_json")
    assert verbose.json()["segments"]
    assert verbose.json()["warnings"] == [
        "`stream` requires `response_format` json, text or diarized_json and was ignored."
    ]
    subtitles = await running.transcribe(samples / "hello.wav", stream="true", response_format="srt")
    assert subtitles.headers["content-type"] == "text/plain; charset=utf-8"
    assert subtitles.text.startswith("1\n00:00:00")


async def test_openais_client_reads_the_stream(running: Running, samples: Path) -> None:
    client = openai.AsyncOpenAI(base_url=f"{running.address}/v1", api_key="any", max_retries=0)
    audio = await asyncio.to_thread((samples / "hello.wav").read_bytes)
    stream = await client.audio.transcriptions.create(model="whisper-1", file=("hello.wav", audio), stream=True)
    kinds = []
    async for event in stream:
        kinds.append(event.type)
        if event.type == "transcript.text.done":
            assert event.text == "hello this is a test the job is complete now"
    assert kinds == ["transcript.text.delta", "transcript.text.done"]
    await client.close()


async def test_failure_before_the_first_event_has_its_status(running: Running, tmp_path: Path) -> None:
    (tmp_path / "song.mp3").write_text("These are no frames.\n" * 100)
    response = await running.transcribe(tmp_path / "song.mp3", stream="true")
    assert (response.status_code, response.json()["error"]["code"]) == (400, "invalid_audio")
    await eventually(lambda: not running.service.jobs.store.live_jobs())


async def test_failure_during_the_stream_is_an_event(
    tmp_path: Path, model: WhisperModel, samples: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decode = model.decode

    def failing(windows: Any) -> Any:
        if any(window.start > 0 and window.number > 0 for window in windows):
            raise RuntimeError("broken")
        return decode(windows)

    monkeypatch.setattr(model, "decode", failing)
    async with serving(tmp_path / "data", lambda: model, whisper_batch_size="1") as running:
        *deltas, last = await events_of(running, samples / "long.opus")
    assert [event["type"] for event in deltas] == ["transcript.text.delta"]
    assert last["error"]["type"] == "server_error"


@pytest.mark.full(reason="takes more than a second")
async def test_disconnect_cancels_the_transcription(running: Running, samples: Path) -> None:
    with (samples / "long.opus").open("rb") as audio:
        request = running.client.build_request(
            "POST", "/v1/audio/transcriptions", files={"file": audio}, data={"stream": "true"}
        )
        response = await running.client.send(request, stream=True)
    await response.aclose()
    await eventually(lambda: not running.service.jobs.store.live_jobs())
    await eventually(lambda: running.service.pool.active == 0)
    assert not running.service.jobs.segments.count


def test_trailing_space_is_held_back_until_text_follows() -> None:
    deltas = TextDeltas()
    texts = ["  ", " one ", "two  ", "", " three "]
    pieces = [deltas.add((a_segment(0, text, start=0, end=1),)) for text in texts]
    assert "".join(pieces) == "".join(texts).strip()
    assert pieces[0] == ""
