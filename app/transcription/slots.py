"""What the loaded models share: so many requests on them at once, all models together.

Each model's scheduler has a share. Slots are dealt out one by one to those that want some, beginning with the model
whose turn is longest ago, so that every model gets its part; what one does not want is there for the others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class Slots:
    """``total`` slots. Not thread-safe: it belongs to the event loop."""

    def __init__(self, total: int) -> None:
        self.total = total
        self._shares: list[Share] = []

    @property
    def held(self) -> int:
        """How many are in use."""
        return sum(share.held() for share in self._shares)

    def share(self, *, held: Callable[[], int], give_up_idle: Callable[[int], None]) -> Share:
        """A further model's part.

        ``held`` says how many slots the model's requests have; ``give_up_idle`` takes that many from those of them
        that are not on the model, as far as there are such.
        """
        share = Share(self, held=held, give_up_idle=give_up_idle)
        self._shares.append(share)
        return share

    def limit(self, share: Share) -> int:
        """How many the model may have now. Others give up what they don't use and are not due."""
        due = self._dealt()
        others = [other for other in self._shares if other is not share]
        lacking = due[share] - (self.total - sum(other.held() for other in others))
        for other in others:
            if lacking > 0 and (spare := other.held() - due[other]) > 0:
                before = other.held()
                other.give_up_idle(min(spare, lacking))
                lacking -= before - other.held()
        return min(due[share], self.total - sum(other.held() for other in others))

    def pass_on(self, share: Share) -> None:
        """A batch of this model has ended: the others are due before it."""
        self._shares.remove(share)
        self._shares.append(share)
        self.wake_others(share)

    def leave(self, share: Share) -> None:
        """The model is not loaded any more."""
        self._shares.remove(share)
        self.wake_others(share)

    def wake_others(self, share: Share) -> None:
        for other in self._shares:
            if other is not share:
                other.wake()

    def _dealt(self) -> dict[Share, int]:
        dealt = dict.fromkeys(self._shares, 0)
        left = self.total
        while left and (wanting := [share for share in self._shares if dealt[share] < share.wanted]):
            for share in wanting[:left]:
                dealt[share] += 1
            left -= len(wanting[:left])
        return dealt


class Share:
    """One model's part. ``wake`` is called when there may be more for it than before."""

    def __init__(self, slots: Slots, *, held: Callable[[], int], give_up_idle: Callable[[int], None]) -> None:
        self._slots = slots
        self.held = held
        self.give_up_idle = give_up_idle
        self.wanted = 0
        self.wake: Callable[[], None] = _nobody

    @property
    def limit(self) -> int:
        return self._slots.limit(self)

    def want(self, requests: int) -> None:
        """So many requests have something for the model."""
        less, self.wanted = requests < self.wanted, requests
        if less:
            self._slots.wake_others(self)

    def pass_on(self) -> None:
        self._slots.pass_on(self)

    def leave(self) -> None:
        self._slots.leave(self)


def _nobody() -> None:
    """For who is never woken."""
