"""What it costs to be safe to expose: the service with everything on, and with everything off, in turns.

On: three keys, a rate limit, limits for connections and slow clients, sandboxed decoders, metrics that are scraped
every second, JSON logs. Off: none of it, see ``unprotected_server.py``.
"""

from __future__ import annotations

import os
import statistics
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

from benchmarks import figures
from benchmarks.serving import SAMPLES, service, submit, unprotected_service, until_ended

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    import httpx

CLIPS: Final = 100
AT_ONCE: Final = 20
REQUESTS: Final = 1000
SUBMISSIONS: Final = 60
KEY: Final = "measured-measured-measured"
ON: Final = {
    "API_KEYS": f"one:{'x' * 32},two:{'y' * 32},measured:{KEY}",
    "RATE_LIMIT": "1000000/minute",
    "LOG_FORMAT": "json",
    "FORWARDED_ALLOW_IPS": "192.0.2.1",
}
_WHAT: Final = {
    "jobs": f"{CLIPS} clips of 5 s as jobs, {AT_ONCE} at a time, all ended (s)",
    "clip": "a clip of 5 s, synchronous, alone (ms)",
    "submission": "a submission of 0.16 MB, from its first byte to the answer (ms)",
    "request": "`GET /v1/models` on a kept-alive connection (ms)",
}


def measure(*, rounds: int) -> str:
    """A section with a table: medians, and the ratios round by round."""
    found: dict[str, dict[str, list[float]]] = {what: {"on": [], "off": []} for what in _WHAT}
    programs: dict[str, Callable[[], AbstractContextManager[httpx.Client]]] = {
        "on": lambda: service(**ON, MAX_CONCURRENT_REQUESTS=str(os.cpu_count() or 1)),
        "off": lambda: unprotected_service(MAX_CONCURRENT_REQUESTS=str(os.cpu_count() or 1)),
    }
    for number in range(rounds):
        for name in list(programs)[:: 1 if number % 2 else -1]:
            for what, figure in _one_run(programs[name]()).items():
                found[what][name].append(figure)
    rows = [figures.row(_WHAT[what], times["on"], times["off"]) for what, times in found.items()]
    return "\n".join(
        [
            "## Protection",
            "",
            f"Bundled model; medians of {rounds} rounds, of medians where there are several in one.",
            "",
            "| | everything on | everything off | on, off = 1 (from, to) |",
            "|---|---|---|---|",
            *rows,
        ]
    )


def _one_run(program: AbstractContextManager[httpx.Client]) -> dict[str, float]:
    with program as client, ThreadPoolExecutor(AT_ONCE) as threads:
        client.headers["Authorization"] = f"Bearer {KEY}"
        hello = SAMPLES / "hello.wav"
        submit(client, hello)
        until_ended(client, 1)
        with _scraped(client):
            request = statistics.median(_timed(lambda: client.get("/v1/models")) for _ in range(REQUESTS))
            clip = statistics.median(_timed(lambda: _transcribe(client)) for _ in range(10))
            submission = statistics.median(_timed(lambda: submit(client, hello)) for _ in range(SUBMISSIONS))
            until_ended(client, 1 + SUBMISSIONS)
            began = time.perf_counter()
            list(threads.map(lambda _: submit(client, hello), range(CLIPS)))
            until_ended(client, 1 + SUBMISSIONS + CLIPS)
            return {
                "jobs": time.perf_counter() - began,
                "clip": 1000 * clip,
                "submission": 1000 * submission,
                "request": 1000 * request,
            }


class _scraped:  # noqa: N801  # read as a word of the with statement
    """While inside, the metrics are asked for every second, as Prometheus does more rarely."""

    def __init__(self, client: httpx.Client) -> None:
        self._client = client
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._scrape)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _scrape(self) -> None:
        while not self._over.wait(1):
            self._client.get("/metrics").raise_for_status()


def _timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _transcribe(client: httpx.Client) -> None:
    with (SAMPLES / "hello.wav").open("rb") as audio:
        client.post("/v1/audio/transcriptions", files={"file": audio}).raise_for_status()
