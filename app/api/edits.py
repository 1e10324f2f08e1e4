"""``/v1/jobs/{job_id}/transcript``: read and replace the corrections of a job's transcript."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated, Any, Final

from fastapi import APIRouter, Header, Request
from fastapi.responses import Response

from app.api.dependencies import ServiceParts
from app.api.jobs import find_with_result
from app.api.openapi import CORRECTIONS_OPERATION, json_body, responses
from app.api.requests import parse_json_object, read_small_body
from app.api.schemas import CorrectedTranscript
from app.domain.corrections import Corrections
from app.domain.errors import InvalidRequest
from app.domain.formats import placed_words, segment_object
from app.jobs.serializers import to_json

if TYPE_CHECKING:
    from app.jobs.edits import Edit

router = APIRouter(prefix="/v1/jobs", tags=["Jobs"])

#: Enough for every word of the longest recording.
_MAX_BODY_BYTES: Final = 8 * 1024 * 1024
_EXAMPLE: Final = '{"segments": [{"id": 3, "text": "…"}], "speakers": {"A": "Anna"}}'


@router.get(
    "/{job_id}/transcript",
    operation_id="get_job_corrections",
    summary="Retrieve the corrections of a transcript",
    response_model=None,
    responses=responses(
        "The corrected segments and named speakers.", json_body(CorrectedTranscript), *(400, 401, 404, 500, 503)
    ),
)
async def get_transcript(request: Request, parts: ServiceParts, job_id: str) -> Response:
    """Return the corrected segments and the named speakers of a job's transcript, with the `ETag` of this version."""
    await find_with_result(parts.jobs, request, job_id)
    return await asyncio.to_thread(_response, job_id, await parts.jobs.edits.read(job_id))


@router.put(
    "/{job_id}/transcript",
    operation_id="replace_job_corrections",
    summary="Correct a transcript",
    response_model=None,
    responses=responses(
        "The corrected segments and named speakers.",
        json_body(CorrectedTranscript),
        *(400, 401, 404, 412, 500, 503, 507),
    ),
    openapi_extra=CORRECTIONS_OPERATION,
)
async def put_transcript(
    request: Request,
    parts: ServiceParts,
    job_id: str,
    if_match: Annotated[
        str | None,
        Header(description="The `ETag` of the version that was edited. Without it, any is replaced."),
    ] = None,
) -> Response:
    """Replace all corrections of a job's transcript; an empty list without `speakers` restores the original.

    Results, uploads and subtitles have the corrected texts, and the names of speakers, from now on. An empty text
    removes its segment from them.
    """
    await find_with_result(parts.jobs, request, job_id)
    body = await read_small_body(request, max_bytes=_MAX_BODY_BYTES)
    corrections = await asyncio.to_thread(_corrections, body)
    edit = await parts.jobs.edits.replace(job_id, corrections, expected=_versions(if_match))
    return await asyncio.to_thread(_response, job_id, edit)


def _corrections(body: bytes) -> Corrections:
    edit = parse_json_object(body, example=_EXAMPLE, param="segments")
    segments = edit.get("segments")
    if not isinstance(segments, list):
        raise InvalidRequest(f"The body must be a JSON object such as {_EXAMPLE}.", param="segments")
    return Corrections(texts=_texts(segments), speakers=_names(edit.get("speakers", {})))


def _texts(segments: list[Any]) -> dict[int, str]:
    """Return the texts of segments by their ids."""
    texts: dict[int, str] = {}
    for segment in segments:
        match segment:
            case {"id": int(number), "text": str(text)} if not isinstance(number, bool):
                if number in texts:
                    raise InvalidRequest(f"Segment {number} is there twice: send each once.", param="segments")
                texts[number] = text
            case _:
                raise InvalidRequest(
                    "`segments` must be a list of objects with an `id`, a whole number, and a `text`, a string: "
                    f"{_EXAMPLE}.",
                    param="segments",
                )
    return texts


def _names(speakers: Any) -> dict[str, str]:
    """Return the names of speakers by their labels."""
    if not isinstance(speakers, dict) or not all(isinstance(name, str) for name in speakers.values()):
        raise InvalidRequest(
            f"`speakers` must be an object with a name, a string, for each label of a speaker: {_EXAMPLE}.",
            param="speakers",
        )
    return speakers


def _versions(if_match: str | None) -> frozenset[str] | None:
    """Return the versions that ``If-Match`` names, or None for any. Weak ones match nothing (RFC 9110)."""
    if if_match is None or if_match.strip() == "*":
        return None
    tags = (tag.strip() for tag in if_match.split(","))
    return frozenset(tag[1:-1] for tag in tags if len(tag) > 1 and tag.startswith('"') and tag.endswith('"'))


def _response(job_id: str, edit: Edit) -> Response:
    edited_at = edit.corrections.edited_at
    body: dict[str, Any] = {
        "job_id": job_id,
        **({} if edited_at is None else {"edited_at": edited_at}),
        "segments": [segment_object(segment) for segment in edit.segments],
        "words": placed_words(edit.segments),
        "speakers": dict(edit.corrections.speakers),
    }
    etag = f'"{edit.corrections.version}"'
    return Response(to_json(body), media_type="application/json", headers={"ETag": etag})
