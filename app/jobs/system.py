"""The parts that work on jobs, wired: every step from the acceptance of a job until it is forgotten."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from app.domain.events import discard_event
from app.jobs.changes import ChangeLog
from app.jobs.deliveries import Bucket, DeliveryRounds, WebhookReceiver
from app.jobs.delivery_schedule import DeliverySchedule
from app.jobs.edits import Edits
from app.jobs.estimate import Estimate
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
    from pathlib import Path

    from app.delivery.attempts import Clock
    from app.delivery.download import AudioDownloader
    from app.delivery.retry import RetryPolicy, RoundSchedule
    from app.delivery.upload import PresignedUploader
    from app.delivery.webhooks import WebhookSender
    from app.domain.events import EventSink
    from app.jobs.journal import Journal
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


def create_space(folder: Path, limits: JobLimits, estimate: Estimate) -> Space:
    """Return the limits on the audio in a folder."""
    return Space(
        folder,
        max_bytes=limits.spool_bytes,
        min_free_bytes=limits.free_bytes,
        next_free_seconds=estimate.next_place_seconds,
    )


def create_rounds(
    store: JobStore,
    spool: Spool,
    transfers: Transfers,
    limits: JobLimits,
    *,
    service_clock: ServiceClock,
    clock: Clock,
    emit: EventSink,
) -> DeliveryRounds:
    """Return what makes rounds of deliveries."""
    return DeliveryRounds(
        store=store,
        bucket=Bucket(spool=spool, uploader=transfers.uploader, emit=emit),
        webhook=WebhookReceiver(sender=transfers.sender),
        schedule=limits.rounds,
        retention=limits.retention,
        service_clock=service_clock,
        clock=clock,
        emit=emit,
    )


class JobSystem:
    """The parts that work on jobs. ``on_death`` is called with the exception of a task that must not fail."""

    def __init__(
        self,
        data_dir: Path,
        *,
        journal: Journal,
        transcriber: Transcriber,
        transfers: Transfers,
        limits: JobLimits,
        service_clock: ServiceClock,
        clock: Clock,
        on_death: Callable[[BaseException], None],
        registry: Registry | None = None,
        emit: EventSink = discard_event,
    ) -> None:
        self.subscriptions = JobSubscriptions()
        self.segments = SegmentSubscriptions()
        self.changes = ChangeLog()
        self.store = JobStore(
            journal, registry=registry, subscriptions=self.subscriptions, changes=self.changes, emit=emit
        )
        self.estimate = Estimate(slots=limits.slots)
        self.spool = Spool(data_dir, create_space(data_dir, limits, self.estimate))
        self.edits = Edits(store=self.store, spool=self.spool)
        retention = limits.retention
        self.views = JobViews(
            store=self.store, retention=retention, estimate=self.estimate, service_clock=service_clock
        )
        self.pipeline = Pipeline(
            store=self.store,
            spool=self.spool,
            transcriber=transcriber,
            downloader=transfers.downloader,
            estimate=self.estimate,
            segments=self.segments,
            retention=retention,
            service_clock=service_clock,
            emit=emit,
        )
        self.deliveries = DeliverySchedule(
            store=self.store,
            rounds=create_rounds(
                self.store, self.spool, transfers, limits, service_clock=service_clock, clock=clock, emit=emit
            ),
            service_clock=service_clock,
            slots=DELIVERIES,
            on_death=on_death,
        )
        self.runner = Runner(
            store=self.store,
            spool=self.spool,
            pipeline=self.pipeline,
            deliveries=self.deliveries,
            retention=retention,
            service_clock=service_clock,
            on_death=on_death,
        )
        self.intake = Intake(
            store=self.store,
            spool=self.spool,
            runner=self.runner,
            deliveries=self.deliveries,
            estimate=self.estimate,
            retention=retention,
            service_clock=service_clock,
            max_queued=limits.queued,
        )
        self.recovery = Recovery(
            store=self.store,
            spool=self.spool,
            pipeline=self.pipeline,
            deliveries=self.deliveries,
            runner=self.runner,
            service_clock=service_clock,
            clock=clock,
        )
        self.sweeper = Sweeper(
            store=self.store,
            intake=self.intake,
            runner=self.runner,
            retention=retention,
            service_clock=service_clock,
        )

    async def drain(self, grace_seconds: float) -> None:
        """Take no new work, and end the work of this process within ``grace_seconds``."""
        await self.runner.drain(grace_seconds, arriving=self.intake.arriving_count)

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
        """Yield the tasks that run as long as the service does, with their names."""
        yield "deliveries", self.deliveries.run()
        yield "retention", self.sweeper.run()

    async def resume(self, models: ModelRegistry) -> None:
        """Begin the work on jobs that wait, once the model is loaded."""
        await self.recovery.resume(models)
