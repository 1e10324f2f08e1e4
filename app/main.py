"""The composition root: every part is made here and given what it needs."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import TYPE_CHECKING

from fastapi import FastAPI

from app import __version__, metrics, tracing
from app.api import docs, errors, openapi
from app.api.browsers import NoForeignPages, SafeHeaders
from app.api.connections import ConnectionLimits, Connections
from app.api.health import Health, TransferTimeouts
from app.api.jobs import Jobs
from app.api.limits import Limits, LingeringClose, OtherPrefix, RequestsAtOnce
from app.api.metrics import Counted, MetricsPage
from app.api.models import Models
from app.api.streaming import Streaming
from app.api.submission import SubmissionReader
from app.api.transcriptions import Transcriptions
from app.delivery.attempts import Clock
from app.delivery.network import open_client
from app.delivery.retry import RetryPolicy, RoundSchedule
from app.delivery.targets import UrlRules
from app.domain.errors import ModelUnavailable, ServiceError
from app.domain.job import JobStatus
from app.domain.telemetry import ConnectionCut, LoopLagged
from app.jobs.pipeline import DOWNLOADS
from app.jobs.sqlite_journal import SqliteJournal
from app.jobs.system import DELIVERIES, JobLimits, JobSystem
from app.jobs.uptime import Uptime
from app.jobs.waiters import GRACE_SECONDS, Waiters
from app.transcription.catalogue import Catalogue
from app.transcription.checkpoint import ModelChoice, load
from app.transcription.decoding import Decoder
from app.transcription.pool import ModelPool

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Sequence

    from app.domain.telemetry import Happening
    from app.jobs.journal import Journal
    from app.settings import Settings
    from app.transcription.whisper import WhisperModel

logger = logging.getLogger(__name__)

POOL_TIMEOUT_SECONDS = 10.0
#: How often the event loop's lag is measured.
_LAG_SECONDS = 0.5


class Service:
    """All the parts of one running service."""

    def __init__(
        self,
        settings: Settings,
        *,
        load_model: Callable[[str], Sequence[WhisperModel]],
        stop: Callable[[int], None],
        clock: Clock,
        uptime: Uptime,
        journal: Journal,
        grace_seconds: float,
    ) -> None:
        self.settings = settings
        self._stop = stop
        self.metrics = metrics.Metrics(version=__version__)
        self.traces = tracing.open_traces() if tracing.asked_for() else None
        self.connections = Connections(
            connection_limits(settings),
            trusted=settings.forwarded_allow_ips,
            on_cut=lambda reason: self.tell(ConnectionCut(reason)),
        )
        self.pool = ModelPool(
            load_model,
            catalogue=Catalogue(
                settings.whisper_model,
                settings.whisper_models,
                settings.whisper_model_aliases,
                compute_type=settings.whisper_compute_type,
            ),
            decoder=Decoder(max_seconds=settings.max_audio_seconds, min_free_bytes=settings.spool_min_free_bytes),
            permits=settings.max_concurrent_requests,
            batch_size=settings.batch_size,
            max_loaded=settings.whisper_max_loaded_models,
            on_death=self._engine_died,
            tell=self.tell,
        )
        self.client = open_client(
            allowed=settings.url_allowed_hosts,
            connect_timeout_seconds=settings.upload_connect_timeout_seconds,
            read_write_timeout_seconds=settings.upload_timeout_seconds,
            pool_timeout_seconds=POOL_TIMEOUT_SECONDS,
            max_connections=DELIVERIES + DOWNLOADS,
        )
        self.jobs = JobSystem(
            settings.data_dir,
            transcriber=self.pool,
            client=self.client,
            journal=journal,
            uptime=uptime,
            clock=clock,
            policy=RetryPolicy(attempts=settings.upload_max_attempts),
            schedule=RoundSchedule(max_age_seconds=settings.delivery_max_age_seconds),
            webhook_secret=settings.webhook_secret,
            limits=job_limits(settings),
            on_death=self._job_died,
            tell=self.tell,
        )
        self.metrics.watch(self._gauges)
        self.waiters = Waiters(self.jobs.runner, self.jobs.registry, grace_seconds=grace_seconds)

    def tell(self, happening: Happening) -> None:
        """Passes on what happens, to those who count and trace it."""
        self.metrics(happening)
        if self.traces is not None:
            self.traces(happening)

    def _gauges(self) -> metrics.Gauges:
        counts = self.jobs.registry.counts()
        return {
            "jobs": {status.value: counts[status] for status in JobStatus},
            "waiting_requests": self.jobs.registry.waiting_count,
            "permits": self.settings.max_concurrent_requests,
            "permits_held": self.pool.active,
            "ready": self.pool.ready and not self.pool.failing and not self.jobs.runner.draining,
            "undelivered": self.jobs.registry.undelivered_count,
            "spool_bytes": self.jobs.spool.space.claimed,
            "disk_free_bytes": self.jobs.spool.space.free,
            "connections": len(self.connections),
        }

    async def _watch_lag(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + _LAG_SECONDS
            await asyncio.sleep(_LAG_SECONDS)
            self.tell(LoopLagged(max(0.0, loop.time() - due)))

    async def drain(self) -> None:
        """Ends the work of this process within the grace period."""
        await self.waiters.close()
        await self.jobs.runner.drain(self.settings.shutdown_grace_seconds)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """From the first request that may be answered to the last."""
        async with AsyncExitStack() as stack:
            try:
                await asyncio.to_thread(self.jobs.spool.open)
                stack.callback(self.jobs.spool.close)
                stack.push_async_callback(asyncio.to_thread, self.jobs.journal.close)
                await self.jobs.recovery.restore()
            except ServiceError as exc:
                self._give_up(exc)
                yield
                return
            if self.traces is not None:
                stack.push_async_callback(asyncio.to_thread, self.traces.close)
            stack.push_async_callback(self.client.aclose)
            stack.push_async_callback(self.pool.close)
            self._log_settings()
            for name, work in (
                ("deliveries", self.jobs.deliveries.run()),
                ("model", self._load_model()),
                ("retention", self.jobs.sweeper.run()),
                ("event-loop lag", self._watch_lag()),
            ):
                stack.push_async_callback(_end, self._start(name, work))
            stack.push_async_callback(self.drain)
            yield

    async def _load_model(self) -> None:
        try:
            await self.pool.load()
        except ModelUnavailable as exc:
            self._give_up(exc)
            return
        await self.jobs.recovery.resume(self.pool.catalogue)

    def _give_up(self, exc: ServiceError) -> None:
        """What stands in the way is for the operator to change: one sentence, no trace."""
        logger.critical("❌ %s", exc)
        self._stop(1)

    def _start(self, name: str, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        """A task of the service itself: if it dies, so does the service."""
        task = asyncio.create_task(work, name=name)
        task.add_done_callback(self._died)
        return task

    def _died(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (exc := task.exception()) is not None:
            logger.critical("The task %r died: stopping.", task.get_name(), exc_info=exc)
            self._stop(70)

    def _job_died(self, cause: BaseException) -> None:
        """What has been accepted can't be written down any more. A supervisor starts the process anew."""
        logger.critical("❌ A job can't go on (%s): stopping.", cause, exc_info=cause)
        self._stop(70)

    def _engine_died(self, _cause: BaseException) -> None:
        """All its requests have failed by now. A supervisor starts the process anew."""
        logger.critical("The transcription engine died: stopping.")
        self._stop(70)

    def _log_settings(self) -> None:
        settings = self.settings
        logger.info(
            "Model %s, device %s, compute type %s",
            settings.whisper_model,
            settings.whisper_device,
            settings.whisper_compute_type,
        )
        logger.info(
            "Concurrency: %d on the model at once, %d may wait",
            settings.max_concurrent_requests,
            settings.max_queued_jobs,
        )
        logger.info(
            "Timeouts: connect %gs, upload %gs (%d attempts, rounds for %gs), download %gs, shutdown %gs; "
            "transcription has none",
            settings.upload_connect_timeout_seconds,
            settings.upload_timeout_seconds,
            settings.upload_max_attempts,
            settings.delivery_max_age_seconds,
            settings.download_timeout_seconds,
            settings.shutdown_grace_seconds,
        )
        if not settings.api_keys:
            logger.info("API_KEYS is empty: whoever reaches this server may use it")
        elif short := [key.name for key in settings.api_keys if key.is_short]:
            logger.warning(
                "⚠️ API_KEYS has keys that can be guessed (%s): use at least 16 random characters, as openssl rand -hex "
                "24 prints",
                ", ".join(short),
            )


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task])


def job_limits(settings: Settings) -> JobLimits:
    """What the settings say of how much there may be of everything."""
    return JobLimits(
        permits=settings.max_concurrent_requests,
        queued=settings.max_queued_jobs,
        file_bytes=settings.max_upload_bytes,
        spool_bytes=settings.spool_max_bytes,
        free_bytes=settings.spool_min_free_bytes,
        upload_seconds=settings.upload_timeout_seconds,
        download_seconds=settings.download_timeout_seconds,
        finished_seconds=settings.job_retention_seconds,
        undelivered_seconds=settings.undelivered_retention_seconds,
    )


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a service that listens on ``host``."""
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host.lower() == "localhost"


def connection_limits(settings: Settings) -> ConnectionLimits:
    """What the settings say of how many clients there may be, and how slow."""
    return ConnectionLimits(
        total=settings.max_connections,
        per_address=settings.max_connections_per_address,
        head_seconds=settings.header_timeout_seconds,
        body_bytes_per_second=settings.min_body_bytes_per_second,
        send_seconds=settings.send_timeout_seconds,
    )


def model_choice(settings: Settings, name: str) -> ModelChoice:
    """How the settings want the model of that name to be loaded."""
    return ModelChoice(
        name=name,
        device=settings.whisper_device,
        compute_type=settings.whisper_compute_type,
        device_indexes=settings.whisper_device_index,
        cpu_threads=settings.whisper_cpu_threads,
        beam_size=settings.whisper_beam_size,
    )


def create_app(
    settings: Settings,
    *,
    stop: Callable[[int], None],
    load_model: Callable[[str], Sequence[WhisperModel]] | None = None,
    clock: Clock | None = None,
    uptime: Uptime | None = None,
    journal: Journal | None = None,
    grace_seconds: float = GRACE_SECONDS,
) -> FastAPI:
    """The application.

    ``stop`` ends the process with an exit code; ``load_model`` blocks and gives the replicas of a model by its name;
    ``clock`` is what transfers wait by, ``uptime`` what further rounds and retention do; ``journal`` is the one in
    ``DATA_DIR`` unless another is given; ``grace_seconds`` is how long work goes on whose client has gone.
    """
    uptime = uptime or Uptime()
    service = Service(
        settings,
        load_model=load_model or (lambda name: load(model_choice(settings, name))),
        stop=stop,
        clock=clock or Clock(),
        uptime=uptime,
        journal=journal or SqliteJournal(settings.data_dir / "journal.sqlite3", uptime),
        grace_seconds=grace_seconds,
    )

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with service.running():
            yield

    app = FastAPI(
        title="Transcription service",
        version=__version__,
        description="Audio to text on your own hardware, with OpenAI's API and delivery to presigned URLs.",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        # Its own spans would hold whole URLs, and cost time wherever OpenTelemetry is installed: see app/tracing.py.
        telemetry={"auto_configure": False, "tracing": False, "metrics": False, "logs": False},
    )
    app.state.service = service
    _add_routes(app, service)
    errors.install(app)
    openapi.complete(app)
    docs.install(app)
    app.add_middleware(
        Limits,
        keys=settings.api_keys,
        rate=settings.rate_limit,
        max_upload_bytes=settings.max_upload_bytes,
        at_once=RequestsAtOnce(settings.max_connections_per_address, trusted=settings.forwarded_allow_ips),
    )
    if not settings.api_keys:
        app.add_middleware(NoForeignPages, is_local=is_loopback(settings.host))
    app.add_middleware(LingeringClose)
    app.add_middleware(OtherPrefix)
    app.add_middleware(Counted, tell=service.tell)
    app.add_middleware(SafeHeaders)
    return app


def _add_routes(app: FastAPI, service: Service) -> None:
    settings, parts = service.settings, service.jobs
    reader = SubmissionReader(
        UrlRules(settings.url_allowed_hosts), has_webhook_secret=settings.webhook_secret is not None
    )
    transcriptions = Transcriptions(
        reader=reader,
        pool=service.pool,
        registry=parts.registry,
        ledger=parts.ledger,
        runner=parts.runner,
        spool=parts.spool,
        estimate=parts.estimate,
        streaming=Streaming(runner=parts.runner, spool=parts.spool, watchers=parts.watchers),
        waiters=service.waiters,
        max_upload_bytes=settings.max_upload_bytes,
        tell=service.tell,
    )
    jobs = Jobs(
        registry=parts.registry,
        runner=parts.runner,
        spool=parts.spool,
        changes=parts.changes,
        views=parts.views,
        reader=reader,
    )
    health = Health(
        registry=parts.registry,
        runner=parts.runner,
        pool=service.pool,
        recovery=parts.recovery,
        permits=settings.max_concurrent_requests,
        timeouts=TransferTimeouts(
            upload=settings.upload_timeout_seconds,
            connect=settings.upload_connect_timeout_seconds,
            pool=POOL_TIMEOUT_SECONDS,
            attempts=settings.upload_max_attempts,
        ),
    )
    page = MetricsPage(render=service.metrics.render, content_type=metrics.CONTENT_TYPE, keys=settings.metrics_key)
    for part in (transcriptions, jobs, Models(pool=service.pool), health, page):
        # include_router() would make all there is to a route anew, at the first request.
        app.router.routes.extend(part.router().routes)
