"""Who wants to hear of a job's segments as they are finished."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from app.domain.transcript import Segment

    Segments = asyncio.Queue[tuple[Segment, ...] | None]


class Watchers:
    """Hands segments on, in order, to whoever watches their job. It belongs to the event loop."""

    def __init__(self) -> None:
        self._queues: dict[str, list[Segments]] = {}

    @contextmanager
    def watching(self, job_id: str) -> Iterator[Segments]:
        """A queue of what is finished from now on."""
        queue: Segments = asyncio.Queue()
        self._queues.setdefault(job_id, []).append(queue)
        try:
            yield queue
        finally:
            self._queues[job_id].remove(queue)
            if not self._queues[job_id]:
                del self._queues[job_id]

    def tell(self, job_id: str, segments: tuple[Segment, ...]) -> None:
        for queue in self._queues.get(job_id, ()):
            queue.put_nowait(segments)
