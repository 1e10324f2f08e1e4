"""A file that kills every node that decodes it ends after some deaths, and takes no other with it."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any

import pytest

from app.domain.job import MAX_LONE_DEATHS, MAX_STARTS
from tests.cluster.faults.programs import Submission
from tests.faults.crash_points import FATAL_BEAMS, FATAL_FILE, STEPS, die
from tests.faults.forked_program import MISSED
from tests.faults.receiver import receiver
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.cluster.faults.programs import ClusterPrograms, NodeProgram

pytestmark = pytest.mark.long(reason="waits for the notice of several deaths")


def test_file_that_kills_every_node_fails_alone(
    programs: ClusterPrograms, samples: Path, references: dict[str, dict[str, Any]]
) -> None:
    api = programs.start("api", CLUSTER_STALE_SECONDS="1.5")
    fatal_step = [(STEPS[FATAL_FILE], die)]
    with receiver(samples) as store:
        *others, fatal = (Submission(number=number, receiver=store, samples=samples) for number in range(5))
        fatal.fields["beam_size"] = str(FATAL_BEAMS)
        for job in (fatal, *others):
            job.send(api)
        worker = programs.start("worker", steps=fatal_step, CLUSTER_STALE_SECONDS="1.5")
        deaths = 0
        while not outlives(worker, lambda: "end_time" in api.job(fatal.job_id)):
            assert worker.ends_with() in (-signal.SIGKILL, MISSED)
            deaths += 1
            worker = programs.restart(worker)
        programs.check_nothing_is_left()
        ended = api.job(fatal.job_id)
        assert (ended["error_type"], ended["attempts"]) == ("TooManyStarts", deaths)
        assert MAX_LONE_DEATHS <= deaths <= MAX_STARTS
        for job in others:
            job.check(api, references["hello.wav"]["text"])
    assert worker.stop() == api.stop() == 0


def outlives(worker: NodeProgram, is_over: Callable[[], bool]) -> bool:
    """Wait until ``is_over()`` or until the node has died, and return whether it lives."""
    wait_until(lambda: worker.has_ended or is_over(), pause=0.1)
    return not worker.has_ended
