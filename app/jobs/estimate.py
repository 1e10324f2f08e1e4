"""When a job will be done: from how fast the model has been, and from what else it has to do."""

from __future__ import annotations

import math
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

#: The weight of the newest job in the means.
_NEWEST: Final = 0.2
#: What a job is thought to take before one has ended.
_FIRST_GUESS_SECONDS: Final = 10.0
#: What happened so long ago, in seconds of work, counts for about a third of what happens now.
_MEMORY_SECONDS: Final = 300.0


class Estimate:
    """Measures the speed of the model, all requests together, and what jobs are like.

    ``clock`` gives seconds from any beginning.
    """

    def __init__(self, *, permits: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._permits = permits
        self._clock = clock
        self._mean_seconds: float | None = None
        self._mean_audio: float | None = None
        self._active = 0
        self._since = 0.0
        self._work = 0.0
        self._audio = 0.0

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """A request is being transcribed, or waits for its turn."""
        if not self._active:
            self._since = self._clock()
        self._active += 1
        try:
            yield
        finally:
            self._pass_time()
            self._active -= 1

    def transcribed(self, audio_seconds: float) -> None:
        """So much audio is finished since the last time, of any request."""
        self._pass_time()
        self._audio += audio_seconds

    def finished(self, seconds: float, audio_seconds: float = 0.0) -> None:
        """Takes a job that has ended into the means: how long it took, and how long its audio was."""
        self._mean_seconds = _moved(self._mean_seconds, seconds)
        self._mean_audio = _moved(self._mean_audio, audio_seconds)

    @property
    def speed(self) -> float | None:
        """Seconds of audio a second; None before anything has been transcribed."""
        return self._audio / self._work if self._audio > 0 and self._work > 0 else None

    def seconds_left(self, own: float | None, others: Iterable[float | None]) -> float | None:
        """When a request with so much audio left will be done, beside others with so much; None if nobody knows.

        All that are shorter are done by then, and as much of the longer ones: they take turns. A length that is not
        known yet counts as the mean.
        """
        speed = self.speed
        if speed is None:
            return None
        own_audio = self._or_mean(own)
        shared = sum(min(self._or_mean(other), own_audio) for other in others)
        return (own_audio + shared) / speed

    def wait_seconds(self, queued: int) -> float:
        """When a job that finds ``queued`` others before it would be finished, by the mean of those before."""
        return self._mean * (queued // self._permits + 1)

    def next_place_seconds(self) -> float:
        """How soon the line moves up by one."""
        return self._mean / self._permits

    @property
    def _mean(self) -> float:
        return _FIRST_GUESS_SECONDS if self._mean_seconds is None else self._mean_seconds

    def _or_mean(self, audio_seconds: float | None) -> float:
        return (self._mean_audio or 0.0) if audio_seconds is None else audio_seconds

    def _pass_time(self) -> None:
        now = self._clock()
        elapsed, self._since = max(0.0, now - self._since), now
        fading = math.exp(-elapsed / _MEMORY_SECONDS)
        self._work = self._work * fading + elapsed
        self._audio *= fading


def _moved(mean: float | None, newest: float) -> float:
    return newest if mean is None else mean + _NEWEST * (newest - mean)
