"""The durable changes of a job, each a pure function for `JobStore.commit`.

Each takes the job as it is, with its progress, and returns the job as it is to be. A change that comes too late, for
example because the job was cancelled meanwhile, returns the job unchanged.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING
from uuid import uuid4

from app.domain.errors import InvalidRequest
from app.domain.job import Delivery, DeliveryKind, JobStatus, LiveJob
from app.domain.redaction import without_queries
from app.jobs.serializers import job_view, to_json

if TYPE_CHECKING:
    from app.domain.job import Job, Upload
    from app.domain.transcript import Transcript
    from app.jobs.audio import ReceivedAudio
    from app.jobs.retention import Retention
    from app.jobs.service_clock import Moment


# Before the result.


def work_started(live: LiveJob) -> Job:
    """Count a start of the work on the audio."""
    job = live.job
    return replace(job, starts=job.starts + 1) if job.is_active else job


def start_withdrawn(live: LiveJob, *, starts: int) -> Job:
    """Set the number of starts back to ``starts``: the work was stopped through no fault of the file."""
    job = live.job
    return replace(job, starts=starts) if job.is_active and job.starts > starts else job


def audio_downloaded(live: LiveJob, *, audio: ReceivedAudio | None = None) -> Job:
    job = live.job
    return with_audio(job, audio).without_source_url() if job.is_active else job


def with_audio(job: Job, audio: ReceivedAudio | None) -> Job:
    """Return the job with the size and the hash of its audio, if the spool has told them."""
    return job if audio is None else replace(job, audio_bytes=audio.size, audio_digest=audio.digest)


def model_replaced(live: LiveJob, *, name: str) -> Job:
    """Use the model ``name`` instead of one that is no longer served, and say so in a warning."""
    job = live.job
    warning = f"The model {job.model} is no longer served here: {name} was used instead."
    options = replace(job.options, model=name)
    return replace(job, model=name, options=options, warnings=(*job.warnings, warning))


def upload_replaced(live: LiveJob, *, upload: Upload | None) -> Job:
    """Use the upload URL of a replayed request, unless the upload has begun."""
    job = live.job
    if upload is None or job.upload is None or job.upload_has_begun:
        return job
    return replace(job, upload=upload, delivery=Delivery(expires_at=upload.expires_at))


def result_stored(
    live: LiveJob,
    transcript: Transcript,
    *,
    processing_time: float,
    now: Moment,
    retention: Retention,
    result_name: str = "",
) -> Job:
    """Record that the transcript is in the spool. The job is complete if nothing is to be uploaded.

    A job that has a result keeps it.
    """
    if not live.job.needs_transcription:
        return live.job
    job = _with_progress(live)
    if job.status is JobStatus.QUEUED:
        job = job.moved_to(JobStatus.PROCESSING, at=now.unix)
    job = replace(
        job,
        has_result=True,
        result_name=result_name,
        language=transcript.language,
        audio_duration=transcript.duration,
        progress_percent=100.0,
        processing_time=processing_time,
        warnings=(*job.warnings, *transcript.warnings),
    )
    if job.upload is None:
        return _ended(job, JobStatus.COMPLETED, now=now, retention=retention)
    return replace(job, delivery=_due(now, expires_at=job.upload.expires_at))


# The end.


def cancelled(live: LiveJob, *, now: Moment, retention: Retention) -> Job:
    """End the job without a delivery, except that of its webhook event."""
    if not live.job.is_active:
        return live.job
    state = live.delivery(DeliveryKind.UPLOAD)
    job = _with_progress(live).without_upload_url().without_source_url()
    job = replace(job, delivery=state and state.given_up("The job was cancelled."))
    return _ended(job, JobStatus.CANCELLED, now=now, retention=retention)


def failed(live: LiveJob, error: Exception, *, now: Moment, retention: Retention) -> Job:
    """End the job without a result. The failure document is due from now on if there is an upload URL."""
    if not live.job.is_active:
        return live.job
    job = _with_progress(live)
    job = replace(job, delivery=job.delivery and _due(now, expires_at=job.delivery.expires_at))
    return _failed(job, error, now=now, retention=retention)


# At any time.


def renamed(live: LiveJob, *, name: str | None) -> Job:
    """Give the job another name, or none."""
    return live.job if live.job.name == name else replace(live.job, name=name)


# Deliveries.


def round_postponed(live: LiveJob, kind: DeliveryKind, *, error: str, next_round: Moment, will_be_tried: bool) -> Job:
    """Record a round that failed for a passing reason, and when the next one is due."""
    state = live.due_delivery(kind)
    if state is None:
        return live.job
    later = replace(
        state,
        rounds=state.rounds + 1,
        next_round=next_round.service_seconds,
        next_attempt_at=next_round.unix if will_be_tried else None,
        last_error=error,
    )
    return live.job.with_delivery(kind, later)


def delivered(live: LiveJob, kind: DeliveryKind, *, now: Moment, retention: Retention) -> Job:
    """Record a delivery that arrived. A result that arrived completes its job."""
    state = live.due_delivery(kind)
    if state is None:
        return live.job
    job = live.job.with_delivery(kind, state.delivered())
    if kind is DeliveryKind.WEBHOOK:
        return _without_event(job)
    job = job.without_upload_url()
    return _ended(job, JobStatus.COMPLETED, now=now, retention=retention) if job.is_active else job


def delivery_given_up(
    live: LiveJob, kind: DeliveryKind, error: Exception, *, url_expired: bool, now: Moment, retention: Retention
) -> Job:
    """Record a delivery that will not be tried again. A result that can't be delivered fails its job."""
    state = live.due_delivery(kind)
    if state is None:
        return live.job
    job = live.job.with_delivery(kind, state.given_up(message_of(error)))
    if kind is DeliveryKind.WEBHOOK:
        return _without_event(job)
    if url_expired or not job.has_result:  # nothing will be delivered there again
        job = job.without_upload_url()
    return _failed(job, error, now=now, retention=retention) if job.is_active else job


def redelivered(live: LiveJob, *, upload: Upload | None, now: Moment) -> Job:
    """Make the stored result of an ended job due again: at ``upload``, or at the URL that it was submitted with.

    Raises:
        InvalidRequest: the job has no result or has not ended, or there is no URL that can still be used.
    """
    job, chosen = live.job, upload or live.job.upload
    if job.is_active:
        raise InvalidRequest(
            f"Job {job.id} has not ended: wait until its status is completed or failed, then try again.",
            code="job_not_ended",
        )
    if job.status is JobStatus.CANCELLED:
        raise InvalidRequest(f"Job {job.id} was cancelled: submit it again.", code="job_cancelled")
    if not job.has_result:
        raise InvalidRequest(f"Job {job.id} has no result to deliver: submit it again.", code="no_result")
    if chosen is None or not chosen.is_kept or (chosen.expires_at is not None and chosen.expires_at <= now.unix):
        raise InvalidRequest(
            "The URL that this job was submitted with is no longer kept or has expired: send a fresh one as "
            '{"upload_presigned_url": "https://…"}.',
            param="upload_presigned_url",
        )
    job = job.moved_to(JobStatus.PROCESSING, at=now.unix)
    return replace(job, upload=chosen, delivery=_due(now, expires_at=chosen.expires_at), webhook_delivery=None)


def edited(live: LiveJob, *, at: float | None) -> Job:
    """Record when the transcript was edited, in Unix seconds; None if it is the original again."""
    job = live.job
    return job if job.edited_at == at else replace(job, edited_at=at)


def upload_url_erased(live: LiveJob) -> Job:
    return live.job.without_upload_url()


def message_of(error: Exception) -> str:
    """Return the message of an error without the queries of URLs, or the name of its class if it has none."""
    return without_queries(str(error)) or type(error).__name__


def _with_progress(live: LiveJob) -> Job:
    """Return the job with what is known of its transcription, which is final now."""
    return replace(
        live.job,
        started_at=live.started_at,
        progress_percent=live.percent,
        audio_duration=live.audio_duration,
        language=live.language,
    )


def _failed(job: Job, error: Exception, *, now: Moment, retention: Retention) -> Job:
    job = replace(
        job.without_source_url(),
        error=message_of(error),
        error_type=type(error).__name__,
        error_code=getattr(error, "code", None),
        error_param=getattr(error, "param", None),
    )
    return _ended(job, JobStatus.FAILED, now=now, retention=retention)


def _ended(job: Job, status: JobStatus, *, now: Moment, retention: Retention) -> Job:
    """End the job, with the webhook event that reports its end."""
    # The prompt and the keywords are no longer needed, and may be long.
    options = replace(job.options, prompt=None, hotwords=None)
    job = replace(job, options=options, ended_service_seconds=now.service_seconds).moved_to(status, at=now.unix)
    if job.webhook is None or not job.webhook.url:
        return job
    event = {"type": f"job.{status.value}", "data": job_view(LiveJob(job), now=now, retention=retention)}
    webhook = replace(job.webhook, event_id=f"msg_{uuid4().hex}", body=to_json(event).decode())
    return replace(job, webhook=webhook, webhook_delivery=_due(now))


def _due(now: Moment, *, expires_at: float | None = None) -> Delivery:
    return Delivery(since=now.service_seconds, next_round=now.service_seconds, expires_at=expires_at)


def _without_event(job: Job) -> Job:
    """Erase the webhook event, and its URL unless the result may be delivered again, which ends the job again."""
    if job.webhook is None:
        return job
    may_end_again = job.status is JobStatus.FAILED and job.has_result
    return replace(job, webhook=replace(job.webhook, body="", url=job.webhook.url if may_end_again else ""))
