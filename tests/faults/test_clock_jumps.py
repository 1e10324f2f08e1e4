"""The wall clock jumps, by an hour and by ten years, while the service runs and while it is down."""

from __future__ import annotations

import sys
import time
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from tests.faults.clients import WEBHOOK_SECRET
from tests.faults.findings import settled
from tests.support.fault_server import FaultServer, fault_server_in_thread, response_head
from tests.support.program import PROGRAM, Program, free_port, program

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from tests.support.fault_server import Connection

pytestmark = pytest.mark.full(reason="waits for rounds of delivery")

HOUR: Final = 3600
TEN_YEARS: Final = 10 * 365 * 24 * HOUR
#: Seconds after which the second round of a delivery comes, ± 20 %; ROUND is the service's own.
ROUND, SHORT_ROUND = 30.0, 3.0
#: The jumps while the service runs and while it is down, and the seconds between rounds.
JUMPS: Final = {
    "ten years back and then forward, with rounds in short order": (-TEN_YEARS, TEN_YEARS, SHORT_ROUND),
    "an hour forward and then back, with rounds in short order": (HOUR, -HOUR, SHORT_ROUND),
    "an hour forward twice": (HOUR, HOUR, ROUND),
    "an hour back twice": (-HOUR, -HOUR, ROUND),
    "ten years forward twice": (TEN_YEARS, TEN_YEARS, ROUND),
    "ten years back twice": (-TEN_YEARS, -TEN_YEARS, ROUND),
}
#: --long plays the others too.
ALWAYS: Final = next(iter(JUMPS))
LONG: Final = pytest.mark.long(reason="waits 30 seconds for each round")
#: What a busy machine may add.
SLACK_SECONDS: Final = 2.0
UNDELIVERED: Final = "/bucket/undelivered"
_LIBRARY: Final = "*/faketime/libfaketime.so.1"


class Receiver:
    """Takes what comes when it is up; ``times`` are when something came to :data:`UNDELIVERED`."""

    def __init__(self) -> None:
        self.is_up = False
        self.times: list[float] = []

    async def __call__(self, connection: Connection) -> None:
        request = await connection.read_request()
        if request.target == UNDELIVERED:
            self.times.append(time.monotonic())
        status = 200 if self.is_up else 503
        await connection.send(response_head(status, {"Content-Length": "0", "Connection": "close"}))


class Jump:
    """A service with a wall clock of its own, ``wait`` seconds between rounds, and jobs in every state."""

    def __init__(self, folder: Path, samples: Path, *, wait: float) -> None:
        self._folder = folder
        self._samples = samples
        self._wait = wait
        self._clock = folder / "clock"
        self._ahead = 0
        self._jump(0)
        (library,) = Path("/usr/lib").glob(_LIBRARY)
        self._settings = {
            "LD_PRELOAD": str(library),
            "FAKETIME_TIMESTAMP_FILE": str(self._clock),
            "FAKETIME_CACHE_DURATION": "1",
            "DONT_FAKE_MONOTONIC": "1",
            "NO_FAKE_STAT": "1",
            "DATA_DIR": str(folder / "data"),
            "PORT": free_port(),
            "MAX_CONCURRENT_REQUESTS": "1",
            "SPOOL_MIN_FREE_BYTES": "0",
            "UPLOAD_MAX_ATTEMPTS": "1",
            "WEBHOOK_SECRET": WEBHOOK_SECRET,
            "WHISPER_CPU_THREADS": "1",  # others run beside it
        }

    def play(self, while_it_runs: int, while_it_is_down: int) -> None:
        with self._running() as running:
            running.until_ready()
            with fault_server_in_thread(receiver := Receiver()) as server:
                jobs = self._in_every_state(running, server)
                self._jump(while_it_runs)
                running.eventually(lambda: self._has_seen_it(running), pause=0.05)
                receiver.is_up = True
                ends = self._check(running, jobs, too_late=while_it_runs > 0)
            for before, after in pairwise(receiver.times):
                assert 0.8 * self._wait <= after - before <= 1.2 * self._wait + SLACK_SECONDS
            with fault_server_in_thread(receiver := Receiver()) as server:
                further = self._in_every_state(running, server)
                running.kill()
                self._jump(while_it_is_down)
                receiver.is_up = True
                with self._running() as restarted:
                    restarted.until_ready()
                    found = self._check(restarted, further, too_late=while_it_is_down > 0)
        assert found.items() >= ends.items()

    def _running(self) -> AbstractContextManager[Program]:
        hurried = (sys.executable, "-m", "tests.faults.hurried", str(self._wait))
        return program(self._folder, PROGRAM if self._wait == ROUND else hurried, **self._settings)

    def _jump(self, seconds: int) -> None:
        """Moves the service's wall clock."""
        self._ahead += seconds
        new = self._clock.with_suffix(".new")
        new.write_text(f"{self._ahead:+d}")
        new.replace(self._clock)

    def _has_seen_it(self, running: Program) -> bool:
        told = parsedate_to_datetime(running.client.get("/health").headers["date"]).timestamp()
        return abs(told - time.time() - self._ahead) < HOUR / 2

    def _in_every_state(self, running: Program, server: FaultServer) -> dict[str, str]:
        """Jobs by their states; the URL that expires does so half an hour from now, as the service sees it."""
        hello = self._samples / "hello.wav"
        jobs = {"finished": running.submit(hello, stored_output="true")}
        running.until(jobs["finished"], "completed")
        jobs["undelivered"] = running.submit(hello, upload_presigned_url=server.url(UNDELIVERED))
        jobs["expiring"] = running.submit(hello, upload_presigned_url=server.url(_expiring(time.time() + self._ahead)))
        for name in ("undelivered", "expiring"):
            running.eventually(partial(_is_put_off, running, jobs[name]))
        jobs["running"] = running.submit(self._samples / "long.opus", stored_output="true")
        jobs["queued"] = running.submit(hello, stored_output="true")
        running.until(jobs["running"], "processing")
        return jobs

    def _check(self, running: Program, jobs: dict[str, str], *, too_late: bool) -> dict[str, str]:
        """Nothing has disappeared; what is behind a URL that the clock calls expired has failed, with that cause. The
        statuses of all jobs."""
        found = settled(running)
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


@pytest.mark.parametrize("jump", [pytest.param(name, marks=() if name == ALWAYS else LONG) for name in JUMPS])
def test_clock_jump_loses_and_delays_no_job(jump: str, tmp_path: Path, samples: Path) -> None:
    if not list(Path("/usr/lib").glob(_LIBRARY)):
        pytest.skip("libfaketime is not installed (Debian: faketime)")
    while_it_runs, while_it_is_down, wait = JUMPS[jump]
    Jump(tmp_path, samples, wait=wait).play(while_it_runs, while_it_is_down)
