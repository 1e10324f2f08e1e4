"""Recordings are heard in turns, beside their transcription, and references of known speakers are checked."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from app.diarization.conversation import BLOCK_SAMPLES
from app.domain.errors import ModelUnavailable, UnusableReference
from app.domain.transcript import Diarization, Turn
from app.transcription import diarizer as module
from app.transcription.diarizer import Diarizer
from app.transcription.recording import Recording
from tests.support.audio import RATE, encode, silence, sine
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from app.transcription.decoding import Decoder

pytestmark = pytest.mark.anyio

HEARD = (Turn(start=0.0, end=1.0, speaker="A"),)


class Room:
    """Stands for the models: notes what is heard, and can wait before it."""

    def __init__(self) -> None:
        self.loads = 0
        self.failures = 0
        self.blocks: list[tuple[int, int, bool]] = []  # the first sample, their number, and whether it is the last
        self.asked: list[dict[str, Any]] = []
        self.open = threading.Event()
        self.open.set()
        self.arrived = threading.Semaphore(0)

    def load(self, _: Path, *, threads: int) -> Room:
        assert threads == 1
        if self.failures:
            self.failures -= 1
            raise ModelUnavailable("The models are broken: replace them.")
        self.loads += 1
        return self


class FakeConversation:
    def __init__(self, room: Room) -> None:
        self._room = room

    def hear(self, samples: Any, *, is_last: bool = False) -> None:
        self._room.arrived.release()
        assert self._room.open.wait(60)
        self._room.blocks.append((int(samples[0]) if len(samples) else -1, len(samples), is_last))

    def turns(self, **asked: Any) -> tuple[Turn, ...]:
        self._room.asked.append(asked)
        return HEARD


@pytest.fixture
def room(monkeypatch: pytest.MonkeyPatch) -> Room:
    room = Room()
    monkeypatch.setattr(module, "VoiceModels", room)
    monkeypatch.setattr(module, "Conversation", FakeConversation)
    return room


@pytest.fixture
def diarizer(tmp_path: Path) -> Iterator[Diarizer]:
    one = Diarizer(tmp_path, threads=1)
    yield one
    one.close()


def written(path: Path, samples: int, *, value: int = 0, complete: bool = True) -> Recording:
    """Return a recording of samples that all have one value."""
    path.write_bytes(np.full(samples, value, "<i2").tobytes())
    recording = Recording(path)
    if complete:
        recording.complete(samples, 1)
    return recording


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def ignore(_: float) -> None:
    pass


async def hear(diarizer: Diarizer, recording: Recording, **limits: int) -> tuple[Turn, ...]:
    return await diarizer.turns(recording, Diarization(**limits), known={}, on_heard=ignore)


async def test_recording_is_heard_in_blocks_while_it_grows(diarizer: Diarizer, room: Room, tmp_path: Path) -> None:
    known_blocks = 60 * RATE // BLOCK_SAMPLES + 2
    samples = (known_blocks + 1) * BLOCK_SAMPLES + 5
    recording = written(tmp_path / "pcm", samples, complete=False)
    heard: list[float] = []
    turns = asyncio.create_task(diarizer.turns(recording, Diarization(), known={}, on_heard=heard.append))
    recording.grow(known_blocks * BLOCK_SAMPLES, 1)
    await eventually(lambda: len(heard) == known_blocks)
    recording.complete(samples, 1)
    assert await turns == HEARD
    sizes = [(size, is_last) for _, size, is_last in room.blocks]
    assert sizes == [(BLOCK_SAMPLES, False)] * (known_blocks + 1) + [(5, True)]
    assert heard[0] == BLOCK_SAMPLES / RATE
    assert heard[-1] == samples / RATE


async def test_empty_recording_has_one_empty_block(diarizer: Diarizer, room: Room, tmp_path: Path) -> None:
    assert await hear(diarizer, written(tmp_path / "pcm", 0)) == HEARD
    assert room.blocks == [(-1, 0, True)]


async def test_limits_and_known_voices_are_passed_on(diarizer: Diarizer, room: Room, tmp_path: Path) -> None:
    known = {"Anna": np.ones(192, np.float32)}
    recording = written(tmp_path / "pcm", RATE)
    await diarizer.turns(recording, Diarization(min_speakers=2, max_speakers=5), known=known, on_heard=ignore)
    assert room.asked == [{"min_speakers": 2, "max_speakers": 5, "known": known}]


async def test_long_recordings_take_turns_on_one_thread(diarizer: Diarizer, room: Room, tmp_path: Path) -> None:
    samples = max(6 * BLOCK_SAMPLES, 61 * RATE)
    recordings = [written(tmp_path / str(value), samples, value=value) for value in (1, 2)]
    room.open.clear()
    both = asyncio.gather(*(hear(diarizer, recording) for recording in recordings))
    await asyncio.to_thread(room.arrived.acquire)
    room.open.set()
    await both
    order = [value for value, *_ in room.blocks]
    assert order[1:-1] == [1, 2] * (len(order) // 2 - 1) or order[1:-1] == [2, 1] * (len(order) // 2 - 1)


async def test_short_recording_does_not_wait_for_a_long_one(
    diarizer: Diarizer, room: Room, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Patient(FakeConversation):
        def hear(self, samples: Any, *, is_last: bool = False) -> None:
            if samples[0] == 1:
                super().hear(samples, is_last=is_last)

    monkeypatch.setattr(module, "Conversation", Patient)
    room.open.clear()
    long = asyncio.create_task(hear(diarizer, written(tmp_path / "long", 61 * RATE, value=1)))
    await asyncio.to_thread(room.arrived.acquire)
    assert await hear(diarizer, written(tmp_path / "short", 5 * RATE, value=2)) == HEARD
    assert not long.done()
    room.open.set()
    assert await long == HEARD


async def test_cancelled_request_finishes_its_present_block_only(
    diarizer: Diarizer, room: Room, tmp_path: Path
) -> None:
    room.open.clear()
    cancelled = asyncio.create_task(hear(diarizer, written(tmp_path / "cancelled", 61 * RATE, value=1)))
    await asyncio.to_thread(room.arrived.acquire)
    cancelled.cancel()
    with pytest.raises(asyncio.CancelledError):
        await cancelled
    other = asyncio.create_task(hear(diarizer, written(tmp_path / "other", 61 * RATE, value=2)))
    room.open.set()
    await other
    assert [value for value, *_ in room.blocks].count(1) == 1


async def test_models_are_loaded_once_and_a_failure_is_tried_again(
    diarizer: Diarizer, room: Room, tmp_path: Path
) -> None:
    assert room.loads == 0
    room.failures = 1
    with pytest.raises(ModelUnavailable, match="broken"):
        await hear(diarizer, written(tmp_path / "pcm", RATE))
    for _ in range(2):
        assert await hear(diarizer, written(tmp_path / "pcm", RATE)) == HEARD
    assert room.loads == 1


@pytest.fixture
def voices(monkeypatch: pytest.MonkeyPatch) -> None:
    def voice_of(_: Any, samples: Any) -> Any:
        if not samples.any():
            raise ValueError
        return samples[:192].astype(np.float32)

    monkeypatch.setattr(module, "voice_of", voice_of)


@pytest.mark.usefixtures("room", "voices")
async def test_each_reference_gives_the_voice_of_its_name(diarizer: Diarizer, decoder: Decoder, tmp_path: Path) -> None:
    references = [
        encode(tmp_path / f"reference-{number}", sine(seconds), container="wav", codec="pcm_s16le")
        for number, seconds in enumerate((2.0, 10.0), start=1)
    ]
    found = await diarizer.voices(("Anna", "Bo"), references, decoder=decoder)
    assert list(found) == ["Anna", "Bo"]
    assert names(tmp_path) == {"reference-1", "reference-2"}


@pytest.mark.parametrize(
    ("samples", "problem"),
    [
        (sine(1.5), "must be 2 to 10 s long, got 1.5 s"),
        (sine(11.0), "must be 2 to 10 s long, got more"),
        (silence(3.0), "has no speech"),
    ],
)
@pytest.mark.usefixtures("room", "voices")
async def test_unusable_reference_is_named(
    diarizer: Diarizer, decoder: Decoder, tmp_path: Path, samples: Any, problem: str
) -> None:
    good = encode(tmp_path / "reference-1", sine(3.0), container="wav", codec="pcm_s16le")
    bad = encode(tmp_path / "reference-2", samples, container="wav", codec="pcm_s16le")
    with pytest.raises(UnusableReference) as error:
        await diarizer.voices(("Anna", "Bo"), [good, bad], decoder=decoder)
    assert str(error.value) == (
        f"`known_speaker_references` number 2 {problem}: send 2 to 10 s in which only this speaker speaks."
    )
    assert (error.value.param, error.value.code) == ("known_speaker_references", "invalid_reference")


@pytest.mark.usefixtures("room", "voices")
async def test_reference_that_is_no_audio_is_named(diarizer: Diarizer, decoder: Decoder, tmp_path: Path) -> None:
    reference = tmp_path / "reference-1"
    reference.write_text("no audio")
    with pytest.raises(UnusableReference, match=r"^`known_speaker_references` number 1 can't be decoded \("):
        await diarizer.voices(("Anna",), [reference], decoder=decoder)
    assert names(tmp_path) == {"reference-1"}
