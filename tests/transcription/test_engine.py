"""The whole of a transcription: decoding, slot, windows, transcript."""

from __future__ import annotations

import asyncio
import shutil
import wave
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from faster_whisper import decode_audio

from app.domain.errors import UndecodableAudio
from app.domain.transcript import Task, TranscriptionOptions
from app.transcription.admission import FrontEnd
from app.transcription.engine import WhisperTranscriber
from app.transcription.loading import ModelChoice, load
from app.transcription.slots import Slots
from app.transcription.transcriber import FinishedWindow, Listener
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from app.transcription.decoding import Decoder
    from app.transcription.whisper import WhisperModel

pytestmark = pytest.mark.anyio

#: A batch changes the order of additions, which can move a word's edge by a timestamp or two; see docs/engine.md.
ROUNDING_SECONDS = 0.045


class Heard(Listener):
    """Writes down what it hears."""

    def __init__(self) -> None:
        self.events: list[Any] = []

    def on_decoded(self, duration: float) -> None:
        self.events.append(round(duration, 2))

    def on_waiting(self) -> None:
        self.events.append("waiting")

    def on_slot_granted(self) -> None:
        self.events.append("granted")

    def on_window(self, window: FinishedWindow) -> None:
        self.events.append(window)

    @property
    def windows(self) -> list[FinishedWindow]:
        return [event for event in self.events if isinstance(event, FinishedWindow)]


@pytest.fixture
async def transcriber(model: WhisperModel, decoder: Decoder) -> AsyncIterator[WhisperTranscriber]:
    deaths: list[BaseException] = []
    made = WhisperTranscriber(
        [model], front_end=FrontEnd(decoder, slots=1), slots=Slots(1), batch_size=8, on_death=deaths.append
    )
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
    assert heard.events[:3] == ["waiting", 76.53, "granted"]
    assert len(heard.windows) == len(heard.events) - 3 >= 2
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
    assert len(heard.windows) < 2


async def test_undecodable_audio_takes_no_permit(transcriber: WhisperTranscriber, tmp_path: Path) -> None:
    source = tmp_path / "audio"
    source.write_bytes(b"nothing" * 1000)
    heard = Heard()
    with pytest.raises(UndecodableAudio):
        await transcriber.transcribe(source, TranscriptionOptions(), listener=heard)
    assert heard.events == ["waiting"]
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


async def test_transcripts_under_load_are_those_alone(
    model: WhisperModel,
    decoder: Decoder,
    samples: Path,
    references: dict[str, dict[str, Any]],
    tmp_path: Path,
) -> None:
    """All samples, three times each, at once and one by one; windows that needed a second try are left out."""
    names = list(references)
    options = TranscriptionOptions(word_timestamps=True)
    deaths: list[BaseException] = []
    made = WhisperTranscriber(
        [model], front_end=FrontEnd(decoder, slots=16), slots=Slots(16), batch_size=8, on_death=deaths.append
    )
    copies = {
        f"{name}-{copy}": Path(shutil.copy(samples / name, tmp_path / f"{copy}-{name}"))
        for name in names
        for copy in range(3)
    }
    alone = {name: await made.transcribe(copies[f"{name}-0"], options, listener=Listener()) for name in names}
    together = await asyncio.gather(*(made.transcribe(path, options, listener=Listener()) for path in copies.values()))
    await made.close()
    sampled = compared = 0
    for key, transcript in zip(copies, together, strict=True):
        expected = alone[key.rpartition("-")[0]]
        hot = {one.seek for one in (*expected.segments, *transcript.segments) if one.temperature > 0}
        sampled += len(hot)
        compared += len({one.seek for one in expected.segments})
        said, wanted = (
            [(one.text, one.tokens, one.start, one.end) for one in found.segments if one.seek not in hot]
            for found in (transcript, expected)
        )
        assert said == wanted, key
        for word, reference in zip(transcript.words, expected.words, strict=bool(not hot)):
            assert hot or word.word == reference.word
            assert hot or abs(word.start - reference.start) <= ROUNDING_SECONDS
            assert hot or abs(word.end - reference.end) <= ROUNDING_SECONDS
    assert compared > 30
    assert sampled <= compared * 0.05
    assert deaths == []


async def test_two_replicas_on_one_cpu_share_the_work(decoder: Decoder, samples: Path, tmp_path: Path) -> None:
    replicas = await asyncio.to_thread(load, ModelChoice(name="demo", device="cpu", device_indexes=(0, 1)))
    made = WhisperTranscriber(
        replicas, front_end=FrontEnd(decoder, slots=4), slots=Slots(4), batch_size=2, on_death=lambda _: None
    )
    sources = [Path(shutil.copy(samples / "numbers.mp3", tmp_path / f"audio{number}")) for number in range(4)]
    found = await asyncio.gather(
        *(made.transcribe(source, TranscriptionOptions(), listener=Listener()) for source in sources)
    )
    await made.close()
    assert len(replicas) == 2
    assert len({transcript.text for transcript in found}) == 1
    assert found[0].text.startswith("my number is seven")


async def test_channels_are_transcribed_alone_and_merged_on_one_clock(
    transcriber: WhisperTranscriber, samples: Path, references: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    name = "two_speakers_stereo.flac"
    source = Path(shutil.copy(samples / name, tmp_path / "audio"))
    heard = Heard()
    options = TranscriptionOptions(multichannel=True, word_timestamps=True, language="en")
    transcript = await transcriber.transcribe(source, options, listener=heard)
    assert {segment.channel for segment in transcript.segments} == {0, 1}
    assert all(word.channel == segment.channel for segment in transcript.segments for word in segment.words)
    starts = [segment.start for segment in transcript.segments]
    assert starts == sorted(starts)
    assert [segment.id for segment in transcript.segments] == list(range(len(starts)))
    assert tuple(segment for window in heard.windows for segment in window.segments) == transcript.segments
    words = sorted(word.word.strip() for word in transcript.words)
    assert len(set(words) & set(references[name]["text"].split())) >= 0.8 * len(set(references[name]["text"].split()))


async def test_single_channel_is_marked_where_channels_were_asked_for(
    transcriber: WhisperTranscriber, samples: Path, tmp_path: Path
) -> None:
    source = Path(shutil.copy(samples / "hello.wav", tmp_path / "audio"))
    transcript = await transcriber.transcribe(source, TranscriptionOptions(multichannel=True), listener=Listener())
    assert transcript.text == "hello this is a test the job is complete now"
    assert {segment.channel for segment in transcript.segments} == {0}


async def test_text_before_is_gone_on_from_where_that_is_asked_for(
    transcriber: WhisperTranscriber, recording: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts: list[int] = []
    decode = transcriber.model.decode

    def spied(windows: Any) -> Any:
        prompts.extend(len(one.prompt) for one in windows if not one.seek and not one.decodings)
        return decode(windows)

    monkeypatch.setattr(transcriber.model, "decode", spied)
    options = TranscriptionOptions(condition_on_previous_text=True)
    transcript = await transcriber.transcribe(recording, options, listener=Listener())
    assert prompts[0] == 0
    assert len(prompts) >= 2
    assert all(length > 0 for length in prompts[1:])
    assert transcript.text.startswith("good morning and welcome")


async def test_first_window_of_a_long_recording_comes_before_its_end_is_decoded(
    transcriber: WhisperTranscriber, samples: Path, tmp_path: Path
) -> None:
    source = tmp_path / "audio"
    said = decode_audio(str(samples / "long.opus"))
    with wave.open(str(source), "wb") as written:
        written.setparams((1, 2, 16_000, 0, "NONE", ""))
        for _ in range(280):  # almost six hours
            written.writeframes((said * 32767).astype("<i2").tobytes())
    heard = Heard()
    work = asyncio.create_task(transcriber.transcribe(source, TranscriptionOptions(), listener=heard))
    await eventually(lambda: bool(heard.windows) or work.done())
    first = heard.windows[0]
    began = asyncio.get_running_loop().time()
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    assert asyncio.get_running_loop().time() - began < 5
    assert first.duration is None
    await eventually(lambda: transcriber.active == 0)
    assert await asyncio.to_thread(lambda: [path.name for path in tmp_path.iterdir()]) == ["audio"]
