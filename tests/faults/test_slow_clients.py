"""Hundreds of connections that mean harm are closed in time, and nobody else notices."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import httpx
import pytest

from tests.faults import slow
from tests.faults.fair import HEALTH, SUBMISSION, TRANSCRIPTION, FairClient, Vitals
from tests.support.program import PROGRAM, program

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence
    from pathlib import Path

    from tests.faults.slow import Line
    from tests.support.program import Program

pytestmark = pytest.mark.full(reason="holds hundreds of connections until they time out")

SLOWHTTPTEST: Final = shutil.which("slowhttptest")
#: More than the 40 MiB that jobs and requests in work take anyway.
_MOST_GROWTH_MIB: Final = 100
_SPARE_SECONDS: Final = 2


@dataclass(frozen=True, slots=True)
class Deadlines:
    """Of the service: for a head, for a stretch of a body, for what is sent; in seconds."""

    head: float
    body: float
    reader: float

    @property
    def environment(self) -> dict[str, str]:
        return {"HEADER_TIMEOUT_SECONDS": str(self.head), "SEND_TIMEOUT_SECONDS": str(self.reader)}

    def end_of(self, reason: str) -> float:
        """The latest at which a connection that deserves it has been closed: what is looked at in stretches of time may
        have begun in the midst of one."""
        return {"slow_head": self.head, "slow_body": 2 * self.body, "slow_reader": 2 * self.reader}.get(
            reason, self.reader
        ) + _SPARE_SECONDS


SHORT: Final = Deadlines(head=4, body=2, reader=2)
DEFAULT: Final = Deadlines(head=10, body=20, reader=60)


@dataclass(frozen=True, slots=True)
class Ordeal:
    """Attacks of one kind. They are cut for ``reason``; without one they are answered, or end by themselves.

    ``stays`` are those whose connections may stay open, as they are used.
    """

    attacks: tuple[Callable[[Line], Awaitable[None]], ...]
    reason: str = ""
    stays: bool = False


ORDEALS: Final = {
    "heads": Ordeal((slow.idle, slow.slow_head, slow.slow_second_head), reason="slow_head"),
    "bodies": Ordeal((slow.slow_body, slow.slow_chunks, slow.no_body), reason="slow_body"),
    "readers": Ordeal((slow.never_reads, slow.drips_out), reason="slow_reader"),
    "half closed": Ordeal((slow.half_head, slow.half_body, slow.half_closed_reader)),
    "oversized": Ordeal((slow.huge_head, slow.many_headers, slow.many_trailers, slow.endless_extension)),
    "floods": Ordeal((slow.pipelines, slow.ranges, slow.tiny_chunks), stays=True),
    "usual ones": Ordeal((slow.keeps_alive, slow.churns), stays=True),
}
ALONE: Final = {
    attack.__name__: Ordeal((attack,), ordeal.reason, ordeal.stays)
    for ordeal in ORDEALS.values()
    for attack in ordeal.attacks
}


@contextmanager
def warm(
    folder: Path, samples: Path, deadlines: Deadlines, command: Sequence[str] = (), **environment: str
) -> Iterator[Program]:
    """The program with these deadlines, once it has worked for a while: what the first requests take stays."""
    command = command or (sys.executable, "-m", "tests.faults.impatient", str(deadlines.body))
    with program(folder, command, **{**deadlines.environment, **environment}) as running:
        running.until_ready()
        with FairClient(running, samples, HEALTH, SUBMISSION, TRANSCRIPTION) as fair:
            running.eventually(lambda: bool(fair.seconds[TRANSCRIPTION]))
        fair.check()
        yield running


def besiege(running: Program, samples: Path, ordeal: Ordeal, deadlines: Deadlines, *kinds: str) -> str:
    """Has fair clients make these requests during the ordeal, judges them and the process, and gives the figures."""
    vitals = Vitals(running)
    files, memory, cut = vitals.open_files, vitals.resident_mib, vitals.cut(ordeal.reason)
    peak = memory
    end = deadlines.end_of(ordeal.reason)
    with (
        FairClient(running, samples, *kinds) as fair,
        FairClient(running, samples, HEALTH, source="127.0.0.1") as neighbour,
        slow.Siege(port_of(running), *ordeal.attacks) as siege,
    ):
        deadline = time.monotonic() + end + _SPARE_SECONDS
        while time.monotonic() < deadline and (siege.open or len(fair.seconds[SUBMISSION]) < 8):
            time.sleep(0.05)
            peak = max(peak, vitals.resident_mib)
        lasted, still_open = siege.lasted(), siege.open
    figures = (
        f"from another address: {fair}; from the same: {neighbour}; closed {len(lasted)} of {len(siege.lines)} after "
        f"{max(lasted, default=0):.1f} s at most, answered {dict(Counter(line.status for line in siege.lines))}; "
        f"memory +{peak - memory:.0f} MiB"
    )
    fair.check()
    neighbour.check()
    if not ordeal.stays:
        assert still_open == 0, figures
        assert max(lasted) <= end, figures
    if ordeal.reason:
        assert vitals.cut(ordeal.reason) - cut == len(siege.lines), figures
    assert peak - memory < _MOST_GROWTH_MIB, figures
    nothing_is_left(running, vitals, files)
    return figures


def nothing_is_left(running: Program, vitals: Vitals, files: int) -> None:
    """Of connections, files, places and space; and the log has no error in it."""
    running.eventually(lambda: vitals.counted("transcription_connections") <= 1, pause=0.1)
    running.eventually(lambda: vitals.counted('transcription_jobs{status="queued"}') == 0, pause=0.1)
    running.eventually(lambda: vitals.counted('transcription_jobs{status="processing"}') == 0, pause=0.1)
    running.eventually(lambda: vitals.counted("transcription_spool_bytes") == 0, pause=0.1)
    running.eventually(lambda: vitals.open_files <= files + 2, pause=0.1)
    assert not [line for line in running.log.read_text().splitlines() if " ERROR " in line or "Traceback" in line]


@pytest.fixture(scope="module")
def besieged(tmp_path_factory: pytest.TempPathFactory, samples: Path) -> Iterator[Program]:
    """With places for little more than one attack: those that were not given back are missed by the next."""
    with warm(tmp_path_factory.mktemp("besieged"), samples, SHORT, MAX_QUEUED_JOBS="350") as running:
        yield running


@pytest.mark.parametrize("kind", ORDEALS)
def test_fair_clients_notice_nothing_of_hundreds_that_are_slow(
    kind: str, besieged: Program, samples: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    figures = besiege(besieged, samples, ORDEALS[kind], SHORT, HEALTH, SUBMISSION)
    with capsys.disabled():
        print(f"\n{kind}: {figures}")  # noqa: T201  # what a person wants to see


@pytest.fixture(scope="module")
def as_set(tmp_path_factory: pytest.TempPathFactory, samples: Path) -> Iterator[Program]:
    """The program with the deadlines that it has by default."""
    with warm(tmp_path_factory.mktemp("as_set"), samples, DEFAULT, PROGRAM) as running:
        yield running


@pytest.mark.long(reason="waits for the default time limits")
@pytest.mark.parametrize("kind", ALONE)
def test_fair_clients_notice_nothing_of_each_attack_by_itself(
    kind: str, as_set: Program, samples: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    figures = besiege(as_set, samples, ALONE[kind], DEFAULT, HEALTH, SUBMISSION, TRANSCRIPTION)
    with capsys.disabled():
        print(f"\n{kind}: {figures}")  # noqa: T201  # what a person wants to see


@pytest.mark.skipif(SLOWHTTPTEST is None, reason="needs slowhttptest (Debian: slowhttptest)")
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "options",
    [
        pytest.param(("-H", "-u", "/health"), id="slow headers"),
        pytest.param(("-B", "-s", "2000000000", "-u", "/v1/audio/transcriptions"), id="slow body"),
        pytest.param(("-R", "-u", "/docs/assets/swagger-ui-bundle.js"), id="ranges"),
        pytest.param(("-X", "-k", "5", "-u", "/docs/assets/swagger-ui-bundle.js"), id="slow read"),
    ],
)
@pytest.mark.long(reason="waits for the default time limits")
def test_slowhttptest_finds_the_service_available(
    options: tuple[str, ...], as_set: Program, samples: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert SLOWHTTPTEST is not None
    *mode, path = options
    vitals = Vitals(as_set)
    files = vitals.open_files
    command = (SLOWHTTPTEST, *mode, f"{as_set.client.base_url}{path}", "-c", "300", "-r", "300", "-p", "2")
    with FairClient(as_set, samples, HEALTH, SUBMISSION, TRANSCRIPTION) as fair:
        said = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300).stdout
    with capsys.disabled():
        print(f"\n{' '.join(options)}: {fair}")  # noqa: T201  # what a person wants to see
    fair.check()
    assert "service available:" in said.lower()
    assert "NO" not in said
    nothing_is_left(as_set, vitals, files)


def port_of(running: Program) -> int:
    port = running.client.base_url.port
    assert port is not None
    return port


@contextmanager
def limited(folder: Path, deadlines: Deadlines = SHORT, **limits: str) -> Iterator[Program]:
    command = (sys.executable, "-m", "tests.faults.impatient", str(deadlines.body))
    with program(folder, command, **deadlines.environment, **limits) as running:
        running.until_ready()
        yield running


def test_those_that_wait_for_nothing_make_room(tmp_path: Path, samples: Path) -> None:
    with limited(tmp_path, MAX_CONNECTIONS="200") as running:
        with (
            slow.Siege(port_of(running), slow.idle, slow.slow_head) as siege,
            FairClient(running, samples, HEALTH, SUBMISSION) as fair,
        ):
            running.eventually(lambda: siege.open == 0 and len(fair.seconds[SUBMISSION]) > 5)
        fair.check()
        vitals = Vitals(running)
        assert vitals.cut("made_room") >= 100
        assert vitals.cut("made_room") + vitals.cut("slow_head") >= 300


def test_where_all_connections_are_uploads_others_are_told_to_come_again(tmp_path: Path) -> None:
    deadlines = Deadlines(head=2, body=6, reader=2)
    with (
        limited(tmp_path, deadlines, MAX_CONNECTIONS="200") as running,
        slow.Siege(port_of(running), slow.slow_body) as siege,
        httpx.Client(base_url=running.client.base_url, trust_env=False, headers={"Connection": "close"}) as client,
    ):
        running.eventually(lambda: siege.open == 200)
        refusal = until_answered(client, 503)
        refused_at = time.monotonic()
        assert refusal.json()["error"]["code"] == "too_many_connections"
        assert refusal.headers["Retry-After"] == "5"
        until_answered(client, 200)
        assert time.monotonic() - refused_at < deadlines.end_of("slow_body")
        running.eventually(lambda: siege.open == 0)
        assert Vitals(running).cut("slow_body") == 200


def until_answered(client: httpx.Client, status: int) -> httpx.Response:
    """The first answer with the status."""
    for _ in range(1000):
        answered = client.get("/health")
        if answered.status_code == status:
            return answered
        time.sleep(0.01)
    raise AssertionError(f"Nothing was answered {status}.")


def test_address_that_takes_too_many_connections_keeps_out_itself_alone(tmp_path: Path, samples: Path) -> None:
    with limited(tmp_path, MAX_CONNECTIONS_PER_ADDRESS="50", FORWARDED_ALLOW_IPS="192.0.2.1") as running:
        with (
            slow.Siege(port_of(running), slow.slow_body) as siege,
            FairClient(running, samples, HEALTH, SUBMISSION) as fair,
        ):
            running.eventually(lambda: siege.open == 0 and len(fair.seconds[SUBMISSION]) > 5)
        fair.check()
        vitals = Vitals(running)
        assert vitals.cut("slow_body") == 50
        assert vitals.cut("too_many") + vitals.cut("made_room") >= 250


@pytest.mark.long(reason="waits for the default time limits")
def test_process_that_may_open_few_files_takes_connections_again(tmp_path: Path, samples: Path) -> None:
    command = ("sh", "-c", f'ulimit -n 256; exec "{sys.executable}" -m app')
    with program(tmp_path, command, **SHORT.environment) as running:
        running.until_ready()
        with slow.Siege(port_of(running), slow.slow_head) as siege:
            running.eventually(lambda: siege.open == 0)
        job_id = running.submit(samples / "hello.wav", stored_output="true")
        assert running.until(job_id, "completed")
