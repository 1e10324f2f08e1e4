"""The cost of durability: the service with its journal and syncs, and without, in turns.

Clips of 5 s are submitted as jobs whose results the service keeps, several at a time, with the bundled model. The
clock stops when the last one has been accepted, and again when the last one has ended.
"""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

from benchmarks import figures
from benchmarks.serving import SAMPLES, forgetful_service, service, submit, until_ended

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    import httpx

CLIPS: Final = 200
AT_ONCE: Final = 20
_PROGRAMS: Final = {"with": service, "without": forgetful_service}


def measure(*, rounds: int) -> str:
    """Return a section with medians, and the ratios of each round."""
    accepted: dict[str, list[float]] = {name: [] for name in _PROGRAMS}
    ended: dict[str, list[float]] = {name: [] for name in _PROGRAMS}
    for _ in range(rounds):
        for name, start in _PROGRAMS.items():
            first, last = _one_run(start(MAX_CONCURRENT_REQUESTS=str(os.cpu_count() or 1)))
            accepted[name].append(first)
            ended[name].append(last)
    rows = [
        figures.row(name, times["with"], times["without"])
        for name, times in (("all accepted", accepted), ("all ended", ended))
    ]
    return "\n".join(
        [
            "## Durability",
            "",
            f"{CLIPS} clips of 5 s, {AT_ONCE} at a time, bundled model; seconds, medians of {rounds} rounds.",
            "",
            "| until | with journal and syncs | without | with, without = 1 (from, to) |",
            "|---|---|---|---|",
            *rows,
        ]
    )


def _one_run(program: AbstractContextManager[httpx.Client]) -> tuple[float, float]:
    with program as client, ThreadPoolExecutor(AT_ONCE) as threads:
        submit(client, SAMPLES / "hello.wav")
        until_ended(client, 1)
        began = time.perf_counter()
        list(threads.map(lambda _: submit(client, SAMPLES / "hello.wav"), range(CLIPS)))
        accepted = time.perf_counter() - began
        until_ended(client, 1 + CLIPS)
        return accepted, time.perf_counter() - began
