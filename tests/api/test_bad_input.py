"""Invalid input is rejected with a clear message and leaves nothing behind."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from app.edge.middleware import canonical_path
from tests.support.service import serving

if TYPE_CHECKING:
    from pathlib import Path

    from app.transcription.whisper import WhisperModel
    from tests.support.service import Running

pytestmark = [pytest.mark.anyio, pytest.mark.contract]

PUT_URL = "http://127.0.0.1:9/bucket/key"


@pytest.fixture
def running(shared: Running) -> Running:
    """The service of this module, because every request is rejected and leaves nothing behind."""
    return shared


def error_of(response: httpx.Response, status: int) -> dict[str, Any]:
    """Check that the response has OpenAI's envelope and return the error."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    body = response.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    error: dict[str, Any] = body["error"]
    return error


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"response_format": "docx"}, "response_format", "must be one of json, text, srt, vtt, lrc, tsv, verbose_json"),
        ({"response_format": "document"}, "response_format", "must be one of"),
        ({"response_format": "diarized_json", "num_speakers": "0"}, "num_speakers", "must be between 1 and 32"),
        ({"temperature": "7"}, "temperature", "must be between 0 and 1"),
        ({"temperature": "nan"}, "temperature", "must be a number between 0 and 1"),
        ({"beam_size": "0"}, "beam_size", "must be between 1 and 10"),
        ({"beam_size": "2.5"}, "beam_size", "whole number"),
        ({"language": "klingon"}, "language", "ISO-639-1"),
        ({"vad_filter": "maybe"}, "vad_filter", "true or false"),
        ({"timestamp_granularities[]": "letter"}, "timestamp_granularities", "must be one of segment, word"),
        ({"metadata": "[1]"}, "metadata", "JSON object of strings"),
        ({"metadata": "{"}, "metadata", "valid JSON"),
        ({"chunking_strategy": "sometimes"}, "chunking_strategy", "auto"),
        ({"stream": "true", "stored_output": "true"}, "stream", "for synchronous requests"),
        ({"languages[]": ["de", "klingon"]}, "languages", "ISO-639-1"),
        ({"vad_parameters": "0.5"}, "vad_parameters", "JSON object"),
        ({"multichannel": "perhaps"}, "multichannel", "true or false"),
        ({"webhook_url": "https://example.com"}, "webhook_url", "not available"),
        ({"include[]": "usage"}, "include", "must be one of logprobs"),
        ({"upload_presigned_url": "not a url"}, "upload_presigned_url", "contains a space"),
        ({"upload_presigned_url": "ftp://example.com/key"}, "upload_presigned_url", "https"),
        ({"upload_presigned_url": "http://example.com/key"}, "upload_presigned_url", "URL_ALLOWED_HOSTS"),
        ({"upload_presigned_url": "https://10.0.0.1/key"}, "upload_presigned_url", "URL_ALLOWED_HOSTS"),
        (
            {"upload_presigned_url": f"{PUT_URL}?Expires=1&Signature=s&AWSAccessKeyId=a"},
            "upload_presigned_url",
            "expired",
        ),
        ({"upload_headers": '{"a": "b"}'}, "upload_headers", "requires `upload_presigned_url`"),
        ({"upload_format": "text"}, "upload_format", "requires `upload_presigned_url`"),
        ({"upload_presigned_url": PUT_URL, "upload_format": "docx"}, "upload_format", "must be one of"),
        ({"s3_presigned_url": "https://example.com/a.wav"}, "file", "exactly one of `file` and `s3_presigned_url`"),
        ({"prompt": "x" * 16_385}, "prompt", "at most 16384 bytes"),
        ({"keywords": "ü" * 8193}, "keywords", "at most 16384 bytes"),
        (
            {"response_format": "srt", "highlight_words": "true", "max_line_width": "101", "max_line_count": "10"},
            "highlight_words",
            "at most 1000 characters",
        ),
    ],
)
async def test_invalid_field_is_rejected_with_a_message(
    running: Running, samples: Path, fields: dict[str, str], param: str, words: str
) -> None:
    error = error_of(await running.transcribe(samples / "hello.wav", **fields), 400)
    assert error["param"] == param
    assert words in error["message"]
    assert error["type"] == "invalid_request_error"
    assert not running.service.jobs.store.live_jobs()
    assert await running.jobs_with_files() == set()


async def test_request_without_audio_is_rejected(running: Running) -> None:
    assert (
        "exactly one of `file` and `s3_presigned_url`"
        in error_of(await running.transcribe(language="en"), 400)["message"]
    )


async def test_unknown_model_is_404_for_the_sdk(running: Running, samples: Path) -> None:
    error = error_of(await running.transcribe(samples / "hello.wav", model="large-v9"), 404)
    assert error["code"] == "model_not_found"
    assert "whisper-1" in error["message"]


async def test_probe_with_an_unknown_model_is_answered_about_its_file(running: Running) -> None:
    """The request of isSTTAvailable() in Nextcloud's integration_openai, for which 404 means that there is no route."""
    probe: dict[str, Any] = {"model": (None, "invalid-model"), "file": ("file.mp3", b"a", "audio/mpeg")}
    response = await running.client.post("/v1/audio/translations", files=probe)
    error = error_of(response, 400)
    assert (error["code"], error["message"]) == (
        "invalid_audio",
        "The file is too short for audio in any format (1 B): send a file with audio in it.",
    )


@pytest.mark.parametrize("audio", [{}, {"file": ("song.mp3", b"These are no frames.\n")}])
async def test_unknown_model_comes_before_other_problems(running: Running, audio: dict[str, Any]) -> None:
    fields = {"model": (None, "invalid-model"), "temperature": (None, "7"), **audio}
    error = error_of(await running.client.post("/v1/audio/transcriptions", files=fields), 404)
    assert (error["code"], error["param"]) == ("model_not_found", "model")


async def test_empty_file_is_rejected(running: Running, tmp_path: Path) -> None:
    (tmp_path / "empty.wav").touch()
    assert "empty" in error_of(await running.transcribe(tmp_path / "empty.wav"), 400)["message"]


async def test_text_named_mp3_is_rejected(running: Running, tmp_path: Path) -> None:
    (tmp_path / "song.mp3").write_text("These are no frames.\n" * 100)
    error = error_of(await running.transcribe(tmp_path / "song.mp3"), 400)
    assert error["code"] == "invalid_audio"
    assert "wav, mp3, flac" in error["message"]


async def test_truncated_m4a_is_rejected(running: Running, samples: Path, tmp_path: Path) -> None:
    whole = (samples / "report.m4a").read_bytes()
    (tmp_path / "half.m4a").write_bytes(whole[: len(whole) // 2])
    assert error_of(await running.transcribe(tmp_path / "half.m4a"), 400)["code"] == "invalid_audio"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("list.m3u8", "#EXTM3U\n#EXTINF:10,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n"),
        ("list.ffconcat", "ffconcat version 1.0\nfile hello.wav\n"),
        ("session.sdp", "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio 5004 RTP/AVP 0\n"),
    ],
)
async def test_playlists_are_rejected(running: Running, tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    assert error_of(await running.transcribe(tmp_path / name), 400)["code"] == "invalid_audio"


async def test_too_long_audio_is_413(tmp_path: Path, model: WhisperModel, samples: Path) -> None:
    async with serving(tmp_path / "data", lambda: model, max_audio_seconds=3) as running:
        error = error_of(await running.transcribe(samples / "hello.wav"), 413)
    assert "MAX_AUDIO_SECONDS" in error["message"]


async def test_too_large_file_is_413(tmp_path: Path, model: WhisperModel, samples: Path) -> None:
    async with serving(tmp_path / "data", lambda: model, max_upload_bytes=100_000) as running:
        error = error_of(await running.transcribe(samples / "hello.wav"), 413)
        huge = await running.client.post(
            "/v1/audio/transcriptions", content=_chunks(b"x" * 1_000_000, 20), headers={"content-type": "text/plain"}
        )
        assert await running.jobs_with_files() == set()
    assert "MAX_UPLOAD_BYTES" in error["message"]
    assert huge.status_code == 400  # not a form, so it is rejected unread


async def _chunks(chunk: bytes, count: int) -> Any:
    for _ in range(count):
        yield chunk


async def test_framework_errors_have_the_envelope_too(running: Running) -> None:
    assert "/docs" in error_of(await running.client.get("/v1/nothing"), 404)["message"]
    assert "use POST" in error_of(await running.client.get("/v1/audio/transcriptions"), 405)["message"]
    assert error_of(await running.client.get("/v1/jobs", params={"limit": 0}), 400)["param"] == "limit"
    assert error_of(await running.client.get("/v1/jobs", params={"status": "lost"}), 400)["param"] == "status"
    assert error_of(await running.client.get("/v1/jobs/none"), 404)["code"] == "job_not_found"
    assert error_of(await running.client.delete("/v1/jobs/none"), 404)["code"] == "job_not_found"


@pytest.mark.parametrize(
    ("content", "content_type", "words"),
    [
        (b"{}", "application/json", "not a form"),
        (b"--x\r\n", "multipart/form-data", "not a form"),
        (b"nonsense", "multipart/form-data; boundary=x", "last boundary"),
        (
            b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nabc',
            "multipart/form-data; boundary=x",
            "last boundary",
        ),
    ],
)
async def test_malformed_form_is_rejected(running: Running, content: bytes, content_type: str, words: str) -> None:
    response = await running.client.post(
        "/v1/audio/transcriptions", content=content, headers={"content-type": content_type}
    )
    assert words in error_of(response, 400)["message"]


@pytest.mark.parametrize(
    "sent",
    [b"GARBAGE\r\n\r\n", b"GET / HTTP/1.1\r\nContent-Length: x\r\n\r\n", b"GET / HTTP/1.1\r\na: " + b"x" * 100_000],
)
async def test_invalid_http_is_rejected_with_the_envelope(running: Running, sent: bytes) -> None:
    host, _, port = running.address.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(sent)
    head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    await writer.wait_closed()
    assert head.startswith(b"HTTP/1.1 400 ")
    assert json.loads(body)["error"]["message"].startswith("Invalid HTTP request received.")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PUT", "/v1/jobs/some", "GET, PATCH, DELETE"),
        ("GET", "/v1/audio/transcriptions", "POST"),
        ("POST", "/health", "GET"),
        ("DELETE", "/v1/models", "GET"),
    ],
)
async def test_wrong_method_is_405_with_the_allowed_ones(
    running: Running, method: str, path: str, allowed: str
) -> None:
    response = await running.client.request(method, path)
    assert (response.status_code, response.headers["allow"]) == (405, allowed)
    assert response.json()["error"]["message"] == f"{method} is not allowed on {path}: use {allowed}."


@pytest.mark.parametrize("path", ["/ui", "/v1", "/docs/assets/none.js", "/v1/nothing", "/v2/nothing"])
async def test_unknown_path_is_404_with_the_envelope(running: Running, path: str) -> None:
    response = await running.client.get(path)
    assert response.status_code == 404
    assert response.json()["error"]["message"] == f"GET {path} does not exist: see /docs for all routes."


@pytest.mark.parametrize(
    ("path", "meant"),
    [
        ("/audio/transcriptions", "/v1/audio/transcriptions"),
        ("/api/v1/audio/translations", "/v1/audio/translations"),
        ("/v2/models", "/v1/models"),
        ("/api/jobs/4f0c", "/v1/jobs/4f0c"),
    ],
)
async def test_error_for_a_wrong_base_url_names_the_right_path(running: Running, path: str, meant: str) -> None:
    response = await running.client.post(path)
    message = f"POST {path} does not exist: did you mean {meant}? The base URL of this API ends with /v1."
    assert error_of(response, 404)["message"] == message


@pytest.mark.parametrize(
    ("target", "path"),
    [
        ("/v1/models", "/v1/models"),
        ("/v1/models/", "/v1/models"),
        ("//v1///models//", "/v1/models"),
        ("/v1/models//srv/models//base/", "/v1/models//srv/models//base/"),
        ("http://127.0.0.1:8000/v1/models", "/v1/models"),
        ("HTTPS://example.com//v1/models/", "/v1/models"),
        ("http://example.com", "/"),
        ("/", "/"),
        ("//", "/"),
        ("*", "*"),
        ("/openai/v1/models", "/v1/models"),
        ("/openai/v2/models", "/openai/v2/models"),
        ("/openai/deployments/a/chat/completions", "/openai/deployments/a/chat/completions"),
    ],
)
def test_path_is_understood_as_clients_write_it(target: str, path: str) -> None:
    assert canonical_path(target) == (path, None)


@pytest.mark.parametrize(
    "target",
    [
        "/v1/audio/transcriptions/",
        "//v1/audio/transcriptions",
        "/openai/deployments/demo/audio/transcriptions",
    ],
)
async def test_other_forms_of_the_path_are_served_with_a_key(
    tmp_path: Path, model: WhisperModel, samples: Path, target: str
) -> None:
    content = await asyncio.to_thread((samples / "hello.wav").read_bytes)
    async with serving(tmp_path / "data", lambda: model, api_keys="sk-test") as running:
        files = {"file": ("hello.wav", content)}
        url = httpx.URL(running.client.base_url, raw_path=target.encode())
        assert (await running.client.post(url, files=files)).status_code == 401
        response = await running.client.post(url, files=files, headers={"api-key": "sk-test"})
    assert response.json()["text"].startswith("hello this is a test")


async def test_absolute_target_is_served_as_proxies_send_it(running: Running) -> None:
    async with httpx.AsyncClient(proxy=running.address, trust_env=False) as client:
        response = await client.get("http://127.0.0.1:9/v1/models/")
    assert response.json()["object"] == "list"


async def test_deployment_of_azures_sdk_is_the_model(running: Running, samples: Path) -> None:
    with (samples / "hello.wav").open("rb") as audio:
        response = await running.client.post(
            "/openai/deployments/large-v9/audio/transcriptions?api-version=2024-06-01", files={"file": audio}
        )
    assert "large-v9" in error_of(response, 404)["message"]


async def test_compressed_body_is_refused_by_its_name(running: Running) -> None:
    response = await running.client.post(
        "/v1/audio/transcriptions", content=b"\x1f\x8b", headers={"Content-Encoding": "gzip"}
    )
    error = error_of(response, 415)
    assert error["code"] == "encoded_body"
    assert "gzip" in error["message"]


async def test_prefix_of_groqs_sdk_is_served_and_needs_a_key(
    tmp_path: Path, model: WhisperModel, samples: Path
) -> None:
    async with serving(tmp_path / "data", lambda: model, api_keys="sk-test") as running:
        rejected = await running.client.get("/openai/v1/models")
        assert rejected.status_code == 401
        content = await asyncio.to_thread((samples / "hello.wav").read_bytes)
        response = await running.client.post(
            "/openai/v1/audio/transcriptions",
            files={"file": ("hello.wav", content)},
            headers={"Authorization": "Bearer sk-test"},
        )
    assert response.json()["text"].startswith("hello this is a test")
