"""FairSlots for transfers: so many at once, of which no single client takes all.

A store that drips holds its place for as long as an attempt may last. Who points all his jobs at such stores keeps
nobody else waiting: a quarter of the places is for others. Clients are told apart by their keys; without keys all are
one, which may have all places.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

#: What one client may have of all places.
_SHARE: Final = 0.75


class FairSlots:
    """Counts who has a place. ``owner`` is a job's: the fingerprint of its client's key, or empty."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._most_of_one = max(1, int(total * _SHARE))
        self._taken: Counter[str] = Counter()

    @property
    def has_room(self) -> bool:
        return self._taken.total() < self._total

    def has_enough(self, owner: str) -> bool:
        """Whether this client has all that it may have."""
        return bool(owner) and self._taken[owner] >= self._most_of_one

    def take(self, owner: str) -> None:
        self._taken[owner] += 1

    def give_back(self, owner: str) -> None:
        self._taken[owner] -= 1
        if not self._taken[owner]:
            del self._taken[owner]


class FairSlotQueue(FairSlots):
    """The same for tasks that wait for their place: first come, first served, but for those whose client has enough."""

    def __init__(self, total: int) -> None:
        super().__init__(total)
        self._line: deque[tuple[str, asyncio.Future[None]]] = deque()

    @asynccontextmanager
    async def place(self, owner: str) -> AsyncIterator[None]:
        waiting = (owner, asyncio.get_running_loop().create_future())
        self._line.append(waiting)
        self._admit()
        try:
            await waiting[1]
        except asyncio.CancelledError:
            if waiting in self._line:
                self._line.remove(waiting)
            else:  # it was given a place in the same moment
                self._leave(owner)
            raise
        try:
            yield
        finally:
            self._leave(owner)

    def _leave(self, owner: str) -> None:
        self.give_back(owner)
        self._admit()

    def _admit(self) -> None:
        for waiting in list(self._line):
            if not self.has_room:
                return
            owner, admitted = waiting
            if not self.has_enough(owner):
                self._line.remove(waiting)
                self.take(owner)
                if not admitted.cancelled():
                    admitted.set_result(None)
