"""A service under load is killed repeatedly at random moments and loses no accepted job."""

from __future__ import annotations

import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Any, Final

import httpx
import pytest

from app.domain.job import MAX_LONE_DEATHS
from tests.faults.crash_clients import WEBHOOK_SECRET
from tests.faults.ends import COUNTED, Ends
from tests.faults.final_state import leftovers, settled
from tests.faults.forked_program import ForkedProgram
from tests.faults.receiver import receiver
from tests.faults.retrying_clients import RetryingClients
from tests.support.program import free_port

if TYPE_CHECKING:
    from pathlib import Path


pytestmark = pytest.mark.full(reason="kills a service dozens of times")

#: Services that are killed side by side, each with its own clients.
SERVICES: Final = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Life:
    """One process, from its start until it is killed.

    It is killed at a random moment between ``moments``, after its start or after it became ``ready``. They are measured
    in start-up times, so that they mean the same on a slow machine. ``requests`` can be sent meanwhile.
    """

    moments: tuple[float, float]
    ready: bool = True
    requests: int


#: These alternate: killed during the start, while jobs resume, and when some of them have finished.
LIVES: Final = (
    Life(moments=(0.0, 1.0), ready=False, requests=2),
    Life(moments=(0.0, 1.3), requests=2),
    Life(moments=(0.5, 2.2), requests=1),
)
#: The share of processes that are not killed during a job's last start, which would only make that job fail.
SPARED: Final = 0.95
#: A kill within this time of the receiver's response has the result delivered twice.
RESPONSE_SECONDS: Final = 0.1


class KilledService:
    """A service that is killed and restarted in the same folder. ``counts`` are the final states of its jobs."""

    def __init__(self, folder: Path, samples: Path, references: dict[str, dict[str, Any]], *, seed: int) -> None:
        self.counts: Counter[str] = Counter()
        self._folder = folder
        self._samples = samples
        self._references = references
        self._chance = Random(seed)  # noqa: S311  # no cryptography
        self._data = folder / "data"
        self._start_seconds = 0.0
        self._address = f"http://127.0.0.1:{(port := free_port())}"
        self._settings = {
            "DATA_DIR": str(self._data),
            "PORT": port,
            "MAX_QUEUED_JOBS": "100000",
            "SHUTDOWN_GRACE_SECONDS": "0",
            "SPOOL_MIN_FREE_BYTES": "0",
            "WEBHOOK_SECRET": WEBHOOK_SECRET,
        }

    def survive(self, kills: int) -> None:
        """Kill the service this many times under load, then check every job that it accepted."""
        self._measure_start()
        with receiver(self._samples, seconds=RESPONSE_SECONDS) as store:
            with RetryingClients([self._address], store, self._samples, self._chance) as clients:
                for number in range(kills):
                    self._live(LIVES[number % len(LIVES)], clients)
                with self._running() as running:
                    running.until_ready()
                    clients.finish()
                    settled(running)
                    running.kill()
            with self._running() as running:
                running.until_ready()
                jobs = settled(running)
                self.counts.update({"kills": kills, "accepted": len(clients.sent)})
                ends = Ends(running, store, self._references, self.counts)
                for request in clients.sent:
                    ends.check(request, jobs)
                assert running.stop() == 0
        assert jobs.keys() == {request.job_id for request in clients.sent if request.ended != "forgotten"}
        assert leftovers(self._data, jobs) == []

    def _measure_start(self) -> None:
        began = time.monotonic()
        with self._running() as running:
            running.until_ready()
            self._start_seconds = time.monotonic() - began

    def _live(self, life: Life, clients: RetryingClients) -> None:
        clients.allow(life.requests)
        with self._running() as running:
            if life.ready:
                running.until_ready()
            time.sleep(self._chance.uniform(*life.moments) * self._start_seconds)
            if self._chance.random() < SPARED:
                running.eventually(lambda: not has_last_start(running))
            running.kill()

    def _running(self) -> closing[ForkedProgram]:
        return closing(ForkedProgram(self._folder, **self._settings))


def has_last_start(running: ForkedProgram) -> bool:
    """Return whether a job may be in its last allowed start."""
    try:
        jobs = running.jobs().values()
    except httpx.TransportError:  # not started yet
        return False
    return any(
        job.get("attempts", 0) >= MAX_LONE_DEATHS
        and job["status"] in ("queued", "processing")
        and not job["result_available"]
        for job in jobs
    )


@pytest.mark.timeout(1800)
def test_killed_service_loses_no_accepted_job(
    tmp_path: Path,
    samples: Path,
    references: dict[str, dict[str, Any]],
    capsys: pytest.CaptureFixture[str],
    *,
    long: bool,
) -> None:
    kills = 200 if long else 8
    services = []
    for number in range(SERVICES):
        folder = tmp_path / str(number)
        folder.mkdir()
        services.append(KilledService(folder, samples, references, seed=number))
    with ThreadPoolExecutor(SERVICES) as executor:
        for ended in [executor.submit(service.survive, kills // SERVICES) for service in services]:
            ended.result()
    counts = Counter[str]()
    for service in services:
        counts.update(service.counts)
    assert counts["accepted"] > kills
    with capsys.disabled():
        sys.stdout.write("\n" + ", ".join(f"{counts[name]} {name}" for name in COUNTED) + "\n")
