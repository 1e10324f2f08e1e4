"""An estimate of when a job will be done, from the speed of the work and what comes before it."""

from __future__ import annotations

import math
import time
from bisect import bisect_right
from contextlib import contextmanager
from itertools import accumulate
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

#: The weight of the newest job in the means.
_NEWEST: Final = 0.2
#: The duration of a job that is assumed before one has ended.
_FIRST_GUESS_SECONDS: Final = 10.0
#: After this many seconds of work, a measurement weighs about a third of a new one.
_MEMORY_SECONDS: Final = 300.0


class Speed:
    """Measures how much audio is done per second of work, over all requests.

    ``clock`` returns seconds since any point in time.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._active = 0
        self._since = 0.0
        self._work = 0.0
        self._audio = 0.0

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Count the time of the block as work: a request is worked on or waits for its turn."""
        if not self._active:
            self._since = self._clock()
        self._active += 1
        try:
            yield
        finally:
            self._pass_time()
            self._active -= 1

    def done(self, audio_seconds: float) -> None:
        """Count audio that was done since the last call, of any request."""
        self._pass_time()
        self._audio += audio_seconds

    @property
    def measured(self) -> float | None:
        """Seconds of audio per second, or None before anything has been done."""
        return self._audio / self._work if self._audio > 0 and self._work > 0 else None

    def _pass_time(self) -> None:
        now = self._clock()
        elapsed, self._since = max(0.0, now - self._since), now
        fading = math.exp(-elapsed / _MEMORY_SECONDS)
        self._work = self._work * fading + elapsed
        self._audio *= fading


class Estimate:
    """The speeds of the ``model`` and of telling ``voices`` apart, and the mean duration and length of jobs.

    ``clock`` returns seconds since any point in time.
    """

    def __init__(self, *, slots: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.model = Speed(clock)
        self.voices = Speed(clock)
        self._slots = slots
        self._mean_seconds: float | None = None
        self._mean_audio: float | None = None

    def finished(self, seconds: float, audio_seconds: float = 0.0) -> None:
        """Include a job that has ended in the means: the seconds it took, and the length of its audio."""
        self._mean_seconds = _moved(self._mean_seconds, seconds)
        self._mean_audio = _moved(self._mean_audio, audio_seconds)

    def backlog(self, lengths: Iterable[float | None], speed: Speed) -> Backlog:
        """Return the work that is left, from the seconds of audio of each job; an unknown length counts as the mean."""
        mean = self._mean_audio or 0.0
        return Backlog([mean if length is None else length for length in lengths], speed=speed.measured, mean=mean)

    def wait_seconds(self, queued: int) -> float:
        """Return the seconds until a job with ``queued`` jobs before it is done, by the mean duration of jobs."""
        return self._mean * (queued // self._slots + 1)

    def next_place_seconds(self) -> float:
        """Return the seconds until a place in the queue is free."""
        return self._mean / self._slots

    @property
    def _mean(self) -> float:
        return _FIRST_GUESS_SECONDS if self._mean_seconds is None else self._mean_seconds


class Backlog:
    """The work that is left, sorted once, so that the work before each of many requests is found quickly."""

    def __init__(self, lengths: Sequence[float], *, speed: float | None, mean: float) -> None:
        self._lengths = sorted(lengths)
        self._sums = [0.0, *accumulate(self._lengths)]
        self._speed = speed
        self._mean = mean

    def seconds_left(self, own: float | None) -> float | None:
        """Return the seconds until a request of the length ``own``, one of all, is done; None if the speed is unknown.

        Requests take turns on the model: by then all shorter ones are done, and as much of each longer one.
        """
        if self._speed is None:
            return None
        length = self._mean if own is None else own
        shorter = bisect_right(self._lengths, length)
        return (self._sums[shorter] + length * (len(self._lengths) - shorter)) / self._speed


def _moved(mean: float | None, newest: float) -> float:
    return newest if mean is None else mean + _NEWEST * (newest - mean)
