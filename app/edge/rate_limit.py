"""How often one key, or one address, may ask.

The generic cell rate algorithm (ITU-T I.371): for each of them the moment is kept from which it owes nothing. One look
at one number decides, whatever the number of others. (``limits`` 5.8 walks over all of them at each request: 0.95 ms
for 10,000, 16 ms for 100,000, in the event loop.)
"""

from __future__ import annotations

import ipaddress
import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from app.domain.access import Rate

#: More are not remembered: who was not seen for longest is forgotten first.
MOST_REMEMBERED: Final = 100_000


class RateLimiter:
    """Lets each have ``rate.requests`` at once, and then as many as grow again in the meantime."""

    def __init__(self, rate: Rate, *, now: Callable[[], float] = time.monotonic) -> None:
        self.rate = rate
        self._now = now
        self._interval = rate.seconds / rate.requests
        self._free_at: OrderedDict[str, float] = OrderedDict()

    def wait_seconds(self, who: str) -> float:
        """Counts a request of ``who`` and gives 0; or counts nothing and gives the seconds until the next may come."""
        now = self._now()
        free_at = max(self._free_at.get(who, now), now) + self._interval
        if (excess := free_at - now - self.rate.seconds) > 1e-9:
            return excess
        self._free_at[who] = free_at
        self._free_at.move_to_end(who)
        self._forget(now)
        return 0.0

    def _forget(self, now: float) -> None:
        """Those that owe nothing any more, of the two not seen for longest; and who is one too many."""
        for _ in range(2):
            oldest = next(iter(self._free_at))
            if self._free_at[oldest] > now and len(self._free_at) <= MOST_REMEMBERED:
                return
            del self._free_at[oldest]


def subscriber(address: str) -> str:
    """Whose an address is: an IPv6 network of 64 bits is one subscriber's, who may take any address in it."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv4Address):
        return address
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.ip_network((int(parsed), 64), strict=False))
