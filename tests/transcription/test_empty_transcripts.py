"""Audio for which the model generates no tokens has an empty transcript."""

from __future__ import annotations

import json
import math
from itertools import repeat
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from faster_whisper.audio import decode_audio

from app.transcription.fallback import TEMPERATURES
from app.transcription.whisper import _storage
from tests.support.recording_model import ScriptedResult, recording
from tests.support.service import serving

if TYPE_CHECKING:
    from pathlib import Path

    import httpx

    from app.transcription.whisper import WhisperModel

pytestmark = [pytest.mark.anyio, pytest.mark.full(reason="starts a service for each test")]

EVERYTHING = {
    "response_format": "verbose_json",
    "vad_filter": "false",
    "timestamp_granularities[]": ["word", "segment"],
    "include[]": "logprobs",
}


def nothing(*, no_speech_prob: float) -> ScriptedResult:
    return ScriptedResult(sequences_ids=[[]], scores=[-math.inf], no_speech_prob=no_speech_prob)


def strict_json(response: httpx.Response) -> dict[str, Any]:
    """Return the body, which must not contain NaN or Infinity, because they are not JSON."""
    assert response.status_code == 200, response.text

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    body: dict[str, Any] = json.loads(response.text, parse_constant=refuse)
    return body


def assert_empty(body: dict[str, Any]) -> None:
    assert body["text"] == ""
    assert body["segments"] == body["words"] == body["logprobs"] == []


@pytest.mark.smoke
def test_score_of_an_empty_text_is_not_finite(model: WhisperModel, samples: Path) -> None:
    tokenizer = model._tokenizer("en", "transcribe")
    features = model.features(np.asarray(decode_audio(str(samples / "silence.wav")), np.float32))
    padded = np.pad(features, ((0, 0), (0, 3000 - features.shape[1])))[np.newaxis]
    (written,) = model._model.generate(
        _storage(padded),
        [[*tokenizer.sot_sequence, tokenizer.no_timestamps]],
        beam_size=1,
        suppress_blank=False,
        return_scores=True,
    )
    assert written.sequences_ids == [[]]
    assert not math.isfinite(written.scores[0])


async def test_silence_without_vad_has_an_empty_transcript(tmp_path: Path, model: WhisperModel, samples: Path) -> None:
    wrapped, notebook = recording(model)
    async with serving(tmp_path, lambda: wrapped) as running:
        assert_empty(strict_json(await running.transcribe(samples / "silence.wav", **EVERYTHING)))
    (call,) = notebook.generations
    assert text_of(model, call.texts) == [""]
    assert notebook.alignments == []


@pytest.mark.parametrize(
    ("no_speech_prob", "tried"),
    [pytest.param(0.9, (0.0,), id="no-speech"), pytest.param(0.1, TEMPERATURES, id="speech")],
)
async def test_window_without_tokens_has_an_empty_transcript(
    tmp_path: Path, model: WhisperModel, samples: Path, no_speech_prob: float, tried: tuple[float, ...]
) -> None:
    wrapped, notebook = recording(model, results=repeat(nothing(no_speech_prob=no_speech_prob)))
    async with serving(tmp_path, lambda: wrapped) as running:
        assert_empty(strict_json(await running.transcribe(samples / "hello.wav", **EVERYTHING)))
    assert tuple(call.options.get("sampling_temperature", 0.0) for call in notebook.generations) == tried


async def test_attempt_that_wrote_nothing_gives_way_to_a_later_one(
    tmp_path: Path, model: WhisperModel, samples: Path
) -> None:
    wrapped, notebook = recording(model, results=[nothing(no_speech_prob=0.1)])
    async with serving(tmp_path, lambda: wrapped) as running:
        body = strict_json(await running.transcribe(samples / "hello.wav", **EVERYTHING))
    assert len(notebook.generations) >= 2
    assert body["text"]
    assert all(segment["temperature"] > 0 for segment in body["segments"])
    assert all(-10 < segment["avg_logprob"] < 0 for segment in body["segments"])


async def test_channel_without_tokens_does_not_affect_the_other(
    tmp_path: Path, model: WhisperModel, samples: Path
) -> None:
    wrapped, notebook = recording(model, results=[nothing(no_speech_prob=0.9)])
    fields = {**EVERYTHING, "multichannel": "true"}
    async with serving(tmp_path, lambda: wrapped) as running:
        body = strict_json(await running.transcribe(samples / "two_speakers_stereo.flac", **fields))
    empty, written = (text for call in notebook.generations for text in call.texts)
    assert empty == []
    assert len({segment["channel"] for segment in body["segments"]}) == 1
    assert [token for segment in body["segments"] for token in segment["tokens"]] == written


def text_of(model: WhisperModel, texts: list[list[int]]) -> list[str]:
    return [model._tokenizer("en", "transcribe").decode(text) for text in texts]
