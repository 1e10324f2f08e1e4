"""The loops between the scheduler and the models, and every way in which a model can fail."""

from __future__ import annotations

import asyncio
import itertools
import threading
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from app.domain.errors import EngineFailed, TranscriptionFailed
from app.domain.events import DeviceState, DeviceTime
from app.domain.transcript import Task
from app.transcription.batcher import Batcher
from app.transcription.fallback import Decoding
from app.transcription.slots import Slots
from app.transcription.transcription import Transcription
from app.transcription.vad import Span
from app.transcription.whisper import FallbackNeeded, OutOfMemory
from app.transcription.window import Window
from tests.support.observed_transcription import ObservedTranscription
from tests.support.outcomes import accepted
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from app.domain.events import Event
    from app.transcription.accepted_decoding import AcceptedDecoding

pytestmark = pytest.mark.anyio

ENCODED = np.zeros((1, 1), np.float32)


def succeed(_windows: Sequence[Window]) -> None:
    pass


class ScriptedModel:
    """Accepts every window, unless ``before`` raises an error, and records its batches."""

    def __init__(self, before: Callable[[Sequence[Window]], None] = succeed) -> None:
        self.before = before
        self.batches: list[list[int]] = []
        self.threads: set[str] = set()

    def encode(self, windows: Sequence[Window]) -> None:
        for window in windows:
            window.encoded = ENCODED

    def decode(self, windows: Sequence[Window]) -> list[AcceptedDecoding | FallbackNeeded]:
        self.threads.add(threading.current_thread().name)
        self.batches.append([window.number for window in windows])
        self.before(windows)
        return [accepted(window.frames) for window in windows]


class FailingAt:
    """Raises an error for batches that hold one of the windows ``numbers``, up to ``times`` times."""

    def __init__(self, *numbers: int, times: int = 1000) -> None:
        self._numbers = set(numbers)
        self._left = times

    def __call__(self, windows: Sequence[Window]) -> None:
        if self._left and self._numbers.intersection(window.number for window in windows):
            self._left -= 1
            raise TranscriptionFailed("The model failed (cuBLAS).")


def run_out_of_memory_above(size: int, windows: Sequence[Window]) -> None:
    if len(windows) > size:
        raise OutOfMemory("CUDA failed with error out of memory")


def run_out_of_memory_at(number: int, windows: Sequence[Window]) -> None:
    if number in {window.number for window in windows}:
        raise OutOfMemory("CUDA failed with error out of memory")


def a_window(number: int = 0, *, frames: int = 3000) -> Window:
    return Window(
        channel=0,
        number=number,
        spans=(Span(0, frames * 160),),
        features=np.zeros((80, frames), np.float32),
        task=Task.TRANSCRIBE,
        beam_size=5,
        temperatures=(0.0, 0.2, 0.4),
        language="en",
    )


class Rig:
    """A batcher on scripted models, and the numbers of the windows that it finished."""

    def __init__(self, models: Sequence[Any], *, slots: int, batch_size: int) -> None:
        self.deaths: list[BaseException] = []
        self.events: list[Event] = []
        self.batcher = Batcher(
            models,
            slots=Slots(slots),
            batch_size=batch_size,
            encodes_apart=False,
            on_death=self.deaths.append,
            emit=self.events.append,
        )
        self.finished: list[int] = []

    def start(self, *numbers: int) -> Transcription:
        """Open a transcription and submit these windows, all that it has."""
        transcription = ObservedTranscription(on_finished=self._record)
        self.batcher.open(transcription)
        for number in numbers:
            self.batcher.submit(transcription, a_window(number))
        self.batcher.complete(transcription)
        return transcription

    async def transcribe(self, *numbers: int) -> None:
        await self.start(*numbers).wait_until_ended()

    @property
    def states(self) -> list[DeviceState]:
        """The states that the devices have left, in order, without repetitions."""
        states = [event.state for event in self.events if isinstance(event, DeviceTime)]
        return [state for state, _ in itertools.groupby(states)]

    def _record(self, window: Window) -> None:
        self.finished.append(window.number)


@asynccontextmanager
async def rig(*models: Any, slots: int = 8, batch_size: int = 4) -> AsyncIterator[Rig]:
    running = Rig(models, slots=slots, batch_size=batch_size)
    try:
        yield running
    finally:
        await running.batcher.close()


async def test_windows_of_several_transcriptions_share_a_batch() -> None:
    model = ScriptedModel()
    async with rig(model) as running:
        await asyncio.gather(*(running.transcribe(number) for number in range(4)))
    assert model.batches == [[0, 1, 2, 3]]
    assert sorted(running.finished) == [0, 1, 2, 3]


async def test_batch_that_does_not_fit_is_halved_until_it_does() -> None:
    model = ScriptedModel(partial(run_out_of_memory_above, 1))
    async with rig(model) as running:
        await running.transcribe(*range(4))
        assert running.batcher.scheduler.batch_size == 1
    assert [len(batch) for batch in model.batches] == [4, 2, 1, 1, 2, 1, 1]
    assert sorted(running.finished) == [0, 1, 2, 3]
    assert running.deaths == []


async def test_halved_batches_grow_again_when_memory_suffices() -> None:
    model = ScriptedModel(partial(run_out_of_memory_above, 2))
    async with rig(model) as running:
        await running.transcribe(*range(4))
        model.before = succeed
        await running.transcribe(*range(100))
        assert 2 < running.batcher.scheduler.batch_size <= 4


async def test_window_too_large_for_memory_fails_only_its_transcription() -> None:
    async with rig(ScriptedModel(partial(run_out_of_memory_at, 7))) as running:
        good, bad = running.start(1, 2), running.start(7)
        await good.wait_until_ended()
        with pytest.raises(TranscriptionFailed, match="WHISPER_COMPUTE_TYPE=int8_float16"):
            await bad.wait_until_ended()
        running.batcher.drop(bad)
        assert running.batcher.scheduler.held == 1  # that of the good one, which its engine drops
    assert running.deaths == []


async def test_windows_of_a_failed_batch_are_retried_alone() -> None:
    model = ScriptedModel(FailingAt(2))
    async with rig(model) as running:
        transcriptions = [running.start(number) for number in range(4)]
        for number in (0, 1, 3):
            await transcriptions[number].wait_until_ended()
        with pytest.raises(TranscriptionFailed, match="cuBLAS"):
            await transcriptions[2].wait_until_ended()
    assert model.batches == [[0, 1, 2, 3], [0], [1], [2], [3]]
    assert running.deaths == []


async def test_transient_failure_of_a_single_window_is_retried() -> None:
    model = ScriptedModel(FailingAt(0, times=1))
    async with rig(model) as running:
        await running.transcribe(0)
    assert model.batches == [[0], [0]]


async def test_windows_that_need_a_fallback_share_a_batch() -> None:
    temperatures: list[list[float]] = []
    unacceptable = Decoding(tokens=(), text="", temperature=0.0, avg_logprob=-9.0, no_speech_prob=0.0)

    class UncertainModel(ScriptedModel):
        def decode(self, windows: Sequence[Window]) -> list[AcceptedDecoding | FallbackNeeded]:
            temperatures.append([window.temperature for window in windows])
            outcomes = super().decode(windows)
            return [
                FallbackNeeded(decoding=unacceptable, temperatures=(0.2, 0.4), encoded=ENCODED)
                if window.number % 2 and not window.decodings
                else outcome
                for window, outcome in zip(windows, outcomes, strict=True)
            ]

    async with rig(UncertainModel(), batch_size=10) as running:
        await asyncio.gather(*(running.transcribe(number) for number in range(4)))
    assert temperatures == [[0.0] * 4, [0.2] * 2]


async def test_untranscribed_rest_is_decoded_before_the_window_is_finished() -> None:
    seeks: list[int] = []

    class PartialModel(ScriptedModel):
        def decode(self, windows: Sequence[Window]) -> list[AcceptedDecoding | FallbackNeeded]:
            super().decode(windows)
            seeks.extend(window.seek for window in windows)
            return [accepted(min(2000, window.frames)) for window in windows]

    async with rig(PartialModel()) as running:
        await running.transcribe(0)
    assert seeks == [0, 2000]
    assert running.finished == [0]


async def test_death_of_a_loop_fails_present_and_later_transcriptions() -> None:
    async with rig(ScriptedModel()) as running:
        waiting = Transcription()  # its audio is still being decoded
        running.batcher.open(waiting)
        running.batcher.scheduler.next_batch = _raise_zero_division  # type: ignore[method-assign]  # a bug
        present = running.start(0)
        for transcription in (present, waiting):
            with pytest.raises(EngineFailed, match="the server is restarting"):
                await transcription.wait_until_ended()
        assert [type(death) for death in running.deaths] == [ZeroDivisionError]
        with pytest.raises(EngineFailed, match="the server is restarting"):
            await running.transcribe(1)


def _raise_zero_division() -> None:
    raise ZeroDivisionError


async def test_cancelled_transcription_releases_its_slot_when_its_batch_ends() -> None:
    started, may_end = threading.Event(), threading.Event()

    def block(_windows: Sequence[Window]) -> None:
        started.set()
        may_end.wait(60)

    async with rig(ScriptedModel(block), slots=1) as running:
        dropped = running.start(*range(8))
        await eventually(started.is_set)
        waiting = running.start(100)
        running.batcher.drop(dropped)
        assert running.batcher.scheduler.held == 1
        may_end.set()
        await waiting.wait_until_ended()
    assert running.finished == [100]


async def test_two_devices_share_the_work_side_by_side() -> None:
    both_decoding = threading.Barrier(2, timeout=60)

    def meet(_windows: Sequence[Window]) -> None:
        both_decoding.wait()

    models = [ScriptedModel(meet), ScriptedModel(meet)]
    async with rig(*models, batch_size=1) as running:
        await asyncio.gather(*(running.transcribe(number) for number in range(4)))
    assert [len(model.batches) for model in models] == [2, 2]
    assert models[0].threads.isdisjoint(models[1].threads)


async def test_ten_short_transcriptions_overtake_three_long_ones() -> None:
    """The short ones are finished within six batches, and the long ones share the rest evenly."""
    model = ScriptedModel()
    async with rig(model, slots=3, batch_size=6) as running:
        long = [running.start(*range(1000 * index, 1000 * index + 30)) for index in (1, 2, 3)]
        short = [running.start(index) for index in range(10)]
        await asyncio.gather(*(transcription.wait_until_ended() for transcription in short))
        batches_for_short = len(model.batches)
        await asyncio.gather(*(transcription.wait_until_ended() for transcription in long))
    assert batches_for_short <= 6
    shares = [sum(number // 1000 == index for batch in model.batches[:12] for number in batch) for index in (1, 2, 3)]
    assert max(shares) - min(shares) <= 2
    assert sum(map(len, model.batches)) == 100


# What the devices do.


async def test_states_of_a_device_follow_its_work() -> None:
    async with rig(ScriptedModel()) as running:
        await eventually(lambda: DeviceState.IDLE in running.states)
        await running.transcribe(0)
        await eventually(lambda: running.states[-1] is DeviceState.WAITING)
        assert running.states[-3:] == [DeviceState.IDLE, DeviceState.BUSY, DeviceState.WAITING]


async def test_device_starves_while_a_transcription_has_no_window() -> None:
    async with rig(ScriptedModel()) as running:
        transcription = ObservedTranscription()
        running.batcher.open(transcription)
        running.batcher.submit(transcription, a_window(0))
        await eventually(lambda: not transcription.outstanding)
        running.batcher.submit(transcription, a_window(1))
        running.batcher.complete(transcription)
        await transcription.wait_until_ended()
        assert DeviceState.STARVED in running.states


async def test_shares_of_a_device_add_up_to_one() -> None:
    def take_a_moment(_windows: Sequence[Window]) -> None:
        threading.Event().wait(0.05)

    async with rig(ScriptedModel(take_a_moment)) as running:
        await running.transcribe(*range(12))
        (shares,) = running.batcher.device_shares
    assert sum(shares.values()) == pytest.approx(1)
    assert shares[DeviceState.BUSY] > 0
