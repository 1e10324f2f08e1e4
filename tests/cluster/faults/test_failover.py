"""A standby is promoted: the nodes find it without a restart, and nothing that was acknowledged is lost."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import pytest
from local_postgres import LocalPostgres, PostgresMissing

from tests.cluster.conftest import migrate
from tests.cluster.faults.programs import ClusterPrograms, Submission
from tests.cluster.faults.steps import Gate
from tests.faults.crash_points import BEFORE, Step
from tests.faults.receiver import receiver
from tests.support.program import free_port
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from local_s3 import LocalS3

pytestmark = pytest.mark.full(reason="starts nodes of a cluster as processes, and two PostgreSQL servers")

_DATABASE: Final = "transcription"
_STORE: Final = Step("app.cluster.objects:ObjectSpool", "store_result", BEFORE)
_IS_SYNCHRONOUS: Final = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'"


@dataclass(frozen=True, slots=True)
class Pair:
    """A primary, and the synchronous standby that each of its commits waits for."""

    primary: LocalPostgres
    standby: LocalPostgres

    @property
    def url(self) -> str:
        """The address of whichever is the primary."""
        hosts = f"127.0.0.1:{self.primary.port},127.0.0.1:{self.standby.port}"
        return f"postgresql://postgres:{self.primary.password}@{hosts}/{_DATABASE}?target_session_attrs=read-write"

    def demote(self) -> None:
        """Let the primary run on, and take no more changes."""
        self.primary.execute("ALTER SYSTEM SET default_transaction_read_only = on")
        self.primary.execute("SELECT pg_reload_conf()")


@pytest.fixture
def pair() -> Iterator[Pair]:
    with ExitStack() as stack:
        try:
            primary = stack.enter_context(LocalPostgres(port=int(free_port())))
            asyncio.run(migrate(primary.create_database(_DATABASE)))
            standby = stack.enter_context(LocalPostgres(port=int(free_port()), primary=primary))
        except PostgresMissing as exc:
            pytest.skip(str(exc))
        primary.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
        primary.execute("SELECT pg_reload_conf()")
        wait_until(lambda: primary.execute(_IS_SYNCHRONOUS).strip() == "1", seconds=60, pause=0.1)
        yield Pair(primary, standby)


@pytest.fixture
def programs(pair: Pair, store: LocalS3, tmp_path: Path) -> Iterator[ClusterPrograms]:
    with ClusterPrograms(tmp_path, database_url=pair.url, store=store) as running:
        yield running


@pytest.mark.parametrize(
    "is_killed",
    [
        pytest.param(True, id="killed"),
        pytest.param(False, id="demoted", marks=pytest.mark.long(reason="much like the other")),
    ],
)
def test_work_outlasts_a_failover(
    programs: ClusterPrograms,
    pair: Pair,
    samples: Path,
    tmp_path: Path,
    references: dict[str, dict[str, Any]],
    *,
    is_killed: bool,
) -> None:
    gate = Gate(tmp_path / "gate")
    programs.start("worker", steps=[(_STORE, gate.pass_through)])
    api, other, _ = programs.start_all("api", "api", "worker")
    with receiver(samples) as store:
        jobs = [Submission(number=number, receiver=store, samples=samples) for number in range(8)]
        for job in jobs[:6]:
            job.send(api)
        gate.until_reached()
        if is_killed:
            pair.primary.destroy()
        else:
            pair.demote()
        gate.open()  # a result is stored while its job can't be changed
        refusal = jobs[6].post(other)
        assert refusal.status_code == 503, refusal.text
        assert refusal.json()["error"]["code"] == "database_unavailable"
        assert int(refusal.headers["Retry-After"]) > 0
        pair.standby.promote()
        for job, node in zip(jobs[6:], (api, other), strict=True):
            job.send_until_accepted(node)
        programs.check_nothing_is_left()
        for job in jobs:
            job.check(other, references["hello.wav"]["text"])
        programs.check_puts(store)
    assert not any(node.has_ended for node in programs.nodes)
    assert [node.stop() for node in programs.nodes] == [0, 0, 0, 0]
