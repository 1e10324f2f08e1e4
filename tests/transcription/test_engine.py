"""Whole transcriptions, from a file to its transcript."""

from __future__ import annotations

import asyncio
import shutil
import threading
import wave
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from faster_whisper import decode_audio

from app.domain.errors import UndecodableAudio
from app.domain.transcript import Task, TranscriptionOptions
from app.transcription.accepted_decoding import AcceptedDecoding
from app.transcription.admission import FrontEnd
from app.transcription.decoding import Decoder
from app.transcription.engine import WhisperTranscriber
from app.transcription.loading import ModelChoice, load
from app.transcription.slots import Slots
from app.transcription.transcriber import FinishedWindow, Listener
from tests.support.audio import RATE, SAMPLES, encode, silence, sine, two_tracks
from tests.support.engines import transcribing
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from app.domain.transcript import Transcript
    from app.transcription.decoding import Decoded
    from app.transcription.whisper import WhisperModel

pytestmark = pytest.mark.anyio

#: A batch changes the order of additions, which can move a word's edge by a timestamp or two; see docs/engine.md.
ROUNDING_SECONDS = 0.045


class RecordingListener(Listener):
    """Records every callback."""

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
    async with transcribing(model, decoder) as running:
        yield running


@pytest.fixture
def recording(samples: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(samples / "long.opus", tmp_path / "audio"))


async def test_windows_are_reported_in_order_and_make_up_the_transcript(
    transcriber: WhisperTranscriber, recording: Path
) -> None:
    listener = RecordingListener()
    transcript = await transcriber.transcribe(recording, TranscriptionOptions(), listener=listener)
    assert listener.events[0] == "waiting"
    others = [event for event in listener.events[1:] if event not in listener.windows]
    assert set(others) == {76.53, "granted"}  # windows may be ready before the file is decoded
    assert len(others) == 2 <= len(listener.windows)
    assert tuple(segment for window in listener.windows for segment in window.segments) == transcript.segments
    done = [window.seconds_done for window in listener.windows]
    assert done == sorted(done)
    assert done[-1] <= transcript.duration
    starts = [segment.start for segment in transcript.segments]
    assert starts == sorted(starts)
    assert [path.name for path in recording.parent.iterdir()] == ["audio"]


@pytest.mark.full(reason="takes more than a second")
async def test_requested_language_holds_for_all_windows(transcriber: WhisperTranscriber, recording: Path) -> None:
    listener = RecordingListener()
    transcript = await transcriber.transcribe(recording, TranscriptionOptions(language="de"), listener=listener)
    assert transcript.language == "german"
    assert {window.language for window in listener.windows} == {"german"}


async def test_translation_is_passed_to_the_model(
    transcriber: WhisperTranscriber, samples: Path, tmp_path: Path
) -> None:
    source = Path(shutil.copy(samples / "hello.wav", tmp_path / "audio"))
    options = TranscriptionOptions(task=Task.TRANSLATE, prompt="a test", hotwords="job")
    transcript = await transcriber.transcribe(source, options, listener=Listener())
    assert transcript.task is Task.TRANSLATE
    assert "hello this is a test" in transcript.text


async def test_cancelling_releases_the_slot_and_deletes_the_pcm(
    transcriber: WhisperTranscriber, recording: Path
) -> None:
    listener = RecordingListener()
    task = asyncio.create_task(transcriber.transcribe(recording, TranscriptionOptions(), listener=listener))
    await eventually(lambda: transcriber.active == 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await eventually(lambda: transcriber.active == 0)
    assert [path.name for path in recording.parent.iterdir()] == ["audio"]
    assert len(listener.windows) < 2


async def test_undecodable_audio_takes_no_slot(transcriber: WhisperTranscriber, tmp_path: Path) -> None:
    source = tmp_path / "audio"
    source.write_bytes(b"nothing" * 1000)
    listener = RecordingListener()
    with pytest.raises(UndecodableAudio):
        await transcriber.transcribe(source, TranscriptionOptions(), listener=listener)
    assert listener.events == ["waiting"]
    assert transcriber.active == 0


async def test_corruption_in_the_middle_does_not_lose_the_rest(
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


async def test_silence_stays_empty_without_vad(transcriber: WhisperTranscriber, samples: Path, tmp_path: Path) -> None:
    source = Path(shutil.copy(samples / "silence.wav", tmp_path / "audio"))
    listener = RecordingListener()
    transcript = await transcriber.transcribe(source, TranscriptionOptions(vad_filter=False), listener=listener)
    assert len(listener.windows) == 1
    assert transcript.text == ""


@pytest.mark.full(reason="transcribes many recordings at once")
async def test_transcripts_under_load_equal_those_alone(
    model: WhisperModel,
    decoder: Decoder,
    samples: Path,
    references: dict[str, dict[str, Any]],
    tmp_path: Path,
) -> None:
    """Compare all samples, twice each, at once and one by one, except windows that needed a fallback."""
    names = list(references)
    options = TranscriptionOptions(word_timestamps=True)
    deaths: list[BaseException] = []
    transcriber = WhisperTranscriber(
        [model], front_end=FrontEnd(decoder, slots=16), slots=Slots(16), batch_size=8, on_death=deaths.append
    )
    copies = {
        f"{name}-{copy}": Path(shutil.copy(samples / name, tmp_path / f"{copy}-{name}"))
        for name in names
        for copy in range(2)
    }
    alone = {name: await transcriber.transcribe(copies[f"{name}-0"], options, listener=Listener()) for name in names}
    together = await asyncio.gather(
        *(transcriber.transcribe(path, options, listener=Listener()) for path in copies.values())
    )
    await transcriber.close()
    fallbacks = compared = 0
    for key, transcript in zip(copies, together, strict=True):
        expected = alone[key.rpartition("-")[0]]
        sampled = {segment.seek for segment in (*expected.segments, *transcript.segments) if segment.temperature > 0}
        fallbacks += len(sampled)
        compared += len({segment.seek for segment in expected.segments})
        assert certain_segments(transcript, sampled) == certain_segments(expected, sampled), key
        if not sampled:
            assert_same_words(transcript, expected)
    assert compared > 20
    assert fallbacks <= compared * 0.05
    assert deaths == []


def certain_segments(transcript: Transcript, sampled: set[int]) -> list[tuple[Any, ...]]:
    return [
        (segment.text, segment.tokens, segment.start, segment.end)
        for segment in transcript.segments
        if segment.seek not in sampled
    ]


def assert_same_words(transcript: Transcript, expected: Transcript) -> None:
    for word, reference in zip(transcript.words, expected.words, strict=True):
        assert word.word == reference.word
        assert abs(word.start - reference.start) <= ROUNDING_SECONDS
        assert abs(word.end - reference.end) <= ROUNDING_SECONDS


async def test_two_replicas_on_one_cpu_share_the_work(decoder: Decoder, samples: Path, tmp_path: Path) -> None:
    replicas = await asyncio.to_thread(load, ModelChoice(name="demo", device="cpu", device_indexes=(0, 1)))
    transcriber = WhisperTranscriber(
        replicas, front_end=FrontEnd(decoder, slots=4), slots=Slots(4), batch_size=2, on_death=lambda _: None
    )
    sources = [Path(shutil.copy(samples / "numbers.mp3", tmp_path / f"audio{number}")) for number in range(4)]
    transcripts = await asyncio.gather(
        *(transcriber.transcribe(source, TranscriptionOptions(), listener=Listener()) for source in sources)
    )
    await transcriber.close()
    assert len(replicas) == 2
    assert len({transcript.text for transcript in transcripts}) == 1
    assert transcripts[0].text.startswith("my number is seven")


@pytest.mark.full(reason="takes more than a second")
async def test_channels_are_transcribed_separately_and_merged_in_time(
    transcriber: WhisperTranscriber, samples: Path, references: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    name = "two_speakers_stereo.flac"
    source = Path(shutil.copy(samples / name, tmp_path / "audio"))
    listener = RecordingListener()
    options = TranscriptionOptions(multichannel=True, word_timestamps=True, language="en")
    transcript = await transcriber.transcribe(source, options, listener=listener)
    assert {segment.channel for segment in transcript.segments} == {0, 1}
    assert all(word.channel == segment.channel for segment in transcript.segments for word in segment.words)
    starts = [segment.start for segment in transcript.segments]
    assert starts == sorted(starts)
    assert [segment.id for segment in transcript.segments] == list(range(len(starts)))
    assert tuple(segment for window in listener.windows for segment in window.segments) == transcript.segments
    words = sorted(word.word.strip() for word in transcript.words)
    assert len(set(words) & set(references[name]["text"].split())) >= 0.8 * len(set(references[name]["text"].split()))


async def test_mono_file_is_marked_when_multichannel_is_requested(
    transcriber: WhisperTranscriber, samples: Path, tmp_path: Path
) -> None:
    source = Path(shutil.copy(samples / "hello.wav", tmp_path / "audio"))
    transcript = await transcriber.transcribe(source, TranscriptionOptions(multichannel=True), listener=Listener())
    assert transcript.text == "hello this is a test the job is complete now"
    assert {segment.channel for segment in transcript.segments} == {0}


@pytest.mark.full(reason="takes more than a second")
async def test_previous_text_is_in_the_prompt_when_requested(
    transcriber: WhisperTranscriber, recording: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt_lengths: list[int] = []
    decode = transcriber.model.decode

    def recorded(windows: Any) -> Any:
        prompt_lengths.extend(len(window.prompt) for window in windows if not window.seek and not window.decodings)
        return decode(windows)

    monkeypatch.setattr(transcriber.model, "decode", recorded)
    options = TranscriptionOptions(condition_on_previous_text=True)
    transcript = await transcriber.transcribe(recording, options, listener=Listener())
    assert prompt_lengths[0] == 0
    assert len(prompt_lengths) >= 2
    assert all(length > 0 for length in prompt_lengths[1:])
    assert transcript.text.startswith("good morning and welcome")


@pytest.mark.full(reason="takes more than a second")
async def test_device_has_the_next_batch_while_text_is_made(
    model: WhisperModel, decoder: Decoder, recording: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches: list[int] = []
    next_batch = threading.Event()
    decode, segments = model.decode, AcceptedDecoding.segments

    def recorded(windows: Any) -> Any:
        batches.append(len(windows))
        if len(batches) > 1:
            next_batch.set()
        return decode(windows)

    def held(accepted: AcceptedDecoding) -> Any:
        assert next_batch.wait(60)
        return segments(accepted)

    monkeypatch.setattr(model, "decode", recorded)
    monkeypatch.setattr(AcceptedDecoding, "segments", held)
    async with transcribing(model, decoder, batch_size=1) as transcriber:
        transcript = await transcriber.transcribe(recording, TranscriptionOptions(), listener=Listener())
    assert transcript.text.startswith("good morning and welcome")


@pytest.mark.full(reason="takes more than a second")
async def test_text_that_cannot_be_made_fails_its_transcription(
    transcriber: WhisperTranscriber, recording: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_accepted: AcceptedDecoding) -> Any:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(AcceptedDecoding, "segments", broken)
    with pytest.raises(ZeroDivisionError, match="a bug"):
        await transcriber.transcribe(recording, TranscriptionOptions(), listener=Listener())
    monkeypatch.undo()
    shutil.copy(SAMPLES / "hello.wav", recording)
    transcript = await transcriber.transcribe(recording, TranscriptionOptions(), listener=Listener())
    assert transcript.text == "hello this is a test the job is complete now"


@pytest.mark.full(reason="takes more than a second")
async def test_first_track_with_speech_is_transcribed_and_a_warning_names_it(
    transcriber: WhisperTranscriber, samples: Path, tmp_path: Path
) -> None:
    hello = (decode_audio(str(samples / "hello.wav")) * 32767).astype("<i2")
    text = "hello this is a test the job is complete now"
    for first, second, audio_track, track, expected in (
        (silence(2), hello, None, 2, text),
        (silence(2), hello, 1, 1, ""),
        (silence(2), hello, 2, 2, text),
        (hello, silence(2), None, 1, text),
        (silence(2), silence(3), None, 1, ""),
    ):
        source = two_tracks(tmp_path / "audio", first, second)
        options = TranscriptionOptions(audio_track=audio_track)
        transcript = await transcriber.transcribe(source, options, listener=Listener())
        assert transcript.text == expected
        assert transcript.warnings == (
            f"The file has 2 audio tracks, of which number {track} was transcribed: `audio_track` selects another.",
        )
        assert transcript.duration == pytest.approx(len((first, second)[track - 1]) / RATE, abs=0.01)
    assert await asyncio.to_thread(lambda: [path.name for path in tmp_path.iterdir()]) == ["audio"]
    assert transcriber.active == 0


async def test_other_track_that_cannot_be_decoded_is_passed_over(
    transcriber: WhisperTranscriber, tmp_path: Path
) -> None:
    source = two_tracks(tmp_path / "audio", silence(2), sine(2))
    content = source.read_bytes()
    last = content.rindex(b"A_PCM/INT/LIT")
    source.write_bytes(content[:last] + b"A_XXX" + content[last + 5 :])
    transcript = await transcriber.transcribe(source, TranscriptionOptions(), listener=Listener())
    assert transcript.text == ""
    assert "number 1 was transcribed" in transcript.warnings[0]
    with pytest.raises(UndecodableAudio, match="unknown codec"):
        await transcriber.transcribe(source, TranscriptionOptions(audio_track=2), listener=Listener())
    source.write_bytes(content.replace(b"A_PCM/INT/LIT", b"A_XXX/INT/LIT"))
    with pytest.raises(UndecodableAudio, match="The audio in the file has an unknown codec"):
        await transcriber.transcribe(source, TranscriptionOptions(), listener=Listener())


@pytest.mark.full(reason="takes more than a second")
async def test_second_track_of_a_long_file_waits_for_admission_again(
    transcriber: WhisperTranscriber, samples: Path, tmp_path: Path
) -> None:
    speech = np.concatenate([silence(70), (decode_audio(str(samples / "hello.wav")) * 32767).astype("<i2")])
    source = two_tracks(tmp_path / "audio", silence(80), speech)
    short = Path(shutil.copy(samples / "hello.wav", tmp_path / "short"))
    transcripts = await asyncio.gather(
        *(transcriber.transcribe(path, TranscriptionOptions(), listener=Listener()) for path in (source, short))
    )
    assert [transcript.text for transcript in transcripts] == ["hello this is a test the job is complete now"] * 2


async def test_truncated_file_has_a_warning(transcriber: WhisperTranscriber, tmp_path: Path) -> None:
    options = {"movflags": "faststart"}
    source = encode(tmp_path / "audio", silence(40), container="ipod", codec="alac", options=options)
    content = source.read_bytes()
    transcripts = [await transcriber.transcribe(source, TranscriptionOptions(), listener=Listener())]
    source.write_bytes(content[: -len(content) // 4])
    transcripts.append(await transcriber.transcribe(source, TranscriptionOptions(), listener=Listener()))
    assert transcripts[0].warnings == ()
    (warning,) = transcripts[1].warnings
    assert warning.startswith("The header of the file claims ")
    assert transcripts[1].duration < 35


async def test_file_whose_rest_is_not_searched_has_a_warning(model: WhisperModel, tmp_path: Path) -> None:
    sound = encode(tmp_path / "whole", silence(5), container="mp3", codec="libmp3lame").read_bytes()
    source = tmp_path / "audio"
    with source.open("wb") as file:
        file.write(sound)
        file.truncate(128 << 20)
    async with transcribing(model, Decoder(max_seconds=60, silent_seconds=0.2)) as transcriber:
        transcript = await transcriber.transcribe(source, TranscriptionOptions(), listener=Listener())
    (warning,) = transcript.warnings
    assert warning.startswith("After 5.0 s of audio the file goes on with so much that is no audio")


@pytest.mark.full(reason="decodes a long recording")
async def test_first_window_of_a_long_file_precedes_the_end_of_its_decoding(
    model: WhisperModel, samples: Path, tmp_path: Path
) -> None:
    class UnfinishedDecoder(Decoder):
        """Decodes everything, but never says that it has."""

        async def decode(self, *arguments: Any, **options: Any) -> Decoded:
            await super().decode(*arguments, **options)
            never: asyncio.Future[Decoded] = asyncio.get_running_loop().create_future()
            return await never

    source = tmp_path / "audio"
    speech = decode_audio(str(samples / "long.opus"))
    with wave.open(str(source), "wb") as wave_file:
        wave_file.setparams((1, 2, 16_000, 0, "NONE", ""))
        for _ in range(8):  # about ten minutes
            wave_file.writeframes((speech * 32767).astype("<i2").tobytes())
    listener = RecordingListener()
    async with transcribing(model, UnfinishedDecoder(max_seconds=3600)) as transcriber:
        task = asyncio.create_task(transcriber.transcribe(source, TranscriptionOptions(), listener=listener))
        await eventually(lambda: bool(listener.windows) or task.done())
        assert listener.windows[0].duration is None
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await eventually(lambda: transcriber.active == 0)
    assert await asyncio.to_thread(lambda: [path.name for path in tmp_path.iterdir()]) == ["audio"]
