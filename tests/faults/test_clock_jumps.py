"""The wall clock jumps, by an hour and by ten years, while the service runs and while it is down."""

from __future__ import annotations

import sys
import time
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from tests.faults.clients import WEBHOOK_SECRET
from tests.faults.findings import settled
from tests.faults.playing import played
from tests.support.fault_server import FaultServer, answer, fault_server_in_thread
from tests.support.program import PROGRAM, Program, free_port, program

if TYPE_CHECKING:
    from collections.abc import Iterator
    from concurrent.futures import Future
    from contextlib import AbstractContextManager

    from tests.support.fault_server import Connection

HOUR: Final = 3600
TEN_YEARS: Final = 10 * 365 * 24 * HOUR
#: Seconds after which the second round of a delivery comes, ± 20 %; ROUND is the service's own.
ROUND, SHORT_ROUND = 30.0, 4.0
JUMPS: Final = {
    "an hour forward": (HOUR, ROUND),
    "an hour back": (-HOUR, ROUND),
    "ten years forward": (TEN_YEARS, ROUND),
    "ten years back": (-TEN_YEARS, ROUND),
    "an hour forward, with rounds in short order": (HOUR, SHORT_ROUND),
    "ten years back, with rounds in short order": (-TEN_YEARS, SHORT_ROUND),
}
#: --long plays the others too.
ALWAYS: Final = tuple(name for name, (_, wait) in JUMPS.items() if wait == SHORT_ROUND)
#: What a busy machine may add.
SLACK_SECONDS: Final = 2.0
_LIBRARY: Final = "*/faketime/libfaketimeMT.so.1"


class Arrivals:
    """A receiver that is down for the first that comes, and takes what comes later; ``times`` are when they came."""

    def __init__(self) -> None:
        self.times: list[float] = []

    async def __call__(self, connection: Connection) -> None:
        self.times.append(time.monotonic())
        await answer(503 if len(self.times) == 1 else 200, Connection="close")(connection)


class Jump:
    """A service with a wall clock of its own, ``wait`` seconds between rounds, and jobs in every state."""

    def __init__(self, folder: Path, samples: Path, seconds: int, *, wait: float) -> None:
        self._folder = folder
        self._samples = samples
        self._seconds = seconds
        self._wait = wait
        self._clock = folder / "clock"
        self._set(0)
        (library,) = Path("/usr/lib").glob(_LIBRARY)
        self._settings = {
            "LD_PRELOAD": str(library),
            "FAKETIME_TIMESTAMP_FILE": str(self._clock),
            "FAKETIME_CACHE_DURATION": "1",
            "DONT_FAKE_MONOTONIC": "1",
            "DATA_DIR": str(folder / "data"),
            "PORT": free_port(),
            "MAX_CONCURRENT_REQUESTS": "1",
            "SPOOL_MIN_FREE_BYTES": "0",
            "UPLOAD_MAX_ATTEMPTS": "1",
            "WEBHOOK_SECRET": WEBHOOK_SECRET,
            "WHISPER_CPU_THREADS": "1",  # others run beside it
        }

    def play(self) -> None:
        with self._running() as running:
            running.until_ready()
            with fault_server_in_thread(early := Arrivals()) as up, fault_server_in_thread(Arrivals()) as late:
                jobs = self._in_every_state(running, up, late, since=0)
                self._set(self._seconds)
                running.eventually(lambda: self._has_jumped(running))
                ends = self._check(running, jobs)
            least, most = 0.8 * self._wait, 1.2 * self._wait + SLACK_SECONDS
            assert least <= early.times[1] - early.times[0] <= most
            with fault_server_in_thread(Arrivals()) as up, fault_server_in_thread(Arrivals()) as late:
                further = self._in_every_state(running, up, late, since=self._seconds)
                running.kill()
                self._set(2 * self._seconds)
                with self._running() as restarted:
                    restarted.until_ready()
                    assert self._check(restarted, further).items() >= ends.items()

    def _running(self) -> AbstractContextManager[Program]:
        hurried = (sys.executable, "-m", "tests.faults.hurried", str(self._wait))
        return program(self._folder, PROGRAM if self._wait == ROUND else hurried, **self._settings)

    def _set(self, seconds: int) -> None:
        """Puts the service's wall clock so far away from this machine's."""
        new = self._clock.with_suffix(".new")
        new.write_text(f"{seconds:+d}")
        new.replace(self._clock)

    def _has_jumped(self, running: Program) -> bool:
        """Whether the service has seen it."""
        told = parsedate_to_datetime(running.client.get("/health").headers["date"]).timestamp()
        return abs(told - time.time() - self._seconds) < HOUR / 2

    def _in_every_state(self, running: Program, up: FaultServer, late: FaultServer, *, since: int) -> dict[str, str]:
        """Jobs by their states; the URL that expires does so half an hour from the clock that is ``since`` seconds
        away from this machine's."""
        hello = self._samples / "hello.wav"
        jobs = {"finished": running.submit(hello, stored_output="true")}
        running.until(jobs["finished"], "completed")
        jobs["undelivered"] = running.submit(hello, upload_presigned_url=up.url())
        jobs["expiring"] = running.submit(hello, upload_presigned_url=late.url(_expiring(time.time() + since)))
        for name in ("undelivered", "expiring"):
            running.eventually(partial(_is_put_off, running, jobs[name]))
        jobs["running"] = running.submit(self._samples / "long.opus", stored_output="true")
        jobs["queued"] = running.submit(hello, stored_output="true")
        running.until(jobs["running"], "processing")
        return jobs

    def _check(self, running: Program, jobs: dict[str, str]) -> dict[str, str]:
        """Nothing has disappeared; what is behind a URL that the clock calls expired has failed, with that cause. The
        statuses of all jobs."""
        found = settled(running)
        too_late = self._seconds > 0
        assert {name: found[job_id]["status"] for name, job_id in jobs.items()} == {
            **dict.fromkeys(jobs, "completed"),
            "expiring": "failed" if too_late else "completed",
        }
        expiring = found[jobs["expiring"]]
        assert expiring.get("error", "").startswith("upload_presigned_url expired at ") == too_late
        assert expiring["result_available"]
        return {job_id: job["status"] for job_id, job in found.items()}


def _is_put_off(running: Program, job_id: str) -> bool:
    return "next_attempt_at" in running.job(job_id)["delivery"]


def _expiring(now: float) -> str:
    """The path and query of a URL that was signed at ``now`` and holds for half an hour."""
    signed = datetime.fromtimestamp(now, UTC).strftime("%Y%m%dT%H%M%SZ")
    return f"/bucket/key?X-Amz-Date={signed}&X-Amz-Expires=1800&X-Amz-SignedHeaders=host&X-Amz-Signature=secret"


@pytest.fixture(scope="module")
def plays(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, samples: Path
) -> Iterator[dict[str, Future[None]]]:
    """All at once: much of each is waiting."""
    if not list(Path("/usr/lib").glob(_LIBRARY)):
        pytest.skip("libfaketime is not installed (Debian: faketime)")

    def play(name: str) -> None:
        seconds, wait = JUMPS[name]
        Jump(tmp_path_factory.mktemp("clock"), samples, seconds, wait=wait).play()

    with played(request, "jump", play, at_once=len(JUMPS)) as outcomes:
        yield outcomes


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "jump", [pytest.param(name, marks=[] if name in ALWAYS else pytest.mark.long) for name in JUMPS]
)
def test_nothing_disappears_or_is_put_off_when_the_clock_jumps(jump: str, plays: dict[str, Future[None]]) -> None:
    plays[jump].result()
