"""An service_clock that goes on when the test says so."""

from __future__ import annotations

from typing import TYPE_CHECKING

from app.jobs.service_clock import ServiceClock

if TYPE_CHECKING:
    import asyncio


class FakeUptime(ServiceClock):
    """Stands still until it is moved on. Waiting takes no time once its moment has come."""

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
        """So much time has passed."""
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
