"""``include[]=logprobs``: the log probability of each token, in every JSON response."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import openai
import pytest

from tests.support.recording_model import ScriptedResult, recording
from tests.support.service import serving

if TYPE_CHECKING:
    from pathlib import Path

    from app.transcription.whisper import WhisperModel
    from tests.support.service import Running

pytestmark = [pytest.mark.anyio, pytest.mark.contract, pytest.mark.full(reason="starts a service for each test")]

HELLO = "hello this is a test the job is complete now"
INCLUDED = {"include[]": "logprobs"}


@pytest.fixture
def running(shared: Running) -> Running:
    """The service of this module, because no test looks at the jobs of another."""
    return shared


def joined(logprobs: list[dict[str, Any]]) -> str:
    """Check that each token has OpenAI's shape, and return the text of all."""
    for token in logprobs:
        assert set(token) == {"token", "logprob", "bytes"}
        assert bytes(token["bytes"]).decode(errors="replace") == token["token"]
        assert -20 < token["logprob"] <= 0
    return b"".join(bytes(token["bytes"]) for token in logprobs).decode()


@pytest.mark.parametrize("fields", [{}, {"response_format": "verbose_json"}, {"include": "logprobs"}])
@pytest.mark.smoke
async def test_each_token_has_its_log_probability(running: Running, samples: Path, fields: dict[str, str]) -> None:
    body = (
        await running.transcribe(samples / "hello.wav", **({} if "include" in fields else INCLUDED), **fields)
    ).json()
    assert body["text"] == HELLO
    assert joined(body["logprobs"]) == " " + HELLO
    assert [token["token"] for token in body["logprobs"]] == [" " + word for word in HELLO.split()]
    assert len({token["logprob"] for token in body["logprobs"]}) >= len(HELLO.split()) - 1


@pytest.mark.parametrize("response_format", ["json", "verbose_json"])
async def test_log_probabilities_are_absent_by_default(running: Running, samples: Path, response_format: str) -> None:
    body = (await running.transcribe(samples / "hello.wav", response_format=response_format)).json()
    assert "logprobs" not in body
    assert "logprobs" not in json.dumps(body)


async def test_words_and_log_probabilities_can_be_combined(running: Running, samples: Path) -> None:
    fields = {"response_format": "verbose_json", "timestamp_granularities[]": "word"}
    body = (await running.transcribe(samples / "hello.wav", **INCLUDED, **fields)).json()
    assert [word["word"] for word in body["words"]] == HELLO.split()
    assert joined(body["logprobs"]) == " " + HELLO


async def test_tokens_follow_the_text_of_all_channels(running: Running, samples: Path) -> None:
    body = (await running.transcribe(samples / "two_speakers_stereo.flac", multichannel="true", **INCLUDED)).json()
    assert joined(body["logprobs"]).strip() == body["text"]


async def test_plain_text_ignores_logprobs(running: Running, samples: Path) -> None:
    response = await running.transcribe(samples / "hello.wav", response_format="text", **INCLUDED)
    assert (response.status_code, response.text) == (200, HELLO + "\n")


@pytest.mark.parametrize("requested", [True, False])
async def test_stored_result_keeps_requested_log_probabilities(
    running: Running, samples: Path, *, requested: bool
) -> None:
    job_id = await running.submit(samples / "hello.wav", stored_output="true", **(INCLUDED if requested else {}))
    await running.finished(job_id)
    stored = (await running.job(job_id, include_result="true"))["result"]
    bodies = [stored]
    for response_format in ("json", "verbose_json"):
        response = await running.client.get(f"/v1/jobs/{job_id}/result", params={"response_format": response_format})
        bodies.append(response.json())
    assert {body["text"] for body in bodies} == {HELLO}
    assert [joined(body["logprobs"]) if "logprobs" in body else None for body in bodies] == (
        [" " + HELLO] * 3 if requested else [None] * 3
    )


async def events_of(running: Running, file: Path, **fields: str) -> list[dict[str, Any]]:
    response = await running.transcribe(file, stream="true", **fields)
    assert response.status_code == 200, response.text
    lines = [line for line in response.text.split("\n\n") if line and not line.startswith(":")]
    return [json.loads(line.removeprefix("data: ")) for line in lines]


async def test_each_delta_has_its_tokens_and_the_last_event_all(running: Running, samples: Path) -> None:
    *deltas, done = await events_of(running, samples / "long.opus", **INCLUDED)
    assert len(deltas) >= 2
    assert [joined(delta["logprobs"]).strip() for delta in deltas] == [delta["delta"].strip() for delta in deltas]
    assert [token for delta in deltas for token in delta["logprobs"]] == done["logprobs"]
    assert joined(done["logprobs"]).strip() == done["text"]


async def test_stream_has_no_log_probabilities_by_default(running: Running, samples: Path) -> None:
    for event in await events_of(running, samples / "hello.wav"):
        assert "logprobs" not in event


async def test_openais_client_reads_log_probabilities(running: Running, samples: Path) -> None:
    client = openai.AsyncOpenAI(base_url=f"{running.address}/v1", api_key="any", max_retries=0)
    audio = await asyncio.to_thread((samples / "hello.wav").read_bytes)
    transcription = await client.audio.transcriptions.create(
        model="whisper-1", file=("hello.wav", audio), include=["logprobs"], response_format="json"
    )
    await client.close()
    assert transcription.logprobs is not None
    assert bytes(int(byte) for token in transcription.logprobs for byte in token.bytes or []).decode() == " " + HELLO
    assert all(token.logprob is not None and token.logprob <= 0 for token in transcription.logprobs)


async def test_character_split_between_tokens_is_whole_in_their_bytes(
    tmp_path: Path, model: WhisperModel, samples: Path
) -> None:
    tokenizer = model._hf_tokenizer
    tokens = tokenizer.encode(" hello ü你", add_special_tokens=False).ids
    written = [tokenizer.token_to_id("<|0.40|>"), *tokens, tokenizer.token_to_id("<|4.00|>")]
    result = ScriptedResult(sequences_ids=[written], scores=[-0.1], no_speech_prob=0.0)
    wrapped, _ = recording(model, results=[result])
    async with serving(tmp_path, lambda: wrapped) as running:
        body = (await running.transcribe(samples / "hello.wav", **INCLUDED)).json()
    assert body["text"] == "hello ü你"
    assert len(body["logprobs"]) == len(tokens)
    assert b"".join(bytes(token["bytes"]) for token in body["logprobs"]).decode() == " hello ü你"
    assert "\ufffd" in {token["token"] for token in body["logprobs"]}
