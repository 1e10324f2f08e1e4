"""``only_language``: a transcription that ends where the language of the recording is known."""

from __future__ import annotations

import shutil
import wave
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from app.domain.transcript import Transcript, TranscriptionOptions
from app.transcription.transcriber import Listener
from tests.support.audio import encode, silence, sine, two_tracks
from tests.support.engines import transcribing
from tests.support.recording_model import recording

if TYPE_CHECKING:
    from app.transcription.decoding import Decoder
    from app.transcription.whisper import WhisperModel
    from tests.support.audio import Samples

pytestmark = pytest.mark.anyio

ONLY_LANGUAGE = TranscriptionOptions(only_language=True, beam_size=1)
#: The seconds of ``long.opus``, which has three windows.
LONG_SECONDS = 76.53


def speech_of(sample: Path) -> Samples:
    with wave.open(str(sample)) as file:
        return np.frombuffer(file.readframes(file.getnframes()), "<i2")


async def transcribe(
    model: WhisperModel, decoder: Decoder, source: Path, options: TranscriptionOptions = ONLY_LANGUAGE
) -> Transcript:
    async with transcribing(model, decoder) as transcriber:
        return await transcriber.transcribe(source, options, listener=Listener())


@pytest.fixture
def long(samples: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(samples / "long.opus", tmp_path / "audio"))


async def test_certain_language_ends_the_transcription_with_the_first_window(
    model: WhisperModel, decoder: Decoder, long: Path
) -> None:
    wrapped, recorder = recording(model, languages=["de"])
    transcript = await transcribe(wrapped, decoder, long)
    assert (transcript.language, transcript.language_probability) == ("german", 0.99)
    assert recorder.prompts == []  # the encoder tells it
    assert 0 < transcript.duration < LONG_SECONDS
    assert [path.name for path in long.parent.iterdir()] == ["audio"]


@pytest.mark.full(reason="transcribes a long recording")
async def test_uncertain_windows_are_followed_by_others(model: WhisperModel, decoder: Decoder, long: Path) -> None:
    wrapped, recorder = recording(model, languages=[{"nn": 0.3, "la": 0.2}, "de"])
    transcript = await transcribe(wrapped, decoder, long)
    assert (transcript.language, transcript.language_probability) == ("german", 0.99)
    assert len(recorder.detections) == 2
    assert [call.options["beam_size"] for call in recorder.generations] == [1, 1]


async def test_improbable_language_has_its_probability(
    model: WhisperModel, decoder: Decoder, samples: Path, tmp_path: Path
) -> None:
    source = Path(shutil.copy(samples / "hello.wav", tmp_path / "audio"))
    wrapped, _ = recording(model, languages=[{"de": 0.4}])
    transcript = await transcribe(wrapped, decoder, source)
    assert (transcript.language, transcript.language_probability) == ("german", 0.4)


async def test_recording_without_speech_has_no_probability(
    model: WhisperModel, decoder: Decoder, tmp_path: Path
) -> None:
    source = encode(tmp_path / "audio", silence(3.0), container="wav", codec="pcm_s16le")
    transcript = await transcribe(model, decoder, source)
    assert (transcript.language, transcript.language_probability) == ("english", None)
    assert transcript.segments == ()


async def test_language_of_the_first_track_with_speech_counts(
    model: WhisperModel, decoder: Decoder, samples: Path, tmp_path: Path
) -> None:
    source = two_tracks(tmp_path / "audio", sine(5.0), speech_of(samples / "hello.wav"))
    wrapped, recorder = recording(model, languages=["de"])
    transcript = await transcribe(wrapped, decoder, source)
    assert (transcript.language, transcript.language_probability) == ("german", 0.99)
    assert recorder.prompts == []


async def test_speech_after_a_long_silence_is_found(
    model: WhisperModel, decoder: Decoder, samples: Path, tmp_path: Path
) -> None:
    pcm = np.concatenate([silence(95.0), speech_of(samples / "hello.wav"), silence(65.0)])
    source = encode(tmp_path / "audio", pcm, container="wav", codec="pcm_s16le")
    wrapped, _ = recording(model, languages=["fr"])
    assert (await transcribe(wrapped, decoder, source)).language == "french"


@pytest.mark.full(reason="transcribes a long recording")
async def test_other_transcriptions_report_the_probability_too(
    model: WhisperModel, decoder: Decoder, long: Path
) -> None:
    wrapped, recorder = recording(model, languages=["de"])
    transcript = await transcribe(wrapped, decoder, long, TranscriptionOptions())
    assert transcript.language_probability == 0.99
    assert len(recorder.prompts) > 1
    assert round(transcript.duration, 2) == LONG_SECONDS


@pytest.mark.full(reason="transcribes a long recording")
async def test_language_that_was_given_has_no_probability(model: WhisperModel, decoder: Decoder, long: Path) -> None:
    transcript = await transcribe(model, decoder, long, TranscriptionOptions(language="de"))
    assert (transcript.language, transcript.language_probability) == ("german", None)
