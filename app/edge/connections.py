"""Limits on the number of connections, in total and per address, and on how slow they may be.

A flood of idle connections locks nobody out: when a limit is reached, the connection that has been idle longest is
closed to make room. A client that sends its request in one go is hardly ever idle.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from app.domain.events import CutReason
from app.edge.rate_limit import network_key

if TYPE_CHECKING:
    from collections.abc import Callable

    from app.domain.access import TrustedProxies


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionLimits:
    """Limits for all connections; 0 means no limit, for each field except ``window_seconds``.

    ``total`` and ``per_address`` count connections. ``head_seconds`` is the time allowed for a request's head.
    ``body_bytes_per_second`` is the least average speed of a body over ``window_seconds``. ``send_seconds`` is how
    long a client may accept none of its response.
    """

    total: int = 0
    per_address: int = 0
    head_seconds: float = 0.0
    body_bytes_per_second: int = 0
    send_seconds: float = 0.0
    window_seconds: float = 20.0


class Closable(Protocol):
    """A connection that can be closed to make room for another."""

    def cut(self, reason: CutReason) -> None:
        """Close the connection at once."""


class Connections:
    """All open connections.

    ``trusted`` addresses are exempt from the limit per address, because all clients of a proxy share its address.
    ``on_cut`` is called with the reason whenever the server closes a connection.
    """

    def __init__(
        self, limits: ConnectionLimits, *, trusted: TrustedProxies, on_cut: Callable[[CutReason], None] | None = None
    ) -> None:
        self.limits = limits
        self._trusted = trusted
        self._on_cut = on_cut
        self._keys: dict[Closable, str] = {}
        self._counts: Counter[str] = Counter()
        self._idle: dict[Closable, None] = {}

    def __len__(self) -> int:
        return len(self._keys)

    def admit(self, connection: Closable, address: str) -> bool:
        """Add a new connection, closing an idle one if a limit is reached; return False if that is not possible."""
        key = network_key(address)
        limits = self.limits
        if limits.per_address and self._counts[key] >= limits.per_address and not self._trusted.covers(address):
            has_room = self._make_room(key)
        else:
            has_room = not limits.total or len(self) < limits.total or self._make_room(None)
        if has_room:
            self._keys[connection] = key
            self._counts[key] += 1
        elif not self._counts[key]:
            del self._counts[key]
        return has_room

    def hand_over(self, connection: Closable, to: Closable) -> None:
        """Count ``to`` in place of a connection that changes its protocol. It is never idle."""
        self._idle.pop(connection, None)
        if (key := self._keys.pop(connection, None)) is not None:
            self._keys[to] = key

    def mark_idle(self, connection: Closable) -> None:
        """Record that the connection is waiting for a request."""
        if connection in self._keys:
            self._idle[connection] = None

    def mark_busy(self, connection: Closable) -> None:
        """Record that the connection has a request."""
        self._idle.pop(connection, None)

    def remove(self, connection: Closable) -> None:
        """Forget a closed connection; do nothing if it is not known."""
        self._idle.pop(connection, None)
        key = self._keys.pop(connection, None)
        if key is None:
            return
        self._counts[key] -= 1
        if not self._counts[key]:
            del self._counts[key]

    def report_cut(self, reason: CutReason) -> None:
        """Report that the server has closed a connection."""
        if self._on_cut is not None:
            self._on_cut(reason)

    def _make_room(self, key: str | None) -> bool:
        """Close the longest idle connection of ``key``, or of all if None; return False if there is none."""
        for connection in self._idle:
            if key is None or self._keys[connection] == key:
                self.remove(connection)
                connection.cut(CutReason.MADE_ROOM)
                return True
        return False
