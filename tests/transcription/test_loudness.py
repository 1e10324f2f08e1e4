"""Very quiet recordings are amplified and get a warning; all others are left as they are."""

from __future__ import annotations

import wave
from typing import TYPE_CHECKING

import numpy as np
import pytest
from faster_whisper import decode_audio

from app.domain.transcript import TranscriptionOptions
from app.transcription.loudness import Loudness
from app.transcription.transcriber import Listener
from tests.support.audio import RATE, silence, sine
from tests.support.engines import transcribing

if TYPE_CHECKING:
    from pathlib import Path

    from app.domain.transcript import Transcript
    from app.transcription.decoding import Decoder
    from app.transcription.whisper import WhisperModel
    from tests.support.audio import Samples

HELLO = "hello this is a test the job is complete now"


def loudness(*blocks: Samples) -> Loudness:
    measured = Loudness()
    for block in blocks:
        measured.add(block)
    return measured


def click(seconds: float) -> Samples:
    return np.concatenate([silence(10), np.full(round(seconds * RATE), 20_000, np.int16), silence(10)])


@pytest.mark.parametrize("amplitude", [1.0, 0.1, 0.0101])
def test_ordinary_recording_is_not_amplified(amplitude: float) -> None:
    measured = loudness(silence(30), sine(30, amplitude=amplitude))
    assert (measured.gain, measured.quiet_decibels) == (1.0, None)


@pytest.mark.parametrize(("amplitude", "decibels"), [(0.009, -41), (0.001, -60), (0.0003, -71)])
def test_very_quiet_recording_is_amplified_to_the_same_level(amplitude: float, decibels: float) -> None:
    measured = loudness(silence(30), sine(1, amplitude=amplitude))
    assert measured.gain * amplitude == pytest.approx(0.1, rel=0.1)
    assert measured.quiet_decibels == pytest.approx(decibels, abs=0.6)


def test_noise_of_a_converter_is_not_amplified() -> None:
    noise = np.random.default_rng(1).integers(-2, 3, 30 * RATE).astype(np.int16)
    measured = loudness(noise)
    assert measured.gain == 1.0
    assert measured.quiet_decibels is not None
    assert loudness(silence(30), silence(0)).quiet_decibels is None


def test_click_does_not_hide_that_a_recording_is_quiet() -> None:
    quiet = sine(20.1, amplitude=0.001)
    assert loudness(quiet + click(0.1)).gain > 90
    assert loudness(np.concatenate([quiet, sine(0.3)])).gain == 1.0
    assert loudness(sine(0.1)).gain == 1.0


def test_level_is_that_of_the_loudest_block() -> None:
    measured = loudness(sine(30, amplitude=0.001), sine(1, amplitude=0.005))
    assert measured.gain == pytest.approx(20, rel=0.02)
    measured.add(sine(1, amplitude=0.001))
    assert measured.gain == pytest.approx(20, rel=0.02)
    assert loudness(np.full(1000, -32768, np.int16)).gain == 1.0


async def transcribe(
    model: WhisperModel, decoder: Decoder, path: Path, *channels: Samples, multichannel: bool = False
) -> Transcript:
    with wave.open(str(path), "wb") as writer:
        writer.setparams((len(channels), 2, RATE, 0, "NONE", ""))
        writer.writeframes(np.stack(channels, axis=1).astype("<i2").tobytes())
    options = TranscriptionOptions(language="en", multichannel=multichannel)
    async with transcribing(model, decoder) as transcriber:
        return await transcriber.transcribe(path, options, listener=Listener())


@pytest.mark.anyio
@pytest.mark.parametrize("decibels", [-50, -60])
async def test_very_quiet_speech_is_found_with_a_warning(
    decibels: int, model: WhisperModel, decoder: Decoder, samples: Path, tmp_path: Path
) -> None:
    speech = decode_audio(str(samples / "hello.wav"))
    quiet = np.round(speech / np.abs(speech).max() * 10 ** (decibels / 20) * 32767).astype(np.int16)
    transcript = await transcribe(model, decoder, tmp_path / "audio", quiet)
    assert transcript.text == HELLO
    (warning,) = transcript.warnings
    assert warning.startswith("The recording is very quiet (-")


@pytest.mark.anyio
@pytest.mark.parametrize("sound", ["hum", "noise", "dither"])
async def test_quiet_noise_does_not_become_text(
    sound: str, model: WhisperModel, decoder: Decoder, tmp_path: Path
) -> None:
    random = np.random.default_rng(1)
    sounds = {
        "hum": sine(10, frequency=50, amplitude=0.001) + sine(10, frequency=150, amplitude=0.0003),
        "noise": (random.standard_normal(10 * RATE) * 15).astype(np.int16),
        "dither": random.integers(-1, 2, 10 * RATE).astype(np.int16),
    }
    transcript = await transcribe(model, decoder, tmp_path / "audio", sounds[sound])
    assert transcript.text == ""
    assert len(transcript.warnings) == 1


@pytest.mark.anyio
async def test_quiet_channel_among_several_is_not_amplified(
    model: WhisperModel, decoder: Decoder, samples: Path, tmp_path: Path
) -> None:
    """It may be the microphone of somebody who is silent, and hear the others."""
    crosstalk = (decode_audio(str(samples / "hello.wav")) * 25).astype(np.int16)
    transcript = await transcribe(model, decoder, tmp_path / "audio", crosstalk, 0 * crosstalk, multichannel=True)
    assert (transcript.text, transcript.warnings) == ("", ())
