"""Responses whose bodies are rendered in a thread, because they can be large."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from fastapi.responses import Response

from app.domain.formats import MEDIA_TYPES, PLAIN_TEXT, to_json
from app.jobs.serializers import stored_body

if TYPE_CHECKING:
    from app.domain.formats import Rendering
    from app.domain.job import Job
    from app.jobs.spool import Spool


async def json_response(content: dict[str, Any]) -> Response:
    """Return ``content`` as JSON."""
    return Response(await asyncio.to_thread(to_json, content), media_type="application/json")


async def transcript_response(spool: Spool, job: Job, rendering: Rendering) -> Response:
    """Return the job's transcript in any format. As in OpenAI's API, WebVTT is plain text."""
    content = await asyncio.to_thread(stored_body, spool, job, rendering)
    media_type = MEDIA_TYPES[rendering.format]
    return Response(content, media_type=PLAIN_TEXT if media_type.startswith("text/") else media_type)
