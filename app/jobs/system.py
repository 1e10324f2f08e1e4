"""All that a job passes through, from its acceptance until it is forgotten, put together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from app.delivery.presigned import PresignedUploader
from app.delivery.webhooks import WebhookSecret, WebhookSender
from app.domain.telemetry import untold
from app.jobs.changes import Changes
from app.jobs.deliveries import Deliveries
from app.jobs.destinations import Bucket, WebhookReceiver
from app.jobs.download import AudioDownloader
from app.jobs.endings import Endings
from app.jobs.estimate import Estimate
from app.jobs.ledger import Ledger
from app.jobs.pipeline import Pipeline
from app.jobs.recovery import Recovery
from app.jobs.registry import Registry
from app.jobs.retention import Retention
from app.jobs.runner import Runner
from app.jobs.space import Space
from app.jobs.spool import Spool
from app.jobs.sweeper import Sweeper
from app.jobs.views import JobViews
from app.jobs.watchers import Watchers

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import httpx

    from app.delivery.attempts import Clock
    from app.delivery.retry import RetryPolicy, RoundSchedule
    from app.domain.telemetry import Tell
    from app.jobs.journal import Journal
    from app.jobs.uptime import Uptime
    from app.transcription.transcriber import Transcriber

#: Rounds of delivery that run at once; further ones wait.
DELIVERIES: Final = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class JobLimits:
    """How much, how often and for how long; sizes in bytes, times in seconds, 0 for no limit of ``spool_bytes``."""

    permits: int = 3
    queued: int = 1000
    file_bytes: int
    spool_bytes: int = 0
    free_bytes: int = 0
    upload_seconds: float = 600.0
    download_seconds: float = 3600.0
    finished_seconds: float = 3600.0
    undelivered_seconds: float = 604_800.0


class JobSystem:
    """The parts, each made once and given what it needs. ``on_death`` is told of a job that ended as none may."""

    def __init__(
        self,
        data_dir: Path,
        *,
        transcriber: Transcriber,
        client: httpx.AsyncClient,
        journal: Journal,
        uptime: Uptime,
        clock: Clock,
        policy: RetryPolicy,
        schedule: RoundSchedule,
        webhook_secret: WebhookSecret | None,
        limits: JobLimits,
        on_death: Callable[[BaseException], None],
        registry: Registry | None = None,
        tell: Tell = untold,
    ) -> None:
        self.journal = journal
        self.changes = Changes()
        self.registry = registry or Registry(self.changes, tell=tell)
        self.ledger = Ledger(self.registry, journal, tell=tell)
        self.watchers = Watchers()
        self.estimate = Estimate(permits=limits.permits)
        self.spool = Spool(
            data_dir,
            Space(
                data_dir,
                max_bytes=limits.spool_bytes,
                min_free_bytes=limits.free_bytes,
                next_free_seconds=self.estimate.next_place_seconds,
            ),
        )
        self.retention = Retention(
            finished_seconds=limits.finished_seconds, undelivered_seconds=limits.undelivered_seconds, uptime=uptime
        )
        self.views = JobViews(self.registry, self.retention, self.estimate)
        endings = Endings(self.views, uptime)
        self.pipeline = Pipeline(
            registry=self.registry,
            ledger=self.ledger,
            spool=self.spool,
            transcriber=transcriber,
            downloader=AudioDownloader(
                client,
                policy=policy,
                clock=clock,
                total_timeout_seconds=limits.download_seconds,
                max_bytes=limits.file_bytes,
                tell=tell,
            ),
            estimate=self.estimate,
            watchers=self.watchers,
            endings=endings,
            uptime=uptime,
            tell=tell,
        )
        uploader = PresignedUploader(
            client, policy=policy, clock=clock, total_timeout_seconds=limits.upload_seconds, tell=tell
        )
        sender = None
        if webhook_secret is not None:
            sender = WebhookSender(
                client,
                webhook_secret,
                policy=policy,
                clock=clock,
                total_timeout_seconds=limits.upload_seconds,
                tell=tell,
            )
        self.deliveries = Deliveries(
            registry=self.registry,
            ledger=self.ledger,
            destinations=[
                Bucket(spool=self.spool, uploader=uploader, endings=endings, tell=tell),
                WebhookReceiver(sender=sender),
            ],
            schedule=schedule,
            uptime=uptime,
            clock=clock,
            at_once=DELIVERIES,
            on_death=on_death,
            tell=tell,
        )
        self.runner = Runner(
            registry=self.registry,
            ledger=self.ledger,
            spool=self.spool,
            pipeline=self.pipeline,
            deliveries=self.deliveries,
            endings=endings,
            estimate=self.estimate,
            uptime=uptime,
            max_queued=limits.queued,
            on_death=on_death,
        )
        self.recovery = Recovery(
            registry=self.registry,
            ledger=self.ledger,
            journal=journal,
            spool=self.spool,
            pipeline=self.pipeline,
            deliveries=self.deliveries,
            runner=self.runner,
            uptime=uptime,
            clock=clock,
        )
        self.sweeper = Sweeper(
            registry=self.registry,
            runner=self.runner,
            ledger=self.ledger,
            journal=journal,
            retention=self.retention,
        )
