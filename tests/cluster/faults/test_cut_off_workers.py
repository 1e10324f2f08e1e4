"""Workers whose packets vanish for a while: at most one result of a job wins, none is lost, and they come back."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

import pytest
from local_postgres import LocalPostgres, PostgresMissing
from local_s3 import LocalS3

from tests.cluster.conftest import migrate
from tests.cluster.faults.namespaces import NoNamespaces, new_namespace
from tests.cluster.faults.programs import BUCKET, ClusterPrograms, NodeProgram, Submission
from tests.cluster.faults.steps import IS_LATE, Gate
from tests.faults.crash_points import BEFORE, Step
from tests.faults.receiver import receiver
from tests.support.program import free_port
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.cluster.faults.namespaces import Namespace

    Start = Callable[..., NodeProgram]

pytestmark = pytest.mark.full(reason="starts nodes of a cluster as processes")

_DATABASE: Final = "transcription"
_DECODE: Final = Step("app.transcription.whisper:WhisperModel", "decode", BEFORE)
_STORE: Final = Step("app.cluster.objects:ObjectSpool", "store_result", BEFORE)
#: For a moment without packets: TCP has to repeat them, and each wait is twice as long as the one before.
_PATIENCE_SECONDS: Final = "12"
_MOMENT_SECONDS: Final = 5.0
_SESSIONS: Final = "SELECT count(*) FROM pg_stat_activity WHERE client_addr = %s"


@pytest.fixture
def namespace() -> Iterator[Namespace]:
    try:
        with new_namespace() as made:
            yield made
    except NoNamespaces as exc:
        pytest.skip(f"no network namespace can be made: {exc}")


@pytest.fixture
def database(namespace: Namespace) -> Iterator[LocalPostgres]:
    """A PostgreSQL that the namespace reaches."""
    try:
        server = LocalPostgres(port=int(free_port()), listen_addresses=f"127.0.0.1,{namespace.outside}")
    except PostgresMissing as exc:
        pytest.skip(str(exc))
    with server:
        asyncio.run(migrate(server.create_database(_DATABASE)))
        yield server


@pytest.fixture
def programs(database: LocalPostgres, namespace: Namespace, tmp_path: Path) -> Iterator[ClusterPrograms]:
    with LocalS3(tmp_path / "s3", port=int(free_port()), addresses=("127.0.0.1", namespace.outside)) as store:
        store.create_bucket(BUCKET)
        with ClusterPrograms(tmp_path, database_url=database.url(_DATABASE), store=store) as running:
            yield running


@pytest.fixture
def start_inside(programs: ClusterPrograms, database: LocalPostgres, namespace: Namespace) -> Start:
    """Return a function that starts a worker in the namespace, where other addresses lead to the same servers."""

    def start(**options: Any) -> NodeProgram:
        return programs.start(
            "worker",
            namespace=namespace,
            DATABASE_URL=database.url(_DATABASE, host=namespace.outside),
            AWS_ENDPOINT_URL=f"http://{namespace.outside}:{programs.store.port}",
            **options,
        )

    return start


def test_worker_that_is_cut_off_for_a_moment_goes_on(
    programs: ClusterPrograms,
    namespace: Namespace,
    start_inside: Start,
    samples: Path,
    tmp_path: Path,
    references: dict[str, dict[str, Any]],
) -> None:
    gate = Gate(tmp_path / "gate")
    api = programs.start("api", CLUSTER_STALE_SECONDS=_PATIENCE_SECONDS)
    worker = start_inside(steps=[(_DECODE, gate.pass_through)], CLUSTER_STALE_SECONDS=_PATIENCE_SECONDS)
    with receiver(samples) as store:
        job = Submission(number=0, receiver=store, samples=samples)
        job.send(api)
        gate.until_reached()
        namespace.pull_cable()
        gate.open()
        wait_until(lambda: programs.query(IS_LATE, _MOMENT_SECONDS) == [(True,)], seconds=60)
        namespace.join_cable()
        programs.check_nothing_is_left()
        job.check(api, references["hello.wav"]["text"])
        assert api.job(job.job_id)["attempts"] == 1
        assert programs.check_puts(store) == 0
    assert not worker.has_ended


def test_worker_that_is_cut_off_for_longer_comes_back(
    programs: ClusterPrograms,
    namespace: Namespace,
    start_inside: Start,
    samples: Path,
    tmp_path: Path,
    references: dict[str, dict[str, Any]],
) -> None:
    gate = Gate(tmp_path / "gate")
    api = programs.start("api")
    worker = start_inside(steps=[(_STORE, gate.pass_through)])
    with receiver(samples) as store:
        first, second = (Submission(number=number, receiver=store, samples=samples) for number in range(2))
        first.send(api)
        gate.until_reached()
        namespace.pull_cable()
        gate.open()  # its result is stored as soon as it can be
        other = programs.start("worker")
        api.until(first.job_id, "completed")
        assert other.stop() == 0
        wait_until(lambda: programs.query(_SESSIONS, namespace.inside) == [(0,)], seconds=60, pause=0.1)
        namespace.join_cable()
        worker.eventually(lambda: "another worker's result came first" in worker.log.read_text())
        second.send(api)
        programs.check_nothing_is_left()
        for job in (first, second):
            job.check(api, references["hello.wav"]["text"])
        assert programs.check_puts(store) == 0
    assert [node.stop() for node in (api, worker)] == [0, 0]
