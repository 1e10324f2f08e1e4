"""Jumps of the wall clock, by an hour and by ten years, while the service runs and while it is down."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from tests.faults.crash_clients import WEBHOOK_SECRET
from tests.faults.final_state import settled
from tests.faults.tuned_service import tuned
from tests.support.fault_server import FaultServer, fault_server_in_thread, response_head
from tests.support.program import PROGRAM, Program, free_port, program

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

from tests.support.fault_server import Connection

pytestmark = pytest.mark.full(reason="waits for rounds of delivery")

HOUR: Final = 3600
TEN_YEARS: Final = 10 * 365 * 24 * HOUR
#: Seconds between the first two rounds of a delivery, ± 20 %. ROUND is the service's default.
ROUND, SHORT_ROUND = 30.0, 3.0
#: Seconds of the jump while the service runs, of the jump while it is down, and between rounds.
JUMPS: Final = {
    "ten years back and then forward, with short rounds": (-TEN_YEARS, TEN_YEARS, SHORT_ROUND),
    "an hour forward and then back, with short rounds": (HOUR, -HOUR, SHORT_ROUND),
    "an hour forward twice": (HOUR, HOUR, ROUND),
    "an hour back twice": (-HOUR, -HOUR, ROUND),
    "ten years forward twice": (TEN_YEARS, TEN_YEARS, ROUND),
    "ten years back twice": (-TEN_YEARS, -TEN_YEARS, ROUND),
}
#: The others run with --long only.
ALWAYS: Final = next(iter(JUMPS))
LONG: Final = pytest.mark.long(reason="waits 30 seconds for each round")
#: A busy machine can delay a round, by far less than the clock jumps.
SLACK_SECONDS: Final = 120.0
UNDELIVERED: Final = "/bucket/undelivered"
_LIBRARY: Final = "*/faketime/libfaketime.so.1"


class Receiver:
    """A receiver that answers 503 until it is up. ``times`` are those of the requests to ``UNDELIVERED``."""

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
    """A service with its own wall clock, ``wait`` seconds between delivery rounds, and jobs in every state."""

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
        }

    def play(self, while_it_runs: int, while_it_is_down: int) -> None:
        with self._running() as running:
            running.until_ready()
            with fault_server_in_thread(receiver := Receiver()) as server:
                jobs = self._in_every_state(running, server)
                self._jump(while_it_runs)
                running.eventually(lambda: self._sees_the_jump(running), pause=0.05)
                receiver.is_up = True
                earlier = self._check(running, jobs, too_late=while_it_runs > 0)
            for before, after in pairwise(receiver.times):
                assert self._wait / 2 <= after - before <= 1.2 * self._wait + SLACK_SECONDS
            with fault_server_in_thread(receiver := Receiver()) as server:
                further = self._in_every_state(running, server)
                running.kill()
                self._jump(while_it_is_down)
                receiver.is_up = True
                with self._running() as restarted:
                    restarted.until_ready()
                    statuses = self._check(restarted, further, too_late=while_it_is_down > 0)
        assert statuses.items() >= earlier.items()

    def _running(self) -> AbstractContextManager[Program]:
        command = PROGRAM if self._wait == ROUND else tuned(delivery_round=self._wait)
        return program(self._folder, command, **self._settings)

    def _jump(self, seconds: int) -> None:
        """Move the service's wall clock forward, or back if ``seconds`` is negative."""
        self._ahead += seconds
        new = self._clock.with_suffix(".new")
        new.write_text(f"{self._ahead:+d}")
        new.replace(self._clock)

    def _sees_the_jump(self, running: Program) -> bool:
        shown = parsedate_to_datetime(running.client.get("/health").headers["date"]).timestamp()
        return abs(shown - time.time() - self._ahead) < HOUR / 2

    def _in_every_state(self, running: Program, server: FaultServer) -> dict[str, str]:
        """Submit a job for each state and return their ids. The URL of `expiring` expires in half an hour."""
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
        """Check that all jobs completed, except one whose URL has expired, and return the statuses of all jobs."""
        states = settled(running)
        assert {name: states[job_id]["status"] for name, job_id in jobs.items()} == {
            **dict.fromkeys(jobs, "completed"),
            "expiring": "failed" if too_late else "completed",
        }
        expiring = states[jobs["expiring"]]
        assert expiring.get("error", "").startswith("upload_presigned_url expired at ") == too_late
        assert expiring["result_available"]
        return {job_id: job["status"] for job_id, job in states.items()}


def _is_put_off(running: Program, job_id: str) -> bool:
    return "next_attempt_at" in running.job(job_id)["delivery"]


def _expiring(now: float) -> str:
    """Return the path and query of a URL that was signed at ``now`` and expires half an hour later."""
    signed = datetime.fromtimestamp(now, UTC).strftime("%Y%m%dT%H%M%SZ")
    return f"/bucket/key?X-Amz-Date={signed}&X-Amz-Expires=1800&X-Amz-SignedHeaders=host&X-Amz-Signature=secret"


@pytest.mark.parametrize("jump", [pytest.param(name, marks=() if name == ALWAYS else LONG) for name in JUMPS])
@pytest.mark.timeout(900)
def test_clock_jump_loses_and_delays_no_job(jump: str, tmp_path: Path, samples: Path) -> None:
    if not list(Path("/usr/lib").glob(_LIBRARY)):
        pytest.skip("libfaketime is not installed (Debian: faketime)")
    while_it_runs, while_it_is_down, wait = JUMPS[jump]
    Jump(tmp_path, samples, wait=wait).play(while_it_runs, while_it_is_down)
