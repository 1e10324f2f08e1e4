"""How figures are written."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def row(what: str, times: Sequence[float], others: Sequence[float]) -> str:
    """Of a table: both medians, the median of the ratios round by round, and from where to where they go."""
    ratios = [one / other for one, other in zip(times, others, strict=True)]
    ratio = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
    return f"| {what} | {statistics.median(times):.2f} | {statistics.median(others):.2f} | {ratio} |"
