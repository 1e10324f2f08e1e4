"""Nodes of a cluster that are killed at each step of a job: other nodes continue it."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any

import pytest

from tests.cluster.faults.programs import Submission
from tests.cluster.faults.steps import API_STEPS, FETCH_STEPS, WORKER_STEPS, chosen
from tests.faults.crash_points import die
from tests.faults.forked_program import MISSED
from tests.faults.receiver import receiver

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from tests.cluster.faults.programs import ClusterPrograms

pytestmark = pytest.mark.full(reason="starts nodes of a cluster as processes")

#: So long that nobody continues a job before the last node has died.
_LATE = "300"


def test_jobs_of_killed_workers_run_again(
    programs: ClusterPrograms, samples: Path, references: dict[str, dict[str, Any]], *, long: bool
) -> None:
    with receiver(samples) as store:
        jobs = {}
        api = programs.start("api", CLUSTER_STALE_SECONDS=_LATE)
        for number, (name, step) in enumerate(chosen(WORKER_STEPS, long=long).items()):
            worker = programs.start("worker", steps=[(step, die)], CLUSTER_STALE_SECONDS=_LATE)
            jobs[name] = Submission(number=number, receiver=store, samples=samples)
            jobs[name].send(api)
            assert worker.ends_with() in (-signal.SIGKILL, MISSED), name
        api.kill()
        check_all(programs, store_jobs=jobs, text=references["hello.wav"]["text"])
        programs.check_puts(store)


def test_requests_and_deliveries_of_killed_nodes_are_continued(
    programs: ClusterPrograms, samples: Path, references: dict[str, dict[str, Any]], *, long: bool
) -> None:
    steps = chosen({**API_STEPS, **FETCH_STEPS}, long=long)
    with receiver(samples) as store:
        jobs = {}
        worker = programs.start("worker", CLUSTER_STALE_SECONDS=_LATE)
        for number, (name, step) in enumerate(steps.items()):
            api = programs.start("api", steps=[(step, die)], CLUSTER_STALE_SECONDS=_LATE)
            jobs[name] = Submission(number=number, receiver=store, samples=samples, fetched=name in FETCH_STEPS)
            jobs[name].send_to_dying(api)
            assert api.ends_with() in (-signal.SIGKILL, MISSED), name
        worker.kill()
        check_all(programs, store_jobs=jobs, text=references["hello.wav"]["text"])
        programs.check_puts(store)


def check_all(programs: ClusterPrograms, *, store_jobs: Mapping[str, Submission], text: str) -> None:
    """Start new nodes, let the clients repeat their requests, and check that every job ends well."""
    first, second, _, _ = nodes = programs.start_all("api", "api", "worker", "worker")
    acknowledged = {name: job.job_id for name, job in store_jobs.items() if job.job_id}
    for job in store_jobs.values():
        job.send(second)
    programs.check_nothing_is_left()
    for name, job in store_jobs.items():
        assert acknowledged.get(name, job.job_id) == job.job_id, name
        job.check(first, text)
    assert len(programs.query("SELECT FROM jobs")) == len(store_jobs)
    assert [node.stop() for node in nodes] == [0, 0, 0, 0]
