"""The start after a stop or a crash: every job goes on from what the journal and the spool hold of it."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from app.domain.errors import UnknownModel

if TYPE_CHECKING:
    from collections.abc import Sequence

    from app.delivery.attempts import Clock
    from app.domain.job import Delivery, Job
    from app.jobs.deliveries import Deliveries
    from app.jobs.journal import Journal
    from app.jobs.pipeline import Pipeline
    from app.jobs.runner import Runner
    from app.jobs.service_clock import ServiceClock
    from app.jobs.spool import Spool
    from app.jobs.store import Ledger, Registry
    from app.transcription.models import ModelRegistry

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovered:
    """How many jobs an earlier process left: ``requeued`` without a result, ``undelivered`` with something to deliver;
    the others have ended."""

    jobs: int = 0
    requeued: int = 0
    undelivered: int = 0


class Recovery:
    """Brings back what was accepted before. ``recovered`` says how much that was."""

    def __init__(
        self,
        *,
        registry: Registry,
        ledger: Ledger,
        journal: Journal,
        spool: Spool,
        pipeline: Pipeline,
        deliveries: Deliveries,
        runner: Runner,
        service_clock: ServiceClock,
        clock: Clock,
    ) -> None:
        self._registry = registry
        self._ledger = ledger
        self._journal = journal
        self._spool = spool
        self._pipeline = pipeline
        self._deliveries = deliveries
        self._runner = runner
        self._service_clock = service_clock
        self._clock = clock
        self.recovered = Recovered()

    async def restore(self) -> None:
        """Fills the registry and takes up deliveries, those that are due first. Before the first request.

        Raises:
            ServiceError: the journal can't be used.
        """
        jobs, with_result = await asyncio.to_thread(self._read)
        for job in jobs:
            self._registry.add(self._put_right(job, has_result=job.id in with_result))
        for job in self._registry.under_way():
            if job.id in with_result:  # it was stored, and the process died before it was written down
                transcript, _ = await asyncio.to_thread(self._spool.result, job.id)
                await self._ledger.commit_patiently(job.id, self._pipeline.finished(transcript))
        restored = self._registry.everything()
        for job in restored:
            self._deliveries.attend(job.id)
        self.recovered = Recovered(
            jobs=len(restored),
            requeued=len(self._registry.under_way()),
            undelivered=sum(job.upload_is_due or job.event_is_due for job in restored),
        )
        if restored:
            logger.info(
                "♻️ %d jobs from before: %d go back to the queue, %d have something to deliver",
                self.recovered.jobs,
                self.recovered.requeued,
                self.recovered.undelivered,
            )

    async def resume(self, models: ModelRegistry) -> None:
        """Has the jobs without a result go on, in the order of their acceptance. Once the model is loaded."""
        for job in self._registry.under_way():
            if not job.synchronous:
                await self._see_to_its_model(job, models)
                self._runner.start(job.id)

    def _read(self) -> tuple[Sequence[Job], set[str]]:
        jobs = self._journal.open()
        unknown = self._spool.sweep({job.id for job in jobs})
        if unknown:
            logger.warning("Removed what was left of %d submissions that had not been accepted", unknown)
        with_result = {job.id for job in jobs if self._spool.has_result(job.id)}
        for job in jobs:
            if job.id in with_result or not job.is_active:
                self._spool.discard_audio(job.id)
        return jobs, with_result

    def _put_right(self, job: Job, *, has_result: bool) -> Job:
        """The job as it stands now that its process has ended."""
        if job.is_active:  # nobody has seen a later revision
            job = job.changed(revision=max(job.revision + 1, int(1000 * self._clock.now())))
        if job.is_active and not (job.has_result and has_result):
            return job.requeued().changed(has_result=False)
        return job.changed(
            has_result=job.has_result and has_result,
            delivery=self._brought_forward(job.delivery),
            notification=self._brought_forward(job.notification),
        )

    def _brought_forward(self, state: Delivery | None) -> Delivery | None:
        """Bring a wait forward if the wall clock says that it is over; a clock that was set back never prolongs it."""
        if state is None or state.next_attempt_at is None:
            return state
        left = min(max(0.0, state.next_attempt_at - self._clock.now()), state.next_round - self._service_clock.seconds)
        left = max(0.0, left)
        return replace(state, next_round=self._service_clock.seconds + left, next_attempt_at=self._clock.now() + left)

    async def _see_to_its_model(self, job: Job, models: ModelRegistry) -> None:
        """A job whose model is not served any more is transcribed with the default one, and says so."""
        try:
            models.find(job.options.model)
        except UnknownModel:
            name = models.default.name
            warning = f"The model {job.model} is not served here any more: {name} was used instead."
            await self._ledger.commit_patiently(
                job.id,
                lambda job: job.changed(
                    model=name, options=replace(job.options, model=name), warnings=(*job.warnings, warning)
                ),
            )
