"""How many connections there may be, in all and from one address, and how slow they may be.

A flood of idle connections keeps nobody out: when there is no room, the one that has waited longest for its request
makes it. Who sends a request in one go is hardly ever among them.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from app.domain.events import CutReason
from app.edge.rate_limit import subscriber

if TYPE_CHECKING:
    from collections.abc import Callable

    from app.domain.access import TrustedProxies


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionLimits:
    """``total`` and ``per_address`` count connections; 0 is no limit, in each of them.

    ``head_seconds`` is the time for a request's head, ``body_bytes_per_second`` what must come of a body on the average
    of ``window_seconds``, ``send_seconds`` how long a client may take nothing of what it is sent.
    """

    total: int = 0
    per_address: int = 0
    head_seconds: float = 0.0
    body_bytes_per_second: int = 0
    send_seconds: float = 0.0
    window_seconds: float = 20.0


class Closable(Protocol):
    """A connection, as it is seen from here."""

    def cut(self, reason: CutReason) -> None:
        """Closes it at once."""


class Connections:
    """All that are open. ``trusted`` addresses may have any number: the clients of a proxy share its one."""

    def __init__(
        self, limits: ConnectionLimits, *, trusted: TrustedProxies, on_cut: Callable[[CutReason], None] | None = None
    ) -> None:
        self.limits = limits
        self._trusted = trusted
        self._on_cut = on_cut
        self._addresses: dict[Closable, str] = {}
        self._counts: Counter[str] = Counter()
        self._idle: dict[Closable, None] = {}

    def __len__(self) -> int:
        return len(self._addresses)

    def admit(self, connection: Closable, address: str) -> bool:
        """Takes a new connection in, if need be in the place of one that waits for its request; else False."""
        who = subscriber(address)
        limits = self.limits
        if limits.per_address and self._counts[who] >= limits.per_address and not self._trusted.covers(address):
            room = self._make_room(who)
        else:
            room = not limits.total or len(self) < limits.total or self._make_room(None)
        if room:
            self._addresses[connection] = who
            self._counts[who] += 1
        elif not self._counts[who]:
            del self._counts[who]
        return room

    def idle(self, connection: Closable) -> None:
        """It waits for a request."""
        if connection in self._addresses:
            self._idle[connection] = None

    def busy(self, connection: Closable) -> None:
        """Its request is here."""
        self._idle.pop(connection, None)

    def left(self, connection: Closable) -> None:
        self._idle.pop(connection, None)
        who = self._addresses.pop(connection, None)
        if who is None:
            return
        self._counts[who] -= 1
        if not self._counts[who]:
            del self._counts[who]

    def note(self, reason: CutReason) -> None:
        """That one was closed for it."""
        if self._on_cut is not None:
            self._on_cut(reason)

    def _make_room(self, who: str | None) -> bool:
        """Closes the connection that has waited longest, of ``who`` or of all; whether there was one."""
        for connection in self._idle:
            if who is None or self._addresses[connection] == who:
                self.left(connection)
                connection.cut(CutReason.MADE_ROOM)
                return True
        return False
