"""How long the line is, in seconds, from how long recent jobs have taken."""

from __future__ import annotations

from typing import Final

#: The weight of the newest job in the mean.
_NEWEST: Final = 0.2
#: What a job is thought to take before one has ended.
_FIRST_GUESS_SECONDS: Final = 10.0


class Estimate:
    """An exponentially weighted mean of the time that jobs hold a permit."""

    def __init__(self, *, permits: int) -> None:
        self._permits = permits
        self._mean_seconds: float | None = None

    def finished(self, seconds: float) -> None:
        """Takes a job that has ended into the mean."""
        before = seconds if self._mean_seconds is None else self._mean_seconds
        self._mean_seconds = before + _NEWEST * (seconds - before)

    def wait_seconds(self, queued: int) -> float:
        """When a job that finds ``queued`` others before it would be finished."""
        return self._mean * (queued // self._permits + 1)

    def next_place_seconds(self) -> float:
        """How soon the line moves up by one."""
        return self._mean / self._permits

    @property
    def _mean(self) -> float:
        return _FIRST_GUESS_SECONDS if self._mean_seconds is None else self._mean_seconds
