"""The usage ledger: what each API key has used, in memory, as the journal has it or will have it in a moment."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from app.domain.usage import Usage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from app.domain.usage import UsageKey


class UsageLedger:
    """Usage by day, API key and model."""

    def __init__(self) -> None:
        self._usage: defaultdict[UsageKey, Usage] = defaultdict(Usage)

    def add(self, key: UsageKey, usage: Usage) -> None:
        self._usage[key] += usage

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
