"""The process is killed before or after each step of a job, and the next one continues the job."""

from __future__ import annotations

import json
import signal
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import httpx
import pytest

from tests.faults.crash_clients import (
    WEBHOOK_SECRET,
    CancellingClient,
    Client,
    DeletingClient,
    DownloadClient,
    EditedClient,
    InvalidAudioClient,
    Outcome,
    RedeliveringClient,
    SeveralUploadsClient,
    StoppingClient,
    UneditedClient,
    UnretainedClient,
)
from tests.faults.crash_points import FATAL_BEAMS, FATAL_FILE, STEPS, owner_of
from tests.faults.final_state import files_with, leftovers, settled
from tests.faults.forked_program import MISSED, ForkedProgram
from tests.faults.receiver import SIGNATURE, receiver
from tests.support.program import free_port

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from pathlib import Path

    from tests.faults.crash_points import Step
    from tests.support.program import Program

pytestmark = pytest.mark.full(reason="starts two processes for each step")

DELIVERED, STORED, CANCELLED, FORGOTTEN, FAILED = Outcome


@dataclass(frozen=True, slots=True)
class Scenario:
    """A client and the steps at which one process after another is killed.

    ``attempts`` is how often a delivered job was started, None if that depends on the machine.
    """

    client: type[Client]
    steps: tuple[str, ...]
    outcome: Outcome
    attempts: int | None


def each(
    client: type[Client], outcome: Outcome, *steps: str, after: str | None = None, attempts: int | None = 1
) -> dict[str, Scenario]:
    """Return a scenario for each step. ``after`` is the step at which an earlier process is killed."""
    before = () if after is None else (after,)
    return {step: Scenario(client, (*before, step), outcome, attempts) for step in steps}


SCENARIOS: Final[dict[str, Scenario]] = {
    **each(
        Client,
        DELIVERED,
        "the first byte arrives",
        "the last byte has arrived",
        "the audio is synced",
        "the audio has its name",
        "the audio's folders are synced",
        "before the job is committed",
        "the job is committed",
        "the job is registered",
        "before the client is answered",
        "before the start is committed",
    ),
    **each(
        Client,
        DELIVERED,
        "the start is committed",
        "before the decoder starts",
        "the decoder has started",
        "the decoder has ended",
        "before the encoder starts",
        "the encoder has ended",
        "before the model decodes",
        "the model has decoded",
        "the transcript is assembled",
        "before the result is stored",
        "the result is written",
        attempts=2,
    ),
    **each(
        Client,
        DELIVERED,
        "the result has its name",
        "the result is stored",
        "the result is committed",
        "before the audio is removed",
        "the audio is removed",
        "before the PUT begins",
        "the PUT has been answered",
        "the delivery is committed",
        "before the webhook is sent",
        "the webhook has answered",
        "the end of the webhook is committed",
        "before the journal is made",
        "the journal is made",
    ),
    **each(Client, DELIVERED, "before the log is emptied of URLs", "the log is emptied of URLs", attempts=None),
    **each(
        DownloadClient,
        DELIVERED,
        "before the download begins",
        "the download has begun",
        "the download has ended",
        "the download has its name",
        "the download is committed",
    ),
    **each(SeveralUploadsClient, DELIVERED, "before the second PUT begins", "the second PUT has been answered"),
    **each(
        InvalidAudioClient,
        FAILED,
        "before the failure is committed",
        "the failure is committed",
        "before the failure is reported",
        "the report of the failure has been answered",
    ),
    **each(CancellingClient, DELIVERED, "before the cancellation is committed", attempts=2),
    **each(
        CancellingClient,
        CANCELLED,
        "the cancellation is committed",
        "the cancelled job has stopped",
        "the cancelled job's audio is removed",
    ),
    **each(DeletingClient, DELIVERED, "before the job is forgotten"),
    **each(DeletingClient, FORGOTTEN, "the job is forgotten"),
    **each(UnretainedClient, FORGOTTEN, "the forgotten job's files are removed"),
    **each(RedeliveringClient, STORED, "before the redelivery is committed"),
    **each(RedeliveringClient, DELIVERED, "the redelivery is committed"),
    **each(UneditedClient, STORED, "the corrections are written"),
    **each(
        EditedClient,
        STORED,
        "the corrections have their name",
        "before the edit is committed",
        "the edit is committed",
    ),
    **each(StoppingClient, DELIVERED, "before the start is withdrawn", attempts=2),
    **each(
        StoppingClient,
        DELIVERED,
        "the start is withdrawn",
        "before the journal is closed",
        "the journal is closed",
    ),
    **each(
        Client,
        DELIVERED,
        "the journal is read",
        "before the spool is swept",
        "the spool is swept",
        "everything is restored",
        "before jobs are resumed",
        "jobs are resumed",
        after="before the model decodes",
        attempts=2,
    ),
    **each(
        Client,
        DELIVERED,
        "before a recovered result is committed",
        "a recovered result is committed",
        after="the result has its name",
    ),
}


#: The steps just before or after something becomes durable. The others run with --long only.
ALWAYS: Final = frozenset(
    {
        "the last byte has arrived",
        "the audio has its name",
        "before the job is committed",
        "the job is committed",
        "the download has begun",
        "the download has its name",
        "the decoder has started",
        "before the model decodes",
        "the result is written",
        "the result has its name",
        "the PUT has been answered",
        "the second PUT has been answered",
        "the delivery is committed",
        "the webhook has answered",
        "the report of the failure has been answered",
        "the cancellation is committed",
        "the job is forgotten",
        "the redelivery is committed",
        "the corrections are written",
        "the corrections have their name",
        "before the start is withdrawn",
        "the spool is swept",
        "before a recovered result is committed",
    }
)


SMOKE: Final = "the job is committed"
MARKS: Final = {
    SMOKE: pytest.mark.smoke,
    **dict.fromkeys(SCENARIOS.keys() - ALWAYS, pytest.mark.long(reason="one of many similar steps")),
}


class Stage:
    """The folder of a service, and the settings of all processes that run in it."""

    def __init__(self, folder: Path, samples: Path, references: dict[str, dict[str, Any]]) -> None:
        self.folder = folder
        self.samples = samples
        self.references = references
        self.data = folder / "data"
        self.settings = {
            "DATA_DIR": str(self.data),
            "PORT": free_port(),
            "SPOOL_MIN_FREE_BYTES": "0",
            "WEBHOOK_SECRET": WEBHOOK_SECRET,
        }

    def play(self, scenario: Scenario) -> None:
        """Crash at each step, restart, and check that the job reaches its outcome and leaves nothing behind."""
        with receiver(self.samples) as store:
            client = scenario.client(store, self.samples, self.references)
            self.die(scenario.steps[0], client.act, **client.settings)
            for step in scenario.steps[1:]:
                self.die(step, None)
            with closing(ForkedProgram(self.folder, **self.settings)) as running:
                running.until_ready()
                client.resume(running)
                jobs = settled(running)
                assert running.stop() == 0
            client.check(jobs, scenario.outcome)
            if scenario.outcome is DELIVERED and scenario.attempts is not None:
                assert [job["attempts"] for job in jobs.values()] == [scenario.attempts]
        assert leftovers(self.data, jobs) == []
        assert files_with(SIGNATURE, self.data) == []

    def die(self, step: str, act: Callable[[Program], None] | None, **settings: str) -> None:
        """Run the service until it kills itself at ``step``, while ``act`` sends requests."""
        with self.dying(step, **settings) as running:
            running.eventually(lambda: running.has_ended or running.is_ready())
            if act is not None and not running.has_ended:
                with suppress(httpx.TransportError):  # the service crashes
                    act(running)
            assert running.ends_with() in (-signal.SIGKILL, MISSED)

    def dying(self, step: str, **settings: str) -> AbstractContextManager[Program]:
        return closing(ForkedProgram(self.folder, step, **self.settings, **settings))


@pytest.mark.parametrize("step", [pytest.param(step, marks=MARKS.get(step, ())) for step in SCENARIOS])
def test_job_continues_after_a_crash(
    step: str, tmp_path: Path, samples: Path, references: dict[str, dict[str, Any]]
) -> None:
    Stage(tmp_path, samples, references).play(SCENARIOS[step])


@pytest.mark.smoke
def test_every_step_has_a_scenario() -> None:
    assert STEPS.keys() - SCENARIOS.keys() == {FATAL_FILE}
    assert SCENARIOS.keys() >= ALWAYS


@pytest.mark.smoke
@pytest.mark.parametrize("step", STEPS.values(), ids=STEPS)
def test_step_is_a_function_of_the_service(step: Step) -> None:
    assert callable(getattr(owner_of(step.owner), step.name))


def test_file_that_kills_every_process_fails_alone(
    tmp_path: Path, samples: Path, references: dict[str, dict[str, Any]]
) -> None:
    stage = Stage(tmp_path, samples, references)
    ids: dict[str, str] = {}
    others = ("first", "second", "third")

    def submit(running: Program) -> None:
        for name in others:
            ids[name] = running.submit(samples / "long.opus", upload_presigned_url=store.url(f"/{name}"))
        ids["fatal"] = running.submit(
            samples / "hello.wav",
            upload_presigned_url=store.url("/fatal"),
            webhook_url=store.url("/event"),
            beam_size=str(FATAL_BEAMS),
        )

    with receiver(samples) as store:
        for act in (submit, None):
            stage.die(FATAL_FILE, act, MAX_CONCURRENT_REQUESTS="8")
        for _ in range(3):  # it is alone now
            stage.die(FATAL_FILE, None, MAX_CONCURRENT_REQUESTS="8")
        with stage.dying(FATAL_FILE) as running:
            running.until_ready()
            jobs = settled(running)
            assert running.stop() == 0
        documents = {name: [json.loads(body) for body in set(store.results(f"/{name}"))] for name in ids}
        events = [json.loads(event.body)["type"] for event in store.events("/event")]
    statuses = {name: jobs[job_id]["status"] for name, job_id in ids.items()}
    assert statuses == {**dict.fromkeys(others, "completed"), "fatal": "failed"}
    (failure,) = documents.pop("fatal")
    assert (failure["status"], failure["error_type"], events) == ("failed", "TooManyStarts", ["job.failed"])
    for (document,) in documents.values():
        assert document["text"].startswith(references["long.opus"]["text"][:40])
    assert leftovers(stage.data, jobs) == []
