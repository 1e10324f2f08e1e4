"""``/v1/events``: all changes of a key's jobs, and of the server's health, as one stream of server-sent events.

A change is rendered once for all streams of its owner. Streams that fall behind, or begin after an earlier event, read
what they have missed themselves; since only the latest change of a job counts, nothing is kept for them.
"""

from __future__ import annotations

import asyncio
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Annotated, Any, Final

from fastapi import APIRouter, Header, Request
from fastapi.responses import Response

from app.api.dependencies import ServiceParts
from app.api.health import health_summary
from app.api.openapi import EVENT_STREAM, responses
from app.api.requests import parse_number
from app.api.sse import KEEP_ALIVE, KEEP_ALIVE_SECONDS, EventStream, event
from app.domain.errors import UnknownJob
from app.jobs.subscriptions import Subscription

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterator, Sequence

    from app.api.dependencies import Parts
    from app.domain.job import LiveJob
    from app.jobs.changes import Change, ChangeLog
    from app.jobs.serializers import JobViews
    from app.jobs.store import JobStore

#: Changes that come within this time are published together.
_PAUSE_SECONDS: Final = 0.1
#: The time between two looks at the server's health.
_HEALTH_SECONDS: Final = 1.0

router = APIRouter(prefix="/v1", tags=["Jobs"])


@router.get(
    "/events",
    operation_id="get_events",
    summary="Follow all jobs",
    response_model=None,
    response_class=Response,
    responses=responses(
        "Events `hello` or `reset`, then `job`, `removed` and `health`. All but `health` have an `id`.",
        EVENT_STREAM,
        *(401, 500),
    ),
)
async def get_events(
    request: Request,
    parts: ServiceParts,
    last_event_id: Annotated[
        str | None, Header(description="The id of the last received event, to continue after it.")
    ] = None,
) -> Response:
    """Stream every change of the jobs of this API key, as server-sent events.

    After `hello`, list the jobs: nothing that changes from then on is missed. A stream with `Last-Event-ID` begins with
    what has changed since; if that is not known, it begins with `reset`, after which jobs have to be listed again.
    """
    events = _events(parts, request.state.owner, last_event_id)
    return EventStream(events, end=events.aclose)


async def _events(parts: Parts, owner: str, last_event_id: str | None) -> AsyncGenerator[bytes]:
    """Yield events until the server has shut down, and at least every 15 s."""
    loop = asyncio.get_running_loop()
    health: dict[str, Any] = {}
    health_due = 0.0
    with parts.feed.follow(owner, last_event_id) as follower:
        quiet_since = loop.time()
        while not parts.jobs.runner.drained:
            follower.subscription.clear()
            content = await follower.read()
            if loop.time() >= health_due:
                latest, health_due = await health_summary(parts), loop.time() + _HEALTH_SECONDS
                content += b"" if latest == health else event(latest, name="health")
                health = latest
            if content or loop.time() - quiet_since >= KEEP_ALIVE_SECONDS:
                yield content or KEEP_ALIVE
                quiet_since = loop.time()
            await follower.subscription.wait(_HEALTH_SECONDS)


class Follower:
    """One stream: it has read all changes up to ``number``."""

    def __init__(self, feed: EventFeed, owner: str, number: int | None) -> None:
        self.owner = owner
        self.number = feed.published if number is None else number
        self.subscription = Subscription()
        self._feed = feed
        self._greeting = feed.greeting("reset" if number is None else "hello", self.number)

    async def read(self) -> bytes:
        """Return the events since the last call; the first ones begin with ``hello`` or ``reset``."""
        greeting, self._greeting = self._greeting, b""
        number, self.number = self.number, self._feed.published
        content = await self._feed.content(self.owner, after=number)
        return greeting + (self._feed.greeting("reset", self.number) if content is None else content)


class EventFeed:
    """Publishes the changes of jobs to the streams that are open. It belongs to the event loop.

    ``published`` is the number of the latest change that streams can read.
    """

    def __init__(self, *, changes: ChangeLog, store: JobStore, views: JobViews) -> None:
        self.published = 0
        self._changes = changes
        self._store = store
        self._views = views
        self._followers: dict[str, list[Follower]] = {}
        self._batches: dict[str, bytes | None] = {}
        self._batches_follow = 0
        self._positions: dict[str, int] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_due = False
        changes.listen(self._schedule)

    @property
    def count(self) -> int:
        """The number of open streams."""
        return sum(len(followers) for followers in self._followers.values())

    @contextmanager
    def follow(self, owner: str, last_event_id: str | None) -> Iterator[Follower]:
        """Publish changes of an owner's jobs, those since ``last_event_id`` first if that is known."""
        if not self._followers:
            self._loop = asyncio.get_running_loop()
            self.published = self._batches_follow = self._changes.latest
            self._positions = {live.job.id: position for position, live in self._queue()}
        number = self.published if last_event_id is None else self._number_of(last_event_id)
        follower = Follower(self, owner, number)
        self._followers.setdefault(owner, []).append(follower)
        try:
            yield follower
        finally:
            self._followers[owner].remove(follower)
            if not self._followers[owner]:
                del self._followers[owner]
                self._batches.pop(owner, None)

    async def content(self, owner: str, *, after: int) -> bytes | None:
        """Return the published events after a number, or None if they are no longer known."""
        if after == self.published:
            return b""
        if after == self._batches_follow and owner in self._batches:
            return self._batches[owner]
        return (await asyncio.to_thread(self._render, {owner: after}))[owner]  # possibly all jobs: 40 ms for 1,000

    def greeting(self, name: str, number: int) -> bytes:
        """Return the event with which a stream begins, or begins again."""
        cursor = self._cursor(number)
        return event({"cursor": cursor}, name=name, event_id=cursor)

    def _cursor(self, number: int) -> str:
        return f"{self._changes.boot_id}-{number}"

    def _number_of(self, cursor: str) -> int | None:
        """Return the number in a cursor, or None if it is not one of this process."""
        boot_id, _, text = cursor.partition("-")
        number = parse_number(text)
        if boot_id != self._changes.boot_id or number is None or number > self._changes.latest:
            return None
        return number

    def _schedule(self) -> None:
        """Publish soon, if anybody follows; called from any thread."""
        if self._followers and self._loop is not None and not self._is_due:
            self._is_due = True
            self._loop.call_soon_threadsafe(self._loop.call_later, _PAUSE_SECONDS, self._publish)

    def _publish(self) -> None:
        """Render what has changed, once for all streams, and wake those that it concerns."""
        self._record_moves()
        self._is_due = False
        latest = self._changes.latest
        self._batches = self._render(dict.fromkeys(self._followers, self.published))
        self._batches_follow, self.published = self.published, latest
        for owner, content in self._batches.items():
            for follower in self._followers[owner] if content != b"" else ():
                follower.subscription.notify()

    def _record_moves(self) -> None:
        """Record changed positions in the queue, which are changes of jobs that nothing else has reported.

        Far back in the queue, a job has to move up by a tenth: each step of a queue of 1,000 jobs publishes about 50 of
        them instead of all.
        """
        positions = {}
        for position, live in self._queue():
            shown = self._positions.get(live.job.id, position)
            has_moved = shown != position and abs(shown - position) * 10 >= shown
            if has_moved and live.job.owner in self._followers:
                self._changes.record(live.job)
            positions[live.job.id] = position if has_moved else shown
        self._positions = positions

    def _queue(self) -> Iterator[tuple[int, LiveJob]]:
        """Yield the queued jobs that this process knows, with their positions."""
        for job_id, position in self._store.queue_positions().items():
            with suppress(UnknownJob):
                yield position, self._store.get(job_id)

    def _render(self, after: dict[str, int]) -> dict[str, bytes | None]:
        """Return the published events of each owner after a number, or None if they are no longer known."""
        changes = {owner: self._changes.since(number, owner=owner) for owner, number in after.items()}
        changed = [change for some in changes.values() for change in some or () if not change.is_removal]
        views = self._views.many(tuple(self._known(changed)))
        return {
            owner: None if some is None else b"".join(self._event(change, views) for change in some)
            for owner, some in changes.items()
        }

    def _known(self, changes: Sequence[Change]) -> Iterator[LiveJob]:
        for change in changes:
            with suppress(UnknownJob):  # its removal follows
                yield self._store.get(change.job_id)

    def _event(self, change: Change, views: dict[str, dict[str, Any]]) -> bytes:
        cursor = self._cursor(change.number)
        if change.is_removal:
            return event({"job_id": change.job_id}, name="removed", event_id=cursor)
        view = views.get(change.job_id)
        return b"" if view is None else event(view, name="job", event_id=cursor)
