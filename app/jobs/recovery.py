"""The start after a stop or a crash: every job continues from what the journal and the spool hold of it."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from app.domain.errors import DiskFull, UnknownModel
from app.domain.job import DeliveryKind
from app.jobs import transitions

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from app.delivery.attempts import Clock
    from app.domain.job import Delivery, Job
    from app.jobs.delivery_schedule import DeliverySchedule
    from app.jobs.pipeline import Pipeline
    from app.jobs.runner import Runner
    from app.jobs.service_clock import ServiceClock
    from app.jobs.spool import Spool
    from app.jobs.store import JobStore
    from app.transcription.models import ModelRegistry

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovered:
    """The number of jobs that an earlier process left.

    ``requeued`` ones have no result, ``undelivered`` ones have something to deliver, the others have ended.
    """

    jobs: int = 0
    requeued: int = 0
    undelivered: int = 0


class RecoversJobs(Protocol):
    """The start of a process. ``recovered`` counts the jobs that it has continued."""

    @property
    def recovered(self) -> Recovered: ...


class Recovery:
    """Restores the jobs of earlier processes. ``recovered`` counts them."""

    def __init__(
        self,
        *,
        store: JobStore,
        spool: Spool,
        pipeline: Pipeline,
        deliveries: DeliverySchedule,
        runner: Runner,
        service_clock: ServiceClock,
        clock: Clock,
    ) -> None:
        self._store = store
        self._spool = spool
        self._pipeline = pipeline
        self._deliveries = deliveries
        self._runner = runner
        self._service_clock = service_clock
        self._clock = clock
        self.recovered = Recovered()

    async def restore(self) -> None:
        """Restore all jobs and schedule their deliveries, before the first request.

        Raises:
            ServiceError: the journal can't be used.
        """
        jobs, with_result, unknown = await asyncio.to_thread(self._read)
        for job in jobs:
            as_edited = replace(job, edited_at=with_result.get(job.id))
            self._store.restore(self._restored(as_edited, has_result=job.id in with_result))
        await self._commit_results(with_result)
        await self._settle_starts(other_work=unknown > 0)
        restored = [live.job for live in self._store.live_jobs()]
        for job in restored:
            self._deliveries.add(job.id)
        self.recovered = Recovered(
            jobs=len(restored),
            requeued=len(self._store.untranscribed()),
            undelivered=sum(job.has_delivery_due for job in restored),
        )
        if restored:
            logger.info(
                "♻️ %d jobs restored: %d go back to the queue, %d have something to deliver",
                self.recovered.jobs,
                self.recovered.requeued,
                self.recovered.undelivered,
            )

    async def resume(self, models: ModelRegistry) -> None:
        """Start the jobs without a result, oldest first, once the model is loaded."""
        for live in self._store.untranscribed():
            if not live.job.synchronous:
                await self._check_model(live.job, models)
                self._runner.start(live.job.id)

    def _read(self) -> tuple[Sequence[Job], dict[str, float | None], int]:
        """Return the jobs of the journal, and when the results in the spool were edited, and tidy up the spool.

        The last value is the number of requests whose files were left there: submissions, or those of waiting clients.
        """
        jobs = self._store.open()
        unknown = self._spool.sweep({job.id for job in jobs})
        if unknown:
            logger.warning("Removed the files of %d submissions that had not been accepted", unknown)
        with_result = {
            job.id: self._spool.corrections(job.id).edited_at for job in jobs if self._spool.has_result(job.id)
        }
        for job in jobs:
            if job.id in with_result or not job.is_active:
                self._spool.discard_audio(job.id, keep_recording=job.keep_audio and job.id in with_result)
        return jobs, with_result, unknown

    async def _commit_results(self, with_result: Mapping[str, float | None]) -> None:
        """Commit results that were stored by a process that died before it had committed them."""
        for live in self._store.untranscribed():
            if live.job.id in with_result:
                transcript, seconds = await asyncio.to_thread(self._spool.result, live.job.id)
                await self._pipeline.commit_result(live.job.id, transcript, processing_time=seconds)

    async def _settle_starts(self, *, other_work: bool) -> None:
        """Record the death of the process in the jobs that it had begun.

        It is a file's fault only if nothing else was at work, and if the machine has not stopped with the process.
        """
        begun = [live.job for live in self._store.untranscribed() if live.job.begun_on is not None]
        for job in begun:
            alone = len(begun) == 1 and not other_work and job.begun_on == self._store.node
            with suppress(DiskFull):  # then the next start counts, and not this death
                await self._store.commit(job.id, transitions.process_died, alone=alone)

    def _restored(self, job: Job, *, has_result: bool) -> Job:
        """Return a job from the journal as it stands now that its process has ended."""
        if job.is_active:  # the progress that the process showed had later revisions
            job = replace(job, revision=max(job.revision + 1, int(1000 * self._clock.now())))
        if job.is_active and not (job.has_result and has_result):
            return job.requeued()
        job = replace(job, has_result=job.has_result and has_result)
        for kind in DeliveryKind:
            if (state := job.delivery_of(kind)) is not None:
                job = job.with_delivery(kind, self._brought_forward(state))
        return job

    def _brought_forward(self, state: Delivery) -> Delivery:
        """Shorten the wait for a round by the time the service was down; a clock set back never prolongs it."""
        if state.next_attempt_at is None:
            return state
        left = min(max(0.0, state.next_attempt_at - self._clock.now()), state.next_round - self._service_clock.seconds)
        left = max(0.0, left)
        return replace(state, next_round=self._service_clock.seconds + left, next_attempt_at=self._clock.now() + left)

    async def _check_model(self, job: Job, models: ModelRegistry) -> None:
        """Use the default model for a job whose model is no longer served."""
        try:
            models.find(job.options.model)
        except UnknownModel:
            await self._store.commit_patiently(job.id, transitions.model_replaced, name=models.default.name)
