"""Workers of a cluster that stand still, and come back: at most one result of a job wins, and none is lost."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any, Final

import pytest

from tests.cluster.faults.programs import STALE_SECONDS, Submission
from tests.cluster.faults.steps import IS_LATE, Gate
from tests.faults.crash_points import BEFORE, Step
from tests.faults.receiver import receiver
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cluster.faults.programs import ClusterPrograms

pytestmark = pytest.mark.full(reason="starts nodes of a cluster as processes")

_DECODE: Final = Step("app.transcription.whisper:WhisperModel", "decode", BEFORE)
_STORE: Final = Step("app.cluster.objects:ObjectSpool", "store_result", BEFORE)


@pytest.mark.parametrize(
    "step",
    [
        pytest.param(_DECODE, id="decoding"),
        pytest.param(_STORE, id="storing", marks=pytest.mark.long(reason="much like the other")),
    ],
)
def test_result_of_a_worker_that_was_taken_for_dead_is_discarded(
    step: Step, programs: ClusterPrograms, samples: Path, tmp_path: Path, references: dict[str, dict[str, Any]]
) -> None:
    gate = Gate(tmp_path / "gate")
    api, paused = programs.start("api"), programs.start("worker", steps=[(step, gate.pass_through)])
    with receiver(samples) as store:
        first, second = (Submission(number=number, receiver=store, samples=samples) for number in range(2))
        first.send(api)
        gate.until_reached()
        paused.process.send_signal(signal.SIGSTOP)
        programs.start("worker")
        api.until(first.job_id, "completed")
        gate.open()
        paused.process.send_signal(signal.SIGCONT)
        paused.eventually(lambda: "another worker's result came first" in paused.log.read_text())
        second.send(api)
        programs.check_nothing_is_left()
        for job in (first, second):
            job.check(api, references["hello.wav"]["text"])
        assert programs.check_puts(store) == 0
    assert [node.stop() for node in programs.nodes] == [0, 0, 0]


def test_worker_that_stood_still_for_a_moment_goes_on(
    programs: ClusterPrograms, samples: Path, tmp_path: Path, references: dict[str, dict[str, Any]]
) -> None:
    gate = Gate(tmp_path / "gate")
    api = programs.start("api")
    paused = programs.start("worker", steps=[(_DECODE, gate.pass_through)])
    with receiver(samples) as store:
        job = Submission(number=0, receiver=store, samples=samples)
        job.send(api)
        gate.until_reached()
        paused.process.send_signal(signal.SIGSTOP)
        wait_until(lambda: programs.query(IS_LATE, STALE_SECONDS * 0.4) == [(True,)], seconds=60)
        gate.open()
        paused.process.send_signal(signal.SIGCONT)
        programs.check_nothing_is_left()
        job.check(api, references["hello.wav"]["text"])
        programs.check_puts(store)
