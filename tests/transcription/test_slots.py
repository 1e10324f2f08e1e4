"""What several models share: never more than the slots, each its part, and no wake-up lost."""

from __future__ import annotations

import asyncio
import random
import threading
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.domain.transcript import Task
from app.transcription.batcher import Batcher, Request
from app.transcription.scheduler import Scheduler, Step, Work
from app.transcription.slots import Slots
from app.transcription.vad import Span
from app.transcription.whisper import Accepted
from app.transcription.window import Window
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Sequence

ENCODED = np.zeros((1, 1), np.float32)
FEATURES = np.zeros((80, 3000), np.float32)


def window(number: int) -> Window:
    return Window(
        channel=0,
        number=number,
        pieces=(Span(number * 480_000, (number + 1) * 480_000),),
        features=FEATURES,
        task=Task.TRANSCRIBE,
        beam_size=5,
        temperatures=(0.0,),
        language="en",
    )


class Part:
    """A model's part, used as the test says: ``busy`` slots are on the model, ``idle`` ones are not."""

    def __init__(self, slots: Slots) -> None:
        self.busy = 0
        self.idle = 0
        self.woken = 0
        self.share = slots.share(held=lambda: self.busy + self.idle, give_up_idle=self._give_up)
        self.share.wake = self._wake

    def _give_up(self, count: int) -> None:
        self.idle -= min(count, self.idle)

    def _wake(self) -> None:
        self.woken += 1


class Model:
    """A scheduler with one or more devices, stepped by the test as the batcher steps it."""

    def __init__(self, slots: Slots, *, devices: int = 1, batch_size: int = 2, encodes_apart: bool = False) -> None:
        self.scheduler = Scheduler(slots=slots, batch_size=batch_size, encodes_apart=encodes_apart)
        self.devices: list[Step | None] = [None] * devices
        self.transcribed: list[Window] = []

    def request(self, windows: int) -> Work:
        work = Work()
        self.scheduler.add(work)
        for number in range(windows):
            self.scheduler.submit(work, window(number))
        work.complete = True
        return work

    def begin(self, device: int = 0) -> bool:
        """Puts the next batch onto a device that is free; whether there is one that may go there."""
        if self.devices[device] is not None:
            return False
        self.devices[device] = self.scheduler.next_step()
        return self.devices[device] is not None

    def end(self, device: int = 0) -> None:
        step, self.devices[device] = self.devices[device], None
        assert step is not None
        for one in step.windows:
            if step.decode:
                self._finish(one)
            else:
                one.encoded = ENCODED
                self.scheduler.put_back(one)
        self.scheduler.share.pass_on()

    def _finish(self, one: Window) -> None:
        work = self.scheduler.owner(one)
        self.scheduler.finish(one)
        self.transcribed.append(one)
        if work.complete and not work.outstanding:
            self.scheduler.remove(work)


def test_model_alone_may_have_all_permits_that_it_wants() -> None:
    slots = Slots(3)
    alone = Part(slots)
    for wanted, limit in ((0, 0), (2, 2), (3, 3), (9, 3)):
        alone.share.want(wanted)
        assert alone.share.limit == limit


def test_permits_are_dealt_out_one_by_one() -> None:
    slots = Slots(5)
    parts = [Part(slots) for _ in range(3)]
    for part, wanted in zip(parts, (9, 9, 1), strict=True):
        part.share.want(wanted)
    assert [part.share.limit for part in parts] == [2, 2, 1]


def test_what_one_does_not_want_others_may_use() -> None:
    slots = Slots(4)
    one, other = Part(slots), Part(slots)
    one.share.want(1)
    other.share.want(9)
    assert other.share.limit == 3
    one.share.want(0)
    assert other.share.limit == 4


def test_model_whose_turn_is_longest_ago_gets_the_permit_that_cannot_be_divided() -> None:
    slots = Slots(1)
    parts = [Part(slots) for _ in range(3)]
    for part in parts:
        part.share.want(2)
    turns = []
    for _ in range(6):
        limits = [part.share.limit for part in parts]
        turns.append(limits.index(1))
        assert sum(limits) == 1
        parts[turns[-1]].share.pass_on()
    assert turns == [0, 1, 2, 0, 1, 2]


def test_permits_on_a_model_stay_until_its_batch_ends_whoever_is_due() -> None:
    slots = Slots(2)
    one, other = Part(slots), Part(slots)
    one.share.want(2)
    one.busy = 2
    other.share.want(1)
    assert (other.share.limit, one.busy) == (0, 2)
    one.busy, one.idle = 0, 2
    assert (other.share.limit, one.idle) == (1, 1)


def test_no_more_is_taken_than_the_other_lacks() -> None:
    slots = Slots(4)
    one, other = Part(slots), Part(slots)
    one.idle = 3  # of requests that have nothing for the model now
    other.share.want(2)
    assert other.share.limit == 2
    assert one.idle == 2


def test_nothing_is_taken_from_who_is_due_it() -> None:
    slots = Slots(2)
    one, other = Part(slots), Part(slots)
    one.share.want(1)
    one.idle = 1
    other.share.want(5)
    assert (other.share.limit, one.idle) == (1, 1)


def test_others_are_woken_by_less_wanted_by_the_end_of_a_batch_and_by_who_leaves() -> None:
    slots = Slots(1)
    one, other = Part(slots), Part(slots)
    one.share.want(2)
    assert other.woken == 0
    one.share.want(1)
    assert other.woken == 1
    one.share.pass_on()
    assert other.woken == 2
    one.share.leave()
    assert other.woken == 3
    assert one.woken == 0


def test_what_a_model_held_that_has_left_is_there_for_the_others() -> None:
    slots = Slots(1)
    one, other = Part(slots), Part(slots)
    for part in (one, other):
        part.share.want(1)
    one.busy = 1
    assert (slots.held, other.share.limit) == (1, 0)
    one.share.leave()
    assert (slots.held, other.share.limit) == (0, 1)


@pytest.mark.parametrize("encodes_apart", [False, True])
def test_two_models_that_always_have_work_take_turns_on_one_permit(
    encodes_apart: bool,  # noqa: FBT001  # a parameter of the test
) -> None:
    slots = Slots(1)
    models = [Model(slots, encodes_apart=encodes_apart) for _ in range(2)]
    for model in models:
        model.request(100)
        model.request(100)
    turns: list[int] = []
    for _ in range(40):
        (model,) = [one for one in models if one.begin()]  # never both
        turns.append(models.index(model))
        model.end()
    assert turns == [0, 1] * 20


@given(st.integers(2, 4), st.integers(0, 3))
def test_each_of_several_models_has_a_permit_where_there_are_enough(count: int, more: int) -> None:
    slots = Slots(count + more)
    models = [Model(slots) for _ in range(count)]
    for model in models:
        for _ in range(5):
            model.request(100)
        model.begin()  # the first ones may have had all
    for _ in range(5):
        for model in models:
            if model.devices[0] is not None:
                model.end()
        for model in models:
            assert model.begin()
            assert slots.held <= slots.total


def test_model_without_work_leaves_all_permits_to_the_other() -> None:
    slots = Slots(3)
    idle, other = Model(slots), Model(slots, batch_size=8)
    waiting = Work()  # has a slot, and nothing for the model
    idle.scheduler.add(waiting)
    idle.scheduler.submit(waiting, window(0))
    assert idle.begin()
    idle.end()
    assert idle.scheduler.held == 1
    assert not idle.begin()
    for _ in range(4):
        other.request(9)
    assert other.begin()
    assert (other.scheduler.held, idle.scheduler.held) == (3, 0)


#: For each model: on how many devices, whether it encodes apart, and the windows of its requests.
MODELS = st.lists(
    st.tuples(st.integers(1, 3), st.booleans(), st.lists(st.integers(1, 6), max_size=6)), min_size=1, max_size=4
)


@settings(max_examples=200, deadline=None)
@given(models=MODELS, total=st.integers(1, 5), seed=st.integers(0, 2**32))
def test_every_window_of_every_model_is_transcribed_once_within_the_permits(
    models: list[tuple[int, bool, list[int]]], total: int, seed: int
) -> None:
    chance = random.Random(seed)  # noqa: S311  # whose turn it is
    slots = Slots(total)
    made = [Model(slots, devices=devices, encodes_apart=apart) for devices, apart, _ in models]
    coming = [(model, windows) for model, (_, _, requests) in zip(made, models, strict=True) for windows in requests]
    chance.shuffle(coming)
    while True:
        if coming and chance.random() < 0.3:
            model, windows = coming.pop()
            model.request(windows)
        free = [(model, device) for model in made for device, step in enumerate(model.devices) if step is None]
        chance.shuffle(free)
        begun = False
        for model, device in free:
            begun = model.begin(device) or begun
            assert slots.held <= total
        busy = [(model, device) for model in made for device, step in enumerate(model.devices) if step is not None]
        if not busy:
            # Whoever has work may go on, or nothing ever would.
            assert not any(model.scheduler.works for model in made)
            if not coming:
                break
            continue
        model, device = chance.choice(busy)
        model.end(device)
        assert slots.held <= total
    assert slots.held == 0
    for model, (_, _, requests) in zip(made, models, strict=True):
        assert len(model.transcribed) == len(set(model.transcribed)) == sum(requests)


@settings(max_examples=100, deadline=None)
@given(models=st.integers(2, 4), total=st.integers(1, 5), batch_size=st.integers(1, 4), requests=st.integers(1, 4))
def test_no_model_waits_longer_than_a_batch_of_each_other(
    models: int, total: int, batch_size: int, requests: int
) -> None:
    slots = Slots(total)
    made = [Model(slots, batch_size=batch_size) for _ in range(models)]
    for model in made:
        for _ in range(requests):
            model.request(200)
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


#: On several devices a request that is due no more is given further windows as long as one of it is on another device.
def alternately(model: Model, *, batches: int) -> Iterator[None]:
    """Has two devices end and begin a batch in turn, so that one of them always works."""
    for batch in range(batches):
        if model.devices[batch % 2] is not None:
            model.end(batch % 2)
        model.begin(batch % 2)
        yield


def test_request_on_two_devices_leaves_the_only_permit_to_the_other_model() -> None:
    slots = Slots(1)
    busy, other = Model(slots, devices=2), Model(slots)
    busy.request(300)
    waiting = other.request(1)
    for _ in alternately(busy, batches=10):
        if other.begin():
            other.end()
    assert waiting not in other.scheduler.works


def test_three_long_requests_on_two_devices_do_not_shut_out_a_fourth() -> None:
    model = Model(Slots(3), devices=2, batch_size=8)
    for _ in range(3):
        model.request(300)
    assert [model.begin(device) for device in range(2)] == [True, True]
    fourth = model.request(300)
    assert any(fourth.has_slot for _ in alternately(model, batches=10))


class Replica:
    """Takes all that comes, in its own thread, after ``before``; counts its batches."""

    def __init__(self, before: Callable[[], None] = lambda: None) -> None:
        self.before = before
        self.batches = 0

    def encode(self, windows: Sequence[Window]) -> None:
        self.before()
        for one in windows:
            one.encoded = ENCODED

    def decode(self, windows: Sequence[Window]) -> list[Accepted]:
        self.batches += 1
        self.before()
        return [Accepted(segments=(), frames_done=one.frames) for one in windows]


class Rig:
    """Several batchers over one set of slots, and what came out of each."""

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
        """What an engine does for one request; between windows it gives way to the others for so many turns."""
        batcher = self.batchers[model]
        request = Request(on_window=lambda one: self._note(model, one))
        batcher.open(request)
        try:
            for number in numbers:
                batcher.submit(request, window(number))
                for _ in range(pauses()):
                    await asyncio.sleep(0)
            batcher.completed(request)
            await request.failure
        finally:
            batcher.drop(request)

    def _note(self, model: int, one: Window) -> None:
        self.finished.append((model, one.number))
        self.most_held = max(self.most_held, self.slots.held)


@asynccontextmanager
async def rig(*models: Sequence[Any], slots: int, encodes_apart: bool = False) -> AsyncIterator[Rig]:
    made = Rig(models, slots=slots, encodes_apart=encodes_apart)
    try:
        async with asyncio.timeout(30):
            yield made
    finally:
        for batcher in made.batchers:
            await batcher.close()
    assert made.deaths == []


@pytest.mark.anyio
@pytest.mark.parametrize("slots", [1, 2])
@pytest.mark.parametrize("devices", [1, 2])
@pytest.mark.parametrize("encodes_apart", [False, True])
async def test_all_requests_of_two_models_come_to_their_end(
    slots: int,
    devices: int,
    encodes_apart: bool,  # noqa: FBT001  # a parameter of the test
) -> None:
    chance = random.Random(slots)  # noqa: S311  # when windows come
    models = [[Replica() for _ in range(devices)] for _ in range(2)]
    async with rig(*models, slots=slots, encodes_apart=encodes_apart) as running:
        async with asyncio.TaskGroup() as group:
            for number in range(60):
                windows = range(10 * number, 10 * number + chance.randrange(1, 7))
                group.create_task(
                    running.transcribe(number % 2, *windows, pauses=lambda: chance.randrange(4)), name=str(number)
                )
        assert running.slots.held == 0
        assert len(running.finished) == len(set(running.finished)) > 60
        assert running.most_held <= slots


@pytest.mark.anyio
@pytest.mark.parametrize("slots", [1, 2])
@pytest.mark.parametrize("seed", range(5))
async def test_requests_that_are_cancelled_in_between_hold_nobody_up(slots: int, seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311  # who is cancelled, and when
    async with rig([Replica()], [Replica()], slots=slots) as running:
        tasks = [
            asyncio.create_task(
                running.transcribe(number % 2, *range(10 * number, 10 * number + 5), pauses=lambda: chance.randrange(4))
            )
            for number in range(60)
        ]
        cancelled = chance.sample(tasks, 30)
        for task in cancelled:
            for _ in range(chance.randrange(6)):
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
async def test_cancelled_request_of_one_model_leaves_its_permit_to_the_other_when_its_batch_ends() -> None:
    started, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        started.set()
        go_on.wait(30)

    async with rig([Replica(hold)], [Replica()], slots=1) as running:
        first = asyncio.create_task(running.transcribe(0, *range(8)))
        await eventually(started.is_set)
        second = asyncio.create_task(running.transcribe(1, 100))
        await eventually(lambda: running.batchers[1].scheduler.share.wanted == 1)
        first.cancel()
        await asyncio.wait([first])
        assert running.slots.held == 1
        go_on.set()
        await second
        assert running.finished == [(1, 100)]


@pytest.mark.anyio
async def test_request_that_only_waits_for_its_audio_does_not_keep_the_permit_from_the_other_model() -> None:
    async with rig([Replica()], [Replica()], slots=1) as running:
        turns: list[bool] = []
        waiting = Request(on_window=lambda _: None, on_turn=turns.append)
        running.batchers[0].open(waiting)
        running.batchers[0].submit(waiting, window(0))
        await eventually(lambda: not waiting.outstanding)
        await running.transcribe(1, 100)
        assert turns == [True, False]
        running.batchers[0].submit(waiting, window(1))
        running.batchers[0].completed(waiting)
        await waiting.failure
        assert turns == [True, False, True]
        running.batchers[0].drop(waiting)


@pytest.mark.anyio
async def test_model_that_leaves_in_the_middle_of_a_batch_wakes_the_other() -> None:
    started, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        started.set()
        go_on.wait(30)

    async with rig([Replica(hold)], [Replica()], slots=1) as running:
        first = asyncio.create_task(running.transcribe(0, 0))
        await eventually(started.is_set)
        second = asyncio.create_task(running.transcribe(1, 100))
        await eventually(lambda: running.batchers[1].scheduler.share.wanted == 1)
        assert not second.done()
        leaving = running.batchers.pop(0)
        await leaving.close()
        await second
        go_on.set()
        await leaving.idle()
        first.cancel()


@pytest.mark.anyio
async def test_three_models_with_endless_work_are_served_alike_by_one_permit() -> None:
    replicas = [Replica() for _ in range(3)]
    async with rig(*([replica] for replica in replicas), slots=1) as running:
        tasks = [asyncio.create_task(running.transcribe(model, *range(200))) for model in range(3)]
        await eventually(lambda: min(replica.batches for replica in replicas) >= 10)
        batches = [replica.batches for replica in replicas]
        for task in tasks:
            task.cancel()
    assert max(batches) - min(batches) <= 1
