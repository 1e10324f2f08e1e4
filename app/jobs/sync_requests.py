"""The clients that wait for their transcripts, and what becomes of the work when they go away.

A client that goes away may only have lost patience: OpenAI's SDKs send the whole request again after a time-out. So
the work goes on for a while, and longer while a re-send of it arrives, which then joins it.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from app.domain.job import Job
    from app.jobs.runner import Runner
    from app.jobs.store import Registry

#: How long work goes on when nobody waits for it any more.
GRACE_SECONDS: Final = 30.0
#: A timer may go off so much too early.
_EARLY_SECONDS: Final = 0.01


@dataclass(slots=True, eq=False)
class SyncRequest:
    """A synchronous job. ``expected`` counts re-sends that may be of it; ``deadline`` is in the loop's time.

    ``outcome`` is what went wrong, or None; ``answered`` says that a client has been told.
    """

    job: Job
    content_length: int | None
    outcome: asyncio.Task[Exception | None]
    waiters: int = 0
    expected: int = 0
    answered: bool = False
    deadline: float | None = None

    @property
    def has_failed(self) -> bool:
        return self.outcome.done() and self.outcome.result() is not None


class Resend:
    """A request that is on its way for a second time, and the jobs that it may be about, which are kept for it."""

    def __init__(self, waiters: SyncRequests, candidates: list[SyncRequest]) -> None:
        self._waiters = waiters
        self._kept = candidates
        for one in candidates:
            one.expected += 1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._keep([])

    @property
    def is_expected(self) -> bool:
        """Whether there is a job that it may be about."""
        return bool(self._kept)

    def joined(self, exact_digest: str) -> Job | None:
        """The job that it is about, now that all of it is known; the others are kept no longer."""
        found = next((one for one in self._kept if self._is_there(one) and one.job.exact_digest == exact_digest), None)
        self._keep([] if found is None else [found])
        return None if found is None else found.job

    def is_of(self, job: Job) -> None:
        """It is known to be about ``job``, which is kept for it, if a client waits for such jobs at all."""
        attended = self._waiters.attended(job.id)
        if attended is not None:
            attended.expected += 1
            self._kept.append(attended)

    def _is_there(self, one: SyncRequest) -> bool:
        """Whether it can still be joined: it has not failed, and was not ended by a shutdown."""
        return not one.has_failed and self._waiters.attended(one.job.id) is one

    def _keep(self, wanted: list[SyncRequest]) -> None:
        dropped = [one for one in self._kept if one not in wanted]
        self._kept = wanted
        for one in dropped:
            one.expected -= 1
            self._waiters.look_after(one)


class SyncRequests:
    """Ends synchronous jobs: at once when their client has its answer, after a while when it has gone."""

    def __init__(self, runner: Runner, registry: Registry, *, grace_seconds: float = GRACE_SECONDS) -> None:
        self._runner = runner
        self._registry = registry
        self._grace_seconds = grace_seconds
        self._attended: dict[str, SyncRequest] = {}
        self._endings: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def waiting(self, job: Job, *, content_length: int | None) -> AsyncIterator[SyncRequest]:
        """While a client waits for ``job``; others may wait for it too."""
        attended = self._attended.get(job.id) or self._attend(job, content_length)
        attended.waiters += 1
        attended.deadline = None
        try:
            yield attended
        finally:
            attended.waiters -= 1
            if not attended.waiters:
                await self._left(attended)

    def attended(self, job_id: str) -> SyncRequest | None:
        return self._attended.get(job_id)

    def resend(self, *, owner: str, content_length: int | None) -> Resend:
        """A request that its client sends again begins to arrive."""
        return Resend(
            self,
            [
                one
                for one in self._attended.values()
                if content_length is not None and one.content_length == content_length and one.job.owner == owner
            ],
        )

    def none(self) -> Resend:
        """A request that is sent for the first time."""
        return Resend(self, [])

    def look_after(self, attended: SyncRequest) -> None:
        """Ends a job that nobody waits for any more, nor may come to wait for."""
        if attended.waiters or attended.expected or attended.deadline is None:
            return
        if attended.deadline - _EARLY_SECONDS <= asyncio.get_running_loop().time():
            self._end_in_background(attended)

    async def close(self) -> None:
        """Ends what nobody waits for at once: no re-send will come to this process."""
        for attended in list(self._attended.values()):
            if not attended.waiters:
                self._end_in_background(attended)
        await asyncio.gather(*self._endings)

    def _attend(self, job: Job, content_length: int | None) -> SyncRequest:
        outcome = asyncio.create_task(self._runner.outcome(job.id), name=f"outcome of {job.id}")
        attended = self._attended[job.id] = SyncRequest(job, content_length, outcome)
        return attended

    async def _left(self, attended: SyncRequest) -> None:
        """The last client that waited has its answer, or has gone."""
        if attended.answered and not attended.expected:
            if self._take_out(attended):
                await self._end(attended.job.id)
            return
        loop = asyncio.get_running_loop()
        attended.deadline = loop.time() + (0 if attended.answered else self._grace_seconds)
        loop.call_at(attended.deadline, self.look_after, attended)

    def _end_in_background(self, attended: SyncRequest) -> None:
        if not self._take_out(attended):
            return
        ending = asyncio.create_task(self._end(attended.job.id), name=f"end of {attended.job.id}")
        self._endings.add(ending)
        ending.add_done_callback(self._endings.discard)

    def _take_out(self, attended: SyncRequest) -> bool:
        """From here on nobody joins it: the same request would find what is half gone. Whether it was still there."""
        self._registry.release_key(attended.job.id)
        return self._attended.pop(attended.job.id, None) is not None

    async def _end(self, job_id: str) -> None:
        await self._runner.cancel(job_id)
        await self._runner.forget(job_id)
