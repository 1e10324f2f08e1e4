"""An estimate of when a job will be done, from the speed of the work and what comes before it."""

from __future__ import annotations

import math
import time
from bisect import bisect_right
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import accumulate
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

#: The weight of the newest job in the means.
_NEWEST: Final = 0.2
#: The duration of a job that is assumed before one has ended.
_FIRST_GUESS_SECONDS: Final = 10.0
#: After this many seconds of work, a measurement weighs about a third of a new one.
_MEMORY_SECONDS: Final = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """The pace of a machine with this many ``slots``, as far as it has been measured.

    The speeds of the ``model`` and of telling ``voices`` apart are in seconds of audio per second; ``job_seconds`` is
    the mean duration of jobs, and ``audio_seconds`` the mean length of their audio.
    """

    slots: int
    model: float | None = None
    voices: float | None = None
    job_seconds: float | None = None
    audio_seconds: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """The slots of all machines that transcribe, and how many of them are in use.

    In a cluster also the number of these ``workers``, and how many jobs wait for models that none of them has, by the
    name of the model.
    """

    slots: int
    active: int
    workers: int | None = None
    unserved: Mapping[str, int] = field(default_factory=dict)


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
    """Measures the pace of this process, and estimates from that of all machines when jobs will be done.

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

    @property
    def measured(self) -> Pace:
        """The pace of this process."""
        return Pace(
            slots=self._slots,
            model=self.model.measured,
            voices=self.voices.measured,
            job_seconds=self._mean_seconds,
            audio_seconds=self._mean_audio,
        )

    def paces(self) -> Sequence[Pace]:
        """Return the pace of each machine that transcribes: this one."""
        return (self.measured,)

    def serves(self, model: str) -> bool:  # noqa: ARG002  # this process has all models
        """Return whether any of these machines can transcribe with a model."""
        return True

    def backlog(self, lengths: Iterable[float | None]) -> Backlog:
        """Return the work that is left on the model, from the seconds of audio of each job.

        An unknown length counts as the mean.
        """
        return self._backlog(lengths, [pace.model for pace in self.paces()])

    def voices_backlog(self, lengths: Iterable[float | None]) -> Backlog:
        """Return the work that is left in telling voices apart."""
        return self._backlog(lengths, [pace.voices for pace in self.paces()])

    def wait_seconds(self, queued: int) -> float:
        """Return the seconds until a job with ``queued`` jobs before it is done, by the mean duration of jobs."""
        return self._job_seconds() * (queued // self._all_slots() + 1)

    def next_place_seconds(self) -> float:
        """Return the seconds until a place in the queue is free."""
        return self._job_seconds() / self._all_slots()

    def _backlog(self, lengths: Iterable[float | None], speeds: Sequence[float | None]) -> Backlog:
        mean = _mean(pace.audio_seconds for pace in self.paces()) or 0.0
        each = [mean if length is None else length for length in lengths]
        return Backlog(each, speed=_mean(speeds), machines=len(speeds), mean=mean)

    def _job_seconds(self) -> float:
        seconds = _mean(pace.job_seconds for pace in self.paces())
        return _FIRST_GUESS_SECONDS if seconds is None else seconds

    def _all_slots(self) -> int:
        return max(1, sum(pace.slots for pace in self.paces()))


class Backlog:
    """The work that is left, sorted once, so that the work before each of many requests is found quickly.

    ``speed`` is that of one of the ``machines`` that share the work, on average.
    """

    def __init__(self, lengths: Sequence[float], *, speed: float | None, machines: int = 1, mean: float) -> None:
        self._lengths = sorted(lengths)
        self._sums = [0.0, *accumulate(self._lengths)]
        self._speed = speed
        self._machines = machines
        self._mean = mean

    def seconds_left(self, own: float | None) -> float | None:
        """Return the seconds until a request of the length ``own``, one of all, is done; None if the speed is unknown.

        Requests take turns on the model: by then all shorter ones are done, and as much of each longer one. No machine
        helps another with a request.
        """
        if self._speed is None:
            return None
        length = self._mean if own is None else own
        shorter = bisect_right(self._lengths, length)
        before = self._sums[shorter] + length * (len(self._lengths) - shorter)
        return max(before / self._machines, length) / self._speed


def _mean(values: Iterable[float | None]) -> float | None:
    """Return the mean of the values that are known, or None if none is."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _moved(mean: float | None, newest: float) -> float:
    return newest if mean is None else mean + _NEWEST * (newest - mean)
