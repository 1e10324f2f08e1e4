"""Slots for transfers, of which no single client takes all.

A slow store holds its slot for as long as an attempt may last. A quarter of the slots is always left for other
clients, so that one client with slow stores doesn't keep the others waiting. API keys distinguish clients; without
keys all are one client, which may have all slots.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

#: The share of all slots that one client may have.
_SHARE: Final = 0.75


class FairSlots:
    """Counts the slots of each client. ``owner`` is the fingerprint of its API key, or empty."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._most_of_one = max(1, int(total * _SHARE))
        self._taken: Counter[str] = Counter()

    @property
    def has_room(self) -> bool:
        return self._taken.total() < self._total

    def has_enough(self, owner: str) -> bool:
        """Return whether this client has all the slots that it may have."""
        return bool(owner) and self._taken[owner] >= self._most_of_one

    def take(self, owner: str) -> None:
        self._taken[owner] += 1

    def give_back(self, owner: str) -> None:
        self._taken[owner] -= 1
        if not self._taken[owner]:
            del self._taken[owner]


class FairSlotQueue(FairSlots):
    """Slots for tasks that wait, first come, first served, except that clients with enough slots are passed over."""

    def __init__(self, total: int) -> None:
        super().__init__(total)
        self._queue: deque[tuple[str, asyncio.Future[None]]] = deque()

    @asynccontextmanager
    async def slot(self, owner: str) -> AsyncIterator[None]:
        """Wait for a slot and hold it during the block."""
        waiting = (owner, asyncio.get_running_loop().create_future())
        self._queue.append(waiting)
        self._admit()
        try:
            await waiting[1]
        except asyncio.CancelledError:
            if waiting in self._queue:
                self._queue.remove(waiting)
            else:  # it was given a slot in the same moment
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
        for waiting in list(self._queue):
            if not self.has_room:
                return
            owner, admitted = waiting
            if not self.has_enough(owner):
                self._queue.remove(waiting)
                self.take(owner)
                if not admitted.cancelled():
                    admitted.set_result(None)
