"""``/v1/audio/transcriptions`` and ``translations``: the client waits for the transcript, or gets a job id at once."""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from uuid import uuid4

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from app.api.answers import transcript_answer
from app.api.errors import CLIENT_CLOSED_REQUEST, error_response
from app.api.multipart import read_form, refuse_empty
from app.api.openapi import TRANSCRIPTION, TRANSLATION
from app.api.streams import KEEP_ALIVE, KEEP_ALIVE_SECONDS, EventStream, TextDeltas, as_event, client_gone, event
from app.domain.errors import InvalidRequest
from app.domain.formats import usage
from app.domain.job import Delivery, Job
from app.domain.transcript import Task
from app.jobs.document import extras

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from app.api.submission import Submission, SubmissionReader
    from app.domain.transcript import Segment
    from app.jobs.estimate import Estimate
    from app.jobs.registry import Registry
    from app.jobs.runner import Runner
    from app.jobs.spool import Spool
    from app.jobs.watchers import Segments, Watchers
    from app.transcription.loading import LoadingTranscriber

logger = logging.getLogger(__name__)

#: A stream begins with what is said first, or after so long, with its silence. What fails before that has a status.
FIRST_EVENT_SECONDS: Final = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Transcriptions:
    """What the route needs."""

    reader: SubmissionReader
    transcriber: LoadingTranscriber
    registry: Registry
    runner: Runner
    spool: Spool
    estimate: Estimate
    watchers: Watchers
    max_upload_bytes: int

    def router(self) -> APIRouter:
        router = APIRouter(tags=["Audio"])
        router.add_api_route(
            "/v1/audio/transcriptions",
            self.transcribe,
            methods=["POST"],
            summary="Transcribe audio",
            response_class=Response,
            openapi_extra=TRANSCRIPTION,
        )
        router.add_api_route(
            "/v1/audio/translations",
            self.translate,
            methods=["POST"],
            summary="Translate audio into English",
            response_class=Response,
            openapi_extra=TRANSLATION,
        )
        return router

    async def transcribe(self, request: Request) -> Response:
        """Waits for the transcript, or registers a job when `upload_presigned_url` or `stored_output` is given."""
        return await self._answer(request, Task.TRANSCRIBE)

    async def translate(self, request: Request) -> Response:
        """The same as a transcription, but in English, whatever is spoken."""
        return await self._answer(request, Task.TRANSLATE)

    async def _answer(self, request: Request, task: Task) -> Response:
        job = await self._accept(request, task)
        if job.streamed:
            return await self._stream(request, job)
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

    async def _accept(self, request: Request, task: Task) -> Job:
        """Receives the body and registers its job; whatever is refused leaves nothing behind."""
        if "idempotency-key" in request.headers:
            raise InvalidRequest(
                "Idempotency-Key is not available on this server: leave it out, and look at /v1/jobs before "
                "submitting again."
            )
        self.transcriber.require_ready()
        with self.runner.place():
            job_id = str(uuid4())
            try:
                job = await self._receive(request, job_id, task)
                self.runner.submit(job)
            except BaseException:
                await asyncio.to_thread(self.spool.discard, job_id)
                raise
        return job

    async def _receive(self, request: Request, job_id: str, task: Task) -> Job:
        form = await read_form(
            request.stream(),
            request.headers.get("content-type"),
            spool=self.spool,
            job_id=job_id,
            max_file_bytes=self.max_upload_bytes,
        )
        model = self.transcriber.model
        submission = self.reader.read(form.fields, has_file=form.file_bytes is not None, model=model, task=task)
        refuse_empty(form)
        upload = submission.upload
        return Job(
            id=job_id,
            accepted_at=time.time(),
            model=model.name,
            options=submission.options,
            rendering=submission.rendering,
            owner=request.state.owner,
            synchronous=submission.synchronous,
            streamed=submission.streamed,
            source_url=submission.source_url,
            upload=upload,
            delivery=Delivery(expires_at=upload.expires_at) if upload else None,
            metadata=submission.metadata,
            warnings=submission.warnings + self._expiry_warning(submission),
        )

    def _expiry_warning(self, submission: Submission) -> tuple[str, ...]:
        if submission.upload is None or submission.upload.expires_at is None:
            return ()
        left = submission.upload.expires_at - time.time()
        wait = self.estimate.wait_seconds(len(self.registry.waiting()))
        if left > wait:
            return ()
        return (
            f"upload_presigned_url expires in {left:.0f} s and this job may take {wait:.0f} s to reach its turn and "
            "finish: sign URLs for at least an hour.",
        )

    async def _wait(self, request: Request, job: Job) -> Response:
        """The transcript, once it is there; a client that goes away takes its work with it."""
        outcome = asyncio.create_task(self.runner.outcome(job.id), name=f"outcome of {job.id}")
        gone = asyncio.create_task(client_gone(request.receive), name=f"client of {job.id}")
        try:
            await asyncio.wait({outcome, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not outcome.done():
                logger.info("Job %s: its client went away", job.id)
                return Response(status_code=CLIENT_CLOSED_REQUEST)
            error = outcome.result()
            if error is not None:
                return error_response(error)
            return await transcript_answer(self.spool, job, job.rendering)
        finally:
            gone.cancel()
            outcome.cancel()
            await self.runner.cancel(job.id)
            await self.runner.forget(job.id)

    async def _stream(self, request: Request, job: Job) -> Response:
        """What is said, as it is transcribed. What fails before anything was said is an answer like any other."""
        stack = ExitStack()
        segments = stack.enter_context(self.watchers.watching(job.id))
        outcome = asyncio.create_task(self.runner.outcome(job.id), name=f"outcome of {job.id}")
        outcome.add_done_callback(lambda _: segments.put_nowait(None))

        async def end() -> None:
            stack.close()
            outcome.cancel()
            await self.runner.cancel(job.id)
            await self.runner.forget(job.id)

        gone = asyncio.create_task(client_gone(request.receive), name=f"client of {job.id}")
        first = asyncio.create_task(segments.get())
        try:
            await asyncio.wait({first, gone}, timeout=FIRST_EVENT_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        finally:
            gone.cancel()
        if gone.done() and not gone.cancelled() and not first.done():
            first.cancel()
            await end()
            return Response(status_code=CLIENT_CLOSED_REQUEST)
        error = outcome.result() if outcome.done() else None
        if error is not None:
            first.cancel()
            await end()
            return error_response(error)
        return EventStream(self._events(job, first, segments, outcome), end=end)

    async def _events(
        self,
        job: Job,
        first: asyncio.Task[tuple[Segment, ...] | None],
        segments: Segments,
        outcome: asyncio.Task[Exception | None],
    ) -> AsyncIterator[bytes]:
        deltas = TextDeltas()
        coming = first
        while True:
            await asyncio.wait({coming}, timeout=KEEP_ALIVE_SECONDS)
            if not coming.done():
                yield KEEP_ALIVE
                continue
            found = coming.result()
            if found is None:
                break
            if text := deltas.of(found):
                yield event({"type": "transcript.text.delta", "delta": text})
            coming = asyncio.create_task(segments.get())
        error = outcome.result()
        if error is not None:
            yield as_event(bytes(error_response(error).body))
            return
        transcript, _ = await asyncio.to_thread(self.spool.result, job.id)
        done = {"type": "transcript.text.done", "text": transcript.text, "usage": usage(transcript)}
        yield event({**done, **extras(job)})
