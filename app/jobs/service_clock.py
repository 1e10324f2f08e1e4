"""How long the service has run, over restarts: what retention and delivery count by, whatever the wall clock does."""

from __future__ import annotations

import asyncio
import time


class ServiceClock:
    """Seconds of running, without those in which the service was down. Only ever grows."""

    def __init__(self) -> None:
        self._before = 0.0
        self._begun = time.monotonic()

    def continue_from(self, seconds: float) -> None:
        """Goes on where an earlier process left off."""
        self._before = seconds
        self._begun = time.monotonic()

    @property
    def seconds(self) -> float:
        return self._before + time.monotonic() - self._begun

    async def wait(self, event: asyncio.Event, *, until: float | None) -> None:
        """Returns when ``event`` is set, or at that service_clock; None is never."""
        try:
            await asyncio.wait_for(event.wait(), None if until is None else max(0.0, until - self.seconds))
        except TimeoutError:
            return
