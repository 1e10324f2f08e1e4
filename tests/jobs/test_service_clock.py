"""Seconds of running, whatever the wall clock says; and that the tests' own service_clock is like the real one."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import pytest

from app.jobs.service_clock import ServiceClock
from tests.support.service_clock import FakeServiceClock

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.anyio


@pytest.fixture(params=[ServiceClock, FakeServiceClock])
def service_clock(request: pytest.FixtureRequest) -> ServiceClock:
    make: Callable[[], ServiceClock] = request.param
    return make()


def test_clock_begins_at_zero_and_only_grows(service_clock: ServiceClock) -> None:
    seen = [service_clock.seconds for _ in range(1000)]
    assert 0 <= seen[0] < 1
    assert seen == sorted(seen)


def test_clock_continues_from_an_earlier_process(service_clock: ServiceClock) -> None:
    service_clock.continue_from(1e9)
    assert 1e9 <= service_clock.seconds < 1e9 + 60


def test_clock_counts_seconds() -> None:
    service_clock, before = ServiceClock(), time.monotonic()
    time.sleep(0.05)
    assert 0.05 <= service_clock.seconds <= time.monotonic() - before + 0.01


async def test_wait_ends_when_the_event_comes(service_clock: ServiceClock) -> None:
    event = asyncio.Event()
    for until in (None, service_clock.seconds + 1000.0):
        event.clear()
        waiting = asyncio.create_task(service_clock.wait(event, until=until))
        await asyncio.sleep(0.01)
        assert not waiting.done()
        event.set()
        async with asyncio.timeout(60):
            await waiting


async def test_wait_until_a_past_time_returns_at_once(service_clock: ServiceClock) -> None:
    service_clock.continue_from(100.0)
    async with asyncio.timeout(60):
        for until in (-1.0, 0.0, 100.0):
            await service_clock.wait(asyncio.Event(), until=until)


async def test_wait_ends_at_its_time() -> None:
    service_clock = ServiceClock()
    service_clock.continue_from(100.0)
    async with asyncio.timeout(60):
        await service_clock.wait(asyncio.Event(), until=100.1)
    assert service_clock.seconds >= 100.09


async def test_wait_can_be_cancelled(service_clock: ServiceClock) -> None:
    waiting = asyncio.create_task(service_clock.wait(asyncio.Event(), until=None))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait([waiting])
    assert waiting.cancelled()
