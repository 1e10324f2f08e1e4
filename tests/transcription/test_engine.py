"""The whole of a transcription: decoding, permit, windows, transcript."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from app.domain.errors import UndecodableAudio
from app.domain.transcript import Task, TranscriptionOptions
from app.transcription.engine import WhisperTranscriber
from app.transcription.transcriber import FinishedWindow, Listener, Turn
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from app.transcription.decoding import Decoder
    from app.transcription.whisper import WhisperModel

pytestmark = pytest.mark.anyio


class Heard(Listener):
    """Writes down what it hears."""

    def __init__(self) -> None:
        self.events: list[Any] = []

    def on_decoded(self, duration: float) -> None:
        self.events.append(round(duration, 2))

    def on_turn(self, turn: Turn) -> None:
        self.events.append(turn)

    def on_window(self, window: FinishedWindow) -> None:
        self.events.append(window)

    @property
    def windows(self) -> list[FinishedWindow]:
        return [event for event in self.events if isinstance(event, FinishedWindow)]


@pytest.fixture
async def transcriber(model: WhisperModel, decoder: Decoder) -> AsyncIterator[WhisperTranscriber]:
    deaths: list[BaseException] = []
    made = WhisperTranscriber([model], decoder=decoder, permits=1, batch_size=8, on_death=deaths.append)
    yield made
    await made.close()
    assert deaths == []


@pytest.fixture
def recording(samples: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(samples / "long.opus", tmp_path / "audio"))


async def test_windows_are_heard_in_order_and_make_up_the_transcript(
    transcriber: WhisperTranscriber, recording: Path
) -> None:
    heard = Heard()
    transcript = await transcriber.transcribe(recording, TranscriptionOptions(), listener=heard)
    assert heard.events[:3] == [Turn.WAITING, 76.53, Turn.ACTIVE]
    assert len(heard.windows) == len(heard.events) - 3 >= 3
    assert tuple(segment for window in heard.windows for segment in window.segments) == transcript.segments
    done = [window.seconds_done for window in heard.windows]
    assert done == sorted(done)
    assert done[-1] <= transcript.duration
    starts = [segment.start for segment in transcript.segments]
    assert starts == sorted(starts)
    assert [path.name for path in recording.parent.iterdir()] == ["audio"]


async def test_language_of_the_first_window_holds_for_all(transcriber: WhisperTranscriber, recording: Path) -> None:
    heard = Heard()
    transcript = await transcriber.transcribe(recording, TranscriptionOptions(language="de"), listener=heard)
    assert transcript.language == "german"
    assert {window.language for window in heard.windows} == {"german"}


async def test_translation_is_a_task_of_the_model(
    transcriber: WhisperTranscriber, samples: Path, tmp_path: Path
) -> None:
    source = Path(shutil.copy(samples / "hello.wav", tmp_path / "audio"))
    options = TranscriptionOptions(task=Task.TRANSLATE, prompt="a test", hotwords="job")
    transcript = await transcriber.transcribe(source, options, listener=Listener())
    assert transcript.task is Task.TRANSLATE
    assert "hello this is a test" in transcript.text


async def test_cancelling_leaves_the_model_free_and_no_file(transcriber: WhisperTranscriber, recording: Path) -> None:
    heard = Heard()
    work = asyncio.create_task(transcriber.transcribe(recording, TranscriptionOptions(), listener=heard))
    await eventually(lambda: transcriber.active == 1)
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    await eventually(lambda: transcriber.active == 0)
    assert [path.name for path in recording.parent.iterdir()] == ["audio"]
    assert len(heard.windows) < 3


async def test_undecodable_audio_takes_no_permit(transcriber: WhisperTranscriber, tmp_path: Path) -> None:
    source = tmp_path / "audio"
    source.write_bytes(b"nothing" * 1000)
    heard = Heard()
    with pytest.raises(UndecodableAudio):
        await transcriber.transcribe(source, TranscriptionOptions(), listener=heard)
    assert heard.events == [Turn.WAITING]
    assert transcriber.active == 0


async def test_corrupt_place_in_the_middle_does_not_lose_the_rest(
    transcriber: WhisperTranscriber, samples: Path, tmp_path: Path
) -> None:
    data = bytearray((samples / "numbers.mp3").read_bytes())
    middle = len(data) // 2
    data[middle : middle + 600] = b"\xff" * 600
    source = tmp_path / "audio"
    source.write_bytes(data)
    transcript = await transcriber.transcribe(source, TranscriptionOptions(), listener=Listener())
    assert transcript.text.startswith("my number is seven")
    assert transcript.text.endswith("forty five is ready")


async def test_without_vad_everything_is_looked_at_and_silence_stays_empty(
    transcriber: WhisperTranscriber, samples: Path, tmp_path: Path
) -> None:
    source = Path(shutil.copy(samples / "silence.wav", tmp_path / "audio"))
    heard = Heard()
    transcript = await transcriber.transcribe(source, TranscriptionOptions(vad_filter=False), listener=heard)
    assert len(heard.windows) == 1
    assert transcript.text == ""
