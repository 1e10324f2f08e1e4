"""Which windows go onto the model next, and whose turn it is: pure bookkeeping, without clock, thread or model.

A slot is a turn: at most ``slots`` requests are on the model at any moment, and whose they are is decided anew
between batches. Requests are served in four ranks: those of which little is left before the long ones, and in each
those that a client waits for before background jobs. Within a rank whoever had the fewest windows comes first. A rank
that has been passed over for a few batches goes before all others once, so that none starves.

Where encoding a window costs the same alone as among others (CPUs), windows are encoded one by one, which leaves a
place between them where a short request can step in, and only decoded together. Elsewhere both happen at once.
"""

from __future__ import annotations

from bisect import insort
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from app.transcription.slots import Slots
    from app.transcription.window import DecodeKey, Window

#: A request is short once its end is known and so few windows are left: a minute of speech.
SHORT_WINDOWS: Final = 2
#: Batches that may pass a rank by before it is served.
PATIENCE: Final = 4
#: How much longer than alone a batch may take because others share it, while someone short waits.
_TOLERANCE: Final = 1.1
#: The weight of the newest batch in the mean duration of its size.
_NEWEST: Final = 0.3


class Rank(IntEnum):
    """The lower, the sooner."""

    SHORT_AWAITED = 0
    SHORT = 1
    LONG_AWAITED = 2
    LONG = 3

    @property
    def is_short(self) -> bool:
        return self <= Rank.SHORT


def _unheard(_has_permit: bool) -> None:  # noqa: FBT001  # a callback with one argument
    """For who does not care about turns."""


@dataclass(slots=True, kw_only=True, eq=False)
class Work:
    """One request. ``awaited`` when a client waits for it.

    ``ready`` are windows that wait for the model, in the order of time, ``in_flight`` those that are on it.
    ``outstanding`` counts both and is kept until a window has been transcribed to its end; ``complete`` says that no
    further windows will come.
    ``long`` says that it is known not to be short, though not all of it is known.
    ``served`` counts the windows it has had, beginning with as many as the others have had least.
    """

    awaited: bool = False
    on_turn: Callable[[bool], None] = _unheard
    languages: dict[int, str] = field(default_factory=dict)
    ready: list[Window] = field(default_factory=list)
    in_flight: set[Window] = field(default_factory=set)
    outstanding: int = 0
    complete: bool = False
    long: bool = False
    dropped: bool = False
    has_slot: bool = False
    number: int = 0
    served: int = 0

    @property
    def rank(self) -> Rank:
        short = self.complete and self.outstanding <= SHORT_WINDOWS
        return Rank((0 if short else 2) + (0 if self.awaited else 1))

    @property
    def is_on_its_way(self) -> bool:
        """Whether nothing is known of it yet: it may turn out to be short."""
        return not self.complete and not self.outstanding and not self.long

    def takeable(self, key: DecodeKey | None = None) -> Iterator[Window]:
        """The windows that may go onto the model now, in order; with ``key`` those that can share a batch."""
        unknown = {window.channel for window in self.in_flight if window.language is None}
        for window in self.ready:
            if window.channel in unknown:
                continue
            if window.language is None:
                window.language = self.languages.get(window.channel)
            if window.language is None:
                unknown.add(window.channel)  # its first window will tell
            if key is None or window.key == key:
                yield window


@dataclass(frozen=True, slots=True)
class Step:
    """What one device does next: encode windows, or decode them, encoding those that are not yet."""

    windows: tuple[Window, ...]
    decode: bool


class Pace:
    """How long batches take by their size, from those that were measured."""

    def __init__(self) -> None:
        self._seconds: dict[int, float] = {}

    def measured(self, windows: int, seconds: float) -> None:
        before = self._seconds.get(windows, seconds)
        self._seconds[windows] = before + _NEWEST * (seconds - before)

    def predicted(self, windows: int) -> float | None:
        """Seconds, in proportion where no batch of this size was measured; None before any was."""
        if not self._seconds:
            return None
        nearest = max((size for size in self._seconds if size <= windows), default=min(self._seconds))
        return self._seconds[nearest] * windows / nearest

    def most_within(self, seconds: float | None, *, at_least: int, limit: int) -> int:
        """The largest size that takes no longer, as far as is known."""
        size = at_least
        if seconds is None:
            return size
        while size < limit and (self.predicted(size + 1) or 0) <= seconds * _TOLERANCE:
            size += 1
        return size


class Scheduler:
    """All requests that have windows, or will have some. Not thread-safe: it belongs to the event loop."""

    def __init__(self, *, slots: Slots, batch_size: int, encodes_apart: bool) -> None:
        self.share = slots.share(held=lambda: self.held, release_idle=self._release_idle)
        self.batch_size = batch_size
        self.pace = Pace()
        self.works: list[Work] = []
        self._encodes_apart = encodes_apart
        self._owners: dict[Window, Work] = {}
        self._passed = dict.fromkeys(Rank, 0)
        self._numbers = 0

    @property
    def held(self) -> int:
        """How many slots are in use."""
        return sum(work.has_slot for work in self.works)

    @property
    def someone_is_coming(self) -> bool:
        """Whether windows may be expected soon that are not there yet."""
        return any(not work.complete and not work.ready for work in self.works)

    def add(self, work: Work) -> None:
        self._numbers += 1
        work.number = self._numbers
        work.served = min((other.served for other in self.works), default=0)
        self.works.append(work)

    def remove(self, work: Work) -> None:
        """Nothing more is wanted of it. Its slot is free once nothing of it is on the model."""
        work.dropped = True
        for window in work.ready:
            del self._owners[window]
        work.ready.clear()
        if not work.in_flight:
            self._forget(work)

    def submit(self, work: Work, window: Window) -> None:
        """Takes a further window of a request; those of one that is not wanted any more are left out."""
        if work.dropped:
            return
        insort(work.ready, window, key=_place)
        work.outstanding += 1
        self._owners[window] = work

    def owner(self, window: Window) -> Work:
        return self._owners[window]

    def next_step(self) -> Step | None:
        """What a device should do now, or None if there is nothing. Its windows are in flight from here on."""
        works = [work for work in self.works if any(work.takeable())]
        self.share.set_demand(sum(work in works or bool(work.in_flight) for work in self.works))
        if not works:
            return None
        batch = self._batch(self._turns(works))
        if not batch:
            return None
        fresh = [window for window in batch if window.encoded is None]
        step = Step((fresh[0],), decode=False) if self._encodes_apart and fresh else Step(tuple(batch), decode=True)
        if step.decode:
            self._count(works, step)
        for window in step.windows:
            work = self._owners[window]
            work.ready.remove(window)
            work.in_flight.add(window)
        return step

    def put_back(self, window: Window) -> None:
        """Takes a window off the model for it to go there again."""
        work = self._landed(window)
        if not work.dropped:
            insort(work.ready, window, key=_place)
            self._owners[window] = work

    def finish(self, window: Window) -> None:
        """Takes a window off the model for good."""
        self._landed(window).outstanding -= 1

    def _landed(self, window: Window) -> Work:
        work = self._owners.pop(window)
        work.in_flight.discard(window)
        if window.language is not None:
            work.languages.setdefault(window.channel, window.language)
        if work.dropped and not work.in_flight:
            self._forget(work)
        return work

    def _forget(self, work: Work) -> None:
        if work in self.works:
            self.works.remove(work)
        work.has_slot = False

    def _turns(self, works: list[Work]) -> list[Work]:
        """The requests whose turn it is, the one to be served first at the head, each with a slot."""
        due = max((work.rank for work in works), key=lambda rank: self._passed[rank])
        rank = due if self._passed[due] >= PATIENCE else min(work.rank for work in works)
        lead = min((work for work in works if work.rank == rank), key=_had_least)
        others = sorted((work for work in works if work is not lead), key=lambda work: (work.rank, _had_least(work)))
        wanting = [lead, *others]
        self._assign_permits(wanting)
        # Who is on another device has a slot, but must not be served here before those that are due.
        return [work for work in wanting[: self.share.limit] if work.has_slot]

    def _assign_permits(self, wanting: list[Work]) -> None:
        """Slots go to the first that want one. Others keep theirs while nobody wants it, or while they use it."""
        busy = [work for work in self.works if work.in_flight]
        room = self.share.limit - len(busy)
        chosen = [work for work in wanting if not work.in_flight][: max(room, 0)]
        idle = [work for work in self._idle_holders() if work not in chosen]
        self._take_back(idle[max(room - len(chosen), 0) :])
        for work in chosen:
            if not work.has_slot:
                work.has_slot = True
                work.on_turn(True)  # noqa: FBT003  # a callback with one argument

    def _idle_holders(self) -> list[Work]:
        return [work for work in self.works if work.has_slot and not work.in_flight]

    def _release_idle(self, count: int) -> None:
        """Another model's requests are due."""
        self._take_back(self._idle_holders()[:count])

    def _take_back(self, holders: list[Work]) -> None:
        for work in holders:
            work.has_slot = False
            work.on_turn(False)  # noqa: FBT003  # a callback with one argument

    def _batch(self, holders: list[Work]) -> list[Window]:
        if not holders:
            return []
        lead = holders[0]
        key = next(lead.takeable(), None)
        if key is None:
            return []
        short = [work for work in holders if work.rank.is_short]
        long = [work for work in holders if not work.rank.is_short]
        if not lead.rank.is_short:
            return _round_robin(long, key.key, self._size_beside_short_ones())
        batch = _round_robin(short, key.key, self.batch_size)
        if self._encodes_apart:
            return batch  # a further window always takes further time
        alone = self.pace.predicted(len(batch))
        size = self.pace.most_within(alone, at_least=len(batch), limit=self.batch_size)
        return batch + _round_robin(long, key.key, size - len(batch))

    def _size_beside_short_ones(self) -> int:
        """How many windows of long requests may go together: while someone short waits, no longer than one alone."""
        if not any(work.rank.is_short or work.is_on_its_way for work in self.works):
            return self.batch_size
        return self.pace.most_within(self.pace.predicted(1), at_least=1, limit=self.batch_size)

    def _count(self, works: list[Work], step: Step) -> None:
        served = {self._owners[window] for window in step.windows}
        ranks = {work.rank for work in served}
        for rank in {work.rank for work in works} - ranks:
            self._passed[rank] += 1
        for rank in ranks:
            self._passed[rank] = 0
        for window in step.windows:
            self._owners[window].served += 1


def _place(window: Window) -> tuple[int, int]:
    return window.start, window.channel


def _had_least(work: Work) -> tuple[int, int]:
    return work.served, work.number


def _round_robin(works: list[Work], key: DecodeKey, limit: int) -> list[Window]:
    """One window of each in turn."""
    lines = [iter(work.takeable(key)) for work in works]
    found: list[Window] = []
    while lines and len(found) < limit:
        for line in list(lines):
            window = next(line, None)
            if window is None:
                lines.remove(line)
            elif len(found) < limit:
                found.append(window)
    return found
