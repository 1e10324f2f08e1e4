"""The database and the object store of a cluster go away for a while: nothing is lost, and the work goes on."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final

import pytest

from tests.cluster.faults.programs import BUCKET, Submission
from tests.cluster.faults.steps import Gate
from tests.faults.crash_points import BEFORE, Step
from tests.faults.receiver import receiver

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from local_postgres import LocalPostgres
    from local_s3 import LocalS3

    from tests.cluster.faults.programs import ClusterPrograms
    from tests.faults.receiver import Receiver

pytestmark = pytest.mark.full(reason="starts nodes of a cluster as processes")

#: Longer than a statement waits for a connection, and than a worker is alive without a sign of life.
_OUTAGE_SECONDS: Final = 8.0
_TERMINATIONS: Final = 10
_TERMINATE: Final = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
    " AND pid <> pg_backend_pid()"
)
#: The steps at which nodes need the object store.
_UPLOAD: Final = Step("app.cluster.object_store:ArrivingObject", "complete", BEFORE)
_FETCH: Final = Step("app.cluster.scratch:CheckedCopy", "extend", BEFORE)
_STORE: Final = Step("app.cluster.objects:ObjectSpool", "store_result", BEFORE)
_DELIVERY: Final = Step("app.jobs.spool:Spool", "result", BEFORE)
_WAITING: Final = "waiting for the object store"


@pytest.fixture
def store_of_results(samples: Path) -> Iterator[Receiver]:
    with receiver(samples) as running:
        yield running


def submissions(count: int, store: Receiver, samples: Path) -> list[Submission]:
    return [Submission(number=number, receiver=store, samples=samples) for number in range(count)]


def test_work_outlasts_a_killed_database(
    programs: ClusterPrograms,
    postgres: LocalPostgres,
    store_of_results: Receiver,
    samples: Path,
    tmp_path: Path,
    references: dict[str, dict[str, Any]],
) -> None:
    gate = Gate(tmp_path / "gate")
    worker = programs.start("worker", steps=[(_STORE, gate.pass_through)])
    api, other, _ = programs.start_all("api", "api", "worker")
    jobs = submissions(6, store_of_results, samples)
    for job in jobs:
        job.send(api)
    gate.until_reached()
    postgres.kill()
    try:
        gate.open()  # a result is stored while its job can't be changed
        began = time.monotonic()
        refusal = other.client.get("/v1/jobs")
        assert (refusal.status_code, refusal.json()["error"]["code"]) == (503, "database_unavailable")
        assert int(refusal.headers["Retry-After"]) > 0
        time.sleep(max(0.0, began + _OUTAGE_SECONDS - time.monotonic()))
    finally:
        postgres.start()
    jobs.append(Submission(number=len(jobs), receiver=store_of_results, samples=samples))
    jobs[-1].send_until_accepted(other)
    programs.check_nothing_is_left()
    for job in jobs:
        job.check(other, references["hello.wav"]["text"])
    programs.check_puts(store_of_results)
    assert not worker.has_ended


@pytest.mark.long(reason="much like a killed database")
def test_work_outlasts_terminated_connections(
    programs: ClusterPrograms, store_of_results: Receiver, samples: Path, references: dict[str, dict[str, Any]]
) -> None:
    nodes = programs.start_all("api", "api", "worker", "worker")
    jobs = submissions(_TERMINATIONS, store_of_results, samples)
    for job in jobs:
        job.send_until_accepted(nodes[job.number % 2])
        programs.query(_TERMINATE)
    programs.check_nothing_is_left()
    for job in jobs:
        job.check(nodes[0], references["hello.wav"]["text"])
    programs.check_puts(store_of_results)
    assert not any(node.has_ended for node in nodes)


def test_work_outlasts_a_stopped_object_store(
    programs: ClusterPrograms,
    store: LocalS3,
    store_of_results: Receiver,
    samples: Path,
    tmp_path: Path,
    references: dict[str, dict[str, Any]],
) -> None:
    upload, fetch, storing, delivery = gates = [Gate(tmp_path / f"gate-{number}") for number in range(4)]
    api = programs.start("api", steps=[(_UPLOAD, upload.pass_through), (_DELIVERY, delivery.pass_through)])
    worker = programs.start("worker", steps=[(_FETCH, fetch.pass_through), (_STORE, storing.pass_through)])
    (job,) = submissions(1, store_of_results, samples)
    with ThreadPoolExecutor() as executor:
        response = executor.submit(job.post, api)
        for gate, node in zip(gates, (api, worker, worker, api), strict=True):
            gate.until_reached()
            store.__exit__(None, None, None)
            waits = node.log.read_text().count(_WAITING)
            gate.open()
            if gate is upload:
                refusal = response.result()
                assert (refusal.status_code, refusal.json()["error"]["code"]) == (503, "spool_unavailable")
                assert int(refusal.headers["Retry-After"]) > 0
            else:
                node.eventually(lambda node=node, waits=waits: node.log.read_text().count(_WAITING) > waits)  # type: ignore[misc]
            store.__enter__()
            if gate is upload:
                job.send_until_accepted(api)
    programs.check_nothing_is_left()
    job.check(api, references["hello.wav"]["text"])
    assert api.job(job.job_id)["attempts"] == 1
    assert programs.check_puts(store_of_results) == 0


def test_damaged_audio_fails_its_job_alone(
    programs: ClusterPrograms, store: LocalS3, store_of_results: Receiver, samples: Path
) -> None:
    api = programs.start("api")
    truncated, changed, whole = jobs = submissions(3, store_of_results, samples)
    for job in jobs:
        job.send(api)
    audio = store.folder / BUCKET / "jobs" / "audio"
    with (audio / truncated.job_id).open("r+b") as file:
        file.truncate(10_000)
    with (audio / changed.job_id).open("r+b") as file:
        file.seek(10_000)
        file.write(b"\x00\xff" * 100)
    programs.start("worker")
    programs.check_nothing_is_left()
    assert [api.job(job.job_id)["status"] for job in jobs] == ["failed", "failed", "completed"]
    for job in (truncated, changed):
        assert api.job(job.job_id)["error_type"] == "AudioLost"
        (document,) = store_of_results.results(job.path)
        assert json.loads(document)["status"] == "failed"
    assert len(store_of_results.results(whole.path)) == 1
