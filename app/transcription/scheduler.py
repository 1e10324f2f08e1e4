"""The order in which windows go onto the model: pure bookkeeping without clock, threads or model.

At most as many transcriptions as there are slots use the model at once; which ones is decided before every batch. They
are served by rank, and within a rank the one that has had the fewest windows comes first. A rank that several batches
have passed over goes first once, so that no transcription starves.

On CPUs, encoding a window costs the same alone as in a batch. There windows are encoded one by one, so that a short
transcription can be served after each, and only decoded together. Elsewhere a batch is encoded and decoded at once.
"""

from __future__ import annotations

from bisect import insort
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from app.transcription.fallback import BEST_OF
from app.transcription.transcription import Rank

if TYPE_CHECKING:
    from app.transcription.slots import Slots
    from app.transcription.transcription import Transcription
    from app.transcription.window import DecodeKey, Window

#: Batches that may pass over a rank before it goes first.
MAX_PASSED_OVER: Final = 4
#: How many times longer than alone a batch may take because others share it while a short transcription waits.
_TOLERANCE: Final = 1.1
#: How many times longer a window may take in a batch of half the size, so that the next short transcription waits less.
_HALF_TOLERANCE: Final = 1.2
#: Batches without a short transcription after which none is expected soon.
_EXPECTED_BATCHES: Final = 50
#: The weight of the newest batch in the moving average of durations.
_NEWEST_WEIGHT: Final = 0.3


@dataclass(frozen=True, slots=True)
class Batch:
    """Windows for one call of the model.

    With ``decode`` they are decoded, after encoding those that are not encoded yet; otherwise only encoded.
    """

    windows: tuple[Window, ...]
    decode: bool


class Pace:
    """The measured durations of batches, by their sizes in windows."""

    def __init__(self) -> None:
        self._seconds: dict[int, float] = {}

    def record(self, windows: int, seconds: float) -> None:
        """Include a batch in the moving average of its size."""
        average = self._seconds.get(windows, seconds)
        self._seconds[windows] = average + _NEWEST_WEIGHT * (seconds - average)

    def predict(self, windows: int) -> float | None:
        """Return the expected seconds; None before any size was measured.

        Between two sizes that were measured the durations are on a line; beyond them they are in proportion.
        """
        if not self._seconds:
            return None
        below = max((size for size in self._seconds if size <= windows), default=min(self._seconds))
        above = min((size for size in self._seconds if size >= windows), default=below)
        if below < windows < above:
            share = (windows - below) / (above - below)
            return self._seconds[below] + share * (self._seconds[above] - self._seconds[below])
        return self._seconds[below] * windows / below

    def largest_within(self, seconds: float | None, *, at_least: int, limit: int) -> int:
        """Return the largest size up to ``limit`` that is expected to take hardly more than ``seconds``."""
        size = at_least
        if seconds is None:
            return size
        while size < limit and (self.predict(size + 1) or 0) <= seconds * _TOLERANCE:
            size += 1
        return size


class Scheduler:
    """The transcriptions of one model and the choice of their next batch. It belongs to the event loop.

    ``batch_size`` is the largest number of windows in a batch and may change at any time. ``encodes_apart`` makes it
    encode windows one by one.
    """

    def __init__(self, *, slots: Slots, batch_size: int, encodes_apart: bool) -> None:
        self.share = slots.share(held=self._count_held, release_idle=self._release_idle)
        self.batch_size = batch_size
        self.pace = Pace()
        self.transcriptions: list[Transcription] = []
        self._encodes_apart = encodes_apart
        self._owners: dict[Window, Transcription] = {}
        self._passed_over = dict.fromkeys(Rank, 0)
        self._batches_since_short = _EXPECTED_BATCHES
        self._arrivals = 0

    @property
    def held(self) -> int:
        """The number of slots in use."""
        return self._count_held()

    @property
    def expects_windows(self) -> bool:
        """True if a transcription has no window ready but will submit more."""
        return any(not transcription.complete and not transcription.ready for transcription in self.transcriptions)

    def add(self, transcription: Transcription) -> None:
        """Take a transcription, whose windows follow."""
        self._arrivals += 1
        transcription.number = self._arrivals
        transcription.served = min((other.served for other in self.transcriptions), default=0)
        self.transcriptions.append(transcription)

    def remove(self, transcription: Transcription) -> None:
        """Drop a transcription. Its slot is free as soon as none of its windows is on the model."""
        transcription.dropped = True
        for window in transcription.ready:
            del self._owners[window]
        transcription.ready.clear()
        if not transcription.in_flight:
            self._forget(transcription)

    def submit(self, transcription: Transcription, window: Window) -> None:
        """Take a further window, unless the transcription was dropped."""
        if transcription.dropped:
            return
        insort(transcription.ready, window, key=_position)
        transcription.outstanding += 1
        self._owners[window] = transcription

    def owner(self, window: Window) -> Transcription:
        """Return the transcription to which a submitted window belongs."""
        return self._owners[window]

    def next_batch(self) -> Batch | None:
        """Return what a device should do now, or None if nothing. The windows are in flight from here on."""
        candidates = [transcription for transcription in self.transcriptions if any(transcription.available_windows())]
        self.share.set_demand(
            sum(transcription in candidates or bool(transcription.in_flight) for transcription in self.transcriptions)
        )
        if not candidates:
            return None
        windows = self._choose_windows(self._allot_slots(candidates))
        if not windows:
            return None
        batch = self._first_stage(windows)
        if batch.decode:
            self._count_served(candidates, batch)
        for window in batch.windows:
            transcription = self._owners[window]
            transcription.ready.remove(window)
            transcription.in_flight.add(window)
        return batch

    def put_back(self, window: Window) -> None:
        """Take a window off the model that has to go there again."""
        transcription = self._land(window)
        if not transcription.dropped:
            insort(transcription.ready, window, key=_position)
            self._owners[window] = transcription

    def finish(self, window: Window) -> None:
        """Take a window off the model that is finished, or has failed."""
        transcription = self._land(window)
        transcription.outstanding -= 1
        transcription.count_language(window)

    def _land(self, window: Window) -> Transcription:
        transcription = self._owners.pop(window)
        transcription.in_flight.discard(window)
        transcription.note_language(window)
        if transcription.dropped and not transcription.in_flight:
            self._forget(transcription)
        return transcription

    def _forget(self, transcription: Transcription) -> None:
        if transcription in self.transcriptions:
            self.transcriptions.remove(transcription)
        transcription.has_slot = False

    def _allot_slots(self, candidates: list[Transcription]) -> list[Transcription]:
        """Decide which candidates hold a slot, and return those to be served now, the first one at the head."""
        overdue = max((candidate.rank for candidate in candidates), key=self._passed_over.__getitem__)
        rank = min(candidate.rank for candidate in candidates)
        if self._passed_over[overdue] >= MAX_PASSED_OVER:
            rank = overdue
        first = min((candidate for candidate in candidates if candidate.rank == rank), key=_least_served)
        others = sorted((candidate for candidate in candidates if candidate is not first), key=_rank_and_served)
        ordered = [first, *others]
        self._assign_slots(ordered)
        # A transcription on another device has a slot too, but must not be served here before those ahead of it.
        return [candidate for candidate in ordered[: self.share.limit] if candidate.has_slot]

    def _assign_slots(self, ordered: list[Transcription]) -> None:
        """Grant slots to the first that want one. Others keep theirs while it is in use or not needed."""
        busy = sum(bool(transcription.in_flight) for transcription in self.transcriptions)
        free = max(self.share.limit - busy, 0)
        chosen = [candidate for candidate in ordered if not candidate.in_flight][:free]
        idle = [holder for holder in self._idle_holders() if holder not in chosen]
        for holder in idle[free - len(chosen) :]:
            holder.take_slot_back()
        for candidate in chosen:
            if not candidate.has_slot:
                candidate.grant_slot()

    def _count_held(self) -> int:
        return sum(transcription.has_slot for transcription in self.transcriptions)

    def _idle_holders(self) -> list[Transcription]:
        return [
            transcription
            for transcription in self.transcriptions
            if transcription.has_slot and not transcription.in_flight
        ]

    def _release_idle(self, count: int) -> None:
        """Take slots back for another model's transcriptions."""
        for holder in self._idle_holders()[:count]:
            holder.take_slot_back()

    def _choose_windows(self, served: list[Transcription]) -> list[Window]:
        """Return windows that share a key, first of all one of the transcription at the head of ``served``."""
        first_window = next(served[0].available_windows(), None) if served else None
        if first_window is None:
            return []
        key = first_window.key
        short = [transcription for transcription in served if transcription.rank.is_short]
        long = [transcription for transcription in served if not transcription.rank.is_short]
        limit = self._size_limit(key)
        if not served[0].rank.is_short:
            return _round_robin(long, key, min(limit, self._size_for_long()))
        windows = _round_robin(short, key, limit)
        if self._encodes_apart:
            return windows  # another window would always take more time
        seconds = self.pace.predict(len(windows))
        size = self.pace.largest_within(seconds, at_least=len(windows), limit=limit)
        return windows + _round_robin(long, key, size - len(windows))

    def _size_limit(self, key: DecodeKey) -> int:
        """Return the largest number of windows in a batch.

        For each text that is sampled, CTranslate2 repeats the window in memory, so fewer windows share such a batch.
        """
        return self.batch_size if key.temperature == 0 else max(1, round(self.batch_size / BEST_OF))

    def _size_for_long(self) -> int:
        """Return how many windows of long transcriptions may share a batch.

        While a short one waits, or one that may turn out short, that is as many as take hardly longer than one. While
        the next short one is expected soon, batches are half as large if they are hardly less efficient.
        """
        if any(
            transcription.rank.is_short or transcription.may_turn_out_short for transcription in self.transcriptions
        ):
            return self.pace.largest_within(self.pace.predict(1), at_least=1, limit=self.batch_size)
        half = max(1, self.batch_size // 2)
        if self._batches_since_short < _EXPECTED_BATCHES and self._is_efficient(half):
            return half
        return self.batch_size

    def _is_efficient(self, size: int) -> bool:
        """Return True if a window takes hardly longer in batches of this size than in the largest."""
        seconds, longest = self.pace.predict(size), self.pace.predict(self.batch_size)
        if seconds is None or longest is None:
            return False
        return seconds / size <= _HALF_TOLERANCE * longest / self.batch_size

    def _first_stage(self, windows: list[Window]) -> Batch:
        """Return the batch that encodes the first window, if that has to be done apart, or decodes all windows."""
        if self._encodes_apart:
            for window in windows:
                if window.encoded is None:
                    return Batch((window,), decode=False)
        return Batch(tuple(windows), decode=True)

    def _count_served(self, candidates: list[Transcription], batch: Batch) -> None:
        owners = [self._owners[window] for window in batch.windows]
        is_short = any(transcription.rank.is_short and not transcription.known_long for transcription in candidates)
        self._batches_since_short = 0 if is_short else self._batches_since_short + 1
        served_ranks = {owner.rank for owner in owners}
        for rank in {candidate.rank for candidate in candidates}:
            if rank not in served_ranks:
                self._passed_over[rank] += 1
        for rank in served_ranks:
            self._passed_over[rank] = 0
        for owner in owners:
            owner.served += 1


def _position(window: Window) -> tuple[int, int]:
    return window.start, window.channel


def _least_served(transcription: Transcription) -> tuple[int, int]:
    return transcription.served, transcription.number


def _rank_and_served(transcription: Transcription) -> tuple[Rank, int, int]:
    return transcription.rank, transcription.served, transcription.number


def _round_robin(transcriptions: list[Transcription], key: DecodeKey, limit: int) -> list[Window]:
    """Return up to ``limit`` windows with this key, taking one of each transcription in turn."""
    queues = [transcription.available_windows(key) for transcription in transcriptions]
    windows: list[Window] = []
    while queues and len(windows) < limit:
        for queue in list(queues):
            window = next(queue, None)
            if window is None:
                queues.remove(queue)
            elif len(windows) < limit:
                windows.append(window)
    return windows
