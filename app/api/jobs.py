"""``/v1/jobs``: list, look at, cancel and forget."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Final

from fastapi import APIRouter, Header, Query, Request
from fastapi.responses import Response

from app.api.answers import transcript_answer
from app.api.fields import Form
from app.api.headers import read_number
from app.api.openapi import (
    EVENT_STREAM,
    JOB_EXAMPLE,
    PLAIN_TEXT,
    REDELIVERY_OPERATION,
    TRANSCRIPT_EXAMPLE,
    json_body,
    responses,
)
from app.api.renderings import result_rendering
from app.api.schemas import (
    DiarizedTranscription,
    Document,
    JobDeleted,
    JobList,
    Transcription,
    VerboseTranscription,
)
from app.api.schemas import (
    Job as JobBody,
)
from app.api.sse import KEEP_ALIVE_SECONDS, EventStream, event
from app.domain.errors import InvalidRequest, UnknownJob
from app.domain.formats import to_json
from app.domain.job import JobStatus  # noqa: TC001  # FastAPI evaluates the routes' annotations
from app.jobs.serializers import success_document

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from app.api.submission import SubmissionReader
    from app.domain.job import Job, LiveJob
    from app.jobs.intake import Intake
    from app.jobs.serializers import JobViews
    from app.jobs.spool import Spool
    from app.jobs.store import JobStore
    from app.jobs.subscriptions import JobSubscriptions, Subscription

_MAX_BODY_BYTES: Final = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Jobs:
    """What the routes need."""

    store: JobStore
    intake: Intake
    spool: Spool
    subscriptions: JobSubscriptions
    views: JobViews
    reader: SubmissionReader

    def router(self) -> APIRouter:
        router = APIRouter(prefix="/v1/jobs", tags=["Jobs"])
        router.add_api_route(
            "",
            self.list_jobs,
            operation_id="list_jobs",
            methods=["GET"],
            summary="List jobs",
            response_model=None,
            responses=responses(
                "A page of jobs.",
                json_body(JobList, example={"total_jobs": 1, "jobs": {JOB_EXAMPLE["job_id"]: JOB_EXAMPLE}}),
                *(400, 401, 404, 500),
            ),
        )
        router.add_api_route(
            "/{job_id}",
            self.get_job,
            operation_id="get_job",
            methods=["GET"],
            summary="Look at a job",
            response_model=None,
            responses=responses(
                "The current state of the job.", json_body(JobBody, example=JOB_EXAMPLE), *(400, 401, 404, 500)
            ),
        )
        router.add_api_route(
            "/{job_id}/result",
            self.get_result,
            operation_id="get_job_result",
            methods=["GET"],
            summary="Read a job's transcript",
            response_model=None,
            responses=responses(
                "The transcript in the requested format.",
                {
                    **json_body(
                        *(Document, VerboseTranscription, DiarizedTranscription, Transcription),
                        example=TRANSCRIPT_EXAMPLE,
                    ),
                    **PLAIN_TEXT,
                },
                *(400, 401, 404, 500),
            ),
        )
        router.add_api_route(
            "/{job_id}/events",
            self.get_events,
            operation_id="get_job_events",
            methods=["GET"],
            summary="Follow a job",
            response_model=None,
            response_class=Response,
            responses={
                **responses("Events whose `data` is the job, each with an `id`.", EVENT_STREAM, 401, 404, 500),
                204: {"description": "`Last-Event-ID` is the id of the last event: there will be no more."},
            },
        )
        router.add_api_route(
            "/{job_id}/redeliver",
            self.redeliver,
            operation_id="redeliver_job",
            methods=["POST"],
            summary="Deliver a job's result again",
            response_model=None,
            responses=responses(
                "The job, whose result is being delivered again.",
                json_body(JobBody, example=JOB_EXAMPLE),
                *(400, 401, 404, 500, 507),
            ),
            openapi_extra=REDELIVERY_OPERATION,
        )
        router.add_api_route(
            "/{job_id}",
            self.delete_job,
            operation_id="delete_job",
            methods=["DELETE"],
            summary="Cancel or forget a job",
            response_model=None,
            responses=responses(
                "The cancelled job, or the id of the deleted one.",
                json_body(JobBody, JobDeleted, example={"job_id": JOB_EXAMPLE["job_id"], "deleted": True}),
                *(401, 404, 500, 507),
            ),
        )
        return router

    async def list_jobs(
        self,
        request: Request,
        status: Annotated[JobStatus | None, Query(description="Only jobs in this status.")] = None,
        limit: Annotated[int, Query(ge=1, le=1000, description="At most so many jobs.")] = 100,
        after: Annotated[str | None, Query(description="Go on after this job, the last of a page.")] = None,
    ) -> Response:
        """The jobs of this API key, newest first, keyed by their ids. Requests whose client waits are no jobs."""
        page = await self.store.page(owner=request.state.owner, status=status, limit=limit, after=after)
        return await _json({"total_jobs": page.total, "jobs": self.views.many(page.jobs)})

    async def get_job(
        self,
        request: Request,
        job_id: str,
        *,
        include_result: Annotated[bool, Query(description="Add the transcript as `result`.")] = False,
    ) -> Response:
        """The job's state; with `include_result=true` the transcript too, once it is there."""
        live = await self.store.find(job_id, owner=request.state.owner)
        view = self.views.one(live)
        if include_result and live.job.has_result:
            view["result"] = await asyncio.to_thread(self._result, live.job)
        return await _json(view)

    async def get_result(
        self,
        request: Request,
        job_id: str,
        response_format: Annotated[
            str, Query(description="json, text, srt, vtt, verbose_json, diarized_json, or document, as it is uploaded.")
        ] = "json",
        max_line_width: Annotated[str | None, Query(description="Characters in a line of srt or vtt.")] = None,
        max_line_count: Annotated[str | None, Query(description="Lines in a cue of srt or vtt.")] = None,
        highlight_words: Annotated[str | None, Query(description="Underline each word of srt or vtt.")] = None,
    ) -> Response:
        """The transcript in any format, from the one result that is stored."""
        job = (await self.store.find(job_id, owner=request.state.owner)).job
        given = {
            "response_format": response_format,
            "max_line_width": max_line_width,
            "max_line_count": max_line_count,
            "highlight_words": highlight_words,
        }
        rendering = result_rendering(Form({name: [value] for name, value in given.items() if value}), job)
        if not job.has_result:
            state = f"is {job.status.value}" if job.error is None else f"{job.status.value}: {job.error}"
            raise InvalidRequest(
                f"Job {job_id} has no result: it {state.rstrip('.')}. Ask again once /v1/jobs/{job_id} says "
                "result_available.",
                code="no_result",
            )
        return await transcript_answer(self.spool, job, rendering)

    async def get_events(
        self,
        request: Request,
        job_id: str,
        last_event_id: Annotated[
            str | None, Header(description="The last event that was seen; browsers send it.")
        ] = None,
    ) -> Response:
        """The job as server-sent events: on every change and every 15 s at least, to its end. It can be left and taken
        up again at any time. Who has seen the end already is answered 204, which tells browsers to ask no more."""
        live = await self.store.find(job_id, owner=request.state.owner)
        seen = read_number(last_event_id)
        if not live.job.is_active and live.revision == seen:
            return Response(status_code=204)
        stack = ExitStack()
        subscription = stack.enter_context(self.subscriptions.subscribe(job_id))

        async def end() -> None:
            stack.close()

        return EventStream(self._events(live, seen, subscription), end=end)

    async def _events(self, live: LiveJob, seen: int | None, subscription: Subscription) -> AsyncIterator[bytes]:
        sent = seen
        position = self.views.one(live).get("queue_position")
        due = False
        while True:
            subscription.clear()
            try:
                live = await self.store.find(live.job.id, owner=live.job.owner)
            except UnknownJob:
                return
            view = self.views.one(live)
            if due or sent != live.revision or position != view.get("queue_position"):
                yield event(view, number=live.revision)
            if not live.job.is_active:
                return
            sent, position = live.revision, view.get("queue_position")
            due = not await subscription.wait(KEEP_ALIVE_SECONDS)

    async def redeliver(self, request: Request, job_id: str) -> dict[str, Any]:
        """PUTs the stored result of a job that has ended again: to a fresh URL, or to the one that it was submitted
        with if that is still kept and has not expired."""
        live = await self.store.find(job_id, owner=request.state.owner)
        upload = self.reader.fresh_upload(await _small_body(request), live.job)
        return self.views.one(await self.intake.redeliver(job_id, upload))

    async def delete_job(self, request: Request, job_id: str) -> dict[str, Any]:
        """Cancels a job that waits or runs; forgets one that has ended."""
        live = await self.store.find(job_id, owner=request.state.owner)
        if live.job.is_active:
            return self.views.one(await self.intake.cancel(job_id))
        await self.intake.forget(job_id)
        return {"job_id": job_id, "deleted": True}

    def _result(self, job: Job) -> dict[str, Any]:
        transcript, processing_time = self.spool.result(job.id)
        return success_document(job, transcript, processing_time=processing_time)


async def _json(content: dict[str, Any]) -> Response:
    """An answer that may be large: the event loop does not write it."""
    return Response(await asyncio.to_thread(to_json, content), media_type="application/json")


async def _small_body(request: Request) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > _MAX_BODY_BYTES:
            raise InvalidRequest(f"The body is too large: at most {_MAX_BODY_BYTES} bytes are allowed.")
    return bytes(body)
