"""``/asr`` and ``/detect-language``: the requests of programs made for whisper-asr-webservice, and their responses.

Each request is written down from the public source of its program, named beside it.
"""

from __future__ import annotations

import asyncio
import base64
import json
import wave
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests.support.audio import silence
from tests.support.recording_model import recording
from tests.support.service import serving
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from pathlib import Path

    from app.transcription.whisper import WhisperModel
    from tests.support.held_model import Held
    from tests.support.service import Running

pytestmark = [pytest.mark.anyio, pytest.mark.contract, pytest.mark.full(reason="starts services")]

KEY = "sk-films-0123456789"
#: The header of the part in which the library requests sends bytes without a name.
UNNAMED = "audio_file"


def pcm_of(sample: Path) -> bytes:
    """Return the samples of a WAV file: 16 kHz s16le mono, as ffmpeg writes them for Bazarr."""
    with wave.open(str(sample)) as file:
        assert (file.getframerate(), file.getsampwidth(), file.getnchannels()) == (16_000, 2, 1)
        return bytes(file.readframes(file.getnframes()))


@pytest.fixture
def pcm(samples: Path) -> bytes:
    return pcm_of(samples / "hello.wav")


async def bazarr(client: httpx.AsyncClient, pcm: bytes, path: str = "/asr", **params: str) -> httpx.Response:
    """Send the request of ``custom_libs/subliminal_patch/providers/whisperai.py`` in morpheus65535/bazarr."""
    if path == "/asr":
        params = {"task": "transcribe", "language": "en", "output": "srt", "encode": "false", **params}
    else:
        params = {"encode": "false", **params}
    return await client.post(path, params=params, files={"audio_file": (UNNAMED, pcm, "")})


async def speakr(running: Running, audio: bytes, **params: Any) -> httpx.Response:
    """Send the request of ``connectors/asr_endpoint.py`` in murtaza-nasir/speakr."""
    asked: dict[str, Any] = {
        "encode": True,
        "task": "transcribe",
        "output": "json",
        "diarize": True,
        "enable_diarization": True,
    }
    return await running.client.post(
        "/asr", params={**asked, **params}, files={"audio_file": ("meeting.wav", audio, "audio/wav")}
    )


@pytest.mark.smoke
async def test_bazarr_gets_subtitles_for_samples_without_a_header(shared: Running, pcm: bytes) -> None:
    response = await bazarr(shared.client, pcm, video_file="/films/A film (2001).mkv")
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/plain; charset=utf-8"
    number, times, text = response.text.splitlines()[:3]
    assert (number, text) == ("1", "hello this is a test")
    assert times.startswith("00:00:00,")


async def test_samples_and_their_wav_file_have_the_same_subtitles(shared: Running, samples: Path, pcm: bytes) -> None:
    of_samples = await bazarr(shared.client, pcm)
    of_file = await bazarr(shared.client, (samples / "hello.wav").read_bytes(), encode="true")
    assert of_samples.text == of_file.text


async def test_samples_that_end_in_the_middle_of_one_are_transcribed(shared: Running, pcm: bytes) -> None:
    assert "hello this is a test" in (await bazarr(shared.client, pcm + b"\0")).text


async def test_bazarr_translates_from_the_language_that_it_knows(
    tmp_path: Path, model: WhisperModel, pcm: bytes
) -> None:
    wrapped, recorder = recording(model)
    async with serving(tmp_path, lambda: wrapped) as running:
        response = await bazarr(running.client, pcm, task="translate", language="ja")
    assert response.status_code == 200
    tokens = [model._hf_tokenizer.token_to_id(token) for token in ("<|ja|>", "<|translate|>")]
    assert recorder.prompts[0][1:3] == tokens
    assert recorder.detections == []


@pytest.mark.smoke
async def test_bazarr_detects_the_language(tmp_path: Path, model: WhisperModel, pcm: bytes) -> None:
    wrapped, _ = recording(model, languages=["de"])
    async with serving(tmp_path, lambda: wrapped) as running:
        response = await bazarr(running.client, pcm, "/detect-language")
    assert response.headers["content-type"] == "application/json"
    assert response.json() == {"detected_language": "german", "language_code": "de", "confidence": 0.99}


async def test_language_of_silence_has_no_confidence(shared: Running) -> None:
    response = await bazarr(shared.client, silence(2.0).tobytes(), "/detect-language")
    assert response.json() == {"detected_language": "english", "language_code": "en", "confidence": 0.0}


async def test_silence_has_no_subtitles(shared: Running) -> None:
    response = await bazarr(shared.client, silence(2.0).tobytes())
    assert (response.status_code, response.content) == (200, b"")


@pytest.mark.parametrize(
    ("params", "audio", "param"),
    [
        ({"language": "klingon"}, b"\0" * 64, "language"),
        ({"output": "docx"}, b"\0" * 64, "output"),
        ({"encode": "perhaps"}, b"\0" * 64, "encode"),
        ({"encode": "true"}, b"1\n00:00:01,000 --> 00:00:02,000\nno audio\n\n", "file"),
        ({}, b"", "file"),
    ],
)
async def test_failure_is_one_line_that_no_parser_of_subtitles_accepts(
    shared: Running, params: dict[str, str], audio: bytes, param: str
) -> None:
    response = await bazarr(shared.client, audio, **params)
    assert response.status_code == 400
    assert b"\n" not in response.content
    assert response.content.startswith(b'{"error":{"')
    assert response.json()["error"]["param"] == param


async def test_failure_quotes_no_subtitle_of_the_client(shared: Running) -> None:
    response = await bazarr(shared.client, b"\0\0", language="1\n00:00:01,000 --> 00:00:02,000\nhello\n\n")
    assert response.status_code == 400
    assert b"\n" not in response.content


async def test_detection_without_audio_says_how_to_send_it(shared: Running) -> None:
    response = await shared.client.post("/detect-language", files={"subtitles": ("a.srt", b"1")})
    assert response.status_code == 400
    assert response.json()["error"]["message"].startswith("The form has no audio: send it as the part `audio_file`")


async def test_audio_without_a_file_name_says_so(shared: Running) -> None:
    body = b'--b\r\nContent-Disposition: form-data; name="audio_file"\r\n\r\n\xff\xfe\r\n--b--\r\n'
    response = await shared.client.post(
        "/asr", content=body, headers={"Content-Type": "multipart/form-data; boundary=b"}
    )
    assert response.json()["error"]["message"].startswith("The part `audio_file` has no file name")


@pytest.mark.smoke
async def test_speakr_gets_segments_with_labels_of_speakers(tmp_path: Path, model: WhisperModel, samples: Path) -> None:
    audio = await asyncio.to_thread((samples / "hello.wav").read_bytes)
    async with serving(tmp_path, lambda: model) as running:
        response = await speakr(running, audio, language="en", min_speakers=1, max_speakers=2, hotwords="job")
    assert response.status_code == 200, response.text
    body = json.loads(response.text)
    assert body["language"] == "en"
    assert [segment["text"].strip() for segment in body["segments"]] == [
        "hello this is a test",
        "the job is complete now",
    ]
    for number, segment in enumerate(body["segments"]):
        assert segment["id"] == number
        assert segment["start"] < segment["end"]
        assert segment["speaker"] == "SPEAKER_00"
        assert "words" not in segment
    assert "warnings" not in body


async def test_speakr_is_told_that_voices_are_not_told_apart(
    tmp_path: Path, model: WhisperModel, samples: Path
) -> None:
    audio = await asyncio.to_thread((samples / "hello.wav").read_bytes)
    async with serving(tmp_path, lambda: model, diarization_model="none") as running:
        response = await speakr(running, audio, return_speaker_embeddings=True)
    body = response.json()
    assert {segment.get("speaker") for segment in body["segments"]} == {None}
    assert [warning.split()[0] for warning in body["warnings"]] == [
        "`diarize`",
        "`enable_diarization`",
        "`return_speaker_embeddings`",
    ]


async def test_speakr_reads_the_reason_of_a_failure(shared: Running) -> None:
    response = await speakr(shared, b"\0" * 64, model="whisper-tiny")
    assert response.status_code == 404
    assert response.json()["error"]["code"] == "model_not_found"


async def test_words_are_in_their_segments(shared: Running, pcm: bytes) -> None:
    response = await bazarr(shared.client, pcm, output="json", word_timestamps="true")
    (first, second) = response.json()["segments"]
    assert [word["word"] for word in first["words"]] == [" hello", " this", " is", " a", " test"]
    assert "".join(word["word"] for word in second["words"]) == second["text"]
    assert {name for word in first["words"] for name in word} == {"word", "start", "end", "probability"}


@pytest.mark.parametrize(
    ("output", "beginning"),
    [
        ("txt", "hello this is a test\nthe job is complete now\n"),
        ("text", "hello this is a test\nthe job is complete now\n"),
        ("vtt", "WEBVTT\n\n00:00."),
        ("srt", "1\n00:00:00,"),
        ("tsv", "start\tend\ttext\n"),
        ("json", '{"text":"hello this is a test the job is complete now","segments":[{"id":0,'),
    ],
)
async def test_each_output_is_an_attachment_of_plain_text(
    shared: Running, samples: Path, output: str, beginning: str
) -> None:
    audio = await asyncio.to_thread((samples / "hello.wav").read_bytes)
    response = await shared.client.post(
        "/asr", params={"output": output}, files={"audio_file": ("Grüße; 1.wav", audio)}
    )
    assert response.text.startswith(beginning)
    assert response.headers["content-type"] == "text/plain; charset=utf-8"
    assert response.headers["asr-engine"] == "faster_whisper"
    name = f"Gr%C3%BC%C3%9Fe%3B%201.wav.{output}"
    assert response.headers["content-disposition"] == f'attachment; filename="{name}"'


async def test_default_output_is_text(shared: Running, samples: Path) -> None:
    """The request of ``docs/endpoints.md`` in ahmetoner/whisper-asr-webservice."""
    audio = await asyncio.to_thread((samples / "hello.wav").read_bytes)
    response = await shared.client.post("/asr", files={"audio_file": ("hello.wav", audio)})
    assert response.text == "hello this is a test\nthe job is complete now\n"


async def test_fields_of_the_form_do_not_count(shared: Running, samples: Path) -> None:
    audio = await asyncio.to_thread((samples / "hello.wav").read_bytes)
    response = await shared.client.post(
        "/asr",
        params={"output": "txt", "webhook_url": "https://example.com"},
        data={"stored_output": "true", "output": "json", "temperature": "7"},
        files={"audio_file": ("hello.wav", audio)},
    )
    assert response.text.startswith("hello")
    assert (await shared.client.get("/v1/jobs")).json()["total_jobs"] == 0


async def test_prompt_and_hotwords_reach_the_model(tmp_path: Path, model: WhisperModel, pcm: bytes) -> None:
    wrapped, recorder = recording(model)
    async with serving(tmp_path, lambda: wrapped) as running:
        await bazarr(running.client, pcm, initial_prompt="a test", hotwords="job")
    text = model._hf_tokenizer.decode(recorder.prompts[0])
    assert "job a test" in text


@pytest.mark.parametrize("path", ["/asr", "/asr/", "/detect-language"])
async def test_key_is_required(tmp_path: Path, model: WhisperModel, pcm: bytes, path: str) -> None:
    async with serving(tmp_path, lambda: model, api_keys=KEY) as running:
        assert (await bazarr(running.client, pcm, path)).status_code == 401
        assert (await running.client.post(path, headers={"Authorization": "Basic ???"})).status_code == 401
        running.client.headers["Authorization"] = f"Bearer {KEY}"
        assert (await bazarr(running.client, pcm, path)).status_code == 200


async def test_key_can_be_the_password_of_a_url(tmp_path: Path, model: WhisperModel, pcm: bytes) -> None:
    async with serving(tmp_path, lambda: model, api_keys=KEY) as running:
        for user, password, status in (("bazarr", KEY, 200), ("", KEY, 200), (KEY, "", 200), ("bazarr", "sk", 401)):
            address = httpx.URL(running.address).copy_with(username=user, password=password)
            async with httpx.AsyncClient(base_url=address, trust_env=False) as client:
                response = await bazarr(client, pcm)
                assert response.status_code == status
                assert response.request.headers["authorization"].startswith("Basic ")
        assert base64.b64encode(KEY.encode()).decode() not in response.text


async def test_large_audio_is_refused_before_it_is_sent(tmp_path: Path, model: WhisperModel, pcm: bytes) -> None:
    async with serving(tmp_path, lambda: model, max_upload_bytes=1000) as running:
        response = await bazarr(running.client, pcm)
    assert response.status_code == 413
    assert response.json()["error"]["code"] == "too_large"


async def test_full_queue_says_when_to_try_again(
    tmp_path: Path, model: WhisperModel, samples: Path, pcm: bytes, held: Held
) -> None:
    settings: dict[str, Any] = {"max_queued_jobs": 1, "max_concurrent_requests": 1}
    async with serving(tmp_path, lambda: model, **settings) as running:
        job = await running.submit(samples / "hello.wav", stored_output="true")
        await running.until(job, "processing")
        await running.until_waiting(0)
        await running.submit(samples / "hello.wav", stored_output="true")
        await running.until_waiting(1)
        for path in ("/asr", "/detect-language"):
            response = await bazarr(running.client, pcm, path)
            assert response.status_code == 429
            assert response.json()["error"]["code"] == "queue_full"
            assert int(response.headers["retry-after"]) >= 1
        held.open.set()


async def test_request_is_cancelled_some_time_after_its_client_disconnects(
    tmp_path: Path, model: WhisperModel, samples: Path
) -> None:
    film = await asyncio.to_thread((samples / "long.opus").read_bytes)
    async with serving(tmp_path, lambda: model, grace_seconds=0.3) as running:
        waiting = asyncio.create_task(bazarr(running.client, film, encode="true"))
        await eventually(lambda: running.service.pool.active == 1)
        waiting.cancel()
        await eventually(lambda: not running.service.pool.active and not running.service.jobs.store.live_jobs())


async def test_nothing_is_left_on_the_disk(tmp_path: Path, model: WhisperModel, pcm: bytes) -> None:
    async with serving(tmp_path, lambda: model) as running:
        await bazarr(running.client, pcm)
        await bazarr(running.client, pcm, "/detect-language")
        await bazarr(running.client, b"", language="klingon")
        await running.until_no_files()


async def test_idempotency_key_belongs_to_one_operation(tmp_path: Path, model: WhisperModel, pcm: bytes) -> None:
    async with serving(tmp_path, lambda: model) as running:
        files, headers = {"audio_file": ("film", pcm)}, {"Idempotency-Key": "one film"}
        job = await running.client.post(
            "/v1/audio/transcriptions", files=files, headers=headers, data={"stored_output": "true"}
        )
        assert job.status_code == 200
        response = await running.client.post("/detect-language", files=files, headers=headers)
    assert response.json()["error"]["code"] == "idempotency_key_reused"
