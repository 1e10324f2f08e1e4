"""The FastAPI application: routes and middleware around one service."""

from __future__ import annotations

import logging
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from fastapi import FastAPI

from app import __version__, metrics
from app.api import docs_page, errors, openapi
from app.api.health import Health, MetricsPage, TransferTimeouts
from app.api.jobs import Jobs
from app.api.models import Models
from app.api.sse import Streaming
from app.api.submission import SubmissionReader
from app.api.transcriptions import Transcriptions
from app.delivery.attempts import Clock
from app.delivery.url_rules import UrlRules
from app.domain.access import is_loopback
from app.edge.middleware import (
    ConcurrencyLimit,
    CrossOriginGuard,
    GroqPrefix,
    LingeringClose,
    RequestLimits,
    ResponseEvents,
    SecurityHeaders,
)
from app.jobs.journal import Journal
from app.jobs.service_clock import ServiceClock
from app.jobs.sync_requests import GRACE_SECONDS
from app.service import POOL_TIMEOUT_SECONDS, Service, model_choice
from app.transcription.loading import load

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from app.settings import Settings
    from app.transcription.whisper import WhisperModel

logger = logging.getLogger(__name__)


def create_app(
    settings: Settings,
    *,
    stop: Callable[[int], None],
    load_model: Callable[[str], Sequence[WhisperModel]] | None = None,
    clock: Clock | None = None,
    service_clock: ServiceClock | None = None,
    journal: Journal | None = None,
    grace_seconds: float = GRACE_SECONDS,
) -> FastAPI:
    """Create the application.

    ``stop`` ends the process with an exit code; ``load_model`` blocks and returns the replicas of a model by its
    name; ``clock`` times transfers, ``service_clock`` delivery rounds and retention; ``journal`` replaces the one in
    ``DATA_DIR``; ``grace_seconds`` is how long a synchronous request continues after its client has gone.
    """
    service_clock = service_clock or ServiceClock()
    service = Service(
        settings,
        load_model=load_model or (lambda name: load(model_choice(settings, name))),
        stop=stop,
        clock=clock or Clock(),
        service_clock=service_clock,
        journal=journal or Journal(settings.data_dir / "journal.sqlite3", service_clock),
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
    openapi.install(app)
    docs_page.install(app)
    app.add_middleware(
        RequestLimits,
        keys=settings.api_keys,
        rate=settings.rate_limit,
        max_upload_bytes=settings.max_upload_bytes,
        concurrency=ConcurrencyLimit(settings.max_connections_per_address, trusted=settings.forwarded_allow_ips),
    )
    if not settings.api_keys:
        app.add_middleware(CrossOriginGuard, is_local=is_loopback(settings.host))
    app.add_middleware(LingeringClose)
    app.add_middleware(GroqPrefix)
    app.add_middleware(ResponseEvents, emit=service.emit)
    app.add_middleware(SecurityHeaders)
    return app


def _add_routes(app: FastAPI, service: Service) -> None:
    settings, parts = service.settings, service.jobs
    reader = SubmissionReader(
        UrlRules(settings.url_allowed_hosts), has_webhook_secret=settings.webhook_secret is not None
    )
    transcriptions = Transcriptions(
        reader=reader,
        pool=service.pool,
        store=parts.store,
        intake=parts.intake,
        spool=parts.spool,
        estimate=parts.estimate,
        streaming=Streaming(intake=parts.intake, runner=parts.runner, spool=parts.spool, segments=parts.segments),
        sync_requests=service.sync_requests,
        max_upload_bytes=settings.max_upload_bytes,
        emit=service.emit,
    )
    jobs = Jobs(
        store=parts.store,
        intake=parts.intake,
        spool=parts.spool,
        subscriptions=parts.subscriptions,
        views=parts.views,
        reader=reader,
    )
    health = Health(
        store=parts.store,
        runner=parts.runner,
        pool=service.pool,
        recovery=parts.recovery,
        slots=settings.max_concurrent_requests,
        timeouts=TransferTimeouts(
            upload=settings.upload_timeout_seconds,
            connect=settings.upload_connect_timeout_seconds,
            pool=POOL_TIMEOUT_SECONDS,
            attempts=settings.upload_max_attempts,
        ),
    )
    page = MetricsPage(render=service.render_metrics, content_type=metrics.CONTENT_TYPE, keys=settings.metrics_key)
    for part in (transcriptions, jobs, Models(pool=service.pool), health, page):
        # include_router() would make all there is to a route anew, at the first request.
        app.router.routes.extend(part.router().routes)
