"""The format of figures in tables."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def row(title: str, values: Sequence[float], baseline: Sequence[float]) -> str:
    """Return a row with both medians, and the median, minimum and maximum of the ratios of each round."""
    ratios = [value / base for value, base in zip(values, baseline, strict=True)]
    ratio = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
    return f"| {title} | {statistics.median(values):.2f} | {statistics.median(baseline):.2f} | {ratio} |"
