"""kill -9 at any moment, under load, again and again: nothing that was accepted is lost."""

from __future__ import annotations

import json
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

from app.jobs.pipeline import MAX_STARTS
from tests.faults.clients import WEBHOOK_SECRET
from tests.faults.crowd import Crowd
from tests.faults.findings import leftovers, settled
from tests.faults.forked import ForkedProgram
from tests.faults.receiver import receiver
from tests.support.program import free_port

if TYPE_CHECKING:
    from pathlib import Path

    from tests.faults.crowd import Sent
    from tests.faults.receiver import Receiver

pytestmark = pytest.mark.full(reason="kills a service dozens of times")

#: Services that are killed side by side, each with its own clients.
SERVICES: Final = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Life:
    """When a process is killed, at the earliest and at the latest, in seconds from its start or from when it is ready,
    and how many more requests may come meanwhile."""

    moments: tuple[float, float]
    once_ready: bool = True
    requests: int


#: One after another: as it starts, as work is taken up again, and when some of it has been finished.
LIVES: Final = (
    Life(moments=(0.0, 0.6), once_ready=False, requests=2),
    Life(moments=(0.0, 0.8), requests=2),
    Life(moments=(0.3, 1.3), requests=1),
)
#: A file that is at work for the third time is nearly always spared: it would fail, and prove nothing here.
SPARED: Final = 0.95
#: How long the receiver takes to answer: a kill in between has the result delivered twice.
ANSWER_SECONDS: Final = 0.1
COUNTED: Final = (
    *("kills", "accepted", "delivered", "delivered more than once", "stored", "cancelled", "forgotten"),
    "failed after three starts",
)


class Killed:
    """A service that is killed and started again on the same folder. ``counts`` is what was found in the end."""

    def __init__(self, folder: Path, samples: Path, references: dict[str, dict[str, Any]], *, seed: int) -> None:
        self.counts: Counter[str] = Counter()
        self._folder = folder
        self._samples = samples
        self._references = references
        self._chance = Random(seed)  # noqa: S311  # when it is killed, and what is sent
        self._data = folder / "data"
        self._address = f"http://127.0.0.1:{(port := free_port())}"
        self._settings = {
            "DATA_DIR": str(self._data),
            "PORT": port,
            "MAX_QUEUED_JOBS": "100000",
            "SHUTDOWN_GRACE_SECONDS": "0",
            "SPOOL_MIN_FREE_BYTES": "0",
            "WEBHOOK_SECRET": WEBHOOK_SECRET,
            "WHISPER_CPU_THREADS": "1",  # others run beside it
        }

    def survives(self, kills: int) -> None:
        with receiver(self._samples, seconds=ANSWER_SECONDS) as store:
            with Crowd(self._address, store, self._samples, self._chance) as crowd:
                for number in range(kills):
                    self._live(LIVES[number % len(LIVES)], crowd)
                with self._running() as running:
                    running.until_ready()
                    crowd.finish()
                    settled(running, seconds=300)
                    running.kill()
            with self._running() as running:
                running.until_ready()
                jobs = settled(running)
                self.counts.update({"kills": kills, "accepted": len(crowd.sent)})
                for request in crowd.sent:
                    self._check(request, store, running, jobs)
                assert running.stop() == 0
        assert jobs.keys() == {request.job_id for request in crowd.sent if request.ended != "forgotten"}
        assert leftovers(self._data, jobs) == []

    def _live(self, life: Life, crowd: Crowd) -> None:
        crowd.allow(life.requests)
        with self._running() as running:
            if life.once_ready:
                running.until_ready()
            time.sleep(self._chance.uniform(*life.moments))
            if self._chance.random() < SPARED:
                running.eventually(lambda: not has_last_start(running))
            running.kill()

    def _running(self) -> closing[ForkedProgram]:
        return closing(ForkedProgram(self._folder, **self._settings))

    def _check(self, request: Sent, store: Receiver, running: ForkedProgram, jobs: dict[str, dict[str, Any]]) -> None:
        """What was accepted has come to the end that its client was told, and everything has arrived."""
        job = jobs.get(request.job_id)
        arrived, events = store.results(request.result), store.events(request.event)
        self.counts["delivered more than once"] += len(arrived) - len(set(arrived))
        documents = [json.loads(body) for body in set(arrived)]
        if job is None:
            assert request.ended == "forgotten", f"{request} was lost"
            self.counts["forgotten"] += 1
        elif job["status"] == "cancelled":
            assert request.ended == "cancelled", request
            self.counts["cancelled"] += 1
        else:
            assert request.ended == "", request
            self._check_end(request, job, documents, running)
        for document in documents:
            assert document["job_id"] == request.job_id
            assert document["status"] == "failed" or document["text"] == self._text(request)
        assert len(documents) <= 1, "two different bodies"
        told = {(event.headers["webhook-id"], event.body) for event in events}
        assert len(told) == request.told or (job is None and not told), request
        for _, body in told:
            event = json.loads(body)
            assert event["data"]["job_id"] == request.job_id
            assert job is None or event["type"] == f"job.{job['status']}"

    def _check_end(
        self, request: Sent, job: dict[str, Any], documents: list[dict[str, Any]], running: ForkedProgram
    ) -> None:
        """A job that nobody cancelled has succeeded, or its file was killed too often; either has been delivered."""
        if job["status"] == "failed":
            assert job["error_type"] == "TooManyStarts", job
            self.counts["failed after three starts"] += 1
        else:
            text = running.client.get(f"/v1/jobs/{request.job_id}/result").json()["text"]
            assert (job["status"], text) == ("completed", self._text(request))
            self.counts["delivered" if request.uploaded else "stored"] += 1
        assert [document["status"] for document in documents] == [job["status"]] * request.uploaded

    def _text(self, request: Sent) -> str:
        return str(self._references[request.sample]["text"])


def has_last_start(running: ForkedProgram) -> bool:
    """Whether a file is at work for the third time."""
    try:
        jobs = running.jobs().values()
    except httpx.TransportError:  # it has not started yet
        return False
    return any(
        job.get("attempts") == MAX_STARTS and job["status"] in ("queued", "processing") and not job["result_available"]
        for job in jobs
    )


@pytest.mark.timeout(900)
def test_nothing_that_was_accepted_is_lost(
    tmp_path: Path,
    samples: Path,
    references: dict[str, dict[str, Any]],
    capsys: pytest.CaptureFixture[str],
    *,
    long: bool,
) -> None:
    kills = 200 if long else 40
    services = []
    for number in range(SERVICES):
        folder = tmp_path / str(number)
        folder.mkdir()
        services.append(Killed(folder, samples, references, seed=number))
    with ThreadPoolExecutor(SERVICES) as executor:
        for ended in [executor.submit(service.survives, kills // SERVICES) for service in services]:
            ended.result()
    counts = Counter[str]()
    for service in services:
        counts.update(service.counts)
    assert counts["accepted"] > kills
    with capsys.disabled():
        sys.stdout.write("\n" + ", ".join(f"{counts[name]} {name}" for name in COUNTED) + "\n")
