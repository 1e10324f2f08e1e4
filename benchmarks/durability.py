"""What it costs that nothing accepted is lost: the service with its journal and syncs, and without, in turns.

So many clips of 5 s are submitted as jobs whose results the service keeps, some at a time, to the bundled model; it is
timed until the last has been answered, and until the last has ended.
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
    """A section with a table: medians, and the ratios round by round."""
    answered: dict[str, list[float]] = {name: [] for name in _PROGRAMS}
    ended: dict[str, list[float]] = {name: [] for name in _PROGRAMS}
    for _ in range(rounds):
        for name, start in _PROGRAMS.items():
            first, last = _one_run(start(MAX_CONCURRENT_REQUESTS=str(os.cpu_count() or 1)))
            answered[name].append(first)
            ended[name].append(last)
    rows = [
        figures.row(what, times["with"], times["without"])
        for what, times in (("all answered", answered), ("all ended", ended))
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
        answered = time.perf_counter() - began
        until_ended(client, 1 + CLIPS)
        return answered, time.perf_counter() - began
