"""The FastAPI application: routes and middleware around one service."""

from __future__ import annotations

import time
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

from fastapi import FastAPI

from app import __version__, metrics
from app.api import (
    asr,
    docs_page,
    edits,
    errors,
    events,
    health,
    jobs,
    models,
    openapi,
    realtime,
    recordings,
    server,
    transcriptions,
    usage,
)
from app.api.dependencies import JobParts, MetricsPage, Parts, RealtimeLimits, ServerLimits, TransferTimeouts
from app.api.events import EventFeed
from app.api.submission import SubmissionReader
from app.delivery.attempts import Clock
from app.delivery.url_rules import UrlRules
from app.domain.access import is_loopback
from app.edge.cross_origin import CrossOriginGuard, CrossOriginSharing, cors_options
from app.edge.middleware import (
    ConcurrencyLimit,
    LingeringClose,
    RequestLimits,
    RequestTargets,
    ResponseEvents,
    SecurityHeaders,
)
from app.edge.request_ids import RequestIds
from app.jobs.journal import Journal
from app.jobs.service_clock import ServiceClock
from app.jobs.sync_requests import GRACE_SECONDS
from app.jobs.usage import Quotas
from app.service import POOL_TIMEOUT_SECONDS, Service, model_choice
from app.transcription.loading import load
from app.web import page

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from app.settings import Settings
    from app.transcription.whisper import WhisperModel


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
        load_model=load_model or partial(_load_model, settings),
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
        # FastAPI's own spans would contain whole URLs, and cost time whenever OpenTelemetry is installed: see
        # app/tracing.py.
        telemetry={"auto_configure": False, "tracing": False, "metrics": False, "logs": False},
    )
    app.state.service = service
    app.state.parts = _parts(service)
    pages = (docs_page, page) if settings.web_page else (docs_page,)
    served = (transcriptions, asr, jobs, edits, recordings, events, realtime, models, usage, server, health, *pages)
    for module in (health,) if settings.role == "worker" else served:
        # include_router() makes every route again at the first request, which takes 20 ms of CPU in the event loop
        # (fastapi 0.165). Extending the list reuses the routes of the modules for every application.
        app.router.routes.extend(module.router.routes)
    errors.install(app)
    openapi.install(app)
    _add_middleware(app, service)
    return app


def _load_model(settings: Settings, name: str) -> Sequence[WhisperModel]:
    return load(model_choice(settings, name))


def _add_middleware(app: FastAPI, service: Service) -> None:
    settings = service.settings
    app.add_middleware(
        RequestLimits,
        keys=settings.api_keys,
        metrics_keys=settings.metrics_key,
        rate=settings.rate_limit,
        max_upload_bytes=settings.max_upload_bytes,
        concurrency=ConcurrencyLimit(settings.max_connections_per_address, trusted=settings.forwarded_allow_ips),
        tickets=service.tickets,
        client_secrets=service.client_secrets,
    )
    if settings.cors_allowed_origins:
        app.add_middleware(CrossOriginSharing, **cors_options(settings.cors_allowed_origins))
    if not settings.api_keys:
        app.add_middleware(
            CrossOriginGuard,
            is_local=is_loopback(settings.host),
            trusted=settings.forwarded_allow_ips,
            allowed=settings.cors_allowed_origins,
        )
    app.add_middleware(LingeringClose)
    app.add_middleware(RequestTargets)
    app.add_middleware(ResponseEvents, emit=service.emit)
    app.add_middleware(SecurityHeaders)
    app.add_middleware(RequestIds)


def _realtime_limits(settings: Settings) -> RealtimeLimits | None:
    if not settings.realtime_max_sessions or settings.role == "api":
        return None
    return RealtimeLimits(
        max_sessions=settings.realtime_max_sessions,
        session_seconds=settings.realtime_session_seconds,
        idle_seconds=settings.realtime_idle_seconds,
    )


def _parts(service: Service) -> Parts:
    settings, jobs = service.settings, service.jobs
    return Parts(
        pool=service.pool,
        jobs=JobParts(
            store=jobs.store,
            intake=jobs.intake,
            runner=jobs.runner,
            recovery=jobs.recovery,
            spool=jobs.spool,
            edits=jobs.edits,
            estimate=jobs.estimate,
            views=jobs.views,
            subscriptions=jobs.subscriptions,
            segments=jobs.segments,
            sync_requests=service.sync_requests,
            quotas=Quotas(
                jobs.store.usage,
                {key.fingerprint: key.quota_seconds for key in settings.api_keys if key.quota_seconds is not None},
            ),
        ),
        reader=SubmissionReader(
            UrlRules(settings.url_allowed_hosts),
            has_webhook_secret=settings.webhook_secret is not None,
            max_retention_seconds=settings.longest_retention_seconds,
            diarization_available=settings.has_diarization,
        ),
        metrics=MetricsPage(
            render=service.render_metrics, content_type=metrics.CONTENT_TYPE, keys=settings.metrics_key
        ),
        timeouts=TransferTimeouts(
            upload=settings.upload_timeout_seconds,
            connect=settings.upload_connect_timeout_seconds,
            pool=POOL_TIMEOUT_SECONDS,
            attempts=settings.upload_max_attempts,
        ),
        tickets=service.tickets,
        client_secrets=service.client_secrets,
        sessions=service.sessions,
        limits=ServerLimits(
            requires_key=bool(settings.api_keys),
            key_names={key.fingerprint: key.name for key in settings.api_keys if key.is_named},
            max_upload_bytes=settings.max_upload_bytes,
            max_audio_seconds=settings.max_audio_seconds,
            retention_seconds=settings.job_retention_seconds,
            max_retention_seconds=settings.longest_retention_seconds,
            has_webhooks=settings.webhook_secret is not None,
            has_diarization=settings.has_diarization,
            realtime=_realtime_limits(settings),
        ),
        feed=EventFeed(changes=jobs.changes, store=jobs.store, views=jobs.views),
        capacity=jobs.capacity,
        started_at=int(time.time()),
        emit=service.emit,
    )
