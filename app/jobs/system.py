"""The parts that work on jobs, wired: every step from the acceptance of a job until it is forgotten."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Final

from app.domain.events import discard_event
from app.jobs.changes import ChangeLog
from app.jobs.deliveries import Bucket, DeliveryRounds, WebhookReceiver
from app.jobs.delivery_schedule import DeliverySchedule
from app.jobs.edits import Edits
from app.jobs.estimate import Capacity, Estimate
from app.jobs.intake import Intake
from app.jobs.pipeline import Pipeline
from app.jobs.recovery import Recovery
from app.jobs.runner import Runner
from app.jobs.serializers import JobViews
from app.jobs.space import Space
from app.jobs.spool import Spool
from app.jobs.store import JobStore
from app.jobs.subscriptions import JobSubscriptions, SegmentSubscriptions
from app.jobs.sweeper import Sweeper

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from app.delivery.attempts import Clock
    from app.delivery.download import AudioDownloader
    from app.delivery.retry import RetryPolicy, RoundSchedule
    from app.delivery.upload import PresignedUploader
    from app.delivery.webhooks import WebhookSender
    from app.domain.events import EventSink
    from app.jobs.journal import Journal
    from app.jobs.recovery import RecoversJobs
    from app.jobs.registry import Registry
    from app.jobs.retention import Retention
    from app.jobs.service_clock import ServiceClock
    from app.transcription.models import ModelRegistry
    from app.transcription.transcriber import Transcriber

#: The number of delivery rounds that run at once; further ones wait.
DELIVERIES: Final = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class JobLimits:
    """The limits of a `JobSystem`: sizes in bytes, times in seconds. A ``spool_bytes`` of 0 is no limit."""

    slots: int = 3
    queued: int = 1000
    file_bytes: int
    spool_bytes: int = 0
    free_bytes: int = 0
    attempts: RetryPolicy
    rounds: RoundSchedule
    upload_seconds: float = 600.0
    download_seconds: float = 3600.0
    retention: Retention


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfers:
    """The parts that transfer audio, results and webhook events. Without a secret there is no ``sender``."""

    downloader: AudioDownloader
    uploader: PresignedUploader
    sender: WebhookSender | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """The parts of the service that the work on jobs needs, and its limits.

    ``on_death`` is called with the exception of a task that must not fail.
    """

    transcriber: Transcriber
    transfers: Transfers
    limits: JobLimits
    service_clock: ServiceClock
    clock: Clock
    on_death: Callable[[BaseException], None]
    emit: EventSink = discard_event


class JobSystem(ABC):
    """The parts that work on jobs.

    The constructor of a subclass creates those that one process and a cluster have in different kinds, which are
    annotated here. The others are wired alike in both; those that need the first ones are properties.
    """

    estimate: Estimate
    segments: SegmentSubscriptions
    store: JobStore
    spool: Spool
    deliveries: DeliverySchedule
    runner: Runner
    recovery: RecoversJobs

    def __init__(self, surroundings: Surroundings) -> None:
        self._surroundings = surroundings
        self._limits = surroundings.limits
        self._service_clock = surroundings.service_clock
        self.subscriptions = JobSubscriptions()
        self.changes = ChangeLog()

    @abstractmethod
    def opened(self) -> AbstractAsyncContextManager[None]:
        """Open what keeps the jobs during the block.

        Raises:
            ServiceError: it can't be used.
        """

    @abstractmethod
    def background(self) -> Iterator[tuple[str, Coroutine[None, None, None]]]:
        """Yield the tasks that run as long as the service does, with their names."""

    @abstractmethod
    async def resume(self, models: ModelRegistry) -> None:
        """Begin the work on jobs that wait, once the model is loaded."""

    def capacity(self) -> Capacity:
        """Return the slots that there are for jobs, and those in use."""
        return Capacity(slots=self._limits.slots, active=self._surroundings.transcriber.active)

    async def drain(self, grace_seconds: float) -> None:
        """Take no new work, and end the work of this process within ``grace_seconds``."""
        await self.runner.drain(grace_seconds, arriving=self.intake.arriving_count)

    def _space_in(self, folder: Path) -> Space:
        """Return the limits on the audio in a folder."""
        return Space(
            folder,
            max_bytes=self._limits.spool_bytes,
            min_free_bytes=self._limits.free_bytes,
            next_free_seconds=self.estimate.next_place_seconds,
        )

    @cached_property
    def edits(self) -> Edits:
        return Edits(store=self.store, spool=self.spool)

    @cached_property
    def views(self) -> JobViews:
        return JobViews(
            store=self.store,
            retention=self._limits.retention,
            estimate=self.estimate,
            service_clock=self._service_clock,
        )

    @cached_property
    def pipeline(self) -> Pipeline:
        return Pipeline(
            store=self.store,
            spool=self.spool,
            transcriber=self._surroundings.transcriber,
            downloader=self._surroundings.transfers.downloader,
            estimate=self.estimate,
            segments=self.segments,
            retention=self._limits.retention,
            service_clock=self._service_clock,
            emit=self._surroundings.emit,
        )

    @cached_property
    def rounds(self) -> DeliveryRounds:
        transfers, emit = self._surroundings.transfers, self._surroundings.emit
        return DeliveryRounds(
            store=self.store,
            bucket=Bucket(spool=self.spool, uploader=transfers.uploader, emit=emit),
            webhook=WebhookReceiver(sender=transfers.sender),
            schedule=self._limits.rounds,
            retention=self._limits.retention,
            service_clock=self._service_clock,
            clock=self._surroundings.clock,
            emit=emit,
        )

    @cached_property
    def intake(self) -> Intake:
        return Intake(
            store=self.store,
            spool=self.spool,
            runner=self.runner,
            deliveries=self.deliveries,
            estimate=self.estimate,
            retention=self._limits.retention,
            service_clock=self._service_clock,
            max_queued=self._limits.queued,
        )


class LocalJobSystem(JobSystem):
    """The parts of a process that keeps its jobs in the folder ``data_dir``."""

    recovery: Recovery

    def __init__(
        self, data_dir: Path, surroundings: Surroundings, *, journal: Journal, registry: Registry | None = None
    ) -> None:
        super().__init__(surroundings)
        self.estimate = Estimate(slots=self._limits.slots)
        self.segments = SegmentSubscriptions()
        self.store = JobStore(
            journal,
            registry=registry,
            subscriptions=self.subscriptions,
            changes=self.changes,
            emit=surroundings.emit,
        )
        self.spool = Spool(data_dir, self._space_in(data_dir))
        self.deliveries = DeliverySchedule(
            store=self.store,
            rounds=self.rounds,
            service_clock=self._service_clock,
            slots=DELIVERIES,
            on_death=surroundings.on_death,
        )
        self.runner = Runner(
            store=self.store,
            spool=self.spool,
            pipeline=self.pipeline,
            deliveries=self.deliveries,
            retention=self._limits.retention,
            service_clock=self._service_clock,
            on_death=surroundings.on_death,
        )
        self.recovery = Recovery(
            store=self.store,
            spool=self.spool,
            pipeline=self.pipeline,
            deliveries=self.deliveries,
            runner=self.runner,
            service_clock=self._service_clock,
            clock=surroundings.clock,
        )
        self.sweeper = Sweeper(
            store=self.store,
            intake=self.intake,
            runner=self.runner,
            retention=self._limits.retention,
            service_clock=self._service_clock,
        )

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        """Open the spool and the journal during the block, and restore the jobs of earlier processes.

        Raises:
            ServiceError: they can't be used.
        """
        async with AsyncExitStack() as stack:
            await asyncio.to_thread(self.spool.open)
            stack.callback(self.spool.close)
            stack.push_async_callback(asyncio.to_thread, self.store.close)
            await self.recovery.restore()
            yield

    def background(self) -> Iterator[tuple[str, Coroutine[None, None, None]]]:
        yield "deliveries", self.deliveries.run()
        yield "retention", self.sweeper.run()

    async def resume(self, models: ModelRegistry) -> None:
        await self.recovery.resume(models)
