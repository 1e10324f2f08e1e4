"""Notify subscribers when a job changes, and hand them its segments as they are transcribed."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from app.domain.transcript import Segment

    Segments = asyncio.Queue[tuple[Segment, ...] | None]


class Subscription:
    """A flag that is set when its job has changed. It belongs to the event loop that created it."""

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    def notify(self) -> None:
        """Set the flag. Safe to call from any thread."""
        self._loop.call_soon_threadsafe(self._event.set)

    def clear(self) -> None:
        self._event.clear()

    async def wait(self, seconds: float) -> bool:
        """Wait for a change and return whether one came within ``seconds``."""
        try:
            await asyncio.wait_for(self._event.wait(), seconds)
        except TimeoutError:
            return False
        return True


class JobSubscriptions:
    """The subscriptions to changes of jobs and of the queue."""

    def __init__(self) -> None:
        self._subscriptions: dict[str, list[Subscription]] = {}

    @contextmanager
    def subscribe(self, job_id: str) -> Iterator[Subscription]:
        subscription = Subscription()
        self._subscriptions.setdefault(job_id, []).append(subscription)
        try:
            yield subscription
        finally:
            self._subscriptions[job_id].remove(subscription)
            if not self._subscriptions[job_id]:
                del self._subscriptions[job_id]

    def notify(self, job_id: str) -> None:
        for subscription in tuple(self._subscriptions.get(job_id, ())):
            subscription.notify()

    def notify_all(self) -> None:
        """Notify the subscribers of all jobs: positions in the queue may have changed."""
        for job_id in tuple(self._subscriptions):
            self.notify(job_id)

    @property
    def subscribed(self) -> tuple[str, ...]:
        """The jobs with subscriptions."""
        return tuple(self._subscriptions)

    @property
    def count(self) -> int:
        return sum(len(subscriptions) for subscriptions in self._subscriptions.values())


class SegmentSubscriptions:
    """The subscriptions to segments of running transcriptions, and the segments so far of those that are kept.

    They belong to the event loop.
    """

    def __init__(self) -> None:
        self._queues: dict[str, list[Segments]] = {}
        self._kept: dict[str, list[Segment]] = {}

    @contextmanager
    def keeping(self, job_id: str) -> Iterator[None]:
        """Keep the segments of a job during the block, for clients that ask for them later."""
        self._kept[job_id] = []
        try:
            yield
        finally:
            del self._kept[job_id]

    def restart(self, job_id: str) -> None:
        """Drop what is kept of a job: its transcription begins."""
        if job_id in self._kept:
            self._kept[job_id] = []

    def so_far(self, job_id: str) -> Sequence[Segment]:
        """Return the segments that are kept of a job."""
        return self._kept.get(job_id, ())

    async def read_so_far(self, job_id: str) -> Sequence[Segment]:
        """Return the same for a client; another machine may have them."""
        return self.so_far(job_id)

    def is_followed(self, job_id: str) -> bool:
        """Return whether somebody has subscribed to segments of the job."""
        return job_id in self._queues

    @property
    def followed(self) -> tuple[str, ...]:
        """The jobs with subscriptions."""
        return tuple(self._queues)

    @contextmanager
    def subscribe(self, job_id: str) -> Iterator[Segments]:
        """Yield a queue of the segments that are finished from now on, in order."""
        queue: Segments = asyncio.Queue()
        self._queues.setdefault(job_id, []).append(queue)
        try:
            yield queue
        finally:
            self._queues[job_id].remove(queue)
            if not self._queues[job_id]:
                del self._queues[job_id]

    def publish(self, job_id: str, segments: tuple[Segment, ...]) -> None:
        if job_id in self._kept:
            self._kept[job_id] += segments
        for queue in self._queues.get(job_id, ()):
            queue.put_nowait(segments)

    @property
    def count(self) -> int:
        return sum(len(queues) for queues in self._queues.values())
