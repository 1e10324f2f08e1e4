"""``/v1/audio/transcriptions`` and ``translations``: the client waits for the transcript, or gets a job id at once."""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import ExitStack, nullcontext
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
from app.domain.concurrency import shielded
from app.domain.errors import DiskFull, Draining, InvalidRequest, QueueFull
from app.domain.events import AudioReceived, discard_event
from app.domain.job import Delivery, Job, Webhook
from app.domain.log_context import CurrentJob, speaking_of
from app.domain.transcript import Task
from app.jobs import transitions

if TYPE_CHECKING:
    from starlette.datastructures import Headers

    from app.api.sse import Streaming
    from app.api.submission import Submission, SubmissionReader
    from app.domain.events import EventSink
    from app.jobs.estimate import Estimate
    from app.jobs.intake import Intake
    from app.jobs.spool import Spool
    from app.jobs.store import JobStore
    from app.jobs.sync_requests import Resend, SyncRequests
    from app.transcription.pool import ModelPool

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Transcriptions:
    """What the route needs."""

    reader: SubmissionReader
    pool: ModelPool
    store: JobStore
    intake: Intake
    spool: Spool
    estimate: Estimate
    streaming: Streaming
    sync_requests: SyncRequests
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
            return self.sync_requests.first_send()
        return self.sync_requests.resend(owner=request.state.owner, content_length=content_length(request.headers))

    async def _accept(self, request: Request, task: Task, resend: Resend) -> Job:
        """Receive the body and admit its job. A request that is refused, or known already, leaves nothing behind."""
        key = idempotency_key(request.headers)
        job_id = str(uuid4())
        with ExitStack() as place:
            has_place = await self._reserve_place(place, key, resend, owner=request.state.owner)
            try:
                await asyncio.to_thread(self.spool.space.announce, job_id, content_length(request.headers) or 0)
                received = await self._receive(request, job_id, task, key)
                joined = resend.joined(received.exact_digest)
                return joined or await self._admit(received, resend, request, has_place=has_place)
            except DiskFull as exc:
                logger.warning("⚠️ A request was refused: %s", exc)
                raise
            finally:
                if not self.store.knows(job_id):
                    await shielded(asyncio.to_thread(self.spool.discard, job_id))

    async def _reserve_place(self, stack: ExitStack, key: str | None, resend: Resend, *, owner: str) -> bool:
        """Reserve a place in the queue; a request that may be a replay is received without one if there is none."""
        if resend.is_expected:
            return False
        try:
            stack.enter_context(self.intake.reserved_place())
        except (QueueFull, Draining):
            if key is None or await self.store.with_key(key, owner=owner) is None:
                raise
            return False
        return True

    async def _admit(self, job: Job, resend: Resend, request: Request, *, has_place: bool) -> Job:
        """Admit the job and return it, or the job that was submitted before with its idempotency key."""
        known = None
        if not has_place and job.idempotency_key is not None:
            known = await self.store.with_key(job.idempotency_key, owner=job.owner)
        if known is not None:
            admitted = known.job
        else:
            with nullcontext() if has_place else self.intake.reserved_place():
                if job.source_url is None:
                    durably = not job.synchronous
                    await shielded(asyncio.to_thread(self.spool.keep_audio, job.id, durably=durably))
                admitted = await self.intake.submit(job, _trace_context(request.headers))
        if admitted is job:
            if request.state.key_name:
                _log_acceptance(job, key_name=request.state.key_name)
            return job
        if admitted.form_digest != job.form_digest:
            raise InvalidRequest(
                f"Idempotency-Key was used before, for another request (job {admitted.id}): send a new key with a "
                "new request, or the same form with this one.",
                code="idempotency_key_reused",
            )
        resend.keep(admitted)
        return (await self.store.commit(admitted.id, transitions.upload_replaced, upload=job.upload)).job

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
        wait = self.estimate.wait_seconds(self.store.queued_count)
        if left > wait:
            return ()
        return (
            f"upload_presigned_url expires in {left:.0f} s and this job may take {wait:.0f} s to reach its turn and "
            "finish: sign URLs for at least an hour.",
        )

    async def _wait(self, request: Request, job: Job) -> Response:
        """Return the transcript once it is ready, or end if the client goes away."""
        length = content_length(request.headers)
        async with self.sync_requests.waiting(job, content_length=length) as sync_request:
            gone = asyncio.create_task(client_gone(request.receive), name=f"client of {job.id}")
            try:
                await asyncio.wait({sync_request.outcome, gone}, return_when=asyncio.FIRST_COMPLETED)
                if not sync_request.outcome.done():
                    logger.info("Job %s: its client went away", job.id)
                    return Response(status_code=CLIENT_CLOSED_REQUEST)
                error = sync_request.outcome.result()
                response = error_response(error) if error else await transcript_answer(self.spool, job, job.rendering)
                sync_request.responded = True
                return response
            finally:
                gone.cancel()


def _trace_context(headers: Headers) -> dict[str, str]:
    """What W3C's Trace Context has a client say about the trace that its request is part of."""
    return {name: headers[name] for name in ("traceparent", "tracestate") if name in headers}


def _log_acceptance(job: Job, *, key_name: str) -> None:
    what = "Request" if job.synchronous else "Job"
    with speaking_of(CurrentJob(job.id, job.accepted_at)):
        logger.info("📨 %s %s accepted, key %s", what, job.id, key_name)
