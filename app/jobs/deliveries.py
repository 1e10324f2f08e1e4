"""One round of a delivery: what is sent to a destination, and what its outcome means for the job."""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol

from app.delivery.presigned_urls import check_not_expired
from app.delivery.url_rules import redacted
from app.domain.errors import DeliveryFailed, RefusedUrl, SpoolUnavailable, UnknownJob
from app.domain.events import DeliveryOutcome, ResultUploaded, RoundEnded, discard_event, timed_step
from app.domain.formats import MEDIA_TYPES
from app.domain.job import DeliveryKind, JobStatus
from app.domain.log_context import CurrentJob, current_job
from app.jobs import transitions
from app.jobs.failures import caught, forget_frames, kind_of, log_cause, log_end, log_failure
from app.jobs.serializers import failure_document, stored_body, to_json
from app.jobs.service_clock import Moment
from app.jobs.transitions import message_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from app.delivery.attempts import Clock, OnAttempt
    from app.delivery.retry import RoundSchedule
    from app.delivery.upload import PresignedUploader
    from app.delivery.webhooks import WebhookSender
    from app.domain.events import EventSink
    from app.domain.formats import Rendering
    from app.domain.job import Delivery, Job, LiveJob
    from app.jobs.retention import Retention
    from app.jobs.service_clock import ServiceClock
    from app.jobs.spool import Spool
    from app.jobs.store import JobStore


logger = logging.getLogger(__name__)

#: The pause between two attempts to read a result while the spool is away.
_SPOOL_AWAY_SECONDS: Final = 2.0


class Destination(Protocol):
    """A place that jobs are delivered to."""

    def check(self, job: Job, number: int, *, now: float) -> None:
        """Raise DeliveryFailed if it is no use to try the target ``number`` at Unix time ``now``."""

    async def send(self, job: Job, number: int, on_attempt: OnAttempt) -> None:
        """Make one round of attempts at a target, each reported with its number and its error.

        Raises:
            DeliveryFailed: nothing has arrived.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class Bucket:
    """The presigned URLs for the result or the failure document."""

    spool: Spool
    uploader: PresignedUploader
    emit: EventSink = discard_event

    def check(self, job: Job, number: int, *, now: float) -> None:
        last = job.delivery and job.delivery.targets[number].last_error
        upload = job.uploads[number]
        name = "upload_presigned_url" if len(job.uploads) == 1 else f"upload_presigned_url {redacted(upload.url)}"
        try:
            check_not_expired(upload.expires_at, now=now, param=name)
        except RefusedUrl as exc:
            before = f" The last attempt before: {last}" if last else ""
            raise DeliveryFailed(f"{exc}{before}", attempts=0, retryable=False) from exc

    async def send(self, job: Job, number: int, on_attempt: OnAttempt) -> None:
        upload = job.uploads[number]
        if job.status is JobStatus.FAILED:
            content, media_type = to_json(failure_document(job)), "application/json"
        else:
            content = await self._body(job, job.rendering_of(upload))
            media_type = MEDIA_TYPES[upload.format]
        await self.uploader.put(
            upload.url,
            content,
            headers=dict(upload.headers),
            media_type=media_type,
            on_attempt=on_attempt,
        )
        self.emit(ResultUploaded(len(content)))

    async def _body(self, job: Job, rendering: Rendering) -> bytes:
        """Return the result as it is to be uploaded. While the spool is away this waits, which is no failed round."""
        while True:
            try:
                return await asyncio.to_thread(stored_body, self.spool, job, rendering)
            except SpoolUnavailable:
                logger.warning("⚠️ Job %s: the delivery is waiting for the object store", job.id)
            await asyncio.sleep(_SPOOL_AWAY_SECONDS)


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookReceiver:
    """The URL that is notified of the job's end. Without a ``sender`` there is no secret to sign events with."""

    sender: WebhookSender | None

    def check(self, job: Job, number: int, *, now: float) -> None:
        """Do nothing: such URLs don't expire."""

    async def send(self, job: Job, number: int, on_attempt: OnAttempt) -> None:  # noqa: ARG002  # there is one
        assert job.webhook is not None  # noqa: S101  # only such jobs are due
        if self.sender is None:
            raise DeliveryFailed("WEBHOOK_SECRET is no longer set", attempts=0, retryable=False)
        await self.sender.post(
            job.webhook.url, job.webhook.body.encode(), event_id=job.webhook.event_id, on_attempt=on_attempt
        )


class DeliveryRounds:
    """Makes rounds of deliveries and commits their outcomes, that of each target on its own."""

    def __init__(
        self,
        *,
        store: JobStore,
        bucket: Bucket,
        webhook: WebhookReceiver,
        schedule: RoundSchedule,
        retention: Retention,
        service_clock: ServiceClock,
        clock: Clock,
        emit: EventSink = discard_event,
    ) -> None:
        self._store = store
        self._destinations: dict[DeliveryKind, Destination] = {
            DeliveryKind.UPLOAD: bucket,
            DeliveryKind.WEBHOOK: webhook,
        }
        self._schedule = schedule
        self._retention = retention
        self._service_clock = service_clock
        self._clock = clock
        self._emit = emit

    def begins_at(self, live: LiveJob, kind: DeliveryKind) -> float | None:
        """Return when the next round of a delivery is due, or a target is to be given up, whichever comes first.

        In seconds of the service clock; None if the delivery has ended or has nothing to send yet.
        """
        state = live.due_delivery(kind)
        if state is None:
            return None
        begins_at = state.next_round
        if state.rounds:
            begins_at = min(begins_at, state.since + self._schedule.max_age_seconds)
        expires_at = live.job.upload_expires_at if kind is DeliveryKind.UPLOAD else None
        if expires_at is not None:
            begins_at = min(begins_at, self._service_clock.seconds + max(0.0, expires_at - self._clock.now()))
        return begins_at

    async def run(self, job_id: str, kind: DeliveryKind) -> None:
        """Make the next round of a delivery if it is due, and give targets up for which it is too late.

        The targets that are left are tried one after the other, so that a round needs one connection.

        Raises:
            JournalFailed: the outcome could not be recorded.
        """
        with suppress(UnknownJob):  # the job was forgotten
            live = self._store.get(job_id)
            state = live.due_delivery(kind)
            if state is None:
                return
            current_job.set(CurrentJob(job_id, live.job.accepted_at))
            left: dict[int, DeliveryFailed] = {}
            for number in state.pending:
                job = self._store.get(job_id).job
                if job.due_delivery(kind) is None:  # it was cancelled meanwhile
                    return
                error = await caught(self._send(job, kind, state, number))
                if error is None:
                    await self._record_success(job_id, kind, number)
                elif isinstance(error, DeliveryFailed) and error.retryable and not self._is_too_old(state):
                    left[number] = error
                elif not isinstance(error, _TooEarly):
                    await self._give_up(job, kind, number, error)
            if left:
                await self._postpone(live.job, kind, state, left)

    async def _send(self, job: Job, kind: DeliveryKind, state: Delivery, number: int) -> None:
        destination, target = self._destinations[kind], state.targets[number]
        destination.check(job, number, now=self._clock.now())
        if state.rounds and self._is_too_old(state):
            raise DeliveryFailed(
                f"{target.last_error}; given up after {_counted(target.attempts, 'attempt')} in "
                f"{_counted(state.rounds, 'round')}",
                attempts=target.attempts,
                retryable=False,
            )
        if state.next_round > self._service_clock.seconds:
            raise _TooEarly
        if kind is DeliveryKind.UPLOAD:
            logger.info("📤 Job %s: Uploading results to user URL...", job.id)
        else:
            logger.info("🔔 Job %s: Sending the webhook event...", job.id)
        with timed_step(self._emit, job.id, kind.value):
            await destination.send(job, number, partial(self._report_attempt, job.id, kind, number, target.attempts))

    def _report_attempt(
        self, job_id: str, kind: DeliveryKind, number: int, earlier_attempts: int, attempt: int, error: str | None
    ) -> None:
        self._store.report_attempt(job_id, kind, number, attempts=earlier_attempts + attempt, error=error)

    def _is_too_old(self, state: Delivery) -> bool:
        return self._service_clock.seconds - state.since >= self._schedule.max_age_seconds

    async def _record_success(self, job_id: str, kind: DeliveryKind, number: int) -> None:
        self._emit(RoundEnded(kind.value, DeliveryOutcome.DELIVERED))
        live = await self._store.commit_patiently(
            job_id, transitions.delivered, kind, number, now=self._service_clock.now(), retention=self._retention
        )
        if kind is DeliveryKind.WEBHOOK:
            logger.info("🔔 Job %s: Webhook event delivered", job_id)
        elif live.job.status is JobStatus.FAILED and live.job.has_result:  # it was given up elsewhere
            log_end(live.job, live.job.error_type, live.job.error)
        elif live.job.status is JobStatus.COMPLETED:
            seconds = time.time() - live.job.accepted_at
            logger.info("✅ %s %s completed successfully in %.1fs", kind_of(live.job), job_id, seconds)

    async def _postpone(
        self, job: Job, kind: DeliveryKind, state: Delivery, left: Mapping[int, DeliveryFailed]
    ) -> None:
        """Record a round that failed for passing reasons at the targets that are ``left``, by their numbers.

        The longest wait that one of their servers asked for counts.
        """
        now = Moment(unix=self._clock.now(), service_seconds=self._service_clock.seconds)
        waits = [error.retry_after_seconds for error in left.values() if error.retry_after_seconds is not None]
        wait = max(waits) if waits else self._schedule.wait_after(state.rounds + 1, random=self._clock.random)
        will_be_tried = any(wait < self._seconds_left(job, kind, state, number, now) for number in left)
        for _ in left:
            self._emit(RoundEnded(kind.value, DeliveryOutcome.POSTPONED))
        await self._store.commit_patiently(
            job.id,
            transitions.round_postponed,
            kind,
            errors={number: message_of(error) for number, error in left.items()},
            next_round=now.later(wait),
            will_be_tried=will_be_tried,
        )
        if will_be_tried:
            at = datetime.fromtimestamp(now.unix + wait, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
            logger.info("🔄 Job %s: next round of %s attempts in %.0fs, at %s", job.id, kind.value, wait, at)
        else:
            logger.info("Job %s: there is no time left for another round of %s attempts", job.id, kind.value)

    def _seconds_left(self, job: Job, kind: DeliveryKind, state: Delivery, number: int, now: Moment) -> float:
        """Return the seconds until a target is given up."""
        left = state.since + self._schedule.max_age_seconds - now.service_seconds
        expires_at = job.uploads[number].expires_at if kind is DeliveryKind.UPLOAD else None
        return left if expires_at is None else min(left, expires_at - now.unix)

    async def _give_up(self, job: Job, kind: DeliveryKind, number: int, error: Exception) -> None:
        self._emit(RoundEnded(kind.value, DeliveryOutcome.GIVEN_UP))
        after = await self._store.commit_patiently(
            job.id,
            transitions.delivery_given_up,
            kind,
            number,
            error,
            url_expired=isinstance(error.__cause__, RefusedUrl),
            now=self._service_clock.now(),
            retention=self._retention,
        )
        if job.is_active and after.job.status is JobStatus.FAILED:
            log_failure(job, error, after.job.error or "")
        else:
            document = "result" if after.job.has_result else "failure document"
            undelivered = document if kind is DeliveryKind.UPLOAD else "webhook event"
            logger.error("Job %s: its %s could not be delivered: %s", job.id, undelivered, message_of(error))
            log_cause(error)
        forget_frames(error)


class _TooEarly(Exception):
    """The next round is not due yet, nor is it too late for one."""


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
