"""The composition root and the lifespan: every part is created, wired, started and stopped here."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from app import __version__, metrics, tracing
from app.delivery.attempts import RoundOptions
from app.delivery.client import open_client
from app.delivery.download import AudioDownloader
from app.delivery.retry import RetryPolicy, RoundSchedule
from app.delivery.upload import PresignedUploader
from app.delivery.webhooks import WebhookSender
from app.diarization.models import BUNDLED
from app.domain.client_secrets import ClientSecrets
from app.domain.errors import DecoderUnavailable, ModelUnavailable, ServiceError
from app.domain.events import ConnectionCut, LoopLagged, discard_event
from app.domain.job import JobStatus
from app.domain.tickets import Tickets
from app.edge.connections import ConnectionLimits, Connections
from app.jobs.pipeline import DOWNLOADS
from app.jobs.retention import Retention
from app.jobs.sync_requests import SyncRequests
from app.jobs.system import DELIVERIES, JobLimits, LocalJobSystem, Surroundings, Transfers
from app.realtime.session import SessionLimits
from app.realtime.sessions import Sessions
from app.transcription.admission import usable_cores
from app.transcription.decoding import Decoder
from app.transcription.diarizer import Diarizer
from app.transcription.loading import ModelChoice
from app.transcription.models import ModelRegistry
from app.transcription.pool import ModelPool

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping, Sequence

    import httpx

    from app.cluster.system import ClusterJobSystem
    from app.delivery.attempts import Clock
    from app.domain.access import WebhookSecret
    from app.domain.events import Event, EventSink
    from app.jobs.journal import Journal
    from app.jobs.service_clock import ServiceClock
    from app.jobs.system import JobSystem
    from app.settings import Settings
    from app.transcription.whisper import WhisperModel


logger = logging.getLogger(__name__)

POOL_TIMEOUT_SECONDS = 10.0
#: The time between two measurements of the event loop's lag.
_LAG_SECONDS = 0.5


class Service:
    """All parts of a running service. ``stop`` ends the process with an exit code."""

    def __init__(
        self,
        settings: Settings,
        *,
        load_model: Callable[[str], Sequence[WhisperModel]],
        stop: Callable[[int], None],
        clock: Clock,
        service_clock: ServiceClock,
        journal: Journal,
        grace_seconds: float,
    ) -> None:
        self.settings = settings
        self._stop = stop
        self.metrics = metrics.Metrics(version=__version__)
        self.tickets = Tickets(next(iter(settings.cluster_secrets), ""))
        self.client_secrets = ClientSecrets()
        self.traces = tracing.open_traces() if tracing.is_enabled() else None
        self.connections = Connections(
            connection_limits(settings),
            trusted=settings.forwarded_allow_ips,
            on_cut=lambda reason: self.emit(ConnectionCut(reason)),
        )
        self.pool = create_pool(settings, load_model, on_death=self._engine_died, emit=self.emit)
        self.sessions = Sessions(
            self.pool,
            max_sessions=0 if settings.role == "api" else settings.realtime_max_sessions,
            limits=session_limits(settings),
            emit=self.emit,
        )
        self.client = create_client(settings)
        self.jobs = self._create_jobs(journal, service_clock=service_clock, clock=clock)
        self.metrics.add_gauges(self._gauges)
        self._job_counts: Counter[JobStatus] = Counter()
        self._undelivered_count = 0
        self.sync_requests = SyncRequests(
            store=self.jobs.store, intake=self.jobs.intake, runner=self.jobs.runner, grace_seconds=grace_seconds
        )

    def _create_jobs(self, journal: Journal, *, service_clock: ServiceClock, clock: Clock) -> JobSystem:
        settings = self.settings
        limits = job_limits(settings)
        surroundings = Surroundings(
            transcriber=self.pool,
            transfers=create_transfers(self.client, limits, settings.webhook_secret, clock=clock, emit=self.emit),
            limits=limits,
            service_clock=service_clock,
            clock=clock,
            on_death=self._job_died,
            emit=self.emit,
        )
        if settings.database_url:
            return create_cluster(settings, surroundings)
        return LocalJobSystem(settings.data_dir, surroundings, journal=journal)

    def emit(self, event: Event) -> None:
        """Pass an event to the metrics and the traces."""
        self.metrics(event)
        if self.traces is not None:
            self.traces(event)

    async def render_metrics(self) -> bytes:
        """Return the page for Prometheus."""
        self._job_counts = await self.jobs.store.counts()
        self._undelivered_count = await self.jobs.store.undelivered_count()
        return await asyncio.to_thread(self.metrics.render)

    def _gauges(self) -> metrics.Gauges:
        models = () if self.settings.role == "api" else self.pool.model_registry.states  # an API node has none loaded
        unserved: Mapping[str, int] = self.jobs.capacity().unserved
        return {
            "jobs": {status.value: self._job_counts[status] for status in JobStatus},
            "waiting_requests": self.jobs.store.queued_count,
            "unserved": sum(unserved.values()),
            "permits": 0 if self.settings.role == "api" else self.settings.max_concurrent_requests,
            "permits_held": self.pool.active,
            "models_loaded": sum(state.loaded for state in models),
            "ready": self.pool.ready and not self.pool.failing and not self.jobs.runner.draining,
            "undelivered": self._undelivered_count,
            "spool_bytes": self.jobs.spool.space.claimed,
            "disk_free_bytes": self.jobs.spool.space.free,
            "connections": len(self.connections),
            "realtime_sessions": len(self.sessions),
        }

    async def _watch_lag(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + _LAG_SECONDS
            await asyncio.sleep(_LAG_SECONDS)
            self.emit(LoopLagged(max(0.0, loop.time() - due)))

    async def drain(self) -> None:
        """End the work of this process within the grace period."""
        await asyncio.gather(self.sessions.drain(), self._drain_jobs())

    async def _drain_jobs(self) -> None:
        await self.sync_requests.close()
        await self.jobs.drain(self.settings.shutdown_grace_seconds)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run the service from its first request to its last."""
        async with AsyncExitStack() as stack:
            try:
                await stack.enter_async_context(self.jobs.opened())
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
                *self.jobs.background(),
                ("model", self._load_model()),
                ("event-loop lag", self._watch_lag()),
            ):
                stack.push_async_callback(_end, self._start(name, work))
            stack.push_async_callback(self.drain)
            yield

    async def _load_model(self) -> None:
        try:
            if self.settings.role == "api":
                self.pool.ready = True  # other nodes have models
            else:
                await self.pool.load()
        except (DecoderUnavailable, ModelUnavailable) as exc:
            self._give_up(exc)
            return
        await self.jobs.resume(self.pool.model_registry)

    def _give_up(self, exc: ServiceError) -> None:
        """Log one sentence for the operator, without a traceback, and stop."""
        logger.critical("❌ %s", exc)
        self._stop(1)

    def _start(self, name: str, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        """Start a task of the service itself, which stops if the task fails."""
        task = asyncio.create_task(work, name=name)
        task.add_done_callback(self._died)
        return task

    def _died(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (exc := task.exception()) is not None:
            logger.critical("The task %r died: stopping.", task.get_name(), exc_info=exc)
            self._stop(70)

    def _job_died(self, cause: BaseException) -> None:
        """Stop: the state of a job can't be recorded. A process supervisor starts the service again."""
        logger.critical("❌ A job can't continue (%s): stopping.", cause, exc_info=cause)
        self._stop(70)

    def _engine_died(self, _cause: BaseException) -> None:
        """Stop: all transcriptions have failed. A process supervisor starts the service again."""
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
            "Concurrency: %d GPU slots, %d requests may wait",
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
            logger.info("API_KEYS is empty: anyone who can reach this server can use it")
        elif short := [key.name for key in settings.api_keys if key.is_short]:
            logger.warning(
                "⚠️ API_KEYS has keys that are easy to guess (%s): use at least 16 random characters, for example from "
                "openssl rand -hex 24",
                ", ".join(short),
            )


@contextmanager
def _libraries_of_clusters() -> Iterator[None]:
    """Raise ServiceError if a library that only clusters need is not installed."""
    try:
        yield
    except ImportError as exc:
        raise ServiceError(
            f"DATABASE_URL needs the packages of requirements/cluster.lock ({exc}): start with ./start_server.sh, "
            "which then installs them, or unset it."
        ) from exc


async def migrate(settings: Settings) -> int:
    """Bring the tables of a cluster's database up to date, and return their version.

    Raises:
        ServiceError: there is no database, it can't be reached, or its tables are of a later version.
    """
    if not settings.database_url:
        raise ServiceError("There is nothing to migrate: DATABASE_URL is not set, so jobs are kept in DATA_DIR.")
    with _libraries_of_clusters():
        from app.cluster import schema
        from app.cluster.database import Database

    database = Database(settings.database_url)
    await database.open()
    try:
        return await schema.migrate(database)
    finally:
        await database.close()


def create_cluster(settings: Settings, surroundings: Surroundings) -> ClusterJobSystem:
    """Return the parts of a node of a cluster. Their libraries are imported here, so that only clusters need them."""
    with _libraries_of_clusters():
        from app.cluster.system import ClusterJobSystem, ClusterOptions

    return ClusterJobSystem(
        settings.data_dir,
        ClusterOptions(
            role=settings.role,
            database_url=settings.database_url,
            spool_url=settings.spool_url,
            secrets=settings.cluster_secrets,
            grace_seconds=settings.shutdown_grace_seconds,
            stale_seconds=settings.cluster_stale_seconds,
        ),
        surroundings,
    )


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task])


def create_pool(
    settings: Settings,
    load_model: Callable[[str], Sequence[WhisperModel]],
    *,
    on_death: Callable[[BaseException], None],
    emit: EventSink,
) -> ModelPool:
    return ModelPool(
        load_model,
        model_registry=ModelRegistry(
            settings.whisper_model,
            settings.whisper_models,
            settings.whisper_model_aliases,
            compute_type=settings.whisper_compute_type,
            accepts_any=settings.whisper_accept_any_model,
        ),
        decoder=Decoder(max_seconds=settings.max_audio_seconds, min_free_bytes=settings.spool_min_free_bytes),
        slots=settings.max_concurrent_requests,
        batch_size=settings.batch_size,
        max_loaded=settings.whisper_max_loaded_models,
        idle_unload_seconds=settings.whisper_idle_unload_seconds,
        diarizer=create_diarizer(settings),
        on_death=on_death,
        emit=emit,
    )


def create_diarizer(settings: Settings) -> Diarizer | None:
    """Return what tells speakers apart by their voices, or None if the settings say so."""
    if not settings.has_diarization:
        return None
    folder = BUNDLED if settings.diarization_model == "auto" else Path(settings.diarization_model)
    return Diarizer(folder, threads=settings.diarization_threads or max(1, usable_cores() // 2))


def create_client(settings: Settings) -> httpx.AsyncClient:
    return open_client(
        allowed=settings.url_allowed_hosts,
        connect_timeout_seconds=settings.upload_connect_timeout_seconds,
        read_write_timeout_seconds=settings.upload_timeout_seconds,
        pool_timeout_seconds=POOL_TIMEOUT_SECONDS,
        max_connections=DELIVERIES + DOWNLOADS,
    )


def create_transfers(
    client: httpx.AsyncClient,
    limits: JobLimits,
    webhook_secret: WebhookSecret | None,
    *,
    clock: Clock,
    emit: EventSink = discard_event,
) -> Transfers:
    uploads = RoundOptions(total_timeout_seconds=limits.upload_seconds, policy=limits.attempts, clock=clock, emit=emit)
    downloads = replace(uploads, total_timeout_seconds=limits.download_seconds)
    return Transfers(
        downloader=AudioDownloader(client, downloads, max_bytes=limits.file_bytes),
        uploader=PresignedUploader(client, uploads),
        sender=None if webhook_secret is None else WebhookSender(client, webhook_secret, uploads),
    )


def job_limits(settings: Settings) -> JobLimits:
    """Return the limits of the settings for jobs."""
    return JobLimits(
        slots=settings.max_concurrent_requests,
        queued=settings.max_queued_jobs,
        file_bytes=settings.max_upload_bytes,
        spool_bytes=settings.spool_max_bytes,
        free_bytes=settings.spool_min_free_bytes,
        attempts=RetryPolicy(attempts=settings.upload_max_attempts),
        rounds=RoundSchedule(max_age_seconds=settings.delivery_max_age_seconds),
        upload_seconds=settings.upload_timeout_seconds,
        download_seconds=settings.download_timeout_seconds,
        retention=Retention(
            finished_seconds=settings.job_retention_seconds,
            undelivered_seconds=settings.undelivered_retention_seconds,
        ),
    )


def connection_limits(settings: Settings) -> ConnectionLimits:
    """Return the limits of the settings for connections."""
    return ConnectionLimits(
        total=settings.max_connections,
        per_address=settings.max_connections_per_address,
        head_seconds=settings.header_timeout_seconds,
        body_bytes_per_second=settings.min_body_bytes_per_second,
        send_seconds=settings.send_timeout_seconds,
    )


def session_limits(settings: Settings) -> SessionLimits:
    """Return the limits of the settings for each realtime session."""
    return SessionLimits(
        session_seconds=settings.realtime_session_seconds,
        idle_seconds=settings.realtime_idle_seconds,
        finish_seconds=settings.shutdown_grace_seconds,
    )


def model_choice(settings: Settings, name: str) -> ModelChoice:
    """Return how the model of that name is to be loaded."""
    return ModelChoice(
        name=name,
        device=settings.whisper_device,
        compute_type=settings.whisper_compute_type,
        device_indexes=settings.whisper_device_index,
        cpu_threads=settings.whisper_cpu_threads,
        beam_size=settings.whisper_beam_size,
    )
