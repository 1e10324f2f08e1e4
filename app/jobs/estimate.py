"""When a job will be done: from how fast the model has been, and from what else it has to do."""

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
#: What a job is thought to take before one has ended.
_FIRST_GUESS_SECONDS: Final = 10.0
#: What happened so long ago, in seconds of work, counts for about a third of what happens now.
_MEMORY_SECONDS: Final = 300.0


class Estimate:
    """Measures the speed of the model, all requests together, and what jobs are like.

    ``clock`` gives seconds from any beginning.
    """

    def __init__(self, *, slots: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._slots = slots
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

    def backlog(self, lengths: Iterable[float | None]) -> Backlog:
        """All that is to be transcribed, in seconds of audio; a length that is not known yet counts as the mean."""
        mean = self._mean_audio or 0.0
        return Backlog([mean if length is None else length for length in lengths], speed=self.speed, mean=mean)

    def wait_seconds(self, queued: int) -> float:
        """When a job that finds ``queued`` others before it would be finished, by the mean of those before."""
        return self._mean * (queued // self._slots + 1)

    def next_place_seconds(self) -> float:
        """How soon the line moves up by one."""
        return self._mean / self._slots

    @property
    def _mean(self) -> float:
        return _FIRST_GUESS_SECONDS if self._mean_seconds is None else self._mean_seconds

    def _pass_time(self) -> None:
        now = self._clock()
        elapsed, self._since = max(0.0, now - self._since), now
        fading = math.exp(-elapsed / _MEMORY_SECONDS)
        self._work = self._work * fading + elapsed
        self._audio *= fading


class Backlog:
    """The lengths of what is to be done, sorted once: what lies before each of many requests is then found at once."""

    def __init__(self, lengths: Sequence[float], *, speed: float | None, mean: float) -> None:
        self._lengths = sorted(lengths)
        self._sums = [0.0, *accumulate(self._lengths)]
        self._speed = speed
        self._mean = mean

    def seconds_left(self, own: float | None) -> float | None:
        """When the request of that length, one of all, will be done; None if nobody knows.

        All that are shorter are done by then, and as much of the longer ones: they take turns.
        """
        if self._speed is None:
            return None
        length = self._mean if own is None else own
        shorter = bisect_right(self._lengths, length)
        return (self._sums[shorter] + length * (len(self._lengths) - shorter)) / self._speed


def _moved(mean: float | None, newest: float) -> float:
    return newest if mean is None else mean + _NEWEST * (newest - mean)
