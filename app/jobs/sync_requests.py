"""The clients that wait for their transcripts, and what happens to the work when they go away.

A client that goes away may only have timed out: OpenAI's SDKs send the whole request again then. So the work continues
for a while, and longer while a replay arrives, which then joins it.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from app.domain.job import Job
    from app.jobs.intake import Intake
    from app.jobs.runner import Runner
    from app.jobs.store import JobStore

#: The time for which work continues after its last client has gone.
GRACE_SECONDS: Final = 30.0
#: The time by which a timer may be early.
_EARLY_SECONDS: Final = 0.01


@dataclass(slots=True, eq=False)
class SyncRequest:
    """A synchronous job with the clients that wait for it.

    ``outcome`` returns what went wrong, or None. ``expected`` counts replays on their way that may be the
    same; ``responded`` is set once a client has its response; ``deadline`` is in the event loop's time.
    """

    job: Job
    content_length: int | None
    outcome: asyncio.Task[Exception | None]
    clients: int = 0
    expected: int = 0
    responded: bool = False
    deadline: float | None = None

    @property
    def has_failed(self) -> bool:
        return self.outcome.done() and self.outcome.result() is not None


class Replay:
    """A request that may be a replay, and the synchronous requests that it may repeat, which are kept for it."""

    def __init__(self, sync_requests: SyncRequests, candidates: list[SyncRequest]) -> None:
        self._sync_requests = sync_requests
        self._kept = candidates
        for candidate in candidates:
            candidate.expected += 1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._keep([])

    @property
    def is_expected(self) -> bool:
        """True if there is a request that it may be the same as."""
        return bool(self._kept)

    def joined(self, exact_digest: str) -> Job | None:
        """Return the job of the same request, or None; the other candidates are no longer kept for it."""
        same = next((each for each in self._kept if self._can_be_joined(each, exact_digest)), None)
        self._keep([] if same is None else [same])
        return None if same is None else same.job

    def keep(self, job: Job) -> None:
        """Keep ``job``, which is known to be the same by its idempotency key, if it is synchronous."""
        request = self._sync_requests.find(job.id)
        if request is not None:
            request.expected += 1
            self._kept.append(request)

    def _can_be_joined(self, request: SyncRequest, exact_digest: str) -> bool:
        is_there = not request.has_failed and self._sync_requests.find(request.job.id) is request
        return is_there and request.job.exact_digest == exact_digest

    def _keep(self, kept: list[SyncRequest]) -> None:
        dropped = [request for request in self._kept if request not in kept]
        self._kept = kept
        for request in dropped:
            request.expected -= 1
            self._sync_requests.end_if_abandoned(request)


class SyncRequests:
    """Ends synchronous jobs: at once when a client has its response, after a grace period when all have gone."""

    def __init__(
        self, *, store: JobStore, intake: Intake, runner: Runner, grace_seconds: float = GRACE_SECONDS
    ) -> None:
        self._store = store
        self._intake = intake
        self._runner = runner
        self._grace_seconds = grace_seconds
        self._requests: dict[str, SyncRequest] = {}
        self._endings: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def waiting(self, job: Job, *, content_length: int | None) -> AsyncIterator[SyncRequest]:
        """Count a client that waits for ``job``; several may wait for the same one."""
        request = self._requests.get(job.id) or self._add(job, content_length)
        request.clients += 1
        request.deadline = None
        try:
            yield request
        finally:
            request.clients -= 1
            if not request.clients:
                await self._last_client_left(request)

    def find(self, job_id: str) -> SyncRequest | None:
        return self._requests.get(job_id)

    def replay(self, *, owner: str, content_length: int | None) -> Replay:
        """Return a replay that begins to arrive, with the requests that it may repeat."""
        candidates = [
            request
            for request in self._requests.values()
            if content_length is not None and request.content_length == content_length and request.job.owner == owner
        ]
        return Replay(self, candidates)

    def first_send(self) -> Replay:
        """Return a request that is sent for the first time, and repeats none."""
        return Replay(self, [])

    def end_if_abandoned(self, request: SyncRequest) -> None:
        """End a job that no client waits for and that no replay may join."""
        if request.clients or request.expected or request.deadline is None:
            return
        if request.deadline - _EARLY_SECONDS <= asyncio.get_running_loop().time():
            self._end_in_background(request)

    async def close(self) -> None:
        """End all jobs that no client waits for: no replay will come to this process."""
        for request in list(self._requests.values()):
            if not request.clients:
                self._end_in_background(request)
        await asyncio.gather(*self._endings)

    def _add(self, job: Job, content_length: int | None) -> SyncRequest:
        outcome = asyncio.create_task(self._runner.outcome(job.id), name=f"outcome of {job.id}")
        request = self._requests[job.id] = SyncRequest(job, content_length, outcome)
        return request

    async def _last_client_left(self, request: SyncRequest) -> None:
        if request.responded and not request.expected:
            if self._remove(request):
                await self._end(request.job.id)
            return
        loop = asyncio.get_running_loop()
        request.deadline = loop.time() + (0 if request.responded else self._grace_seconds)
        loop.call_at(request.deadline, self.end_if_abandoned, request)

    def _end_in_background(self, request: SyncRequest) -> None:
        if not self._remove(request):
            return
        ending = asyncio.create_task(self._end(request.job.id), name=f"end of {request.job.id}")
        self._endings.add(ending)
        ending.add_done_callback(self._endings.discard)

    def _remove(self, request: SyncRequest) -> bool:
        """Prevent further requests from joining, by their key too; return whether the request was still there."""
        self._store.release_key(request.job.id)
        return self._requests.pop(request.job.id, None) is not None

    async def _end(self, job_id: str) -> None:
        await self._intake.cancel(job_id)
        await self._intake.forget(job_id)
