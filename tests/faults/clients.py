"""Clients of a service that dies: what each does to it and when it is back, and what it must find in the end."""

from __future__ import annotations

import json
import signal
from enum import Enum, auto
from typing import TYPE_CHECKING, Any, ClassVar, Final

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from tests.faults.receiver import Receiver
    from tests.support.program import Program

WEBHOOK_SECRET: Final = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYg=="


class Outcome(Enum):
    """How it stands with a job in the end."""

    DELIVERED = auto()
    STORED = auto()
    CANCELLED = auto()
    FORGOTTEN = auto()
    FAILED = auto()


_STATUSES: Final = {Outcome.CANCELLED: "cancelled", Outcome.FAILED: "failed"}


class Client:
    """Sends a file, for its transcript to be PUT and its webhook to be told, until it has been answered.

    ``settings`` are those of the process that dies.
    """

    settings: ClassVar[Mapping[str, str]] = {}
    sample = "hello.wav"

    def __init__(self, receiver: Receiver, samples: Path, references: Mapping[str, Mapping[str, Any]]) -> None:
        self.receiver = receiver
        self.samples = samples
        self.text = references[self.sample]["text"]
        self.job_id: str | None = None

    def fields(self) -> dict[str, str]:
        return {
            "upload_presigned_url": self.receiver.url("/result"),
            "webhook_url": self.receiver.url("/event"),
        }

    def files(self) -> dict[str, Any]:
        return {"file": (self.sample, (self.samples / self.sample).read_bytes())}

    def send(self, running: Program) -> str:
        """Has the job accepted, be it for the first time or not."""
        answered = running.client.post(
            "/v1/audio/transcriptions", data=self.fields(), files=self.files(), headers={"Idempotency-Key": "only one"}
        )
        assert answered.status_code == 200, answered.text
        self.job_id = str(answered.json()["job_id"])
        return self.job_id

    def act(self, running: Program) -> None:
        """What it does to the process that dies, perhaps in the midst of it."""
        self.send(running)

    def go_on(self, running: Program) -> None:
        """What it does when the service is back."""
        if self.job_id is None:
            self.send(running)

    def check(self, jobs: dict[str, dict[str, Any]], outcome: Outcome) -> None:
        """What must have come of it in the end. What has arrived more than once is the same each time."""
        status = _STATUSES.get(outcome, "completed")
        found = {job_id: job["status"] for job_id, job in jobs.items()}
        assert found == ({} if outcome is Outcome.FORGOTTEN else {self.job_id: status})
        documents = [json.loads(body) for body in set(self.receiver.results("/result"))]
        assert len(documents) == (outcome not in (Outcome.STORED, Outcome.CANCELLED))
        for document in documents:
            assert (document["job_id"], document["status"]) == (self.job_id, status)
            assert document.get("text") == (self.text if status == "completed" else None)
        events = {(event.headers["webhook-id"], event.body) for event in self.receiver.events("/event")}
        assert len(events) == ("webhook_url" in self.fields())
        for _, body in events:
            told = json.loads(body)
            assert (told["type"], told["data"]["job_id"]) == (f"job.{status}", self.job_id)


class Fetched(Client):
    """Has the audio fetched from a URL."""

    def fields(self) -> dict[str, str]:
        return {**super().fields(), "s3_presigned_url": self.receiver.url(f"/audio/{self.sample}")}

    def files(self) -> dict[str, Any]:
        return {"": ("", b"")}


class Mistaken(Client):
    """Sends what is no audio."""

    def files(self) -> dict[str, Any]:
        return {"file": ("audio.wav", b"This is no audio.")}


class Cancelling(Client):
    """Cancels its job when it is on the model."""

    def act(self, running: Program) -> None:
        running.until(job_id := self.send(running), "processing")
        running.client.delete(f"/v1/jobs/{job_id}")


class Forgetting(Client):
    """Has its job forgotten when all is done."""

    def act(self, running: Program) -> None:
        job_id = self.send(running)
        running.until(job_id, "completed")
        running.eventually(lambda: running.job(job_id)["webhook"]["status"] == "delivered")
        running.client.delete(f"/v1/jobs/{job_id}")


class Leaving(Client):
    """Leaves it to the service to forget its job, at once."""

    settings: ClassVar[Mapping[str, str]] = {"JOB_RETENTION_SECONDS": "0"}


class Redelivering(Client):
    """Has the result stored first, and delivered later."""

    def fields(self) -> dict[str, str]:
        return {"stored_output": "true"}

    def act(self, running: Program) -> None:
        job_id = self.send(running)
        running.until(job_id, "completed")
        url = self.receiver.url("/result")
        running.client.post(f"/v1/jobs/{job_id}/redeliver", json={"upload_presigned_url": url})


class Stopping(Client):
    """Is the operator too, and ends the service when the job is on the model."""

    settings: ClassVar[Mapping[str, str]] = {"SHUTDOWN_GRACE_SECONDS": "0"}

    def act(self, running: Program) -> None:
        running.until(self.send(running), "processing")
        running.process.send_signal(signal.SIGTERM)
