"""Whole transcriptions whose speakers are told apart by their voices, with the models that the package brings."""

from __future__ import annotations

import asyncio
import shutil
import threading
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from faster_whisper import decode_audio

from app.diarization.conversation import Conversation
from app.diarization.models import BUNDLED
from app.domain.errors import ModelUnavailable, UnusableReference
from app.domain.transcript import Diarization, TranscriptionOptions
from app.transcription.diarizer import Diarizer
from app.transcription.transcriber import Listener
from tests.support.audio import RATE, SAMPLES, encode, silence
from tests.support.engines import transcribing

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from app.domain.transcript import Transcript
    from app.transcription.decoding import Decoder
    from app.transcription.engine import WhisperTranscriber
    from app.transcription.whisper import WhisperModel

pytestmark = [pytest.mark.anyio, pytest.mark.full(reason="loads the models of voices")]

BY_VOICES = TranscriptionOptions(diarization=Diarization(), word_timestamps=True)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the recording of two speakers with both in one channel."""
    folder = tmp_path_factory.mktemp("mixed")
    channels = decode_audio(str(SAMPLES / "two_speakers_stereo.flac"), split_stereo=True)
    samples = (np.sum(channels, axis=0) * 32767).clip(-32768, 32767).astype(np.int16)
    return encode(folder / "audio", samples, container="flac", codec="flac")


@pytest.fixture
async def transcriber(model: WhisperModel, decoder: Decoder) -> AsyncIterator[WhisperTranscriber]:
    async with transcribing(model, decoder, diarizer=Diarizer(BUNDLED, threads=1)) as running:
        yield running


@pytest.fixture
def reference(references: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the phrases of the recording in order of time."""
    return sorted(references["two_speakers_stereo.flac"]["segments"], key=lambda phrase: phrase["start"])


def clip(path: Path, mixed: Path, phrases: list[dict[str, Any]]) -> Path:
    """Write what is said in these phrases to a file."""
    samples = decode_audio(str(mixed))
    parts = [samples[round(phrase["start"] * RATE) : round(phrase["end"] * RATE)] for phrase in phrases]
    return encode(path, (np.concatenate(parts) * 32767).astype(np.int16), container="wav", codec="pcm_s16le")


def said(transcript: Transcript) -> list[tuple[str, str | None]]:
    return [(word.word.strip(" .,?").lower(), word.speaker) for word in transcript.words]


@pytest.mark.smoke
async def test_words_and_turns_are_those_of_their_speakers(
    transcriber: WhisperTranscriber, mixed: Path, reference: list[dict[str, Any]]
) -> None:
    transcript = await transcriber.transcribe(mixed, BY_VOICES, listener=Listener())
    assert said(transcript) == [
        (word["word"], "AB"[phrase["channel"]]) for phrase in reference for word in phrase["words"]
    ]
    assert [turn.speaker for turn in transcript.turns] == ["AB"[phrase["channel"]] for phrase in reference]
    for turn, phrase in zip(transcript.turns, reference, strict=True):
        assert turn.start == pytest.approx(phrase["start"], abs=0.25)
        assert turn.end == pytest.approx(phrase["end"], abs=0.25)
    assert [path.name for path in mixed.parent.iterdir()] == ["audio"]


async def test_known_voice_has_its_name(
    transcriber: WhisperTranscriber, mixed: Path, reference: list[dict[str, Any]], tmp_path: Path
) -> None:
    of_second = [phrase for phrase in reference if phrase["channel"] == 1]
    options = replace(BY_VOICES, known_speakers=("India",))
    transcript = await transcriber.transcribe(
        mixed, options, listener=Listener(), references=[clip(tmp_path / "reference-1", mixed, of_second)]
    )
    assert {turn.speaker for turn in transcript.turns} == {"A", "India"}
    assert [name for word, name in said(transcript) if word == "victor"] == ["A", "India"]


async def test_number_of_speakers_can_be_given(transcriber: WhisperTranscriber, mixed: Path) -> None:
    options = replace(BY_VOICES, diarization=Diarization(max_speakers=1))
    transcript = await transcriber.transcribe(mixed, options, listener=Listener())
    assert {speaker for _, speaker in said(transcript)} == {"A"}


async def test_channels_are_speakers_without_being_heard(transcriber: WhisperTranscriber, tmp_path: Path) -> None:
    stereo = shutil.copy(SAMPLES / "two_speakers_stereo.flac", tmp_path / "audio")
    options = replace(BY_VOICES, multichannel=True, known_speakers=("Victor",))
    transcript = await transcriber.transcribe(Path(stereo), options, listener=Listener())
    assert {(word.channel, word.speaker) for word in transcript.words} == {(0, "Victor"), (1, "B")}
    assert transcript.turns == ()


async def test_bad_reference_ends_the_request(transcriber: WhisperTranscriber, mixed: Path, tmp_path: Path) -> None:
    reference = encode(tmp_path / "reference-1", silence(3.0), container="wav", codec="pcm_s16le")
    options = replace(BY_VOICES, known_speakers=("Victor",))
    with pytest.raises(UnusableReference, match="has no speech"):
        await transcriber.transcribe(mixed, options, listener=Listener(), references=[reference])


async def test_recording_without_speech_has_no_speakers(transcriber: WhisperTranscriber, tmp_path: Path) -> None:
    silent = encode(tmp_path / "audio", silence(5.0), container="wav", codec="pcm_s16le")
    transcript = await transcriber.transcribe(silent, BY_VOICES, listener=Listener())
    assert (transcript.segments, transcript.turns) == ((), ())


class Told(Listener):
    """Notes when the text is there, and how much was heard by then."""

    def __init__(self) -> None:
        self.heard: list[float] = []
        self.text_done = asyncio.Event()

    def on_heard(self, seconds_done: float) -> None:
        self.heard.append(seconds_done)

    def on_text_done(self) -> None:
        self.text_done.set()


@pytest.mark.smoke
async def test_request_can_be_cancelled_while_it_is_only_heard(
    transcriber: WhisperTranscriber, mixed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reached, go_on = threading.Event(), threading.Event()
    blocks = 0
    hear = Conversation.hear

    def held(self: Conversation, samples: Any, *, is_last: bool = False) -> None:
        nonlocal blocks
        blocks += 1
        reached.set()
        assert go_on.wait(60)
        hear(self, samples, is_last=is_last)

    monkeypatch.setattr(Conversation, "hear", held)
    listener = Told()
    task = asyncio.create_task(transcriber.transcribe(mixed, BY_VOICES, listener=listener))
    await listener.text_done.wait()
    assert await asyncio.to_thread(reached.wait, 60)
    assert transcriber.active == 0  # another request can have the slot
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [path.name for path in mixed.parent.iterdir()] == ["audio"]
    go_on.set()
    transcript = await transcriber.transcribe(mixed, BY_VOICES, listener=listener)
    assert {speaker for _, speaker in said(transcript)} == {"A", "B"}
    assert listener.heard[-1] == pytest.approx(12.59, abs=0.01)
    assert blocks == 1 + len(listener.heard)


async def test_missing_and_damaged_models_fail_only_requests_for_speakers(
    model: WhisperModel, decoder: Decoder, mixed: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    async with transcribing(model, decoder, diarizer=Diarizer(folder, threads=1)) as transcriber:
        with pytest.raises(ModelUnavailable, match=r"segmentation\.onnx can't be read"):
            await transcriber.transcribe(mixed, BY_VOICES, listener=Listener())
        for name in ("segmentation.onnx", "campplus.onnx", "telephone.npy"):
            shutil.copy(BUNDLED / name, folder)
        with (folder / "campplus.onnx").open("r+b") as damaged:
            damaged.truncate(1_000_000)
        with pytest.raises(ModelUnavailable, match=r"campplus\.onnx can't be used"):
            await transcriber.transcribe(mixed, BY_VOICES, listener=Listener())
        plain = await transcriber.transcribe(mixed, TranscriptionOptions(), listener=Listener())
        assert "report" in plain.text
        shutil.copy(BUNDLED / "campplus.onnx", folder)
        transcript = await transcriber.transcribe(mixed, BY_VOICES, listener=Listener())
        assert {speaker for _, speaker in said(transcript)} == {"A", "B"}


async def test_server_without_the_models_says_so(model: WhisperModel, decoder: Decoder, mixed: Path) -> None:
    async with transcribing(model, decoder) as transcriber:
        transcript = await transcriber.transcribe(mixed, BY_VOICES, listener=Listener())
    assert {speaker for _, speaker in said(transcript)} == {None}
    assert transcript.warnings == ("Speakers were not told apart, because the server's DIARIZATION_MODEL is none.",)
