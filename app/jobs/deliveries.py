"""Deliveries on their schedule: rounds of attempts, hours apart if need be, until one arrives or it is given up."""

from __future__ import annotations

import asyncio
import heapq
import logging
import time
from collections import defaultdict, deque
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from itertools import count
from typing import TYPE_CHECKING, Final

from app.domain.errors import DeliveryFailed, UnknownJob
from app.domain.events import DeliveryOutcome, RoundEnded, discard_event, timed_step
from app.domain.job import Delivery, JobStatus
from app.domain.log_context import CurrentJob, current_job
from app.jobs.fair_slots import FairSlots
from app.jobs.supervision import caught, forget_frames, kind_of, log_cause, log_failure
from app.jobs.transitions import message_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from app.delivery.attempts import Clock
    from app.delivery.retry import RoundSchedule
    from app.domain.events import EventSink
    from app.domain.job import Job
    from app.jobs.destinations import Destination
    from app.jobs.service_clock import ServiceClock
    from app.jobs.store import Ledger, Registry
    from app.jobs.transitions import Change

logger = logging.getLogger(__name__)

#: How often a shutdown looks whether what is due has begun.
_BEGIN_SECONDS: Final = 0.01
#: When, in which order among those of the same time, and what.
_Due = tuple[float, int, str, str]
_UNREPORTED: Final = "its failure could not be reported to the user's URL"


class Deliveries:
    """Owns the task of every round that runs, and the times of those to come, which cost no task.

    At most ``at_once`` rounds run, and three quarters of those for one client. Times are the service clock: no wall
    clock puts a round off. ``on_death`` is told when a round ended as none may.
    """

    def __init__(
        self,
        *,
        registry: Registry,
        ledger: Ledger,
        destinations: Sequence[Destination],
        schedule: RoundSchedule,
        service_clock: ServiceClock,
        clock: Clock,
        at_once: int,
        on_death: Callable[[BaseException], None],
        emit: EventSink = discard_event,
    ) -> None:
        self._emit = emit
        self._registry = registry
        self._ledger = ledger
        self._destinations = {one.name: one for one in destinations}
        self._schedule = schedule
        self._service_clock = service_clock
        self._clock = clock
        self._places = FairSlots(at_once)
        self._on_death = on_death
        self._tasks: dict[tuple[str, str], asyncio.Task[None]] = {}
        self._line: list[_Due] = []
        self._held: defaultdict[str, deque[_Due]] = defaultdict(deque)
        self._numbers = count()
        self._changed = asyncio.Event()
        self._closed = False

    def attend(self, job_id: str) -> None:
        """Takes up what the job has to deliver by now; what is due begins at once."""
        with suppress(UnknownJob):
            job = self._registry.get(job_id)
            for destination in self._destinations.values():
                if (state := destination.due(job)) is not None:
                    self._put_in_line(job_id, destination, state)

    def is_busy(self, job_id: str) -> bool:
        """Whether a round of the job runs."""
        return any((job_id, name) in self._tasks for name in self._destinations)

    def is_about_to_begin(self, job_id: str) -> bool:
        """Whether a round of the job is about to begin, or waits for its place."""
        if self._closed or not self._registry.knows(job_id):
            return False
        job = self._registry.get(job_id)
        states = [destination.due(job) for destination in self._destinations.values()]
        return any(state is not None and self._begins_at(state) <= self._service_clock.seconds for state in states)

    @property
    def running(self) -> int:
        """How many rounds run."""
        return len(self._tasks)

    async def run(self) -> None:
        """Begins rounds when they are due, for as long as the service lives."""
        while True:
            self._changed.clear()
            while self._has_room and self._is_due:
                self._begin_or_hold(heapq.heappop(self._line))
            await self._service_clock.wait(
                self._changed, until=self._line[0][0] if self._has_room and self._line else None
            )

    @property
    def _is_due(self) -> bool:
        return bool(self._line) and self._line[0][0] <= self._service_clock.seconds

    @property
    def _has_room(self) -> bool:
        return self._places.has_room

    async def stop(self, job_id: str) -> None:
        """Ends the job's rounds, in mid-attempt if need be; what is due stays due."""
        tasks = [task for (one, _), task in list(self._tasks.items()) if one == job_id]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def drain(self, deadline: float) -> None:
        """Lets the rounds that run or are due come to their ends until ``deadline``, in the loop's time."""
        loop = asyncio.get_running_loop()
        while (self._tasks or self._is_due) and (left := deadline - loop.time()) > 0:
            if self._tasks:
                await asyncio.wait(list(self._tasks.values()), timeout=left)
            else:
                await asyncio.sleep(_BEGIN_SECONDS)  # they are about to begin
        self._closed = True
        for task in (tasks := list(self._tasks.values())):
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def _put_in_line(self, job_id: str, destination: Destination, state: Delivery) -> None:
        heapq.heappush(self._line, (self._begins_at(state), next(self._numbers), job_id, destination.name))
        self._changed.set()

    def _begins_at(self, state: Delivery) -> float:
        """The time of the next round, or of the look whether it is too late for one, whichever comes first."""
        begins_at = state.next_round
        if state.rounds:
            begins_at = min(begins_at, state.since + self._schedule.max_age_seconds)
        if state.expires_at is not None:
            begins_at = min(begins_at, self._service_clock.seconds + max(0.0, state.expires_at - self._clock.now()))
        return begins_at

    def _begin_or_hold(self, due: _Due) -> None:
        _, _, job_id, name = due
        if self._closed or (job_id, name) in self._tasks or not self._registry.knows(job_id):
            return
        owner = self._registry.get(job_id).owner
        if self._places.has_enough(owner):
            self._held[owner].append(due)
            return
        self._places.take(owner)
        destination = self._destinations[name]
        task = asyncio.create_task(self._round(job_id, destination), name=f"{name} of job {job_id}")
        self._tasks[job_id, name] = task
        task.add_done_callback(lambda task: self._ended(job_id, destination, owner, task))

    def _ended(self, job_id: str, destination: Destination, owner: str, task: asyncio.Task[None]) -> None:
        del self._tasks[job_id, destination.name]
        self._places.give_back(owner)
        self._let_go(owner)
        self._changed.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            self._on_death(error)
        elif not task.cancelled():
            self.attend(job_id)

    def _let_go(self, owner: str) -> None:
        """The first of those that were held because their client had enough, and are still due, may try again."""
        held = self._held.get(owner, deque())
        while held:
            due = held.popleft()
            if self._is_still_due(due):
                heapq.heappush(self._line, due)
                break
        if not held:
            self._held.pop(owner, None)

    def _is_still_due(self, due: _Due) -> bool:
        _, _, job_id, name = due
        with suppress(UnknownJob):
            return self._destinations[name].due(self._registry.get(job_id)) is not None
        return False

    async def _round(self, job_id: str, destination: Destination) -> None:
        with suppress(UnknownJob):  # it was forgotten
            job = self._registry.get(job_id)
            state = destination.due(job)
            if state is None:
                return
            current_job.set(CurrentJob(job.id, job.accepted_at))
            error = await caught(self._send(job, destination, state))
            if error is None:
                await self._deliver(job_id, destination)
            elif isinstance(error, DeliveryFailed) and error.retryable and not self._is_too_old(state):
                await self._put_off(job_id, destination, state, error)
            elif not isinstance(error, _TooEarly):
                await self._give_up(job, destination, error)

    async def _send(self, job: Job, destination: Destination, state: Delivery) -> None:
        destination.check(job, now=self._clock.now())
        if state.rounds and self._is_too_old(state):
            raise DeliveryFailed(
                f"{state.last_error}; given up after {_counted(state.attempts, 'attempt')} in "
                f"{_counted(state.rounds, 'round')}",
                attempts=state.attempts,
                retryable=False,
            )
        if state.next_round > self._service_clock.seconds:
            raise _TooEarly
        if destination.name == "upload":
            logger.info("📤 Job %s: Uploading results to user URL...", job.id)
        else:
            logger.info("🔔 Job %s: Telling its webhook...", job.id)
        with timed_step(self._emit, job.id, destination.name):
            await destination.send(job, _Noted(self._registry, job.id, destination, state.attempts))

    def _is_too_old(self, state: Delivery) -> bool:
        return self._service_clock.seconds - state.since >= self._schedule.max_age_seconds

    async def _deliver(self, job_id: str, destination: Destination) -> None:
        self._emit(RoundEnded(destination.name, DeliveryOutcome.DELIVERED))
        job = await self._ledger.commit_patiently(job_id, _if_due(destination, destination.delivered()))
        _log_end(job, destination)

    async def _put_off(self, job_id: str, destination: Destination, state: Delivery, error: DeliveryFailed) -> None:
        message, service_clock, now = message_of(error), self._service_clock.seconds, self._clock.now()
        rounds = state.rounds + 1
        wait = error.retry_after_seconds or self._schedule.wait_after(rounds, random=self._clock.random)
        comes = wait < self._time_left(state, service_clock=service_clock, now=now)
        self._emit(RoundEnded(destination.name, DeliveryOutcome.POSTPONED))

        def change(job: Job) -> Job:
            later = replace(
                destination.due(job) or state,
                rounds=rounds,
                next_round=service_clock + wait,
                next_attempt_at=now + wait if comes else None,
                last_error=message,
            )
            return destination.with_state(job, later)

        await self._ledger.commit_patiently(job_id, _if_due(destination, change))
        if comes:
            at = datetime.fromtimestamp(now + wait, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
            logger.info("🔄 Job %s: next round of %s attempts in %.0fs, at %s", job_id, destination.name, wait, at)
        else:
            logger.info("Job %s: no further round of %s attempts fits in", job_id, destination.name)

    def _time_left(self, state: Delivery, *, service_clock: float, now: float) -> float:
        """Seconds until the delivery is given up."""
        left = state.since + self._schedule.max_age_seconds - service_clock
        return left if state.expires_at is None else min(left, state.expires_at - now)

    async def _give_up(self, job: Job, destination: Destination, error: Exception) -> None:
        self._emit(RoundEnded(destination.name, DeliveryOutcome.GIVEN_UP))
        after = await self._ledger.commit_patiently(job.id, _if_due(destination, destination.given_up(error)))
        if job.is_active and after.status is JobStatus.FAILED:
            log_failure(job, error, message_of(error))
        else:
            what = "its end could not be told to its webhook" if destination.name == "webhook" else _UNREPORTED
            logger.error("Job %s: %s: %s", job.id, what, message_of(error))
            log_cause(error)
        forget_frames(error)


class _TooEarly(Exception):
    """The next round is not due yet, nor is it too late for one."""


class _Noted:
    """Writes the attempts of a round down on the job, in memory: the journal hears of the round's end."""

    def __init__(self, registry: Registry, job_id: str, destination: Destination, before: int) -> None:
        self._registry = registry
        self._job_id = job_id
        self._destination = destination
        self._before = before

    def __call__(self, attempt: int, error: str | None) -> None:
        def change(job: Job) -> Job:
            state = self._destination.due(job)
            if state is None:
                return job
            return self._destination.with_state(
                job, replace(state, attempts=self._before + attempt, last_error=error, next_attempt_at=None)
            )

        with suppress(UnknownJob):
            self._registry.update(self._job_id, change)


def _counted(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _if_due(destination: Destination, change: Change) -> Change:
    """The change, but for a job that was cancelled meanwhile."""
    return lambda job: change(job) if destination.due(job) is not None else job


def _log_end(job: Job, destination: Destination) -> None:
    if destination.name == "upload" and job.status is JobStatus.COMPLETED:
        seconds = time.time() - job.accepted_at
        logger.info("✅ %s %s completed successfully in %.1fs", kind_of(job), job.id, seconds)
    elif destination.name == "webhook":
        logger.info("🔔 Job %s: its webhook was told", job.id)
