"""The permit follows the work: it is given back when the thread has ended, not when its waiter has gone."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import threading
from contextlib import AsyncExitStack, suppress
from typing import TYPE_CHECKING

import pytest

from app.transcription.gate import Gate

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.anyio

#: Longer than anything here takes: what has not happened by then is not going to.
SECONDS = 10.0


class Work:
    """Stays in the gate's thread until the test lets it go."""

    def __init__(self) -> None:
        self.started = threading.Event()
        self.go = threading.Event()
        self.stop: threading.Event | None = None

    def __call__(self, stop: threading.Event) -> str:
        self.stop = stop
        self.started.set()
        assert self.go.wait(SECONDS)
        return "done"


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate(2)
    yield gate
    gate.close()


async def happened(event: threading.Event) -> None:
    assert await asyncio.to_thread(event.wait, SECONDS)


async def through(gate: Gate, work: Work) -> str:
    async with gate.permit() as permit:
        return await permit.run(work)


async def all_come_back(gate: Gate) -> None:
    """Waits until all permits can be had at once, then gives them back."""
    async with asyncio.timeout(SECONDS), AsyncExitStack() as stack:
        for _ in range(gate.permits):
            await stack.enter_async_context(gate.permit())
        assert gate.held == gate.permits
    assert gate.held == 0


async def test_no_more_work_runs_at_once_than_there_are_permits(gate: Gate) -> None:
    works = [Work() for _ in range(6)]
    tasks = [asyncio.create_task(through(gate, work)) for work in works]
    for batch in (works[0:2], works[2:4], works[4:6]):
        for work in batch:
            await happened(work.started)
        assert gate.held == 2
        assert sum(work.started.is_set() and not work.go.is_set() for work in works) == 2
        for work in batch:
            work.go.set()
    assert await asyncio.gather(*tasks) == ["done"] * 6
    assert gate.held == 0


async def test_cancelled_work_keeps_its_permit_until_its_thread_has_ended() -> None:
    gate = Gate(1)
    first, second = Work(), Work()
    running = asyncio.create_task(through(gate, first))
    await happened(first.started)
    waiting = asyncio.create_task(through(gate, second))
    running.cancel()
    await asyncio.wait([running])
    assert running.cancelled()
    for _ in range(20):  # as many turns of the loop as a permit let go too early would need, and more
        await asyncio.sleep(0)
    assert gate.held == 1
    assert not second.started.is_set()

    first.go.set()
    await happened(second.started)
    second.go.set()
    assert await waiting == "done"
    assert gate.held == 0
    gate.close()


async def test_cancelled_work_is_asked_to_stop_and_other_work_is_not(gate: Gate) -> None:
    cancelled, other = Work(), Work()
    tasks = [asyncio.create_task(through(gate, work)) for work in (cancelled, other)]
    await happened(cancelled.started)
    await happened(other.started)
    tasks[0].cancel()
    await asyncio.wait(tasks[:1])
    assert cancelled.stop is not None
    assert cancelled.stop.is_set()
    assert other.stop is not None
    assert not other.stop.is_set()
    cancelled.go.set()
    other.go.set()
    assert await tasks[1] == "done"
    await all_come_back(gate)


async def test_caller_that_is_cancelled_does_not_wait_for_its_thread(gate: Gate) -> None:
    work = Work()
    task = asyncio.create_task(through(gate, work))
    await happened(work.started)
    task.cancel()
    async with asyncio.timeout(SECONDS):
        with suppress(asyncio.CancelledError):
            await task
    assert not work.go.is_set()
    work.go.set()
    await all_come_back(gate)


async def test_permits_are_given_in_the_order_of_arrival() -> None:
    gate = Gate(1)
    first, order = Work(), list[int]()
    running = asyncio.create_task(through(gate, first))
    await happened(first.started)

    async def queue(number: int) -> None:
        async with gate.permit() as permit:
            await permit.run(lambda _: order.append(number))

    tasks = []
    for number in range(8):
        tasks.append(asyncio.create_task(queue(number)))
        await asyncio.sleep(0)
    tasks[3].cancel()
    first.go.set()
    await asyncio.gather(running, *tasks, return_exceptions=True)
    assert order == [0, 1, 2, 4, 5, 6, 7]
    await all_come_back(gate)
    gate.close()


async def test_exception_of_the_work_reaches_its_caller_and_frees_the_permit(gate: Gate) -> None:
    def fail(_: threading.Event) -> None:
        raise ValueError("no")

    for _ in range(2 * gate.permits):
        with pytest.raises(ValueError, match="no"):
            async with gate.permit() as permit:
                await permit.run(fail)
    assert gate.held == 0


async def test_exception_of_cancelled_work_is_not_reported_as_lost(
    gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    started, go = threading.Event(), threading.Event()

    def fail(_: threading.Event) -> None:
        started.set()
        assert go.wait(SECONDS)
        raise ValueError("nobody hears this")

    async def run() -> None:
        async with gate.permit() as permit:
            await permit.run(fail)

    task = asyncio.create_task(run())
    await happened(started)
    task.cancel()
    await asyncio.wait([task])
    go.set()
    await all_come_back(gate)
    gc.collect()
    assert [record for record in caplog.records if record.name == "asyncio"] == []


async def test_permit_left_without_work_is_free_again(gate: Gate) -> None:
    for _ in range(2 * gate.permits):
        async with gate.permit():
            assert gate.held == 1
    with pytest.raises(LookupError):
        async with gate.permit():
            raise LookupError
    assert gate.held == 0
    await all_come_back(gate)


async def test_waiter_that_is_cancelled_takes_no_permit_along() -> None:
    gate = Gate(1)
    first, second = Work(), Work()
    running = asyncio.create_task(through(gate, first))
    await happened(first.started)
    waiting = asyncio.create_task(through(gate, second))
    await asyncio.sleep(0)
    waiting.cancel()
    first.go.set()
    await asyncio.wait([running, waiting])
    assert not second.started.is_set()
    await all_come_back(gate)
    gate.close()


async def test_waiter_cancelled_in_the_moment_of_its_turn_passes_it_on() -> None:
    gate = Gate(1)
    turn = gate.permit()
    await turn.__aenter__()
    works = [Work(), Work()]
    unlucky, next_one = (asyncio.create_task(through(gate, work)) for work in works)
    await asyncio.sleep(0)
    await turn.__aexit__(None, None, None)
    unlucky.cancel()
    await happened(works[1].started)
    works[1].go.set()
    assert await next_one == "done"
    assert not works[0].started.is_set()
    await all_come_back(gate)
    gate.close()


async def test_work_sees_the_context_of_its_caller(gate: Gate) -> None:
    name: contextvars.ContextVar[str] = contextvars.ContextVar("name", default="nobody")
    name.set("job 1")
    async with gate.permit() as permit:
        assert await permit.run(lambda _: name.get()) == "job 1"


async def test_closed_gate_takes_no_work_and_keeps_no_permit(gate: Gate) -> None:
    work = Work()
    running = asyncio.create_task(through(gate, work))
    await happened(work.started)
    gate.close()
    with pytest.raises(RuntimeError, match="shutdown"):
        async with gate.permit() as permit:
            await permit.run(lambda _: None)
    work.go.set()
    assert await running == "done"
    await all_come_back(gate)
