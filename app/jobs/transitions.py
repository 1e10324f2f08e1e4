"""The durable changes of a job, each a pure function for `JobStore.commit`.

Each takes the job as it is, with its progress, and returns the job as it is to be. A change that comes too late, for
example because the job was cancelled meanwhile, returns the job unchanged.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING
from uuid import uuid4

from app.domain.errors import DeliveryFailed, EditConflict, InvalidRequest
from app.domain.job import Delivery, DeliveryKind, DeliveryStatus, JobStatus, LiveJob, Target
from app.domain.redaction import without_queries
from app.jobs.serializers import job_view, to_json

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from app.domain.job import Job, Upload
    from app.domain.transcript import Transcript
    from app.jobs.audio import ReceivedAudio
    from app.jobs.retention import Retention
    from app.jobs.service_clock import Moment


# Before the result.


def work_started(live: LiveJob, *, node: str) -> Job:
    """Count a start of the work on the audio, on ``node``."""
    job = live.job
    return replace(job, starts=job.starts + 1, begun_on=node) if job.is_active else job


def start_withdrawn(live: LiveJob, *, node: str) -> Job:
    """Take back the start on ``node``: the work was stopped through no fault of the file.

    A node that was taken for dead has no start to take back: what it had begun was begun again, or is about to be.
    """
    job = live.job
    return replace(job, starts=job.starts - 1, begun_on=None) if job.is_active and job.begun_on == node else job


def process_died(live: LiveJob, *, alone: bool) -> Job:
    """Record that the process that had begun the work died, which is the file's fault if it was ``alone`` at work."""
    job = live.job
    return replace(job, begun_on=None, lone_deaths=job.lone_deaths + alone) if job.begun_on is not None else job


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


def uploads_replaced(live: LiveJob, *, uploads: tuple[Upload, ...]) -> Job:
    """Use the upload URLs of a replayed request, unless the upload has begun."""
    job = live.job
    return job if not uploads or job.upload_has_begun else replace(job, uploads=uploads)


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
        begun_on=None,
        language=transcript.language,
        audio_duration=transcript.duration,
        progress_percent=100.0,
        processing_time=processing_time,
        warnings=(*job.warnings, *transcript.warnings),
    )
    if not job.uploads:
        return _ended(job, JobStatus.COMPLETED, now=now, retention=retention)
    return replace(job, delivery=_due(now, targets=_targets_left(job)))


# The end.


def cancelled(live: LiveJob, *, now: Moment, retention: Retention) -> Job:
    """End the job without a delivery, except that of its webhook event."""
    if not live.job.is_active:
        return live.job
    state = live.delivery(DeliveryKind.UPLOAD)
    job = _with_progress(live).without_upload_urls().without_source_url()
    job = replace(job, delivery=state and state.given_up("The job was cancelled."))
    return _ended(job, JobStatus.CANCELLED, now=now, retention=retention)


def failed(live: LiveJob, error: Exception, *, now: Moment, retention: Retention) -> Job:
    """End the job without a result. The failure document is due from now on if there is an upload URL."""
    if not live.job.is_active:
        return live.job
    job = _with_progress(live)
    job = replace(
        job,
        delivery=job.delivery and _due(now, targets=_targets_left(job)),
        error_code=getattr(error, "code", None),
        error_param=getattr(error, "param", None),
    )
    return _failed(job, message_of(error), type(error).__name__, now=now, retention=retention)


# At any time.


def renamed(live: LiveJob, *, name: str | None) -> Job:
    """Give the job another name, or none."""
    return live.job if live.job.name == name else replace(live.job, name=name)


# Deliveries.


def round_postponed(
    live: LiveJob, kind: DeliveryKind, *, errors: Mapping[int, str], next_round: Moment, will_be_tried: bool
) -> Job:
    """Record a round that failed at some targets for a passing reason, by their numbers, and when the next is due."""
    state = live.due_delivery(kind)
    if state is None:
        return live.job
    for number, error in errors.items():
        state = state.with_target(number, replace(state.targets[number], last_error=error))
    later = replace(
        state,
        rounds=state.rounds + 1,
        next_round=next_round.service_seconds,
        next_attempt_at=next_round.unix if will_be_tried else None,
    )
    return live.job.with_delivery(kind, later)


def delivered(live: LiveJob, kind: DeliveryKind, number: int, *, now: Moment, retention: Retention) -> Job:
    """Record that the target ``number`` has received its content. A result with no target left ends its job."""
    state = live.due_delivery(kind)
    if state is None:
        return live.job
    job = live.job.with_delivery(kind, state.with_target(number, state.targets[number].delivered()))
    if kind is DeliveryKind.WEBHOOK:
        return _without_event(job)
    return _uploaded(job.without_upload_urls([number]), now=now, retention=retention)


def delivery_given_up(
    live: LiveJob,
    kind: DeliveryKind,
    number: int,
    error: Exception,
    *,
    url_expired: bool,
    now: Moment,
    retention: Retention,
) -> Job:
    """Record that the target ``number`` will not be tried again. A result that can't be delivered fails its job."""
    state = live.due_delivery(kind)
    if state is None:
        return live.job
    job = live.job.with_delivery(kind, state.with_target(number, state.targets[number].given_up(message_of(error))))
    if kind is DeliveryKind.WEBHOOK:
        return _without_event(job)
    if url_expired or not job.has_result:  # nothing will be delivered there again
        job = job.without_upload_urls([number])
    return _uploaded(job, type(error).__name__, now=now, retention=retention)


def redelivered(live: LiveJob, *, uploads: tuple[Upload, ...], now: Moment) -> Job:
    """Make the stored result of an ended job due again.

    It goes to all of ``uploads``. Without any, it goes to those URLs that it was submitted with and has not arrived
    at, or to all of them if it has arrived everywhere.

    Raises:
        InvalidRequest: the job has no result or has not ended, or there is a URL that can't be used any longer.
    """
    job = live.job
    if job.is_active:
        raise InvalidRequest(
            f"Job {job.id} has not ended: wait until its status is completed or failed, then try again.",
            code="job_not_ended",
        )
    if job.status is JobStatus.CANCELLED:
        raise InvalidRequest(f"Job {job.id} was cancelled: submit it again.", code="job_cancelled")
    if not job.has_result:
        raise InvalidRequest(f"Job {job.id} has no result to deliver: submit it again.", code="no_result")
    state = _due(now, targets=new_targets(uploads) if uploads else _targets_left(job))
    job = replace(job, uploads=uploads or job.uploads, delivery=state, webhook_delivery=None)
    due = [job.uploads[number] for number in state.pending] if job.uploads else []
    if not due or any(not upload.is_kept or upload.has_expired(now=now.unix) for upload in due):
        raise _needs_fresh_urls(len(job.uploads))
    return job.moved_to(JobStatus.PROCESSING, at=now.unix)


def edited(live: LiveJob, *, at: float | None, name: str, instead_of: str) -> Job:
    """Record an edit of the transcript: its time in Unix seconds, None if it is the original again, and its name.

    Raises:
        EditConflict: the corrections that were edited, ``instead_of``, have been replaced meanwhile.
    """
    job = live.job
    if job.corrections_name != instead_of:
        raise EditConflict(f"The transcript of job {job.id} was edited meanwhile.")
    if (job.edited_at, job.corrections_name) == (at, name):
        return job
    return replace(job, edited_at=at, corrections_name=name)


def expired_urls_erased(live: LiveJob, *, now: float) -> Job:
    """Erase the upload URLs that have expired at Unix time ``now``."""
    uploads = live.job.uploads
    return live.job.without_upload_urls([n for n, upload in enumerate(uploads) if upload.has_expired(now=now)])


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


def _uploaded(job: Job, error_type: str = DeliveryFailed.__name__, *, now: Moment, retention: Retention) -> Job:
    """End a job whose result has arrived at its last target, or has been given up there; else change nothing."""
    state = job.delivery
    if not job.is_active or state is None or state.pending:
        return job
    if state.status is DeliveryStatus.DELIVERED:
        return _ended(job, JobStatus.COMPLETED, now=now, retention=retention)
    return _failed(job, state.last_error, error_type, now=now, retention=retention)


def _failed(job: Job, error: str | None, error_type: str, *, now: Moment, retention: Retention) -> Job:
    job = replace(job.without_source_url(), error=error, error_type=error_type)
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


def new_targets(uploads: Sequence[Upload]) -> tuple[Target, ...]:
    """Return the targets of uploads that have not been tried."""
    return (Target(),) * len(uploads)


def _targets_left(job: Job) -> tuple[Target, ...]:
    """Return the targets of a job to be delivered from the start, except where its result has arrived before.

    If it has arrived everywhere, it goes everywhere again.
    """
    before = new_targets(job.uploads) if job.delivery is None else job.delivery.targets
    arrived = [target.status is DeliveryStatus.DELIVERED for target in before]
    return tuple(
        target if has_arrived and not all(arrived) else Target()
        for target, has_arrived in zip(before, arrived, strict=True)
    )


def _needs_fresh_urls(number: int) -> InvalidRequest:
    if number > 1:
        message = (
            "A URL that this job was submitted with is no longer kept or has expired: send fresh ones for all "
            f'{number} uploads as {{"upload_presigned_url": ["https://…", …]}}, in the order of `delivery.uploads`.'
        )
    else:
        message = (
            "The URL that this job was submitted with is no longer kept or has expired: send a fresh one as "
            '{"upload_presigned_url": "https://…"}.'
        )
    return InvalidRequest(message, param="upload_presigned_url")


def _due(now: Moment, *, targets: tuple[Target, ...] = (Target(),)) -> Delivery:
    return Delivery(targets=targets, since=now.service_seconds, next_round=now.service_seconds)


def _without_event(job: Job) -> Job:
    """Erase the webhook event, and its URL unless the result may be delivered again, which ends the job again."""
    if job.webhook is None:
        return job
    may_end_again = job.status is JobStatus.FAILED and job.has_result
    return replace(job, webhook=replace(job.webhook, body="", url=job.webhook.url if may_end_again else ""))
