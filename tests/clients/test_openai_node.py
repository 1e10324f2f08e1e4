"""OpenAI's Node client with the service: every method, every format, every kind of file."""

from __future__ import annotations

import asyncio
import json
import re
import ssl
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

import pytest
import trustme

from app.transcription.models import MODEL_ALIASES
from tests.clients.programs import output_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.support.service import Running

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.usefixtures("node_packages"),
    pytest.mark.full(reason="starts Node for each test"),
]

HELLO = "hello this is a test the job is complete now"
NUMBERS = "my number is seven three nine one room two hundred and forty five is ready"
SIX_SECONDS = {"type": "duration", "seconds": 6}
HELLO_JSON = {"text": HELLO, "usage": SIX_SECONDS}


async def results_of(running: Running, samples: Path, group: str) -> dict[str, Any]:
    """Run a group of ``node/openai.mjs`` and return the result of each of its cases."""
    script = samples.parent / "tests" / "clients" / "node" / "openai.mjs"
    key = running.client.headers["Authorization"].removeprefix("Bearer ")
    output, _ = await output_of("node", script, running.address, key, samples, group, cwd=script.parent)
    results: dict[str, dict[str, Any]] = json.loads(output)
    failed = {
        name: result for name, result in results[group].items() if isinstance(result, dict) and "failed" in result
    }
    assert not failed
    return results[group]


def spoken_lines(cues: str) -> list[str]:
    """Return the text lines of subtitles."""
    return [line for line in cues.splitlines() if line and not re.match(r"\d+$|WEBVTT|[\d:.,]+ --> [\d:.,]+$", line)]


def joined(events: list[dict[str, Any]]) -> str:
    return "".join(event["delta"] for event in events if event["type"] == "transcript.text.delta")


async def test_every_method_of_the_client_is_tested(running: Running, samples: Path) -> None:
    methods = await results_of(running, samples, "methods")
    assert methods == {
        "transcriptions": ["constructor", "create"],
        "translations": ["constructor", "create"],
        "models": ["constructor", "delete", "list", "retrieve"],
    }


async def test_models_are_listed_and_retrieved_by_name_and_alias(running: Running, samples: Path) -> None:
    models = await results_of(running, samples, "models")
    names = ["demo", *MODEL_ALIASES]
    assert models["pages"] == [model["id"] for model in models["list"]] == names
    assert models["list"][:2] == [models["served"], models["alias"]]
    assert {model["object"] for model in models["list"]} == {"model"}
    assert all(isinstance(model["created"], int) and model["owned_by"] for model in models["list"])


async def test_every_transcription_format_is_parsed(running: Running, samples: Path) -> None:
    formats = await results_of(running, samples, "formats")
    assert formats["default"] == HELLO_JSON
    assert formats["json"] == {"text": NUMBERS, "usage": {"type": "duration", "seconds": 8}}
    assert formats["text"] == f"{HELLO}\n"
    assert formats["srt"].startswith("1\n00:00:0")
    assert formats["vtt"].startswith("WEBVTT\n\n")
    for cues in (formats["srt"], formats["vtt"]):
        assert spoken_lines(cues) == ["hello this is a test", "the job is complete now"]
    _assert_is_verbose(formats["verbose_json"], task="transcribe")


async def test_every_translation_format_is_parsed(running: Running, samples: Path) -> None:
    formats = await results_of(running, samples, "translations")
    assert formats["default"] == formats["json"] == HELLO_JSON
    assert formats["text"] == f"{HELLO}\n"
    for name in ("srt", "vtt"):
        assert " ".join(spoken_lines(formats[name])) == HELLO
    _assert_is_verbose(formats["verbose_json"], task="translate")


def _assert_is_verbose(verbose: dict[str, Any], *, task: str) -> None:
    assert verbose.keys() == {"task", "language", "duration", "text", "segments", "usage"}
    assert (verbose["task"], verbose["language"], verbose["text"]) == (task, "english", HELLO)
    assert verbose["duration"] == pytest.approx(5.22, abs=0.01)
    assert verbose["usage"] == SIX_SECONDS
    for number, segment in enumerate(verbose["segments"]):
        assert segment["id"] == number
        assert all(isinstance(token, int) for token in segment["tokens"])
        for name in (
            *("seek", "start", "end", "temperature"),
            *("avg_logprob", "compression_ratio", "no_speech_prob"),
        ):
            assert isinstance(segment[name], int | float)
    assert "".join(segment["text"] for segment in verbose["segments"]).strip() == HELLO


async def test_granularities_select_words_and_segments(running: Running, samples: Path) -> None:
    responses = await results_of(running, samples, "granularities")
    assert "words" not in responses["segment"]
    assert "segments" not in responses["word"]
    assert len(responses["segment"]["segments"]) == len(responses["both"]["segments"]) == 2
    for response in (responses["word"], responses["both"]):
        words = response["words"]
        assert [word["word"] for word in words] == HELLO.split()
        times = [time for word in words for time in (word["start"], word["end"])]
        assert times == sorted(times)
        assert times[0] >= 0
        assert times[-1] <= response["duration"]


async def test_every_kind_of_file_is_accepted(running: Running, samples: Path) -> None:
    files = await results_of(running, samples, "files")
    assert len(files) == 6
    assert all(response == HELLO_JSON for response in files.values())


async def test_channels_become_speakers(running: Running, samples: Path, references: dict[str, dict[str, Any]]) -> None:
    recording = references["two_speakers_stereo.flac"]
    expected = [(segment["text"], "AB"[segment["channel"]]) for segment in recording["segments"]]
    speakers = await results_of(running, samples, "speakers")
    diarized = speakers["diarized_json"]
    assert diarized.keys() == {"task", "duration", "text", "segments", "usage"}
    assert diarized["text"] == recording["text"]
    assert [(segment["text"], segment["speaker"]) for segment in diarized["segments"]] == expected
    assert [segment["id"] for segment in diarized["segments"]] == [f"seg_00{number}" for number in range(1, 7)]
    assert {segment["type"] for segment in diarized["segments"]} == {"transcript.text.segment"}
    *events, done = speakers["streamed"]
    assert [event for event in events if event["type"] == "transcript.text.segment"] == diarized["segments"]
    assert joined(events) == done["text"] == recording["text"]
    channels = [segment["channel"] for segment in speakers["verbose_json"]["segments"]]
    assert channels == [segment["channel"] for segment in recording["segments"]]


async def test_deltas_of_a_stream_add_up_to_its_text(running: Running, samples: Path) -> None:
    streams = await results_of(running, samples, "streams")
    for name, text, tokens in (("hello", HELLO, 53), ("numbers", NUMBERS, 76), ("text", HELLO, 53)):
        *deltas, done = streams[name]
        assert {event["type"] for event in deltas} == {"transcript.text.delta"}
        assert joined(deltas) == text
        assert done == {"type": "transcript.text.done", "text": text, "usage": done["usage"]}
        assert done["usage"]["type"] == "tokens"
        assert done["usage"]["input_token_details"] == {"audio_tokens": tokens, "text_tokens": 0}


async def test_stream_can_be_closed_before_its_end(running: Running, samples: Path) -> None:
    responses = await results_of(running, samples, "left_stream")
    assert responses == {"left": "transcript.text.delta", "after": HELLO_JSON}


async def test_log_probabilities_are_included_on_request(running: Running, samples: Path) -> None:
    responses = await results_of(running, samples, "logprobs")
    assert "logprobs" not in responses["without"]
    logprobs = responses["json"]["logprobs"]
    assert "".join(token["token"] for token in logprobs).strip() == HELLO
    for token in logprobs:
        assert bytes(token["bytes"]).decode() == token["token"]
        assert token["logprob"] <= 0
    *deltas, done = responses["streamed"]
    assert [token for delta in deltas for token in delta["logprobs"]] == done["logprobs"] == logprobs


async def test_chunking_strategy_can_be_a_string_or_an_object(running: Running, samples: Path) -> None:
    responses = await results_of(running, samples, "chunking")
    for name in ("auto", "object", "type_alone"):
        assert responses[name] == HELLO_JSON
    assert responses["wrong_threshold"]["class"] == "BadRequestError"
    assert "chunking_strategy" in responses["wrong_threshold"]["param"]


async def test_arrays_and_objects_are_parsed_as_the_client_encodes_them(running: Running, samples: Path) -> None:
    responses = await results_of(running, samples, "fields")
    assert responses == {"keywords": HELLO_JSON, "metadata": {**HELLO_JSON, "metadata": {"ticket": "42"}}}


async def test_speaker_names_are_ignored_with_a_warning(running: Running, samples: Path) -> None:
    responses = await results_of(running, samples, "ignored_fields")
    (warning,) = responses["speaker_names"]["warnings"]
    assert "known_speaker_names" in warning


async def test_job_is_followed_with_the_same_client(running: Running, samples: Path) -> None:
    followed = (await results_of(running, samples, "jobs"))["followed"]
    job_id = followed["accepted"]["job_id"]
    assert followed["accepted"]["status"] == "in_progress"
    assert followed["location"] == followed["accepted"]["status_url"] == f"/v1/jobs/{job_id}"
    assert followed["last"]["job_id"] == job_id
    assert followed["last"]["status"] == "completed"
    assert followed["result"] == HELLO_JSON


async def test_errors_have_the_right_class_and_are_not_retried(running: Running, samples: Path) -> None:
    errors = await results_of(running, samples, "errors")
    assert {
        name: (error["class"], error["status"], error["code"], error["param"]) for name, error in errors.items()
    } == {
        "temperature": ("BadRequestError", 400, None, "temperature"),
        "translation": ("BadRequestError", 400, None, "temperature"),
        "streamed": ("BadRequestError", 400, None, "temperature"),
        "model": ("NotFoundError", 404, "model_not_found", "model"),
        "retrieved_model": ("NotFoundError", 404, "model_not_found", "model"),
        "deleted_model": ("APIError", 405, None, None),
        "job": ("NotFoundError", 404, "job_not_found", None),
        "format": ("BadRequestError", 400, None, "response_format"),
        "speakers": ("BadRequestError", 400, None, "known_speaker_names"),
        "empty": ("BadRequestError", 400, "invalid_audio", "file"),
        "noise": ("BadRequestError", 400, "invalid_audio", "file"),
        "key": ("AuthenticationError", 401, "invalid_api_key", None),
        "key_with_a_file": ("AuthenticationError", 401, "invalid_api_key", None),
    }
    assert {name: error["requests"] for name, error in errors.items()} == dict.fromkeys(errors, 1)
    assert {error["type"] for error in errors.values()} == {"invalid_request_error"}


@asynccontextmanager
async def over_tls(running: Running, folder: Path) -> AsyncIterator[tuple[str, Path]]:
    """Yield the address of a proxy with TLS, and the file of the authority that its certificate is from."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "ca.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    host, _, port = running.address.removeprefix("http://").partition(":")

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while content := await reader.read(65_536):
                writer.write(content)
                await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner_writer = await asyncio.open_connection(host, int(port))
        await asyncio.gather(copy(reader, inner_writer), copy(inner_reader, writer))

    async with await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context) as proxy:
        yield f"https://localhost:{proxy.sockets[0].getsockname()[1]}", folder / "ca.pem"


async def test_realtime_session(running: Running, samples: Path, tmp_path: Path) -> None:
    script = samples.parent / "tests" / "clients" / "node" / "realtime.mjs"
    key = running.client.headers["Authorization"].removeprefix("Bearer ")
    async with over_tls(running, tmp_path) as (address, authority):
        output, _ = await output_of("node", script, address, key, samples / "hello.wav", authority, cwd=script.parent)
    result = json.loads(output)
    assert result["texts"] == ["hello this is a test", "the job is complete now"]
    assert "".join(result["deltas"]) == "".join(result["texts"])
    assert {"session.created", "input_audio_buffer.speech_started", "conversation.item.done"} <= set(result["types"])
