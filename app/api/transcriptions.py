"""``/v1/audio/transcriptions`` and ``translations``: receiving the form, admitting its job, responding."""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import ExitStack, nullcontext
from typing import TYPE_CHECKING
from uuid import uuid4

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from app.api.dependencies import ServiceParts
from app.api.errors import CLIENT_CLOSED_REQUEST, error_response
from app.api.fields import quoted
from app.api.forms import MODEL
from app.api.multipart import read_form, reject_empty_file, reject_tiny_file
from app.api.openapi import FORM_RESPONSES, form_operation
from app.api.renderings import transcript_response
from app.api.requests import content_length, form_digest, idempotency_key, is_replay, trace_context, wait_for_disconnect
from app.api.sse import TranscriptStream
from app.api.submission import TRANSCRIPTION, TRANSLATION
from app.domain.concurrency import shielded
from app.domain.errors import (
    DiskFull,
    Draining,
    EncodedBody,
    InvalidRequest,
    QueueFull,
    StorageUnavailable,
    UnknownModel,
)
from app.domain.events import AudioReceived
from app.domain.job import Delivery, Job, Webhook
from app.domain.log_context import CurrentJob, CurrentRequest, current_request, logging_for
from app.jobs import transitions

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.datastructures import Headers

    from app.api.dependencies import JobParts, Parts
    from app.api.submission import Operation, Submission
    from app.jobs.spool import Spool
    from app.jobs.sync_requests import Replay

    #: Makes the response of a job that has its transcript.
    Renderer = Callable[[Spool, Job], Awaitable[Response]]


logger = logging.getLogger(__name__)

router = APIRouter(prefix="/v1/audio", tags=["Audio"])


@router.post(
    "/transcriptions",
    operation_id="create_transcription",
    summary="Transcribe audio",
    response_model=None,
    responses=FORM_RESPONSES,
    openapi_extra=form_operation("TranscriptionForm"),
)
async def create_transcription(request: Request, parts: ServiceParts) -> Response:
    """Return the transcript, or a job id at once.

    A request with `upload_presigned_url`, `webhook_url` or `stored_output` makes a job.
    """
    return await respond(request, parts, TRANSCRIPTION)


@router.post(
    "/translations",
    operation_id="create_translation",
    summary="Translate audio into English",
    response_model=None,
    responses=FORM_RESPONSES,
    openapi_extra=form_operation("TranslationForm"),
)
async def create_translation(request: Request, parts: ServiceParts) -> Response:
    """Return the transcript in English, whatever language is spoken; otherwise the same as a transcription."""
    return await respond(request, parts, TRANSLATION)


async def _in_its_format(spool: Spool, job: Job) -> Response:
    return await transcript_response(spool, job, job.rendering)


async def respond(
    request: Request, parts: Parts, operation: Operation, *, render: Renderer = _in_its_format
) -> Response:
    """Return what ``render`` makes of the transcript, a stream of it, or the id of its job."""
    parts.pool.require_ready()
    with _replay(request, parts.jobs) as replay:
        job = await accept(request, parts, operation, replay)
        if job.streamed:
            return await TranscriptStream(job, parts.jobs).respond(request.receive)
        if job.synchronous:
            return await _wait(request, parts.jobs, job, render)
    return _accepted(job)


def _replay(request: Request, jobs: JobParts) -> Replay:
    """Return the synchronous request, if any, that this one may repeat."""
    if not is_replay(request.headers):
        return jobs.sync_requests.first_send()
    return jobs.sync_requests.replay(owner=request.state.owner, content_length=content_length(request.headers))


def _accepted(job: Job) -> Response:
    path = f"/v1/jobs/{job.id}"
    body = {
        "job_id": job.id,
        "status": "in_progress",
        "message": f"The job was accepted: its state is at {path}.",
        "status_url": path,
    }
    warnings = {"warnings": list(job.warnings)} if job.warnings else {}
    return JSONResponse({**body, **warnings}, headers={"Location": path})


async def _wait(request: Request, jobs: JobParts, job: Job, render: Renderer) -> Response:
    """Return the rendered transcript when it is ready, or give up when the client disconnects.

    The transcription of a client that disconnects goes on for a while, in case the client repeats its request.
    """
    length = content_length(request.headers)
    started = time.monotonic()
    async with jobs.sync_requests.waiting(job, content_length=length) as sync_request:
        disconnect = asyncio.create_task(wait_for_disconnect(request.receive), name=f"client of {job.id}")
        try:
            await asyncio.wait({sync_request.outcome, disconnect}, return_when=asyncio.FIRST_COMPLETED)
            if not sync_request.outcome.done():
                logger.info("Job %s: its client disconnected", job.id)
                return Response(status_code=CLIENT_CLOSED_REQUEST)
            response: Response
            if error := sync_request.outcome.result():
                response = error_response(error)
            else:
                ended = jobs.store.get(job.id).job  # with the warnings of its transcript
                response = await render(jobs.spool, ended)
            response.headers["openai-processing-ms"] = str(round((time.monotonic() - started) * 1000))
            sync_request.responded = True
            return response
        finally:
            disconnect.cancel()


async def accept(request: Request, parts: Parts, operation: Operation, replay: Replay) -> Job:
    """Receive the body and return its job, admitted, or the earlier job that it repeats.

    A place in the queue is reserved before the body is read. A request that is rejected, or repeats another, leaves
    nothing behind.
    """
    jobs = parts.jobs
    jobs.quotas.check(request.state.owner)
    key = idempotency_key(request.headers)
    job_id = str(uuid4())
    with ExitStack() as place:
        has_place = await _reserve_place(jobs, place, key, replay, owner=request.state.owner)
        try:
            await asyncio.to_thread(jobs.spool.announce, job_id, content_length(request.headers) or 0)
            received = await _receive(request, parts, job_id, operation, key)
            joined = replay.joined(received.exact_digest)
            return joined or await _admit(received, jobs, replay, request, has_place=has_place)
        except (DiskFull, StorageUnavailable) as exc:
            logger.warning("⚠️ A request was rejected: %s", exc)
            raise
        finally:
            if not jobs.store.knows(job_id):
                await shielded(asyncio.to_thread(jobs.spool.discard, job_id))


async def _reserve_place(jobs: JobParts, place: ExitStack, key: str | None, replay: Replay, *, owner: str) -> bool:
    """Reserve a place in the queue; a request that may be a replay is received without one if there is none."""
    if replay.is_expected:
        return False
    try:
        place.enter_context(jobs.intake.reserved_place())
    except (QueueFull, Draining):
        if key is None or await jobs.store.with_key(key, owner=owner) is None:
            raise
        return False
    return True


async def _admit(job: Job, jobs: JobParts, replay: Replay, request: Request, *, has_place: bool) -> Job:
    """Admit the job and return it, or the job that was submitted before with its idempotency key."""
    known = None
    if not has_place and job.idempotency_key is not None:
        known = await jobs.store.with_key(job.idempotency_key, owner=job.owner)
    if known is not None:
        admitted = known.job
    else:
        with nullcontext() if has_place else jobs.intake.reserved_place():
            job = await shielded(asyncio.to_thread(_complete_files, jobs.spool, job))
            admitted = await jobs.intake.submit(job, trace_context(request.headers))
    if admitted is job:
        _log_acceptance(job, key_name=request.state.key_name)
        return job
    if admitted.form_digest != job.form_digest:
        raise InvalidRequest(
            f"`Idempotency-Key` was used before with a different request (job {admitted.id}): send a new key with a "
            "new request, or the same form with this key.",
            code="idempotency_key_reused",
        )
    replay.keep(admitted)
    return (await jobs.store.commit(admitted.id, transitions.uploads_replaced, uploads=job.uploads)).job


def _complete_files(spool: Spool, job: Job) -> Job:
    """Keep the files that came with the form of a job, and return the job with what is known of its audio."""
    spool.complete_references(job.id, durably=not job.synchronous)
    if job.source_url is not None:
        return job
    return transitions.with_audio(job, spool.complete_audio(job.id, durably=not job.synchronous))


async def _receive(request: Request, parts: Parts, job_id: str, operation: Operation, key: str | None) -> Job:
    """Receive the body, write its file to the spool and return the job that the form describes."""
    _reject_encoded(request.headers)
    form = await read_form(
        request.stream(),
        request.headers.get("content-type"),
        spool=parts.jobs.spool,
        job_id=job_id,
        max_file_bytes=parts.limits.max_upload_bytes,
        is_pcm=operation.is_pcm,
    )
    if operation.fields is not None:
        form.fields = operation.fields
    if request.state.deployment is not None:
        form.fields.setdefault(MODEL.name, [request.state.deployment])
    try:
        submission = parts.reader.read(
            form.fields,
            has_file=form.file_bytes is not None,
            file_name=form.file_name,
            ignored_file=form.ignored_file,
            reference_count=len(form.reference_digests),
            models=parts.pool.model_registry,
            operation=operation,
        )
    except UnknownModel:
        # Nextcloud's integration_openai (isSTTAvailable) asks for a model that nobody has with a file of one byte, and
        # takes 404 for a server without this route.
        reject_tiny_file(form)
        raise
    reject_empty_file(form)
    if form.reference_digests and not submission.options.known_speakers:
        await shielded(asyncio.to_thread(parts.jobs.spool.discard_references, job_id))
    if form.file_bytes is not None:
        parts.emit(AudioReceived(form.file_bytes))
    uploads = submission.uploads
    return Job(
        id=job_id,
        accepted_at=time.time(),
        model=submission.model,
        options=submission.options,
        rendering=submission.rendering,
        owner=request.state.owner,
        synchronous=submission.synchronous,
        streamed=submission.streamed,
        source_url=submission.source_url,
        uploads=uploads,
        webhook=Webhook(url=submission.webhook_url) if submission.webhook_url else None,
        delivery=Delivery(targets=transitions.new_targets(uploads)) if uploads else None,
        keep_audio=submission.keep_audio,
        retention_seconds=submission.retention_seconds,
        name=submission.name,
        metadata=submission.metadata,
        warnings=submission.warnings + _expiry_warning(submission, parts.jobs),
        form_digest=form_digest(form, operation.name),
        exact_digest=form_digest(form, operation.name, with_queries=True),
        idempotency_key=None if submission.streamed else key,  # a stream cannot be replayed
    )


def _reject_encoded(headers: Headers) -> None:
    encoding = headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        raise EncodedBody(
            f"The body has the Content-Encoding {quoted(encoding)}, which is not supported: send it as it is, because "
            "compressing audio again gains nothing."
        )


def _expiry_warning(submission: Submission, jobs: JobParts) -> tuple[str, ...]:
    ends = [upload.expires_at for upload in submission.uploads if upload.expires_at is not None]
    if not ends:
        return ()
    left_seconds = min(ends) - time.time()
    wait_seconds = jobs.estimate.wait_seconds(jobs.store.queued_count)
    if left_seconds > wait_seconds:
        return ()
    return (
        f"`upload_presigned_url` expires in {left_seconds:.0f} s, but the job may take {wait_seconds:.0f} s to finish: "
        "sign URLs for at least an hour.",
    )


def _log_acceptance(job: Job, *, key_name: str) -> None:
    """Log which request the job came with, with its API key and the id that its client gave it, if any."""
    kind = "Request" if job.synchronous else "Job"
    request = current_request.get() or CurrentRequest()
    client_id = "" if request.client_id is None else f" (client's id {request.client_id})"
    key = f", key {key_name}" if key_name else ""
    level = logging.INFO if key or client_id else logging.DEBUG
    with logging_for(CurrentJob(job.id, job.accepted_at)):
        logger.log(level, "📨 %s %s accepted%s, %s%s", kind, job.id, key, request.id, client_id)
