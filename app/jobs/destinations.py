"""Where jobs are delivered: what is sent there, and what its arrival, or its failure, makes of the job."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from app.delivery.presigned_urls import check_not_expired
from app.domain.errors import DeliveryFailed, RefusedUrl
from app.domain.events import ResultUploaded, discard_event
from app.domain.formats import MEDIA_TYPES, to_json
from app.domain.job import Delivery, DeliveryStatus, Job, JobStatus
from app.jobs.serializers import failure_document, stored_body
from app.jobs.transitions import given_up

if TYPE_CHECKING:
    from collections.abc import Callable

    from app.delivery.upload import PresignedUploader
    from app.delivery.webhooks import WebhookSender
    from app.domain.events import EventSink
    from app.jobs.spool import Spool
    from app.jobs.transitions import Change, Endings


class Destination(Protocol):
    """One of the places that a job is delivered to."""

    @property
    def name(self) -> str:
        """``upload`` or ``webhook``."""

    def due(self, job: Job) -> Delivery | None:
        """How far the delivery has come, or None where nothing is to be delivered (any more)."""

    def with_state(self, job: Job, state: Delivery) -> Job:
        """The job whose delivery has come so far."""

    def check(self, job: Job, *, now: float) -> None:
        """Raises DeliveryFailed where it is in vain to try; ``now`` is in Unix seconds."""

    async def send(self, job: Job, on_attempt: Callable[[int, str | None], None]) -> None:
        """One round.

        Raises:
            DeliveryFailed: nothing has arrived.
        """

    def delivered(self) -> Change:
        """What it makes of the job that it has arrived."""

    def given_up(self, error: Exception) -> Change:
        """What it makes of the job that it will not arrive."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bucket:
    """The presigned URL for the result, or for the document of the job's failure."""

    spool: Spool
    uploader: PresignedUploader
    endings: Endings
    emit: EventSink = discard_event
    name: str = "upload"

    def due(self, job: Job) -> Delivery | None:
        return job.delivery if job.upload_is_due else None

    def with_state(self, job: Job, state: Delivery) -> Job:
        return job.changed(delivery=state)

    def check(self, job: Job, *, now: float) -> None:
        last = job.delivery and job.delivery.last_error
        try:
            check_not_expired(job.upload.expires_at if job.upload else None, now=now, param="upload_presigned_url")
        except RefusedUrl as exc:
            before = f" The last attempt before: {last}" if last else ""
            raise DeliveryFailed(f"{exc}{before}", attempts=0, retryable=False) from exc

    async def send(self, job: Job, on_attempt: Callable[[int, str | None], None]) -> None:
        assert job.upload is not None  # noqa: S101  # only such jobs are due
        if job.status is JobStatus.FAILED:
            content, media_type = to_json(failure_document(job)), "application/json"
        else:
            content = await asyncio.to_thread(stored_body, self.spool, job, job.upload.rendering)
            media_type = MEDIA_TYPES[job.upload.rendering.format]
        await self.uploader.put(
            job.upload.url,
            content,
            headers=dict(job.upload.headers),
            media_type=media_type,
            on_attempt=on_attempt,
        )
        self.emit(ResultUploaded(len(content)))

    def delivered(self) -> Change:
        completed = self.endings.completed()

        def change(job: Job) -> Job:
            state = replace(
                job.delivery or Delivery(), status=DeliveryStatus.DELIVERED, last_error=None, next_attempt_at=None
            )
            return completed(job.changed(delivery=state, upload=job.upload and job.upload.erased()))

        return change

    def given_up(self, error: Exception) -> Change:
        failed = self.endings.undeliverable(error)
        has_expired = isinstance(error.__cause__, RefusedUrl)

        def change(job: Job) -> Job:
            if has_expired or not job.has_result:  # nothing will be delivered there any more
                job = job.changed(upload=job.upload and job.upload.erased())
            return failed(job) if job.is_active else job.changed(delivery=given_up(job.delivery, error))

        return change


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookReceiver:
    """The URL that is told of the job's end. Without a ``sender`` there is no secret to sign events with."""

    sender: WebhookSender | None
    name: str = "webhook"

    def due(self, job: Job) -> Delivery | None:
        return job.notification if job.event_is_due else None

    def with_state(self, job: Job, state: Delivery) -> Job:
        return job.changed(notification=state)

    def check(self, job: Job, *, now: float) -> None:
        """Such URLs don't expire."""

    async def send(self, job: Job, on_attempt: Callable[[int, str | None], None]) -> None:
        assert job.webhook is not None  # noqa: S101  # only such jobs are due
        if self.sender is None:
            raise DeliveryFailed("WEBHOOK_SECRET is not set any more", attempts=0, retryable=False)
        await self.sender.post(
            job.webhook.url, job.webhook.body.encode(), event_id=job.webhook.event_id, on_attempt=on_attempt
        )

    def delivered(self) -> Change:
        def change(job: Job) -> Job:
            state = replace(
                job.notification or Delivery(), status=DeliveryStatus.DELIVERED, last_error=None, next_attempt_at=None
            )
            return _told(job.changed(notification=state))

        return change

    def given_up(self, error: Exception) -> Change:
        return lambda job: _told(job.changed(notification=given_up(job.notification, error)))


def _told(job: Job) -> Job:
    """Without what is needed no more: the URL is, where the result may yet be delivered again."""
    may_end_again = job.status is JobStatus.FAILED and job.has_result
    return job.changed(
        webhook=job.webhook and replace(job.webhook, body="", url=job.webhook.url if may_end_again else "")
    )
