"""Slots shared by several models: never more than there are, dealt fairly, and no wake-up is lost."""

from __future__ import annotations

import asyncio
import random
import threading
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.transcript import Task
from app.transcription.batcher import Batcher
from app.transcription.scheduler import Scheduler
from app.transcription.slots import Slots
from app.transcription.transcription import Transcription
from app.transcription.vad import Span
from app.transcription.window import Window
from tests.support.observed_transcription import ObservedTranscription
from tests.support.outcomes import accepted
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Sequence

    from app.transcription.accepted_decoding import AcceptedDecoding
    from app.transcription.scheduler import Batch

ENCODED = np.zeros((1, 1), np.float32)
FEATURES = np.zeros((80, 3000), np.float32)


def window(number: int) -> Window:
    return Window(
        channel=0,
        number=number,
        spans=(Span(number * 480_000, (number + 1) * 480_000),),
        features=FEATURES,
        task=Task.TRANSCRIBE,
        beam_size=5,
        temperatures=(0.0,),
        language="en",
    )


class FakeModel:
    """A share whose slots the test sets: ``busy`` ones are used by a batch, ``idle`` ones are not."""

    def __init__(self, slots: Slots) -> None:
        self.busy = 0
        self.idle = 0
        self.wakeups = 0
        self.share = slots.share(held=lambda: self.busy + self.idle, release_idle=self._release)
        self.share.wake = self._wake

    def _release(self, count: int) -> None:
        self.idle -= min(count, self.idle)

    def _wake(self) -> None:
        self.wakeups += 1


class SteppedModel:
    """A scheduler with one or more devices, stepped by the test as the batcher would."""

    def __init__(self, slots: Slots, *, devices: int = 1, batch_size: int = 2, encodes_apart: bool = False) -> None:
        self.scheduler = Scheduler(slots=slots, batch_size=batch_size, encodes_apart=encodes_apart)
        self.devices: list[Batch | None] = [None] * devices
        self.transcribed: list[Window] = []

    def add(self, windows: int) -> Transcription:
        """Add a transcription with this many windows, all that it has."""
        transcription = Transcription()
        self.scheduler.add(transcription)
        for number in range(windows):
            self.scheduler.submit(transcription, window(number))
        transcription.complete = True
        return transcription

    def begin(self, device: int = 0) -> bool:
        """Start the next batch on a device. Return False if the device is busy or there is nothing to do."""
        if self.devices[device] is not None:
            return False
        self.devices[device] = self.scheduler.next_batch()
        return self.devices[device] is not None

    def end(self, device: int = 0) -> None:
        batch, self.devices[device] = self.devices[device], None
        assert batch is not None
        for item in batch.windows:
            if batch.decode:
                self._finish(item)
            else:
                item.encoded = ENCODED
                self.scheduler.put_back(item)
        self.scheduler.share.batch_ended()

    def _finish(self, item: Window) -> None:
        transcription = self.scheduler.owner(item)
        self.scheduler.finish(item)
        self.transcribed.append(item)
        if transcription.complete and not transcription.outstanding:
            self.scheduler.remove(transcription)


def test_single_model_gets_all_slots_it_needs() -> None:
    slots = Slots(3)
    alone = FakeModel(slots)
    for demand, limit in ((0, 0), (2, 2), (3, 3), (9, 3)):
        alone.share.set_demand(demand)
        assert alone.share.limit == limit


def test_slots_are_dealt_one_by_one() -> None:
    slots = Slots(5)
    models = [FakeModel(slots) for _ in range(3)]
    for model, demand in zip(models, (9, 9, 1), strict=True):
        model.share.set_demand(demand)
    assert [model.share.limit for model in models] == [2, 2, 1]


def test_slots_that_one_model_does_not_need_go_to_others() -> None:
    slots = Slots(4)
    first, second = FakeModel(slots), FakeModel(slots)
    first.share.set_demand(1)
    second.share.set_demand(9)
    assert second.share.limit == 3
    first.share.set_demand(0)
    assert second.share.limit == 4


def test_single_slot_goes_to_the_model_served_longest_ago() -> None:
    slots = Slots(1)
    models = [FakeModel(slots) for _ in range(3)]
    for model in models:
        model.share.set_demand(2)
    served = []
    for _ in range(6):
        limits = [model.share.limit for model in models]
        served.append(limits.index(1))
        assert sum(limits) == 1
        models[served[-1]].share.batch_ended()
    assert served == [0, 1, 2, 0, 1, 2]


def test_slots_of_a_running_batch_are_not_taken_away() -> None:
    slots = Slots(2)
    first, second = FakeModel(slots), FakeModel(slots)
    first.share.set_demand(2)
    first.busy = 2
    second.share.set_demand(1)
    assert (second.share.limit, first.busy) == (0, 2)
    first.busy, first.idle = 0, 2
    assert (second.share.limit, first.idle) == (1, 1)


def test_no_more_idle_slots_are_taken_than_needed() -> None:
    slots = Slots(4)
    first, second = FakeModel(slots), FakeModel(slots)
    first.idle = 3  # held by transcriptions without windows for the model
    second.share.set_demand(2)
    assert second.share.limit == 2
    assert first.idle == 2


def test_allotted_slots_are_not_taken_away() -> None:
    slots = Slots(2)
    first, second = FakeModel(slots), FakeModel(slots)
    first.share.set_demand(1)
    first.idle = 1
    second.share.set_demand(5)
    assert (second.share.limit, first.idle) == (1, 1)


def test_others_are_woken_when_slots_may_become_available() -> None:
    slots = Slots(1)
    first, second = FakeModel(slots), FakeModel(slots)
    first.share.set_demand(2)
    assert second.wakeups == 0
    first.share.set_demand(1)
    assert second.wakeups == 1
    first.share.batch_ended()
    assert second.wakeups == 2
    first.share.leave()
    assert second.wakeups == 3
    assert first.wakeups == 0


def test_slots_of_a_removed_model_go_to_the_others() -> None:
    slots = Slots(1)
    first, second = FakeModel(slots), FakeModel(slots)
    for model in (first, second):
        model.share.set_demand(1)
    first.busy = 1
    assert (slots.held, second.share.limit) == (1, 0)
    first.share.leave()
    assert (slots.held, second.share.limit) == (0, 1)


@pytest.mark.parametrize("encodes_apart", [False, True])
def test_two_busy_models_take_turns_on_one_slot(
    encodes_apart: bool,  # noqa: FBT001  # a parameter of the test
) -> None:
    slots = Slots(1)
    models = [SteppedModel(slots, encodes_apart=encodes_apart) for _ in range(2)]
    for model in models:
        model.add(100)
        model.add(100)
    turns: list[int] = []
    for _ in range(40):
        (model,) = [candidate for candidate in models if candidate.begin()]  # never both
        turns.append(models.index(model))
        model.end()
    assert turns == [0, 1] * 20


@given(st.integers(2, 4), st.integers(0, 3))
def test_each_model_gets_a_slot_if_there_are_enough(count: int, more: int) -> None:
    slots = Slots(count + more)
    models = [SteppedModel(slots) for _ in range(count)]
    for model in models:
        for _ in range(5):
            model.add(100)
        model.begin()  # the first models may hold all slots
    for _ in range(5):
        for model in models:
            if model.devices[0] is not None:
                model.end()
        for model in models:
            assert model.begin()
            assert slots.held <= slots.total


def test_idle_model_leaves_all_slots_to_the_other() -> None:
    slots = Slots(3)
    idle, other = SteppedModel(slots), SteppedModel(slots, batch_size=8)
    waiting = Transcription()  # will have a slot and no window
    idle.scheduler.add(waiting)
    idle.scheduler.submit(waiting, window(0))
    assert idle.begin()
    idle.end()
    assert idle.scheduler.held == 1
    assert not idle.begin()
    for _ in range(4):
        other.add(9)
    assert other.begin()
    assert (other.scheduler.held, idle.scheduler.held) == (3, 0)


#: For each model: its number of devices, whether it encodes apart, and the windows of its transcriptions.
MODELS = st.lists(
    st.tuples(st.integers(1, 3), st.booleans(), st.lists(st.integers(1, 6), max_size=6)), min_size=1, max_size=4
)


@given(models=MODELS, total=st.integers(1, 5), seed=st.integers(0, 2**32))
def test_every_window_is_transcribed_once_within_the_slots(
    models: list[tuple[int, bool, list[int]]], total: int, seed: int
) -> None:
    rng = random.Random(seed)  # noqa: S311  # the order of events
    slots = Slots(total)
    made = [SteppedModel(slots, devices=devices, encodes_apart=apart) for devices, apart, _ in models]
    coming = [(model, windows) for model, (_, _, requests) in zip(made, models, strict=True) for windows in requests]
    rng.shuffle(coming)
    while True:
        if coming and rng.random() < 0.3:
            model, windows = coming.pop()
            model.add(windows)
        free = [(model, device) for model in made for device, step in enumerate(model.devices) if step is None]
        rng.shuffle(free)
        begun = False
        for model, device in free:
            begun = model.begin(device) or begun
            assert slots.held <= total
        busy = [(model, device) for model in made for device, step in enumerate(model.devices) if step is not None]
        if not busy:
            # Nothing is running, so nothing may be waiting.
            assert not any(model.scheduler.transcriptions for model in made)
            if not coming:
                break
            continue
        model, device = rng.choice(busy)
        model.end(device)
        assert slots.held <= total
    assert slots.held == 0
    for model, (_, _, requests) in zip(made, models, strict=True):
        assert len(model.transcribed) == len(set(model.transcribed)) == sum(requests)


@given(models=st.integers(2, 4), total=st.integers(1, 5), batch_size=st.integers(1, 4), requests=st.integers(1, 4))
def test_model_waits_for_one_batch_of_each_other_at_most(
    models: int, total: int, batch_size: int, requests: int
) -> None:
    slots = Slots(total)
    made = [SteppedModel(slots, batch_size=batch_size) for _ in range(models)]
    for model in made:
        for _ in range(requests):
            model.add(200)
    since = dict.fromkeys(made, 0)
    for _ in range(20):
        for model in made:
            model.begin()
        ended = next(model for model in made if model.devices[0] is not None)
        for model in made:
            since[model] = 0 if model.devices[0] is not None else since[model] + 1
            assert since[model] < models
        ended.end()
        made.remove(ended)
        made.append(ended)


def alternately(model: SteppedModel, *, batches: int) -> Iterator[None]:
    """End and begin batches on two devices in turn, so that one of them is always busy."""
    for batch in range(batches):
        if model.devices[batch % 2] is not None:
            model.end(batch % 2)
        model.begin(batch % 2)
        yield


def test_single_slot_on_two_devices_reaches_the_other_model() -> None:
    slots = Slots(1)
    busy, other = SteppedModel(slots, devices=2), SteppedModel(slots)
    busy.add(300)
    waiting = other.add(1)
    for _ in alternately(busy, batches=10):
        if other.begin():
            other.end()
    assert waiting not in other.scheduler.transcriptions


def test_three_long_transcriptions_do_not_starve_a_fourth() -> None:
    model = SteppedModel(Slots(3), devices=2, batch_size=8)
    for _ in range(3):
        model.add(300)
    assert [model.begin(device) for device in range(2)] == [True, True]
    fourth = model.add(300)
    assert any(fourth.has_slot for _ in alternately(model, batches=10))


class Replica:
    """A replica that calls ``before`` and then accepts every window. It counts its batches."""

    def __init__(self, before: Callable[[], None] = lambda: None) -> None:
        self.before = before
        self.batches = 0

    def encode(self, windows: Sequence[Window]) -> None:
        self.before()
        for one in windows:
            one.encoded = ENCODED

    def decode(self, windows: Sequence[Window]) -> list[AcceptedDecoding]:
        self.batches += 1
        self.before()
        return [accepted(one.frames) for one in windows]


class Rig:
    """Several batchers that share slots, and the windows that they finished."""

    def __init__(self, models: Sequence[Sequence[Any]], *, slots: int, encodes_apart: bool) -> None:
        self.slots = Slots(slots)
        self.deaths: list[BaseException] = []
        self.batchers = [
            Batcher(
                replicas,
                slots=self.slots,
                batch_size=2,
                encodes_apart=encodes_apart,
                on_death=self.deaths.append,
            )
            for replicas in models
        ]
        self.finished: list[tuple[int, int]] = []
        self.most_held = 0

    async def transcribe(self, model: int, *numbers: int, pauses: Callable[[], int] = lambda: 0) -> None:
        """Submit windows as an engine does, with ``pauses()`` turns of the event loop after each."""
        batcher = self.batchers[model]
        transcription = ObservedTranscription(on_finished=partial(self._note, model))
        batcher.open(transcription)
        try:
            for number in numbers:
                batcher.submit(transcription, window(number))
                for _ in range(pauses()):
                    await asyncio.sleep(0)
            batcher.complete(transcription)
            await transcription.wait_until_ended()
        finally:
            batcher.drop(transcription)

    def _note(self, model: int, finished: Window) -> None:
        self.finished.append((model, finished.number))
        self.most_held = max(self.most_held, self.slots.held)


@asynccontextmanager
async def rig(*models: Sequence[Any], slots: int, encodes_apart: bool = False) -> AsyncIterator[Rig]:
    made = Rig(models, slots=slots, encodes_apart=encodes_apart)
    try:
        async with asyncio.timeout(120):
            yield made
    finally:
        for batcher in made.batchers:
            await batcher.close()
    assert made.deaths == []


@pytest.mark.anyio
@pytest.mark.parametrize("slots", [1, 2])
@pytest.mark.parametrize("devices", [1, 2])
@pytest.mark.parametrize("encodes_apart", [False, True])
async def test_all_transcriptions_of_two_models_finish(
    slots: int,
    devices: int,
    encodes_apart: bool,  # noqa: FBT001  # a parameter of the test
) -> None:
    rng = random.Random(slots)  # noqa: S311  # when windows arrive
    models = [[Replica() for _ in range(devices)] for _ in range(2)]
    async with rig(*models, slots=slots, encodes_apart=encodes_apart) as running:
        async with asyncio.TaskGroup() as group:
            for number in range(60):
                windows = range(10 * number, 10 * number + rng.randrange(1, 7))
                group.create_task(
                    running.transcribe(number % 2, *windows, pauses=lambda: rng.randrange(4)), name=str(number)
                )
        assert running.slots.held == 0
        assert len(running.finished) == len(set(running.finished)) > 60
        assert running.most_held <= slots


@pytest.mark.anyio
@pytest.mark.parametrize("slots", [1, 2])
@pytest.mark.parametrize("seed", range(5))
async def test_cancelled_transcriptions_do_not_block_others(slots: int, seed: int) -> None:
    rng = random.Random(seed)  # noqa: S311  # what is cancelled, and when
    async with rig([Replica()], [Replica()], slots=slots) as running:
        tasks = [
            asyncio.create_task(
                running.transcribe(number % 2, *range(10 * number, 10 * number + 5), pauses=lambda: rng.randrange(4))
            )
            for number in range(60)
        ]
        cancelled = rng.sample(tasks, 30)
        for task in cancelled:
            for _ in range(rng.randrange(6)):
                await asyncio.sleep(0)
            task.cancel()
        await asyncio.gather(*(task for task in tasks if task not in cancelled))
        await asyncio.wait(tasks)
        await eventually(lambda: running.slots.held == 0)
        for number, task in enumerate(tasks):
            if task not in cancelled:
                assert {(number % 2, 10 * number + index) for index in range(5)} <= set(running.finished)
        assert running.most_held <= slots


@pytest.mark.anyio
async def test_cancelled_transcription_releases_its_slot_when_its_batch_ends() -> None:
    started, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        started.set()
        go_on.wait(120)

    async with rig([Replica(hold)], [Replica()], slots=1) as running:
        first = asyncio.create_task(running.transcribe(0, *range(8)))
        await eventually(started.is_set)
        second = asyncio.create_task(running.transcribe(1, 100))
        await eventually(lambda: running.batchers[1].scheduler.share.demand == 1)
        first.cancel()
        await asyncio.wait([first])
        assert running.slots.held == 1
        go_on.set()
        await second
        assert running.finished == [(1, 100)]


@pytest.mark.anyio
async def test_transcription_waiting_for_audio_gives_up_its_slot() -> None:
    async with rig([Replica()], [Replica()], slots=1) as running:
        waiting = ObservedTranscription()
        running.batchers[0].open(waiting)
        running.batchers[0].submit(waiting, window(0))
        await eventually(lambda: not waiting.outstanding)
        await running.transcribe(1, 100)
        assert waiting.slot_changes == ["granted", "taken back"]
        running.batchers[0].submit(waiting, window(1))
        running.batchers[0].complete(waiting)
        await waiting.wait_until_ended()
        assert waiting.slot_changes == ["granted", "taken back", "granted"]
        running.batchers[0].drop(waiting)


@pytest.mark.anyio
async def test_model_removed_during_a_batch_wakes_the_other() -> None:
    started, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        started.set()
        go_on.wait(120)

    async with rig([Replica(hold)], [Replica()], slots=1) as running:
        first = asyncio.create_task(running.transcribe(0, 0))
        await eventually(started.is_set)
        second = asyncio.create_task(running.transcribe(1, 100))
        await eventually(lambda: running.batchers[1].scheduler.share.demand == 1)
        assert not second.done()
        leaving = running.batchers.pop(0)
        await leaving.close()
        await second
        go_on.set()
        await leaving.wait_until_idle()
        first.cancel()


@pytest.mark.anyio
async def test_three_busy_models_share_one_slot_equally() -> None:
    replicas = [Replica() for _ in range(3)]
    async with rig(*([replica] for replica in replicas), slots=1) as running:
        tasks = [asyncio.create_task(running.transcribe(model, *range(200))) for model in range(3)]
        await eventually(lambda: min(replica.batches for replica in replicas) >= 10)
        batches = [replica.batches for replica in replicas]
        for task in tasks:
            task.cancel()
    assert max(batches) - min(batches) <= 1
