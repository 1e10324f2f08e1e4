"""``include[]=logprobs``: how probable each token is, wherever JSON is answered."""

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

pytestmark = pytest.mark.anyio

HELLO = "hello this is a test the job is complete now"
INCLUDED = {"include[]": "logprobs"}


def joined(logprobs: list[dict[str, Any]]) -> str:
    """The text of tokens of OpenAI's shape, each as probable as it can be."""
    for one in logprobs:
        assert set(one) == {"token", "logprob", "bytes"}
        assert bytes(one["bytes"]).decode(errors="replace") == one["token"]
        assert -20 < one["logprob"] <= 0
    return b"".join(bytes(one["bytes"]) for one in logprobs).decode()


@pytest.mark.parametrize("fields", [{}, {"response_format": "verbose_json"}, {"include": "logprobs"}])
async def test_each_token_has_its_probability(running: Running, samples: Path, fields: dict[str, str]) -> None:
    body = (
        await running.transcribe(samples / "hello.wav", **({} if "include" in fields else INCLUDED), **fields)
    ).json()
    assert body["text"] == HELLO
    assert joined(body["logprobs"]) == " " + HELLO
    assert [one["token"] for one in body["logprobs"]] == [" " + word for word in HELLO.split()]
    assert len({one["logprob"] for one in body["logprobs"]}) >= len(HELLO.split()) - 1


@pytest.mark.parametrize("format_", ["json", "verbose_json"])
async def test_nobody_is_told_who_did_not_ask(running: Running, samples: Path, format_: str) -> None:
    body = (await running.transcribe(samples / "hello.wav", response_format=format_)).json()
    assert "logprobs" not in body
    assert "logprobs" not in json.dumps(body)


async def test_words_and_probabilities_come_together(running: Running, samples: Path) -> None:
    fields = {"response_format": "verbose_json", "timestamp_granularities[]": "word"}
    body = (await running.transcribe(samples / "hello.wav", **INCLUDED, **fields)).json()
    assert [word["word"] for word in body["words"]] == HELLO.split()
    assert joined(body["logprobs"]) == " " + HELLO


async def test_tokens_are_in_the_order_of_the_text_of_all_channels(running: Running, samples: Path) -> None:
    body = (await running.transcribe(samples / "two_speakers_stereo.flac", multichannel="true", **INCLUDED)).json()
    assert joined(body["logprobs"]).strip() == body["text"]


async def test_plain_text_has_no_place_for_them(running: Running, samples: Path) -> None:
    answer = await running.transcribe(samples / "hello.wav", response_format="text", **INCLUDED)
    assert (answer.status_code, answer.text) == (200, HELLO + "\n")


@pytest.mark.parametrize("asked", [True, False])
async def test_stored_result_keeps_them_for_who_asked(running: Running, samples: Path, asked: bool) -> None:  # noqa: FBT001  # a parameter
    job_id = await running.submit(samples / "hello.wav", stored_output="true", **(INCLUDED if asked else {}))
    await running.finished(job_id)
    stored = (await running.job(job_id, include_result="true"))["result"]
    bodies = [stored]
    for format_ in ("json", "verbose_json"):
        answer = await running.client.get(f"/v1/jobs/{job_id}/result", params={"response_format": format_})
        bodies.append(answer.json())
    assert {body["text"] for body in bodies} == {HELLO}
    assert [joined(body["logprobs"]) if "logprobs" in body else None for body in bodies] == (
        [" " + HELLO] * 3 if asked else [None] * 3
    )


async def events_of(running: Running, file: Path, **fields: str) -> list[dict[str, Any]]:
    answer = await running.transcribe(file, stream="true", **fields)
    assert answer.status_code == 200, answer.text
    lines = [line for line in answer.text.split("\n\n") if line and not line.startswith(":")]
    return [json.loads(line.removeprefix("data: ")) for line in lines]


async def test_each_delta_has_its_own_and_the_last_event_has_all(running: Running, samples: Path) -> None:
    *deltas, done = await events_of(running, samples / "long.opus", **INCLUDED)
    assert len(deltas) >= 2
    assert [joined(delta["logprobs"]).strip() for delta in deltas] == [delta["delta"].strip() for delta in deltas]
    assert [one for delta in deltas for one in delta["logprobs"]] == done["logprobs"]
    assert joined(done["logprobs"]).strip() == done["text"]


async def test_stream_without_them_has_none(running: Running, samples: Path) -> None:
    for event in await events_of(running, samples / "hello.wav"):
        assert "logprobs" not in event


async def test_openais_client_reads_them(running: Running, samples: Path) -> None:
    client = openai.AsyncOpenAI(base_url=f"{running.address}/v1", api_key="any", max_retries=0)
    audio = await asyncio.to_thread((samples / "hello.wav").read_bytes)
    found = await client.audio.transcriptions.create(
        model="whisper-1", file=("hello.wav", audio), include=["logprobs"], response_format="json"
    )
    await client.close()
    assert found.logprobs is not None
    assert bytes(int(byte) for one in found.logprobs for byte in one.bytes or []).decode() == " " + HELLO
    assert all(one.logprob is not None and one.logprob <= 0 for one in found.logprobs)


async def test_character_that_is_cut_between_tokens_is_whole_in_their_bytes(
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
    assert b"".join(bytes(one["bytes"]) for one in body["logprobs"]).decode() == " hello ü你"
    assert "\ufffd" in {one["token"] for one in body["logprobs"]}
