"""Live audio on the model: guesses continue each other, and the text of what was said is a file's."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import numpy as np
import pytest
from faster_whisper import decode_audio

from app.domain.transcript import TranscriptionOptions
from app.transcription.decoding import Decoder
from app.transcription.live import LiveDetector
from app.transcription.live_context import NO_CONTEXT
from app.transcription.transcription import Rank, Transcription
from app.transcription.vad import SpeechDetector
from app.transcription.window import ENCODER_FRAMES, Window
from tests.support.engines import transcribing

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path
    from typing import Any

    from app.transcription.engine import WhisperTranscriber
    from app.transcription.recording import Samples
    from app.transcription.whisper import WhisperModel

pytestmark = pytest.mark.anyio

OPTIONS = TranscriptionOptions(language="en")
#: A moment between the two sentences.
_PAUSE_SECONDS = 2.5


@pytest.fixture
async def transcriber(model: WhisperModel) -> AsyncIterator[WhisperTranscriber]:
    async with transcribing(model, Decoder(max_seconds=1e5, min_free_bytes=0)) as ready:
        yield ready


@pytest.fixture(scope="module")
def hello(samples: Path) -> Samples:
    """Return "hello this is a test", a pause, and "the job is complete now"."""
    decoded: Samples = (decode_audio(str(samples / "hello.wav")) * 32767).astype(np.int16)
    return decoded


async def test_guess_of_the_beginning(transcriber: WhisperTranscriber, hello: Samples) -> None:
    guess = await transcriber.live.guess(hello[: 2 * 16_000], OPTIONS)
    assert "".join(word.text for word in guess).strip().startswith("hello this is")
    assert all(guess[index].tokens == guess[-1].tokens[: len(guess[index].tokens)] for index in range(len(guess)))


async def test_guess_continues_its_beginning(transcriber: WhisperTranscriber, hello: Samples) -> None:
    first = await transcriber.live.guess(hello[: 2 * 16_000], OPTIONS)
    beginning = first[1].tokens
    second = await transcriber.live.guess(hello, OPTIONS, beginning=beginning)
    assert second[-1].tokens[: len(beginning)] == beginning
    assert [word.text for word in second[:2]] == [word.text for word in first[:2]]
    assert len(second) > len(first)


async def test_noise_has_no_guess(transcriber: WhisperTranscriber) -> None:
    noise = np.random.default_rng(0).integers(-3, 3, 32_000).astype(np.int16)
    assert await transcriber.live.guess(noise, OPTIONS) == ()


async def test_text_is_that_of_a_file(transcriber: WhisperTranscriber, hello: Samples) -> None:
    transcript = await transcriber.live.transcribe(hello, OPTIONS)
    assert transcript.text == "hello this is a test the job is complete now"
    assert transcript.duration == pytest.approx(len(hello) / 16_000)
    silent = await transcriber.live.transcribe(np.zeros(16_000, np.int16), OPTIONS)
    assert silent.text == ""


async def test_text_continues_its_context(transcriber: WhisperTranscriber, hello: Samples) -> None:
    border = round(_PAUSE_SECONDS * 16_000)
    first = await transcriber.live.transcribe(hello[:border], OPTIONS)
    context = NO_CONTEXT.followed_by(hello[:border], first, OPTIONS)
    assert context.text == "hello this is a test"
    second = await transcriber.live._transcribe(hello[border:], OPTIONS, context)
    assert context.is_continued_by(second)
    assert second.text == "the job is complete now"
    assert second.segments[0].start >= 0
    assert (await transcriber.live.transcribe(hello[border:], OPTIONS, context=context)).text == second.text


async def test_sessions_share_batches(transcriber: WhisperTranscriber, hello: Samples) -> None:
    guesses = await asyncio.gather(
        *(transcriber.live.guess(hello[: (seconds + 1) * 16_000], OPTIONS) for seconds in range(4))
    )
    texts = await asyncio.gather(*(transcriber.live.transcribe(hello, OPTIONS) for _ in range(3)))
    assert [guess[0].text for guess in guesses] == [" hello"] * 4
    assert len({text.text for text in texts}) == 1


async def test_cancelled_guess_leaves_nothing_behind(transcriber: WhisperTranscriber, hello: Samples) -> None:
    guess = asyncio.create_task(transcriber.live.guess(hello, OPTIONS))
    await asyncio.sleep(0.01)
    guess.cancel()
    await asyncio.wait([guess])
    assert (await transcriber.live.transcribe(hello, OPTIONS)).text
    assert transcriber.active == 0


async def test_detector_has_the_probabilities_of_the_whole(transcriber: WhisperTranscriber, hello: Samples) -> None:
    detector = LiveDetector(transcriber._front_end)
    found: list[float] = []
    for start in range(0, len(hello), 1_600):
        found += await detector.feed(hello[start : start + 1_600])
    assert found == pytest.approx(SpeechDetector().feed(hello), abs=1e-4)


def guess_of(seconds: float, **fields: Any) -> Window:
    return Window(
        channel=0,
        number=0,
        spans=(),
        features=np.zeros((80, round(seconds * 100)), np.float32),
        task=OPTIONS.task,
        beam_size=1,
        temperatures=(0.0,),
        guess=True,
        **fields,
    )


@pytest.mark.parametrize(("seconds", "encoded"), [(0.1, 1000), (5.0, 1000), (5.1, 1500), (24.9, 3000), (30.0, 3000)])
def test_guess_is_encoded_with_silence_after_it(seconds: float, encoded: int) -> None:
    window = guess_of(seconds)
    assert window.encoder_frames == window.key.encoder_frames == encoded <= ENCODER_FRAMES


def test_live_audio_goes_first() -> None:
    assert min(Rank) is Rank.LIVE
    assert Rank.LIVE < Rank.LIVE_GUESS < Rank.SHORT_SYNCHRONOUS
    assert Transcription(synchronous=True, complete=True).rank is Rank.SHORT_SYNCHRONOUS
