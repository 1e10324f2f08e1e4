"""Who wants to know when a job has changed, without asking again and again."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from app.domain.transcript import Segment

    Segments = asyncio.Queue[tuple[Segment, ...] | None]


class Signal:
    """Says that something has changed since it was last waited for. It belongs to the loop that made it."""

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    def give(self) -> None:
        """From any thread."""
        self._loop.call_soon_threadsafe(self._event.set)

    def clear(self) -> None:
        self._event.clear()

    async def wait(self, seconds: float) -> bool:
        """Whether something changed within ``seconds``."""
        try:
            await asyncio.wait_for(self._event.wait(), seconds)
        except TimeoutError:
            return False
        return True


class Changes:
    """Passes on that a job has changed, or that the line of those that wait has moved."""

    def __init__(self) -> None:
        self._signals: dict[str, list[Signal]] = {}

    @contextmanager
    def watching(self, job_id: str) -> Iterator[Signal]:
        signal = Signal()
        self._signals.setdefault(job_id, []).append(signal)
        try:
            yield signal
        finally:
            self._signals[job_id].remove(signal)
            if not self._signals[job_id]:
                del self._signals[job_id]

    def announce(self, job_id: str) -> None:
        for signal in tuple(self._signals.get(job_id, ())):
            signal.give()

    def announce_line(self) -> None:
        """Whoever waits may have another place now."""
        for job_id in tuple(self._signals):
            self.announce(job_id)


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
