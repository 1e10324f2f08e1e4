"""Attacks by hundreds of connections: they are closed, and other clients are served meanwhile."""

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

from tests.faults import slow_connections as attacks
from tests.faults.background_clients import HEALTH, SUBMISSION, TRANSCRIPTION, BackgroundClient, ProcessFigures
from tests.faults.slow_connections import Siege
from tests.faults.tuned_service import tuned
from tests.support.program import PROGRAM, program
from tests.support.waiting import LIMIT_SECONDS

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence
    from pathlib import Path

    from tests.faults.slow_connections import AttackConnection
    from tests.support.program import Program

pytestmark = pytest.mark.full(reason="holds hundreds of connections until they time out")

SLOWHTTPTEST: Final = shutil.which("slowhttptest")
#: Jobs and requests that are being processed take up to 40 MiB without an attack.
_MAX_GROWTH_MIB: Final = 100
#: Each attack lasts at least this long, and until other clients have completed this many submissions.
_ATTACK_SECONDS: Final = 3
_SUBMISSIONS: Final = 5
_LONG_REASON: Final = "waits for the default time limits"


@dataclass(frozen=True, slots=True)
class Limits:
    """Time limits of the service in seconds: for a head, for a window of a body, and for a stalled reader."""

    head: float
    body: float
    reader: float

    @property
    def environment(self) -> dict[str, str]:
        return {"HEADER_TIMEOUT_SECONDS": str(self.head), "SEND_TIMEOUT_SECONDS": str(self.reader)}


SHORT: Final = Limits(head=6, body=4, reader=4)
#: Long enough for hundreds of connections to be opened before the first one is closed.
UNHURRIED: Final = Limits(head=15, body=15, reader=4)
DEFAULT: Final = Limits(head=10, body=20, reader=60)


@dataclass(frozen=True, slots=True)
class Ordeal:
    """Attacks of one kind.

    The server closes their connections for ``reason``. If it is empty, they are answered or end by themselves; those
    that ``stay_open`` are used all the time and may remain.
    """

    attacks: tuple[Callable[[AttackConnection], Awaitable[None]], ...]
    reason: str = ""
    stay_open: bool = False


ORDEALS: Final = {
    "slow heads": Ordeal((attacks.idle, attacks.slow_head, attacks.slow_second_head), reason="slow_head"),
    "slow bodies": Ordeal((attacks.slow_body, attacks.slow_chunks, attacks.no_body), reason="slow_body"),
    "slow readers": Ordeal((attacks.never_reads, attacks.drips_out), reason="slow_reader"),
    "half closed": Ordeal((attacks.half_head, attacks.half_body, attacks.half_closed_reader)),
    "oversized": Ordeal((attacks.huge_head, attacks.many_headers, attacks.many_trailers, attacks.endless_extension)),
    "floods": Ordeal((attacks.pipelines, attacks.ranges, attacks.tiny_chunks), stay_open=True),
    "ordinary": Ordeal((attacks.keeps_alive, attacks.churns), stay_open=True),
}
ALONE: Final = {
    attack.__name__: Ordeal((attack,), ordeal.reason, ordeal.stay_open)
    for ordeal in ORDEALS.values()
    for attack in ordeal.attacks
}


@contextmanager
def warm(folder: Path, samples: Path, limits: Limits, command: Sequence[str], **environment: str) -> Iterator[Program]:
    """Run the service and let it transcribe first, because it keeps the memory that this takes."""
    with program(folder, command, **{**limits.environment, **environment}) as running:
        running.until_ready()
        with BackgroundClient(running, samples, HEALTH, SUBMISSION, TRANSCRIPTION) as client:
            running.eventually(lambda: bool(client.seconds[TRANSCRIPTION]))
        client.check()
        yield running


def besiege(running: Program, samples: Path, ordeal: Ordeal, *kinds: str) -> str:
    """Attack the service while other clients send requests of these kinds. Check both and return the figures."""
    process = ProcessFigures(running)
    files, closed = process.open_files, process.closed(ordeal.reason)
    before = peak = process.resident_mib
    with (
        BackgroundClient(running, samples, *kinds) as client,
        BackgroundClient(running, samples, HEALTH, source="127.0.0.1") as neighbour,
        Siege(port_of(running), *ordeal.attacks) as siege,
    ):
        began = time.monotonic()
        while (
            time.monotonic() < began + _ATTACK_SECONDS
            or len(client.seconds[SUBMISSION]) < _SUBMISSIONS
            or (siege.open and not ordeal.stay_open)
        ):
            assert time.monotonic() < began + LIMIT_SECONDS, f"{siege.open} connections are open; {client}"
            time.sleep(0.05)
            peak = max(peak, process.resident_mib)
        lasted = siege.lasted()
    figures = (
        f"other address: {client}; same address: {neighbour}; closed {len(lasted)} of {len(siege.connections)} within "
        f"{max(lasted, default=0):.1f} s, statuses {dict(Counter(one.status for one in siege.connections))}; "
        f"memory +{peak - before:.0f} MiB"
    )
    client.check()
    neighbour.check()
    if ordeal.reason:
        assert process.closed(ordeal.reason) - closed == len(siege.connections), figures
    assert peak - before < _MAX_GROWTH_MIB, figures
    check_nothing_is_left(running, process, files)
    return figures


def check_nothing_is_left(running: Program, process: ProcessFigures, files: int) -> None:
    """Check that no connection, job, file or byte of the spool is left, and that the log has no error."""
    for metric in (
        'transcription_jobs{status="queued"}',
        'transcription_jobs{status="processing"}',
        "transcription_spool_bytes",
    ):
        running.eventually(lambda metric=metric: process.metric(metric) == 0, pause=0.1)  # type: ignore[misc]
    running.eventually(lambda: process.metric("transcription_connections") <= 1, pause=0.1)
    running.eventually(lambda: process.open_files <= files + 2, pause=0.1)
    assert not [line for line in running.log.read_text().splitlines() if " ERROR " in line or "Traceback" in line]


@pytest.fixture(scope="module")
def besieged(tmp_path_factory: pytest.TempPathFactory, samples: Path) -> Iterator[Program]:
    """The service with a queue for little more than one attack, so that a leak is noticed by the next one."""
    command = tuned(body_window=SHORT.body)
    with warm(tmp_path_factory.mktemp("besieged"), samples, SHORT, command, MAX_QUEUED_JOBS="350") as running:
        yield running


@pytest.mark.parametrize("kind", ORDEALS)
def test_other_clients_are_served_during_an_attack(
    kind: str, besieged: Program, samples: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    figures = besiege(besieged, samples, ORDEALS[kind], HEALTH, SUBMISSION)
    with capsys.disabled():
        print(f"\n{kind}: {figures}")  # noqa: T201  # to compare versions


@pytest.fixture(scope="module")
def with_default_limits(tmp_path_factory: pytest.TempPathFactory, samples: Path) -> Iterator[Program]:
    with warm(tmp_path_factory.mktemp("default"), samples, DEFAULT, PROGRAM) as running:
        yield running


@pytest.mark.long(reason=_LONG_REASON)
@pytest.mark.parametrize("kind", ALONE)
def test_other_clients_are_served_during_each_single_attack(
    kind: str, with_default_limits: Program, samples: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    figures = besiege(with_default_limits, samples, ALONE[kind], HEALTH, SUBMISSION, TRANSCRIPTION)
    with capsys.disabled():
        print(f"\n{kind}: {figures}")  # noqa: T201  # to compare versions


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
@pytest.mark.long(reason=_LONG_REASON)
def test_slowhttptest_finds_the_service_available(
    options: tuple[str, ...], with_default_limits: Program, samples: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert SLOWHTTPTEST is not None
    running = with_default_limits
    *mode, path = options
    process = ProcessFigures(running)
    files = process.open_files
    command = (SLOWHTTPTEST, *mode, f"{running.client.base_url}{path}", "-c", "300", "-r", "300", "-p", "30")
    with BackgroundClient(running, samples, HEALTH, SUBMISSION, TRANSCRIPTION) as client:
        report = subprocess.run(command, capture_output=True, text=True, check=False, timeout=500).stdout
    with capsys.disabled():
        print(f"\n{' '.join(options)}: {client}")  # noqa: T201  # to compare versions
    client.check()
    assert "service available:" in report.lower()
    assert "NO" not in report
    check_nothing_is_left(running, process, files)


def port_of(running: Program) -> int:
    port = running.client.base_url.port
    assert port is not None
    return port


@contextmanager
def limited(folder: Path, **settings: str) -> Iterator[Program]:
    with program(folder, tuned(body_window=UNHURRIED.body), **UNHURRIED.environment, **settings) as running:
        running.until_ready()
        yield running


def test_idle_connections_make_room_for_new_ones(tmp_path: Path, samples: Path) -> None:
    with limited(tmp_path, MAX_CONNECTIONS="200") as running:
        with (
            Siege(port_of(running), attacks.idle, attacks.slow_head) as siege,
            BackgroundClient(running, samples, HEALTH, SUBMISSION) as client,
        ):
            running.eventually(lambda: siege.open == 0 and len(client.seconds[SUBMISSION]) > 5)
        client.check()
        process = ProcessFigures(running)
        assert process.closed("made_room") >= 100
        assert process.closed("made_room") + process.closed("slow_head") >= 300


def test_new_connections_are_refused_while_all_others_upload(tmp_path: Path) -> None:
    with (
        limited(tmp_path, MAX_CONNECTIONS="200") as running,
        Siege(port_of(running), attacks.slow_body) as siege,
        httpx.Client(
            base_url=running.client.base_url, trust_env=False, timeout=60, headers={"Connection": "close"}
        ) as client,
    ):
        running.eventually(lambda: siege.open == 200)
        refusal = until_answered(client, 503)
        assert refusal.json()["error"]["code"] == "too_many_connections"
        assert refusal.headers["Retry-After"] == "5"
        until_answered(client, 200)
        running.eventually(lambda: siege.open == 0)
        assert ProcessFigures(running).closed("slow_body") == 200


def until_answered(client: httpx.Client, status: int) -> httpx.Response:
    """Return the first response with this status."""
    deadline = time.monotonic() + LIMIT_SECONDS
    while (response := client.get("/health")).status_code != status:
        assert time.monotonic() < deadline, f"/health still answers {response.status_code}"
        time.sleep(0.1)
    return response


def test_address_with_too_many_connections_blocks_only_itself(tmp_path: Path, samples: Path) -> None:
    with limited(tmp_path, MAX_CONNECTIONS_PER_ADDRESS="50", FORWARDED_ALLOW_IPS="192.0.2.1") as running:
        with (
            Siege(port_of(running), attacks.slow_body) as siege,
            BackgroundClient(running, samples, HEALTH, SUBMISSION) as client,
        ):
            running.eventually(lambda: siege.open == 0 and len(client.seconds[SUBMISSION]) > 5)
        client.check()
        process = ProcessFigures(running)
        assert process.closed("slow_body") == 50
        assert process.closed("too_many") + process.closed("made_room") >= 250


@pytest.mark.long(reason=_LONG_REASON)
def test_process_out_of_files_accepts_connections_again(tmp_path: Path, samples: Path) -> None:
    command = ("sh", "-c", f'ulimit -n 256; exec "{sys.executable}" -m app')
    with program(tmp_path, command, **SHORT.environment) as running:
        running.until_ready()
        with Siege(port_of(running), attacks.slow_head) as siege:
            running.eventually(lambda: siege.open == 0)
        job_id = running.submit(samples / "hello.wav", stored_output="true")
        assert running.until(job_id, "completed")
