"""Clients of a service that crashes: their requests before and after the crash, and the results that they expect."""

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
    """The final state of a job."""

    DELIVERED = auto()
    STORED = auto()
    CANCELLED = auto()
    FORGOTTEN = auto()
    FAILED = auto()


_STATUSES: Final = {Outcome.CANCELLED: "cancelled", Outcome.FAILED: "failed"}


class Client:
    """A client that uploads a file, with URLs for its result and its webhook.

    ``settings`` apply to the process that crashes.
    """

    settings: ClassVar[Mapping[str, str]] = {}
    sample = "hello.wav"

    def __init__(self, receiver: Receiver, samples: Path, references: Mapping[str, Mapping[str, Any]]) -> None:
        self.receiver = receiver
        self.samples = samples
        self.text = references[self.sample]["text"]
        self.job_id: str | None = None

    def fields(self) -> Mapping[str, str | list[str]]:
        return {
            "upload_presigned_url": self.receiver.url("/result"),
            "webhook_url": self.receiver.url("/event"),
        }

    def files(self) -> dict[str, Any]:
        return {"file": (self.sample, (self.samples / self.sample).read_bytes())}

    def send(self, running: Program) -> str:
        """Submit the job, or submit it again with the same idempotency key, and return its id."""
        response = running.client.post(
            "/v1/audio/transcriptions", data=self.fields(), files=self.files(), headers={"Idempotency-Key": "the job"}
        )
        assert response.status_code == 200, response.text
        self.job_id = str(response.json()["job_id"])
        return self.job_id

    def act(self, running: Program) -> None:
        """Send the requests during which the process may crash."""
        self.send(running)

    def resume(self, running: Program) -> None:
        """Continue after the restart."""
        if self.job_id is None:
            self.send(running)

    def check(self, jobs: dict[str, dict[str, Any]], outcome: Outcome) -> None:
        """Check the final state of the job. Repeated deliveries must be identical."""
        status = _STATUSES.get(outcome, "completed")
        statuses = {job_id: job["status"] for job_id, job in jobs.items()}
        assert statuses == ({} if outcome is Outcome.FORGOTTEN else {self.job_id: status})
        documents = [json.loads(body) for body in set(self.receiver.results("/result"))]
        assert len(documents) == (outcome not in (Outcome.STORED, Outcome.CANCELLED))
        for document in documents:
            assert (document["job_id"], document["status"]) == (self.job_id, status)
            assert document.get("text") == (self.text if status == "completed" else None)
        events = {(event.headers["webhook-id"], event.body) for event in self.receiver.events("/event")}
        assert len(events) == ("webhook_url" in self.fields())
        for _, body in events:
            event = json.loads(body)
            assert (event["type"], event["data"]["job_id"]) == (f"job.{status}", self.job_id)


class DownloadClient(Client):
    """A client that submits a URL of the audio."""

    def fields(self) -> Mapping[str, str | list[str]]:
        return {**super().fields(), "s3_presigned_url": self.receiver.url(f"/audio/{self.sample}")}

    def files(self) -> dict[str, Any]:
        return {"": ("", b"")}


class SeveralUploadsClient(Client):
    """A client that has its result uploaded in three formats; the service crashes after the first has arrived."""

    paths = ("/result", "/result.srt", "/result.txt")

    def fields(self) -> Mapping[str, str | list[str]]:
        urls = [self.receiver.url(path) for path in self.paths]
        return {**super().fields(), "upload_presigned_url": urls, "upload_format": ["document", "srt", "text"]}

    def check(self, jobs: dict[str, dict[str, Any]], outcome: Outcome) -> None:
        super().check(jobs, outcome)
        assert len(self.receiver.results("/result")) == 1
        for path, beginning in zip(self.paths, ("{", "1\n00:00:0", self.text), strict=True):
            (body,) = set(self.receiver.results(path))
            assert body.decode().startswith(beginning)


class InvalidAudioClient(Client):
    """A client whose file is not audio."""

    def files(self) -> dict[str, Any]:
        return {"file": ("audio.wav", b"This is no audio.")}


class CancellingClient(Client):
    """A client that cancels its job while it is transcribed."""

    def act(self, running: Program) -> None:
        running.until(job_id := self.send(running), "processing")
        running.client.delete(f"/v1/jobs/{job_id}")


class DeletingClient(Client):
    """A client that deletes its job after the deliveries."""

    def act(self, running: Program) -> None:
        job_id = self.send(running)
        running.until(job_id, "completed")
        running.eventually(lambda: running.job(job_id)["webhook"]["status"] == "delivered")
        running.client.delete(f"/v1/jobs/{job_id}")


class UnretainedClient(Client):
    """A client of a service that forgets finished jobs at once."""

    settings: ClassVar[Mapping[str, str]] = {"JOB_RETENTION_SECONDS": "0"}


class RedeliveringClient(Client):
    """A client that has its stored result delivered later."""

    def fields(self) -> dict[str, str]:
        return {"stored_output": "true"}

    def act(self, running: Program) -> None:
        job_id = self.send(running)
        running.until(job_id, "completed")
        url = self.receiver.url("/result")
        running.client.post(f"/v1/jobs/{job_id}/redeliver", json={"upload_presigned_url": url})


class EditedClient(Client):
    """A client that keeps its recording, corrects its transcript, and finds both after the crash."""

    def fields(self) -> dict[str, str]:
        return {"stored_output": "true", "keep_audio": "true"}

    def act(self, running: Program) -> None:
        running.until(self.send(running), "completed")
        self.edit(running)

    def edit(self, running: Program) -> None:
        body = {"segments": [{"id": 0, "text": "edited"}]}
        assert running.client.put(f"/v1/jobs/{self.job_id}/transcript", json=body).status_code == 200

    def resume(self, running: Program) -> None:
        super().resume(running)
        path = f"/v1/jobs/{self.job_id}"
        assert running.client.get(f"{path}/result", params={"response_format": "text"}).text.startswith("edited")
        assert running.client.get(f"{path}/audio").content == (self.samples / self.sample).read_bytes()

    def check(self, jobs: dict[str, dict[str, Any]], outcome: Outcome) -> None:
        super().check(jobs, outcome)
        assert all("edited_at" in job for job in jobs.values())


class UneditedClient(EditedClient):
    """A client that was not answered, and sends its correction again."""

    def resume(self, running: Program) -> None:
        transcript = running.client.get(f"/v1/jobs/{self.job_id}/transcript")
        assert transcript.headers["etag"] == '"0"'
        self.edit(running)
        super().resume(running)


class StoppingClient(Client):
    """A client that stops the service while its job is transcribed."""

    settings: ClassVar[Mapping[str, str]] = {"SHUTDOWN_GRACE_SECONDS": "0"}

    def act(self, running: Program) -> None:
        running.until(self.send(running), "processing")
        running.process.send_signal(signal.SIGTERM)
