"""The loops between the scheduler and the models, and every way in which a model can fail; its script is the test's."""

from __future__ import annotations

import asyncio
import threading
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from app.domain.errors import EngineFailed, TranscriptionFailed
from app.domain.transcript import Task
from app.transcription.batcher import Batcher, Request
from app.transcription.fallback import Decoding
from app.transcription.slots import Slots
from app.transcription.vad import Span
from app.transcription.whisper import AcceptedDecoding, FallbackNeeded, OutOfMemory
from app.transcription.window import Window
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

pytestmark = pytest.mark.anyio

ENCODED = np.zeros((1, 1), np.float32)


class ScriptedModel:
    """Accepts every window, unless ``before`` raises something; writes down its batches."""

    def __init__(self, before: Callable[[Sequence[Window]], None] = lambda _: None) -> None:
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
        return [AcceptedDecoding(segments=(), frames_done=window.frames) for window in windows]


def window(number: int = 0, *, frames: int = 3000) -> Window:
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
    """A batcher over scripted models, and what came out of it."""

    def __init__(self, models: Sequence[Any], **settings: Any) -> None:
        self.deaths: list[BaseException] = []
        chosen = {"slots": 8, "batch_size": 4, "encodes_apart": False, **settings}
        chosen["slots"] = Slots(chosen["slots"])
        self.batcher = Batcher(models, on_death=self.deaths.append, **chosen)
        self.finished: list[int] = []

    def request(self, *numbers: int) -> Request:
        """A request with these windows, all that it has."""
        request = Request(on_window=lambda one: self.finished.append(one.number))
        self.batcher.open(request)
        for number in numbers:
            self.batcher.submit(request, window(number))
        self.batcher.completed(request)
        return request


@asynccontextmanager
async def rig(*models: Any, **settings: Any) -> AsyncIterator[Rig]:
    made = Rig(models, **settings)
    try:
        yield made
    finally:
        await made.batcher.close()


def lacking_memory_for(size: int) -> Callable[[Sequence[Window]], None]:
    def before(windows: Sequence[Window]) -> None:
        if len(windows) > size:
            raise OutOfMemory("CUDA failed with error out of memory")

    return before


def failing_at(*numbers: int, times: int = 1000) -> Callable[[Sequence[Window]], None]:
    left = [times]

    def before(windows: Sequence[Window]) -> None:
        if left[0] and {one.number for one in windows} & set(numbers):
            left[0] -= 1
            raise TranscriptionFailed("The model failed (cuBLAS).")

    return before


async def test_windows_of_several_requests_share_a_batch() -> None:
    model = ScriptedModel()
    async with rig(model) as running:
        requests = [running.request(number) for number in range(4)]
        await asyncio.gather(*(request.failure for request in requests))
    assert model.batches == [[0, 1, 2, 3]]
    assert sorted(running.finished) == [0, 1, 2, 3]


async def test_batch_that_does_not_fit_is_halved_until_it_does() -> None:
    model = ScriptedModel(lacking_memory_for(1))
    async with rig(model) as running:
        await running.request(*range(4)).failure
        assert running.batcher.scheduler.batch_size == 1
    assert [len(batch) for batch in model.batches] == [4, 2, 1, 1, 2, 1, 1]
    assert sorted(running.finished) == [0, 1, 2, 3]
    assert running.deaths == []


async def test_smaller_batches_grow_again_when_memory_suffices() -> None:
    model = ScriptedModel(lacking_memory_for(2))
    async with rig(model) as running:
        await running.request(*range(4)).failure
        model.before = lambda _: None
        await running.request(*range(100)).failure
        assert 2 < running.batcher.scheduler.batch_size <= 4


async def test_window_that_fits_nowhere_fails_its_request_and_no_other() -> None:
    def before(windows: Sequence[Window]) -> None:
        if 7 in {one.number for one in windows}:
            raise OutOfMemory("CUDA failed with error out of memory")

    async with rig(ScriptedModel(before)) as running:
        good, bad = running.request(1, 2), running.request(7)
        await good.failure
        with pytest.raises(TranscriptionFailed, match="WHISPER_COMPUTE_TYPE=int8_float16"):
            await bad.failure
        running.batcher.drop(bad)
        assert running.batcher.scheduler.held == 1  # the good one's, which its engine drops
    assert running.deaths == []


async def test_other_failures_are_tried_again_alone_and_fail_only_their_request() -> None:
    model = ScriptedModel(failing_at(2))
    async with rig(model) as running:
        requests = [running.request(number) for number in range(4)]
        for number in (0, 1, 3):
            await requests[number].failure
        with pytest.raises(TranscriptionFailed, match="cuBLAS"):
            await requests[2].failure
    assert model.batches == [[0, 1, 2, 3], [0], [1], [2], [3]]
    assert running.deaths == []


async def test_passing_failure_of_a_single_window_is_survived() -> None:
    model = ScriptedModel(failing_at(0, times=1))
    async with rig(model) as running:
        await running.request(0).failure
    assert model.batches == [[0], [0]]


async def test_doubtful_windows_are_decoded_hotter_together() -> None:
    temperatures: list[list[float]] = []

    class Doubting(ScriptedModel):
        def decode(self, windows: Sequence[Window]) -> list[AcceptedDecoding | FallbackNeeded]:
            temperatures.append([one.temperature for one in windows])
            accepted = super().decode(windows)
            decoding = Decoding(tokens=(), text="", temperature=0.0, avg_logprob=-9.0, no_speech_prob=0.0)
            return [
                FallbackNeeded(decoding=decoding, encoded=ENCODED) if one.number % 2 and not one.decodings else done
                for one, done in zip(windows, accepted, strict=True)
            ]

    async with rig(Doubting()) as running:
        await asyncio.gather(*(running.request(number).failure for number in range(4)))
    assert temperatures == [[0.0] * 4, [0.2] * 2]


async def test_rest_that_the_model_left_out_is_transcribed_before_the_window_is_finished() -> None:
    seeks: list[int] = []

    class Halting(ScriptedModel):
        def decode(self, windows: Sequence[Window]) -> list[AcceptedDecoding | FallbackNeeded]:
            super().decode(windows)
            seeks.extend(one.seek for one in windows)
            return [AcceptedDecoding(segments=(), frames_done=min(2000, one.frames)) for one in windows]

    async with rig(Halting()) as running:
        await running.request(0).failure
    assert seeks == [0, 2000]
    assert running.finished == [0]


async def test_loop_that_dies_fails_all_callers_those_to_come_too() -> None:
    async with rig(ScriptedModel()) as running:
        waiting = Request(on_window=lambda _: None)  # still being decoded
        running.batcher.open(waiting)
        running.batcher.scheduler.next_step = _broken  # type: ignore[method-assign]
        caught = running.request(0)
        for request in (caught, waiting):
            with pytest.raises(EngineFailed, match="the server restarts"):
                await request.failure
        assert [type(death) for death in running.deaths] == [ZeroDivisionError]
        with pytest.raises(EngineFailed, match="the server restarts"):
            await running.request(1).failure


def _broken() -> None:
    raise ZeroDivisionError


async def test_cancelled_request_frees_its_permit_when_its_batch_ends() -> None:
    started, go_on = threading.Event(), threading.Event()

    def before(_: Sequence[Window]) -> None:
        started.set()
        go_on.wait(30)

    async with rig(ScriptedModel(before), slots=1) as running:
        dropped = running.request(*range(8))
        await eventually(started.is_set)
        waiting = running.request(100)
        running.batcher.drop(dropped)
        assert running.batcher.scheduler.held == 1
        go_on.set()
        await waiting.failure
    assert running.finished == [100]


async def test_two_devices_work_side_by_side_from_one_line() -> None:
    meeting = threading.Barrier(2, timeout=30)

    def meet(_: Sequence[Window]) -> None:
        meeting.wait()

    models = [ScriptedModel(meet), ScriptedModel(meet)]
    async with rig(*models, batch_size=1) as running:
        await asyncio.gather(*(running.request(number).failure for number in range(4)))
    assert [len(model.batches) for model in models] == [2, 2]
    assert models[0].threads.isdisjoint(models[1].threads)


async def test_batch_composition_of_three_long_and_ten_short_requests() -> None:
    """The short ones are through after four batches; the long ones share what is left evenly."""
    model = ScriptedModel()
    async with rig(model, slots=3, batch_size=6) as running:
        long = [running.request(*range(1000 * index, 1000 * index + 30)) for index in (1, 2, 3)]
        short = [running.request(index) for index in range(10)]
        await asyncio.gather(*(request.failure for request in short))
        batches_until_short_ones_were_through = len(model.batches)
        await asyncio.gather(*(request.failure for request in long))
    assert batches_until_short_ones_were_through <= 6
    shares = [sum(number // 1000 == index for batch in model.batches[:12] for number in batch) for index in (1, 2, 3)]
    assert max(shares) - min(shares) <= 2
    assert sum(map(len, model.batches)) == 100
