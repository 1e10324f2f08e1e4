"""The cost of protection: the service with all of it, and with none of it, in turns.

With it: three keys, a rate limit, limits for connections and slow clients, decoders in a sandbox, metrics that are
scraped every second, JSON logs. Without: see ``unprotected_server.py``.
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
_TITLES: Final = {
    "jobs": f"{CLIPS} clips of 5 s as jobs, {AT_ONCE} at a time, all ended (s)",
    "clip": "a clip of 5 s, synchronous, alone (ms)",
    "submission": "a submission of 0.16 MB, from its first byte to the response (ms)",
    "request": "`GET /v1/models` on a kept-alive connection (ms)",
}


def measure(*, rounds: int) -> str:
    """Return a section with medians, and the ratios of each round."""
    figures_by_name: dict[str, dict[str, list[float]]] = {name: {"on": [], "off": []} for name in _TITLES}
    programs: dict[str, Callable[[], AbstractContextManager[httpx.Client]]] = {
        "on": lambda: service(**ON, MAX_CONCURRENT_REQUESTS=str(os.cpu_count() or 1)),
        "off": lambda: unprotected_service(MAX_CONCURRENT_REQUESTS=str(os.cpu_count() or 1)),
    }
    for number in range(rounds):
        for program in list(programs)[:: 1 if number % 2 else -1]:
            for name, figure in _one_run(programs[program]()).items():
                figures_by_name[name][program].append(figure)
    rows = [figures.row(_TITLES[name], times["on"], times["off"]) for name, times in figures_by_name.items()]
    return "\n".join(
        [
            "## Protection",
            "",
            f"Bundled model; medians of {rounds} rounds, of the medians within each round.",
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
        with _Scraper(client):
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


class _Scraper:
    """Requests the metrics every second until the end of the block; Prometheus does it less often."""

    def __init__(self, client: httpx.Client) -> None:
        self._client = client
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._scrape)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _scrape(self) -> None:
        while not self._ended.wait(1):
            self._client.get("/metrics").raise_for_status()


def _timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _transcribe(client: httpx.Client) -> None:
    with (SAMPLES / "hello.wav").open("rb") as audio:
        client.post("/v1/audio/transcriptions", files={"file": audio}).raise_for_status()
