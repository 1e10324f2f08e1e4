"""A stored transcript as an answer."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from fastapi.responses import Response

from app.domain.formats import MEDIA_TYPES, PLAIN_TEXT
from app.jobs.serializers import stored_body

if TYPE_CHECKING:
    from app.domain.formats import Rendering
    from app.domain.job import Job
    from app.jobs.spool import Spool


async def transcript_answer(spool: Spool, job: Job, rendering: Rendering) -> Response:
    """The result of a job in any format; WebVTT is plain text here, as OpenAI answers it."""
    content = await asyncio.to_thread(stored_body, spool, job, rendering)
    media_type = MEDIA_TYPES[rendering.format]
    return Response(content, media_type=PLAIN_TEXT if media_type.startswith("text/") else media_type)
