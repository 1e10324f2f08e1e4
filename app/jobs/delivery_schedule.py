"""The schedule that decides when rounds of deliveries are due, and runs them."""

from __future__ import annotations

import asyncio
import heapq
import logging
from collections import defaultdict, deque
from contextlib import suppress
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Final, NamedTuple

from app.domain.errors import UnknownJob
from app.domain.job import DeliveryKind
from app.jobs.fair_slots import FairSlots

if TYPE_CHECKING:
    from collections.abc import Callable

    from app.jobs.deliveries import DeliveryRounds
    from app.jobs.service_clock import ServiceClock
    from app.jobs.store import JobStore

logger = logging.getLogger(__name__)

#: The pause between two checks of a shutdown whether due rounds have begun.
_POLL_SECONDS: Final = 0.01


class _Due(NamedTuple):
    """A round to come; those due at the same time begin in the order of their numbers."""

    service_seconds: float
    number: int
    job_id: str
    kind: DeliveryKind


class DeliverySchedule:
    """Owns the tasks of the rounds that run; rounds to come cost no task.

    At most ``slots`` rounds run at once, and at most three quarters of those for one client. Times are in seconds of
    the service clock, so that a wall clock that jumps delays no round. ``on_death`` is called with the exception of a
    round that could not record its outcome.
    """

    def __init__(
        self,
        *,
        store: JobStore,
        rounds: DeliveryRounds,
        service_clock: ServiceClock,
        slots: int,
        on_death: Callable[[BaseException], None],
    ) -> None:
        self._store = store
        self._rounds = rounds
        self._service_clock = service_clock
        self._slots = FairSlots(slots)
        self._on_death = on_death
        self._tasks: dict[tuple[str, DeliveryKind], asyncio.Task[None]] = {}
        self._queue: list[_Due] = []
        self._held: defaultdict[str, deque[_Due]] = defaultdict(deque)
        self._numbers = count()
        self._changed = asyncio.Event()
        self._closed = False

    def add(self, job_id: str) -> None:
        """Schedule whatever of the job is to be delivered; rounds that are due begin at once."""
        with suppress(UnknownJob):
            live = self._store.get(job_id)
            for kind in DeliveryKind:
                if (begins_at := self._rounds.begins_at(live, kind)) is not None:
                    heapq.heappush(self._queue, _Due(begins_at, next(self._numbers), job_id, kind))
                    self._changed.set()

    def is_running(self, job_id: str) -> bool:
        """Return whether a round of the job is running."""
        return any((job_id, kind) in self._tasks for kind in DeliveryKind)

    def is_about_to_begin(self, job_id: str) -> bool:
        """Return whether a round of the job is due and waits for its slot."""
        if self._closed or not self._store.knows(job_id):
            return False
        live = self._store.get(job_id)
        due = [self._rounds.begins_at(live, kind) for kind in DeliveryKind]
        now = self._service_clock.seconds
        return any(begins_at is not None and begins_at <= now for begins_at in due)

    @property
    def running(self) -> int:
        """The number of rounds that are running."""
        return len(self._tasks)

    async def run(self) -> None:
        """Begin rounds when they are due, until cancelled."""
        while True:
            self._changed.clear()
            while self._slots.has_room and self._is_due:
                self._begin_or_hold(heapq.heappop(self._queue))
            until = self._queue[0].service_seconds if self._slots.has_room and self._queue else None
            await self._service_clock.wait(self._changed, until=until)

    @property
    def _is_due(self) -> bool:
        return bool(self._queue) and self._queue[0].service_seconds <= self._service_clock.seconds

    async def stop(self, job_id: str) -> None:
        """Cancel the job's rounds, even in the middle of an attempt; the deliveries stay due."""
        tasks = [task for (each, _), task in list(self._tasks.items()) if each == job_id]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def drain(self, deadline: float) -> None:
        """Let rounds that run or are due end until ``deadline``, in the event loop's time; then cancel the rest."""
        loop = asyncio.get_running_loop()
        while (self._tasks or self._is_due) and (left := deadline - loop.time()) > 0:
            if self._tasks:
                await asyncio.wait(list(self._tasks.values()), timeout=left)
            else:
                await asyncio.sleep(_POLL_SECONDS)  # they are about to begin
        self._closed = True
        for task in (tasks := list(self._tasks.values())):
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def _begin_or_hold(self, due: _Due) -> None:
        key = due.job_id, due.kind
        if self._closed or key in self._tasks or not self._store.knows(due.job_id):
            return
        owner = self._store.get(due.job_id).job.owner
        if self._slots.has_enough(owner):
            self._held[owner].append(due)
            return
        self._slots.take(owner)
        task = asyncio.create_task(self._rounds.run(*key), name=f"{due.kind.value} of job {due.job_id}")
        self._tasks[key] = task
        task.add_done_callback(partial(self._ended, key, owner))

    def _ended(self, key: tuple[str, DeliveryKind], owner: str, task: asyncio.Task[None]) -> None:
        del self._tasks[key]
        self._slots.give_back(owner)
        self._release_held(owner)
        self._changed.set()
        if task.cancelled():
            return
        if (error := task.exception()) is not None:
            self._on_death(error)
        else:
            self.add(key[0])

    def _release_held(self, owner: str) -> None:
        """Queue the first round again that was held because its client had enough slots, and is still due."""
        held = self._held.get(owner, deque())
        while held:
            due = held.popleft()
            if self._is_still_due(due):
                heapq.heappush(self._queue, due)
                break
        if not held:
            self._held.pop(owner, None)

    def _is_still_due(self, due: _Due) -> bool:
        with suppress(UnknownJob):
            return self._store.get(due.job_id).due_delivery(due.kind) is not None
        return False
