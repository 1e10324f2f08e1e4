"""``/v1/jobs``: list, read, follow, rename, redeliver, cancel and delete jobs."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastapi import APIRouter, Header, Query, Request
from fastapi.responses import Response

from app.api.dependencies import ServiceParts
from app.api.fields import Form
from app.api.openapi import (
    EVENT_STREAM,
    JOB_EXAMPLE,
    PARTIAL_EXAMPLE,
    PLAIN_TEXT,
    REDELIVERY_OPERATION,
    RENAMING_OPERATION,
    TRANSCRIPT_EXAMPLE,
    json_body,
    responses,
)
from app.api.renderings import json_response, result_rendering, transcript_response
from app.api.requests import parse_json_object, parse_number, read_small_body
from app.api.schemas import (
    DiarizedTranscription,
    Document,
    JobDeleted,
    JobList,
    PartialTranscript,
    Transcription,
    VerboseTranscription,
)
from app.api.schemas import Job as JobBody
from app.api.sse import KEEP_ALIVE_SECONDS, EventStream, event
from app.domain.errors import InvalidRequest, UnknownJob
from app.domain.job import ACTIVE_STATUSES, JobStatus
from app.domain.names import MAX_NAME_LENGTH, clean_name
from app.jobs.registry import JobFilter
from app.jobs.serializers import success_document, transcribed

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from app.api.dependencies import JobParts
    from app.domain.job import Job, LiveJob

router = APIRouter(prefix="/v1/jobs", tags=["Jobs"])


@router.get(
    "",
    operation_id="list_jobs",
    summary="List jobs",
    response_model=None,
    responses=responses(
        "A page of jobs.",
        json_body(JobList, example={"total_jobs": 1, "jobs": {JOB_EXAMPLE["job_id"]: JOB_EXAMPLE}}),
        *(400, 401, 404, 500, 503),
    ),
)
async def list_jobs(
    request: Request,
    parts: ServiceParts,
    status: Annotated[
        Literal["queued", "processing", "completed", "failed", "cancelled", "active"] | None,
        Query(description="Return only jobs with this status; `active` are those queued and processing."),
    ] = None,
    q: Annotated[
        str,
        Query(
            max_length=MAX_NAME_LENGTH,
            description="Return only jobs whose name contains this or whose id begins with it.",
        ),
    ] = "",
    limit: Annotated[int, Query(ge=1, le=1000, description="The most jobs to return.")] = 100,
    after: Annotated[
        str | None, Query(description="Continue after the job with this id, the last one of the previous page.")
    ] = None,
) -> Response:
    """Return the jobs of this API key by id, newest first. Synchronous requests are not listed."""
    wanted = JobFilter(statuses=_statuses(status), text=q.strip())
    page = await parts.jobs.store.page(owner=request.state.owner, wanted=wanted, limit=limit, after=after)
    views = await asyncio.to_thread(parts.jobs.views.many, page.jobs)
    return await json_response({"total_jobs": page.total, "jobs": views})


@router.get(
    "/{job_id}",
    operation_id="get_job",
    summary="Retrieve a job",
    response_model=None,
    responses=responses(
        "The current state of the job.", json_body(JobBody, example=JOB_EXAMPLE), *(400, 401, 404, 500, 503)
    ),
)
async def get_job(
    request: Request,
    parts: ServiceParts,
    job_id: str,
    *,
    include_result: Annotated[bool, Query(description="Add the transcript as `result`.")] = False,
) -> Response:
    """Return the state of a job and, with `include_result=true`, its transcript once that is available."""
    live = await _find(parts.jobs, request, job_id)
    view = parts.jobs.views.one(live)
    if include_result and live.job.has_result:
        view["result"] = await asyncio.to_thread(_document, parts.jobs, live.job)
    return await json_response(view)


@router.get(
    "/{job_id}/result",
    operation_id="get_job_result",
    summary="Retrieve a job's transcript",
    response_model=None,
    responses=responses(
        "The transcript in the requested format.",
        {
            **json_body(
                *(Document, VerboseTranscription, DiarizedTranscription, Transcription), example=TRANSCRIPT_EXAMPLE
            ),
            **PLAIN_TEXT,
        },
        *(400, 401, 404, 500, 503),
    ),
)
async def get_result(
    request: Request,
    parts: ServiceParts,
    job_id: str,
    response_format: Annotated[
        str,
        Query(
            description="json, text, srt, vtt, lrc, tsv, rttm, verbose_json, diarized_json or document, as uploaded."
        ),
    ] = "json",
    max_line_width: Annotated[str | None, Query(description="The most characters in a line of srt and vtt.")] = None,
    max_line_count: Annotated[str | None, Query(description="The most lines in a cue of srt and vtt.")] = None,
    highlight_words: Annotated[str | None, Query(description="Underline each word in srt and vtt.")] = None,
    always_include_hours: Annotated[str | None, Query(description="Write the hours of all times in vtt.")] = None,
    utterances: Annotated[
        str | None,
        Query(description="Add paragraphs with their sentences to verbose_json, diarized_json and document."),
    ] = None,
    version: Annotated[
        Literal["edited", "original"], Query(description="`original` is the transcript without its corrections.")
    ] = "edited",
) -> Response:
    """Return the stored transcript in any format."""
    live = await _find(parts.jobs, request, job_id)
    query = {
        "response_format": response_format,
        "max_line_width": max_line_width,
        "max_line_count": max_line_count,
        "highlight_words": highlight_words,
        "always_include_hours": always_include_hours,
        "utterances": utterances,
    }
    rendering = result_rendering(Form({name: [value] for name, value in query.items() if value}), live.job)
    if not live.job.has_result:
        raise _no_result(live)
    return await transcript_response(parts.jobs.spool, live.job, rendering, original=version == "original")


@router.get(
    "/{job_id}/partial",
    operation_id="get_job_partial",
    summary="Retrieve a running job's transcript so far",
    response_model=None,
    responses=responses(
        "The segments from `start` on.",
        json_body(PartialTranscript, example=PARTIAL_EXAMPLE),
        *(400, 401, 404, 500, 503),
    ),
)
async def get_partial(
    request: Request,
    parts: ServiceParts,
    job_id: str,
    start: Annotated[int, Query(ge=0, description="The number of segments that the client has already.")] = 0,
) -> Response:
    """Return the segments from number `start` on: those that are finished so far, or those of the result.

    If `attempt` is another one than before, or `next` is below `start`, the transcription has begun again: start at 0.
    """
    live = await _find(parts.jobs, request, job_id)
    segments = await parts.jobs.segments.read_so_far(job_id)
    if live.job.has_result:
        segments = (await asyncio.to_thread(parts.jobs.spool.result, job_id))[0].segments
    return await json_response(
        {
            "job_id": job_id,
            "start": start,
            "next": len(segments),
            "is_final": live.job.has_result,
            "attempt": live.job.starts,
            **transcribed(live.job, segments[start:]),
        }
    )


@router.get(
    "/{job_id}/events",
    operation_id="get_job_events",
    summary="Follow a job",
    response_model=None,
    response_class=Response,
    responses={
        **responses("Events whose `data` is the job, each with an `id`.", EVENT_STREAM, 401, 404, 500, 503),
        204: {"description": "`Last-Event-ID` is the id of the last event: there will be no more."},
    },
)
async def get_events(
    request: Request,
    parts: ServiceParts,
    job_id: str,
    last_event_id: Annotated[
        str | None, Header(description="The id of the last received event; browsers send it when they reconnect.")
    ] = None,
) -> Response:
    """Stream the job as server-sent events, on every change and at least every 15 s, until it ends.

    A client can disconnect and reconnect at any time. If it has received the last event already, the response is 204,
    which tells browsers not to reconnect.
    """
    live = await _find(parts.jobs, request, job_id)
    last_seen = parse_number(last_event_id)
    if not live.job.is_active and live.revision == last_seen:
        return Response(status_code=204)
    events = _job_events(parts.jobs, live, last_seen)
    return EventStream(events, end=events.aclose)


@router.patch(
    "/{job_id}",
    operation_id="rename_job",
    summary="Rename a job",
    response_model=None,
    responses=responses(
        "The job with its new name.", json_body(JobBody, example=JOB_EXAMPLE), *(400, 401, 404, 500, 503, 507)
    ),
    openapi_extra=RENAMING_OPERATION,
)
async def rename_job(request: Request, parts: ServiceParts, job_id: str) -> dict[str, Any]:
    """Give a job another name, or none. The change survives a restart."""
    await _find(parts.jobs, request, job_id)
    name = _new_name(await read_small_body(request))
    return parts.jobs.views.one(await parts.jobs.intake.rename(job_id, name))


@router.post(
    "/{job_id}/redeliver",
    operation_id="redeliver_job",
    summary="Deliver a job's result again",
    response_model=None,
    responses=responses(
        "The job, whose result is being delivered again.",
        json_body(JobBody, example=JOB_EXAMPLE),
        *(400, 401, 404, 500, 503, 507),
    ),
    openapi_extra=REDELIVERY_OPERATION,
)
async def redeliver(request: Request, parts: ServiceParts, job_id: str) -> dict[str, Any]:
    """Upload the stored result of an ended job again.

    It goes to a new URL, or to the URL that the job was submitted with if that is still stored and has not expired. A
    job with several takes an array of as many, or has its result PUT where it has not arrived.
    """
    live = await _find(parts.jobs, request, job_id)
    uploads = parts.reader.uploads.fresh(await read_small_body(request), live.job)
    return parts.jobs.views.one(await parts.jobs.intake.redeliver(job_id, uploads))


@router.delete(
    "/{job_id}",
    operation_id="delete_job",
    summary="Cancel or delete a job",
    response_model=None,
    responses=responses(
        "The cancelled job, or the id of the deleted one.",
        json_body(JobBody, JobDeleted, example={"job_id": JOB_EXAMPLE["job_id"], "deleted": True}),
        *(401, 404, 500, 503, 507),
    ),
)
async def delete_job(request: Request, parts: ServiceParts, job_id: str) -> dict[str, Any]:
    """Cancel a queued or running job, or delete an ended job with its result."""
    live = await _find(parts.jobs, request, job_id)
    if live.job.is_active:
        return parts.jobs.views.one(await parts.jobs.intake.cancel(job_id))
    await parts.jobs.intake.forget(job_id)
    return {"job_id": job_id, "deleted": True}


async def find_with_result(jobs: JobParts, request: Request, job_id: str) -> LiveJob:
    """Return a job of the client that has a result.

    Raises:
        UnknownJob: there is none.
        InvalidRequest: it has no result.
    """
    live = await _find(jobs, request, job_id)
    if not live.job.has_result:
        raise _no_result(live)
    return live


async def _find(jobs: JobParts, request: Request, job_id: str) -> LiveJob:
    return await jobs.store.find(job_id, owner=request.state.owner)


def _statuses(wanted: str | None) -> frozenset[JobStatus]:
    if wanted == "active":
        return ACTIVE_STATUSES
    return frozenset(JobStatus) if wanted is None else frozenset({JobStatus(wanted)})


def _new_name(body: bytes) -> str | None:
    """Return the name in the body of a request to rename a job."""
    example = '{"name": "Interview"}'
    value = parse_json_object(body, example=example)
    if value.keys() != {"name"} or not isinstance(value["name"], str | None):
        raise InvalidRequest(
            f"`name` must be a string or null, and no other member can be changed: send {example}.", param="name"
        )
    return clean_name(value["name"] or "")


def _document(jobs: JobParts, job: Job) -> dict[str, Any]:
    transcript, processing_time = jobs.spool.result(job.id)
    return success_document(job, job.rendering, transcript, processing_time=processing_time)


def _no_result(live: LiveJob) -> InvalidRequest:
    error = live.job.error
    state = f"is {live.status.value}" if error is None else f"{live.status.value}: {error.rstrip('.')}"
    return InvalidRequest(
        f"Job {live.job.id} has no result: it {state}. Retry when `result_available` is true in "
        f"/v1/jobs/{live.job.id}.",
        code="no_result",
    )


async def _job_events(jobs: JobParts, live: LiveJob, last_seen: int | None) -> AsyncGenerator[bytes]:
    """Yield the job on every change, when its place in the queue changes, and at least every 15 s, to its end."""
    sent_revision, sent_position = last_seen, jobs.views.one(live).get("queue_position")
    is_due = False
    with jobs.subscriptions.subscribe(live.job.id) as subscription:
        while True:
            subscription.clear()
            try:
                live = await jobs.store.find(live.job.id, owner=live.job.owner)
            except UnknownJob:
                return
            view = jobs.views.one(live)
            position = view.get("queue_position")
            if is_due or sent_revision != live.revision or sent_position != position:
                yield event(view, event_id=live.revision)
            if not live.job.is_active:
                return
            sent_revision, sent_position = live.revision, position
            is_due = not await subscription.wait(KEEP_ALIVE_SECONDS)
