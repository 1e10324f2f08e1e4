"""``/v1/audio/transcriptions`` and ``translations``: synchronous, streamed or asynchronous."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from app.api.acceptance import accept
from app.api.dependencies import ServiceParts
from app.api.errors import CLIENT_CLOSED_REQUEST, error_response
from app.api.idempotency import is_replay
from app.api.openapi import FORM_RESPONSES, form_operation
from app.api.requests import content_length, wait_for_disconnect
from app.api.responses import transcript_response
from app.api.transcript_stream import TranscriptStream
from app.domain.transcript import Task

if TYPE_CHECKING:
    from app.api.dependencies import JobParts, Parts
    from app.domain.job import Job
    from app.jobs.sync_requests import Replay

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
    return await _respond(request, parts, Task.TRANSCRIBE)


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
    return await _respond(request, parts, Task.TRANSLATE)


async def _respond(request: Request, parts: Parts, task: Task) -> Response:
    parts.pool.require_ready()
    with _replay(request, parts.jobs) as replay:
        job = await accept(request, parts, task, replay)
        if job.streamed:
            return await TranscriptStream(job, parts.jobs).respond(request.receive)
        if job.synchronous:
            return await _wait(request, parts.jobs, job)
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


async def _wait(request: Request, jobs: JobParts, job: Job) -> Response:
    """Return the transcript when it is ready, or give up when the client disconnects.

    The transcription of a client that disconnects goes on for a while, in case the client repeats its request.
    """
    length = content_length(request.headers)
    async with jobs.sync_requests.waiting(job, content_length=length) as sync_request:
        disconnect = asyncio.create_task(wait_for_disconnect(request.receive), name=f"client of {job.id}")
        try:
            await asyncio.wait({sync_request.outcome, disconnect}, return_when=asyncio.FIRST_COMPLETED)
            if not sync_request.outcome.done():
                logger.info("Job %s: its client disconnected", job.id)
                return Response(status_code=CLIENT_CLOSED_REQUEST)
            error = sync_request.outcome.result()
            response = error_response(error) if error else await transcript_response(jobs.spool, job, job.rendering)
            sync_request.responded = True
            return response
        finally:
            disconnect.cancel()
