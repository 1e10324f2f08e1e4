"""The slots of all loaded models: a bound on how many transcriptions use the models at once.

Each model's scheduler has a share. Slots are dealt one by one to the shares that ask for more, beginning with the model
whose last batch ended longest ago. A slot that one model does not need is available to the others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class Slots:
    """``total`` slots. Not thread-safe: use it on the event loop only."""

    def __init__(self, total: int) -> None:
        self.total = total
        self._shares: list[Share] = []

    @property
    def held(self) -> int:
        """The number of slots in use."""
        return sum(share.held() for share in self._shares)

    def share(self, *, held: Callable[[], int], release_idle: Callable[[int], None]) -> Share:
        """Add a share for a further model.

        ``held()`` returns how many slots the model's transcriptions hold. ``release_idle(count)`` takes up to ``count``
        slots from those that have nothing on the model at the moment.
        """
        share = Share(self, held=held, release_idle=release_idle)
        self._shares.append(share)
        return share

    def limit(self, share: Share) -> int:
        """Return how many slots a model may hold now, after taking idle slots from models that hold too many."""
        allotted = self._allot()
        others = [other for other in self._shares if other is not share]
        missing = allotted[share] - (self.total - sum(other.held() for other in others))
        for other in others:
            surplus = other.held() - allotted[other]
            if missing > 0 and surplus > 0:
                before = other.held()
                other.release_idle(min(surplus, missing))
                missing -= before - other.held()
        return min(allotted[share], self.total - sum(other.held() for other in others))

    def move_to_end(self, share: Share) -> None:
        """Let the other models go first, because a batch of this one has ended."""
        self._shares.remove(share)
        self._shares.append(share)
        self.wake_others(share)

    def remove(self, share: Share) -> None:
        """Remove the share of a model that is being unloaded."""
        self._shares.remove(share)
        self.wake_others(share)

    def wake_others(self, share: Share) -> None:
        """Notify all models except this one that more slots may be available."""
        for other in self._shares:
            if other is not share:
                other.wake()

    def _allot(self) -> dict[Share, int]:
        allotted = dict.fromkeys(self._shares, 0)
        left = self.total
        while left and (hungry := [share for share in self._shares if allotted[share] < share.demand]):
            for share in hungry[:left]:
                allotted[share] += 1
            left -= len(hungry[:left])
        return allotted


class Share:
    """The slots of one model. ``wake()`` is called when more slots may be available to it than before."""

    def __init__(self, slots: Slots, *, held: Callable[[], int], release_idle: Callable[[int], None]) -> None:
        self._slots = slots
        self.held = held
        self.release_idle = release_idle
        self.demand = 0
        self.wake: Callable[[], None] = _ignore

    @property
    def limit(self) -> int:
        """The number of slots that the model may hold now."""
        return self._slots.limit(self)

    def set_demand(self, transcriptions: int) -> None:
        """Set how many transcriptions have windows for the model."""
        is_less = transcriptions < self.demand
        self.demand = transcriptions
        if is_less:
            self._slots.wake_others(self)

    def batch_ended(self) -> None:
        """Let the other models go first."""
        self._slots.move_to_end(self)

    def leave(self) -> None:
        """Give all slots back, because the model is being unloaded."""
        self._slots.remove(self)


def _ignore() -> None:
    """Do nothing: the default for ``Share.wake``."""
