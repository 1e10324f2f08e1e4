"""The usage ledger, what each API key has used as the journal has it or will have it in a moment; and quotas."""

from __future__ import annotations

import time
from collections import defaultdict
from typing import TYPE_CHECKING

from app.domain.errors import QuotaExceeded
from app.domain.usage import DAY_SECONDS, Usage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from app.domain.usage import UsageKey


class UsageLedger:
    """Usage by day, API key and model."""

    def __init__(self) -> None:
        self._usage: defaultdict[UsageKey, Usage] = defaultdict(Usage)
        self._seconds: defaultdict[tuple[int, str], float] = defaultdict(float)

    def add(self, key: UsageKey, usage: Usage) -> None:
        self._usage[key] += usage
        self._seconds[key.day, key.owner] += usage.seconds

    def seconds(self, owner: str, *, day: int) -> float:
        """Return the seconds of audio of an API key in a day."""
        return self._seconds.get((day, owner), 0.0)

    def restore(self, entries: Iterable[tuple[UsageKey, Usage]]) -> None:
        """Add the entries of the journal."""
        for key, usage in entries:
            self.add(key, usage)

    def by_day(
        self,
        *,
        owner: str | None,
        is_wanted: Callable[[UsageKey], bool],
        group: Callable[[UsageKey], tuple[str | None, ...]],
    ) -> Mapping[int, Mapping[tuple[str | None, ...], Usage]]:
        """Return the wanted usage of ``owner``, or of all keys if that is None: of each day, added up by ``group``."""
        days: defaultdict[int, defaultdict[tuple[str | None, ...], Usage]] = defaultdict(lambda: defaultdict(Usage))
        for key, usage in self._usage.items():
            if owner in (None, key.owner) and is_wanted(key):
                days[key.day][group(key)] += usage
        return days


class Quotas:
    """The seconds of audio that API keys may have transcribed in a day (UTC), by their fingerprints."""

    def __init__(
        self, ledger: UsageLedger, seconds_by_owner: Mapping[str, int], *, now: Callable[[], float] = time.time
    ) -> None:
        self._ledger = ledger
        self._seconds_by_owner = seconds_by_owner
        self._now = now

    def check(self, owner: str) -> None:
        """Raise QuotaExceeded if an API key has nothing left for today.

        Audio counts when its transcript is ready, and what was accepted is finished, so a key can exceed its quota by
        that.
        """
        quota = self._seconds_by_owner.get(owner)
        if quota is None or self._ledger.seconds(owner, day=int(self._now()) // DAY_SECONDS) < quota:
            return
        raise QuotaExceeded(
            f"This API key has used its {quota} s of audio for today: send the request again after 00:00 UTC, or raise "
            "the quota in API_KEYS."
        )
