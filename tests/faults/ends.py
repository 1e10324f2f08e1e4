"""The ends of jobs of clients that repeat their requests, while the service is killed."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections import Counter

    from tests.faults.receiver import Receiver
    from tests.faults.retrying_clients import Sent
    from tests.support.program import Program

COUNTED: Final = (
    *("kills", "accepted", "delivered", "delivered more than once", "stored", "cancelled", "forgotten"),
    "failed after three starts",
)


class Ends:
    """Checks the jobs of clients against what the service and the receiver have, and adds to ``counts``."""

    def __init__(
        self, running: Program, store: Receiver, references: dict[str, dict[str, Any]], counts: Counter[str]
    ) -> None:
        self._running = running
        self._store = store
        self._references = references
        self._counts = counts

    def check(self, request: Sent, jobs: dict[str, dict[str, Any]]) -> None:
        """Check that a job has the status that its client knows, and that its result and event have arrived."""
        job = jobs.get(request.job_id)
        results, events = self._store.results(request.result), self._store.events(request.event)
        self._counts["delivered more than once"] += len(results) - len(set(results))
        documents = [json.loads(body) for body in set(results)]
        if job is None:
            assert request.ended == "forgotten", f"{request} was lost"
            self._counts["forgotten"] += 1
        elif job["status"] == "cancelled":
            assert request.ended == "cancelled", request
            self._counts["cancelled"] += 1
        else:
            assert request.ended == "", request
            self._check_end(request, job, documents)
        for document in documents:
            assert document["job_id"] == request.job_id
            assert document["status"] == "failed" or document["text"] == self._text(request)
        assert len(documents) <= 1, "two different bodies"
        distinct = {(event.headers["webhook-id"], event.body) for event in events}
        assert len(distinct) == request.notified or (job is None and not distinct), request
        for _, body in distinct:
            event = json.loads(body)
            assert event["data"]["job_id"] == request.job_id
            assert job is None or event["type"] == f"job.{job['status']}"

    def _check_end(self, request: Sent, job: dict[str, Any], documents: list[dict[str, Any]]) -> None:
        """Check a job that was not cancelled: it has completed, or failed after too many starts, and was delivered."""
        if job["status"] == "failed":
            assert job["error_type"] == "TooManyStarts", job
            self._counts["failed after three starts"] += 1
        else:
            text = self._running.client.get(f"/v1/jobs/{request.job_id}/result").json()["text"]
            assert (job["status"], text) == ("completed", self._text(request))
            self._counts["delivered" if request.uploaded else "stored"] += 1
        assert [document["status"] for document in documents] == [job["status"]] * request.uploaded

    def _text(self, request: Sent) -> str:
        return str(self._references[request.sample]["text"])
