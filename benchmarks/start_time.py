"""The time from the start of the process to the first ``/health``, while the model is still being loaded."""

from __future__ import annotations

import statistics
import time

from benchmarks.serving import service


def measure(*, runs: int) -> str:
    """Return a section with the seconds to the first ``/health`` and ``/health/ready``."""
    first = [_seconds("/health") for _ in range(runs)]
    ready = [_seconds("/health/ready") for _ in range(runs)]
    return (
        "## Start\n\n"
        f"`/health` responds after {statistics.median(first):.2f} s (slowest {max(first):.2f} s), `/health/ready` "
        f"with the bundled model after {statistics.median(ready):.2f} s (slowest {max(ready):.2f} s); {runs} starts "
        "each."
    )


def _seconds(path: str) -> float:
    started = time.perf_counter()
    with service(path=path):
        return time.perf_counter() - started
