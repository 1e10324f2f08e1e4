"""``/v1/audio/transcriptions`` and ``translations``: the client waits for the transcript, or gets a job id at once."""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import uuid4

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from app.api.answers import transcript_answer
from app.api.errors import CLIENT_CLOSED_REQUEST, error_response
from app.api.headers import content_length
from app.api.idempotency import form_digest, idempotency_key, is_resent
from app.api.multipart import read_form, reject_empty_file
from app.api.openapi import FORM_RESPONSES, form_operation
from app.api.sse import client_gone
from app.domain.concurrency import to_its_end
from app.domain.errors import DiskFull, InvalidRequest
from app.domain.events import AudioReceived, discard_event
from app.domain.job import Delivery, Job, Webhook
from app.domain.log_context import CurrentJob, speaking_of
from app.domain.transcript import Task

if TYPE_CHECKING:
    from starlette.datastructures import Headers

    from app.api.sse import Streaming
    from app.api.submission import Submission, SubmissionReader
    from app.domain.events import EventSink
    from app.jobs.estimate import Estimate
    from app.jobs.runner import Runner
    from app.jobs.spool import Spool
    from app.jobs.store import Ledger, Registry
    from app.jobs.sync_requests import Resend, SyncRequests
    from app.transcription.pool import ModelPool

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Transcriptions:
    """What the route needs."""

    reader: SubmissionReader
    pool: ModelPool
    registry: Registry
    ledger: Ledger
    runner: Runner
    spool: Spool
    estimate: Estimate
    streaming: Streaming
    waiters: SyncRequests
    max_upload_bytes: int
    emit: EventSink = discard_event

    def router(self) -> APIRouter:
        router = APIRouter(tags=["Audio"])
        router.add_api_route(
            "/v1/audio/transcriptions",
            self.transcribe,
            operation_id="create_transcription",
            methods=["POST"],
            summary="Transcribe audio",
            response_model=None,
            responses=FORM_RESPONSES,
            openapi_extra=form_operation("TranscriptionForm"),
        )
        router.add_api_route(
            "/v1/audio/translations",
            self.translate,
            operation_id="create_translation",
            methods=["POST"],
            summary="Translate audio into English",
            response_model=None,
            responses=FORM_RESPONSES,
            openapi_extra=form_operation("TranslationForm"),
        )
        return router

    async def transcribe(self, request: Request) -> Response:
        """Waits for the transcript, or registers a job when `upload_presigned_url`, `webhook_url` or
        `stored_output` is given."""
        return await self._answer(request, Task.TRANSCRIBE)

    async def translate(self, request: Request) -> Response:
        """The same as a transcription, but in English, whatever is spoken."""
        return await self._answer(request, Task.TRANSLATE)

    async def _answer(self, request: Request, task: Task) -> Response:
        self.pool.require_ready()
        with self._resend(request) as resend:
            job = await self._accept(request, task, resend)
            if job.streamed:
                return await self.streaming.answer(request, job)
            if job.synchronous:
                return await self._wait(request, job)
        path = f"/v1/jobs/{job.id}"
        answer = {
            "job_id": job.id,
            "status": "in_progress",
            "message": f"The job was accepted: its state is at {path}.",
            "status_url": path,
        }
        warnings = {"warnings": list(job.warnings)} if job.warnings else {}
        return JSONResponse({**answer, **warnings}, headers={"Location": path})

    def _resend(self, request: Request) -> Resend:
        """What the request may be a second sending of."""
        if not is_resent(request.headers):
            return self.waiters.none()
        return self.waiters.resend(owner=request.state.owner, content_length=content_length(request.headers))

    async def _accept(self, request: Request, task: Task, resend: Resend) -> Job:
        """Receives the body and registers its job; whatever is refused, or known already, leaves nothing behind."""
        key = idempotency_key(request.headers)
        known = resend.is_expected or (key and self.registry.with_key(key, owner=request.state.owner))
        job_id = str(uuid4())
        try:
            with nullcontext() if known else self.runner.place():
                await asyncio.to_thread(self.spool.space.announce, job_id, content_length(request.headers) or 0)
                received = await self._receive(request, job_id, task, key)
                job = resend.joined(received.exact_digest) or await self._registered(
                    received, resend, request, has_place=not known
                )
        except DiskFull as exc:
            logger.warning("⚠️ A request was refused: %s", exc)
            raise
        finally:
            if not self.registry.knows(job_id):
                await to_its_end(self.spool.discard, job_id)
        return job

    async def _registered(self, job: Job, resend: Resend, request: Request, *, has_place: bool) -> Job:
        """The job itself, or the one that was made with its idempotency key before. From here on it is not lost."""
        registered = job.idempotency_key and self.registry.with_key(job.idempotency_key, owner=job.owner)
        if not registered:
            with nullcontext() if has_place else self.runner.place():
                if job.source_url is None:
                    await to_its_end(self.spool.keep_audio, job.id, durably=not job.synchronous)
                registered = await self.runner.submit(job, _trace_context(request.headers))
        if registered is job:
            if request.state.key_name:
                _log_acceptance(job, key_name=request.state.key_name)
            return job
        if registered.form_digest != job.form_digest:
            raise InvalidRequest(
                f"Idempotency-Key was used before, for another request (job {registered.id}): send a new key with a "
                "new request, or the same form with this one.",
                code="idempotency_key_reused",
            )
        resend.is_of(registered)
        return await self.ledger.commit(registered.id, lambda known: known.with_fresh_upload(job.upload))

    async def _receive(self, request: Request, job_id: str, task: Task, key: str | None) -> Job:
        form = await read_form(
            request.stream(),
            request.headers.get("content-type"),
            spool=self.spool,
            job_id=job_id,
            max_file_bytes=self.max_upload_bytes,
        )
        submission = self.reader.read(
            form.fields, has_file=form.file_bytes is not None, models=self.pool.model_registry, task=task
        )
        reject_empty_file(form)
        if form.file_bytes is not None:
            self.emit(AudioReceived(form.file_bytes))
        upload = submission.upload
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
            upload=upload,
            webhook=Webhook(url=submission.webhook_url) if submission.webhook_url else None,
            delivery=Delivery(expires_at=upload.expires_at) if upload else None,
            metadata=submission.metadata,
            warnings=submission.warnings + self._expiry_warning(submission),
            form_digest=form_digest(form, task),
            exact_digest=form_digest(form, task, with_queries=True),
            idempotency_key=None if submission.streamed else key,  # what is gone of a stream can't be given again
        )

    def _expiry_warning(self, submission: Submission) -> tuple[str, ...]:
        if submission.upload is None or submission.upload.expires_at is None:
            return ()
        left = submission.upload.expires_at - time.time()
        wait = self.estimate.wait_seconds(self.registry.waiting_count)
        if left > wait:
            return ()
        return (
            f"upload_presigned_url expires in {left:.0f} s and this job may take {wait:.0f} s to reach its turn and "
            "finish: sign URLs for at least an hour.",
        )

    async def _wait(self, request: Request, job: Job) -> Response:
        """The transcript, once it is there; what becomes of the work of a client that goes away, ``waiters`` know."""
        async with self.waiters.waiting(job, content_length=content_length(request.headers)) as attended:
            gone = asyncio.create_task(client_gone(request.receive), name=f"client of {job.id}")
            try:
                await asyncio.wait({attended.outcome, gone}, return_when=asyncio.FIRST_COMPLETED)
                if not attended.outcome.done():
                    logger.info("Job %s: its client went away", job.id)
                    return Response(status_code=CLIENT_CLOSED_REQUEST)
                error = attended.outcome.result()
                answer = error_response(error) if error else await transcript_answer(self.spool, job, job.rendering)
                attended.answered = True
                return answer
            finally:
                gone.cancel()


def _trace_context(headers: Headers) -> dict[str, str]:
    """What W3C's Trace Context has a client say about the trace that its request is part of."""
    return {name: headers[name] for name in ("traceparent", "tracestate") if name in headers}


def _log_acceptance(job: Job, *, key_name: str) -> None:
    what = "Request" if job.synchronous else "Job"
    with speaking_of(CurrentJob(job.id, job.accepted_at)):
        logger.info("📨 %s %s accepted, key %s", what, job.id, key_name)
