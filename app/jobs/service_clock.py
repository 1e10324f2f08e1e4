"""The service clock: seconds the service has been running, across restarts.

Retention and delivery rounds are measured with it, so that a wall clock that jumps has no effect on them.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """A point in time on both clocks: ``unix`` in Unix seconds, ``service_seconds`` on the service clock."""

    unix: float
    service_seconds: float

    def later(self, seconds: float) -> Moment:
        return Moment(unix=self.unix + seconds, service_seconds=self.service_seconds + seconds)


class ServiceClock:
    """Seconds of running time, without those in which the service was down. It never goes backwards."""

    def __init__(self) -> None:
        self._before = 0.0
        self._begun = time.monotonic()

    def continue_from(self, seconds: float) -> None:
        """Continue where an earlier process stopped."""
        self._before = seconds
        self._begun = time.monotonic()

    @property
    def seconds(self) -> float:
        return self._before + time.monotonic() - self._begun

    def now(self) -> Moment:
        return Moment(unix=time.time(), service_seconds=self.seconds)

    async def wait(self, event: asyncio.Event, *, until: float | None) -> None:
        """Return when ``event`` is set, or when the clock shows ``until``; None waits for the event alone."""
        try:
            await asyncio.wait_for(event.wait(), None if until is None else max(0.0, until - self.seconds))
        except TimeoutError:
            return
