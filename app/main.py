"""The composition root: every part is made here and given what it needs."""

from __future__ import annotations

import asyncio
import logging
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

from fastapi import FastAPI

from app import __version__
from app.api import docs, errors, openapi
from app.api.health import Health, TransferTimeouts
from app.api.jobs import Jobs
from app.api.limits import ApiKeys, Limits, LingeringClose, OtherPrefix
from app.api.models import Models
from app.api.streaming import Streaming
from app.api.submission import SubmissionReader
from app.api.transcriptions import Transcriptions
from app.api.views import JobViews
from app.delivery.attempts import Clock
from app.delivery.network import open_client
from app.delivery.presigned import PresignedUploader
from app.delivery.retry import RetryPolicy
from app.delivery.targets import UrlRules
from app.domain.errors import ModelUnavailable, ServiceError
from app.jobs.changes import Changes
from app.jobs.download import AudioDownloader
from app.jobs.estimate import Estimate
from app.jobs.pipeline import DOWNLOADS, Pipeline
from app.jobs.registry import Registry
from app.jobs.retention import Retention, sweep_forever
from app.jobs.runner import Runner
from app.jobs.spool import Spool
from app.jobs.waiters import GRACE_SECONDS, Waiters
from app.jobs.watchers import Watchers
from app.transcription.catalogue import Catalogue
from app.transcription.checkpoint import ModelChoice, load
from app.transcription.decoding import Decoder
from app.transcription.pool import ModelPool

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Sequence

    from app.settings import Settings
    from app.transcription.whisper import WhisperModel

logger = logging.getLogger(__name__)

POOL_TIMEOUT_SECONDS = 10.0
#: Uploads that run at once; further ones wait for a connection, up to the pool's timeout.
UPLOADS = 64


class Service:
    """All the parts of one running service."""

    def __init__(
        self,
        settings: Settings,
        *,
        load_model: Callable[[str], Sequence[WhisperModel]],
        stop: Callable[[int], None],
        clock: Clock,
        grace_seconds: float,
    ) -> None:
        self.settings = settings
        self._stop = stop
        permits = settings.max_concurrent_requests
        self.changes = Changes()
        self.registry = Registry(self.changes)
        self.watchers = Watchers()
        self.spool = Spool(settings.data_dir)
        self.estimate = Estimate(permits=permits)
        self.pool = ModelPool(
            load_model,
            catalogue=Catalogue(
                settings.whisper_model,
                settings.whisper_models,
                settings.whisper_model_aliases,
                compute_type=settings.whisper_compute_type,
            ),
            decoder=Decoder(max_seconds=settings.max_audio_seconds),
            permits=permits,
            batch_size=settings.batch_size,
            max_loaded=settings.whisper_max_loaded_models,
            on_death=self._engine_died,
        )
        self.client = open_client(
            allowed=settings.url_allowed_hosts,
            connect_timeout_seconds=settings.upload_connect_timeout_seconds,
            read_write_timeout_seconds=settings.upload_timeout_seconds,
            pool_timeout_seconds=POOL_TIMEOUT_SECONDS,
            max_connections=UPLOADS + DOWNLOADS,
        )
        policy = RetryPolicy(attempts=settings.upload_max_attempts)
        self.pipeline = Pipeline(
            registry=self.registry,
            spool=self.spool,
            transcriber=self.pool,
            downloader=AudioDownloader(
                self.client,
                policy=policy,
                clock=clock,
                total_timeout_seconds=settings.download_timeout_seconds,
                max_bytes=settings.max_upload_bytes,
            ),
            uploader=PresignedUploader(
                self.client, policy=policy, clock=clock, total_timeout_seconds=settings.upload_timeout_seconds
            ),
            estimate=self.estimate,
            watchers=self.watchers,
        )
        self.runner = Runner(
            registry=self.registry,
            spool=self.spool,
            pipeline=self.pipeline,
            estimate=self.estimate,
            max_queued=settings.max_queued_jobs,
        )
        self.waiters = Waiters(self.runner, self.registry, grace_seconds=grace_seconds)
        self.retention = Retention(
            finished_seconds=settings.job_retention_seconds,
            undelivered_seconds=settings.undelivered_retention_seconds,
        )

    async def drain(self) -> None:
        """Ends the work of this process within the grace period."""
        await self.waiters.close()
        await self.runner.drain(self.settings.shutdown_grace_seconds)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """From the first request that may be answered to the last."""
        async with AsyncExitStack() as stack:
            try:
                await asyncio.to_thread(self.spool.open)
            except ServiceError as exc:
                self._give_up(exc)
                yield
                return
            stack.callback(self.spool.close)
            stack.push_async_callback(self.client.aclose)
            stack.push_async_callback(self.pool.close)
            self._log_settings()
            for name, work in (
                ("model", self._load_model()),
                ("retention", sweep_forever(self.registry, self.runner, self.retention)),
            ):
                stack.push_async_callback(_end, self._start(name, work))
            stack.push_async_callback(self.drain)
            yield

    async def _load_model(self) -> None:
        try:
            await self.pool.load()
        except ModelUnavailable as exc:
            self._give_up(exc)

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
            "Timeouts: connect %gs, upload %gs (%d attempts), download %gs, shutdown %gs; transcription has none",
            settings.upload_connect_timeout_seconds,
            settings.upload_timeout_seconds,
            settings.upload_max_attempts,
            settings.download_timeout_seconds,
            settings.shutdown_grace_seconds,
        )
        if not settings.api_keys:
            logger.info("API_KEYS is empty: whoever reaches this server may use it")


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task])


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
    grace_seconds: float = GRACE_SECONDS,
) -> FastAPI:
    """The application.

    ``stop`` ends the process with an exit code; ``load_model`` blocks and gives the replicas of a model by its name;
    ``clock`` is what transfers wait by; ``grace_seconds`` is how long work goes on whose client has gone.
    """
    service = Service(
        settings,
        load_model=load_model or (lambda name: load(model_choice(settings, name))),
        stop=stop,
        clock=clock or Clock(),
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
    )
    app.state.service = service
    _add_routes(app, service)
    errors.install(app)
    openapi.complete(app)
    docs.install(app)
    app.add_middleware(Limits, keys=ApiKeys(settings.api_keys), max_upload_bytes=settings.max_upload_bytes)
    app.add_middleware(LingeringClose)
    app.add_middleware(OtherPrefix)
    return app


def _add_routes(app: FastAPI, service: Service) -> None:
    settings = service.settings
    transcriptions = Transcriptions(
        reader=SubmissionReader(UrlRules(settings.url_allowed_hosts)),
        pool=service.pool,
        registry=service.registry,
        runner=service.runner,
        spool=service.spool,
        estimate=service.estimate,
        streaming=Streaming(runner=service.runner, spool=service.spool, watchers=service.watchers),
        waiters=service.waiters,
        max_upload_bytes=settings.max_upload_bytes,
    )
    jobs = Jobs(
        registry=service.registry,
        runner=service.runner,
        spool=service.spool,
        changes=service.changes,
        views=JobViews(service.registry, service.retention, service.estimate),
    )
    health = Health(
        registry=service.registry,
        runner=service.runner,
        pool=service.pool,
        permits=settings.max_concurrent_requests,
        timeouts=TransferTimeouts(
            upload=settings.upload_timeout_seconds,
            connect=settings.upload_connect_timeout_seconds,
            pool=POOL_TIMEOUT_SECONDS,
            attempts=settings.upload_max_attempts,
        ),
    )
    for part in (transcriptions, jobs, Models(pool=service.pool), health):
        app.include_router(part.router())
