"""The end of a job, whichever way it comes, with the event that its webhook is to be told."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from app.domain.formats import to_json
from app.domain.job import Delivery, DeliveryStatus, Job, JobStatus
from app.domain.redaction import without_queries

if TYPE_CHECKING:
    from collections.abc import Callable

    from app.jobs.serializers import JobViews
    from app.jobs.service_clock import ServiceClock

    Change = Callable[[Job], Job]


class Endings:
    """Makes changes that end jobs, for the ledger; a job that has ended stays as it is. The moment of the end is that
    of the call."""

    def __init__(self, views: JobViews, service_clock: ServiceClock) -> None:
        self._views = views
        self._service_clock = service_clock

    def completed(self, **changes: Any) -> Change:
        return self._ending(JobStatus.COMPLETED, lambda job: job.changed(**changes))

    def cancelled(self) -> Change:
        return self._ending(JobStatus.CANCELLED, _undelivered)

    def failed(self, error: Exception) -> Change:
        """The document of the failure is due from now on, where there is a place for it."""
        due = Delivery(since=self._service_clock.seconds, next_round=self._service_clock.seconds)
        return self._failing(error, lambda job: job.delivery and replace(due, expires_at=job.delivery.expires_at))

    def undeliverable(self, error: Exception) -> Change:
        """The result is there, and has not arrived."""
        return self._failing(error, lambda job: given_up(job.delivery, error))

    def _failing(self, error: Exception, state: Callable[[Job], Delivery | None]) -> Change:
        return self._ending(
            JobStatus.FAILED,
            lambda job: job.changed(
                delivery=state(job),
                error=message_of(error),
                error_type=type(error).__name__,
                source_url=job.source_url and "",
            ),
        )

    def _ending(self, status: JobStatus, prepared: Change) -> Change:
        at, service_clock, event_id = time.time(), self._service_clock.seconds, f"msg_{uuid4().hex}"

        def end(job: Job) -> Job:
            if not job.is_active:
                return job
            spoken = replace(job.options, prompt=None, hotwords=None)  # needed no more, and as long as the client likes
            ended = prepared(job).moved_to(status, at=at, ended_uptime=service_clock, options=spoken)
            if ended.webhook is None or not ended.webhook.url:
                return ended
            body = to_json({"type": f"job.{status.value}", "data": self._views.one(ended)}).decode()
            return ended.changed(
                webhook=replace(ended.webhook, event_id=event_id, body=body),
                notification=Delivery(since=service_clock, next_round=service_clock),
            )

        return end


def _undelivered(job: Job) -> Job:
    """Nothing is PUT for it any more."""
    state = job.delivery and replace(
        job.delivery, status=DeliveryStatus.FAILED, last_error="The job was cancelled.", next_attempt_at=None
    )
    return job.changed(delivery=state, upload=job.upload and job.upload.erased(), source_url=job.source_url and "")


def given_up(state: Delivery | None, error: Exception) -> Delivery:
    """A delivery that will not be tried again."""
    return replace(
        state or Delivery(), status=DeliveryStatus.FAILED, last_error=message_of(error), next_attempt_at=None
    )


def message_of(error: Exception) -> str:
    """What a person is told of it."""
    return without_queries(str(error)) or type(error).__name__
