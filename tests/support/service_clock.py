"""A service clock that the test moves."""

from __future__ import annotations

from typing import TYPE_CHECKING

from app.jobs.service_clock import ServiceClock

if TYPE_CHECKING:
    import asyncio


class FakeServiceClock(ServiceClock):
    """A clock that stands still until it is advanced. A wait ends as soon as its time has come."""

    def __init__(self, seconds: float = 0.0) -> None:
        super().__init__()
        self._now = seconds
        self._moved: set[asyncio.Event] = set()

    def continue_from(self, seconds: float) -> None:
        self._now = seconds

    @property
    def seconds(self) -> float:
        return self._now

    def advance(self, seconds: float) -> None:
        """Move the clock forward."""
        self._now += seconds
        for event in self._moved:
            event.set()

    async def wait(self, event: asyncio.Event, *, until: float | None) -> None:
        self._moved.add(event)
        try:
            if until is None or until > self._now:
                await event.wait()
        finally:
            self._moved.discard(event)
