"""``/health`` for people and load balancers, ``/health/ready`` for those who route requests."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from app import __version__
from app.api.openapi import PLAIN_TEXT, json_body, responses
from app.api.schemas import HealthReport, Readiness
from app.domain.job import JobStatus

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from app.domain.access import ApiKeys
    from app.jobs.recovery import Recovery
    from app.jobs.runner import Runner
    from app.jobs.store import JobStore
    from app.transcription.pool import ModelPool

NOTE = "These bound transfers only: transcription itself has no timeout and runs as long as it needs."
_RETRY_SECONDS = "10"


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferTimeouts:
    """In seconds, but for the number of attempts."""

    upload: float
    connect: float
    pool: float
    attempts: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """What the routes need."""

    store: JobStore
    runner: Runner
    pool: ModelPool
    recovery: Recovery
    slots: int
    timeouts: TransferTimeouts

    def router(self) -> APIRouter:
        router = APIRouter(tags=["Health"])
        router.add_api_route(
            "/health",
            self.health,
            operation_id="get_health",
            methods=["GET"],
            summary="How the service is",
            response_model=None,
            responses=responses("The state of the server.", json_body(HealthReport), 500),
        )
        router.add_api_route(
            "/health/ready",
            self.ready,
            operation_id="get_readiness",
            methods=["GET"],
            summary="Whether it takes work",
            response_model=None,
            responses={
                **responses("The server accepts work.", json_body(Readiness), 500),
                503: {"description": "The server does not accept work now.", "content": json_body(Readiness)},
            },
        )
        return router

    async def health(self) -> dict[str, Any]:
        """Always 200 while the process lives."""
        model = self.pool.model_registry.default
        return {
            "status": self._status(),
            "gpu_available": model.device == "cuda",
            "device": model.device,
            "version": __version__,
            "model": {"name": model.name, "compute_type": model.compute_type, "loaded": model.loaded},
            "models": [{"name": one.name, "loaded": one.loaded} for one in self.pool.model_registry.states],
            "concurrency": await self._concurrency(),
            "recovered": asdict(self.recovery.recovered),
            "timeouts": {
                "upload_timeout_seconds": self.timeouts.upload,
                "upload_timeout_minutes": round(self.timeouts.upload / 60, 2),
                "connect_timeout_seconds": self.timeouts.connect,
                "pool_timeout_seconds": self.timeouts.pool,
                "upload_max_attempts": self.timeouts.attempts,
                "note": NOTE,
            },
        }

    async def ready(self) -> Response:
        """200 when the model is loaded and the service is not shutting down, else 503."""
        status = self._status()
        if status == "healthy":
            return JSONResponse({"status": status})
        return JSONResponse({"status": status}, status_code=503, headers={"Retry-After": _RETRY_SECONDS})

    def _status(self) -> str:
        if self.pool.failing:
            return "failing"
        if self.runner.draining:
            return "draining"
        return "healthy" if self.pool.ready else "loading"

    async def _concurrency(self) -> dict[str, int]:
        counts = await self.store.counts()
        held = self.pool.active
        return {
            "max_concurrent_requests": self.slots,
            "active_transcriptions": held,
            "active_jobs": counts[JobStatus.QUEUED] + counts[JobStatus.PROCESSING],
            "processing": counts[JobStatus.PROCESSING],
            "queued": counts[JobStatus.QUEUED],
            "completed": counts[JobStatus.COMPLETED],
            "failed": counts[JobStatus.FAILED],
            "available_slots": self.slots - held,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricsPage:
    """``render`` returns the page; ``keys`` are those of METRICS_KEY."""

    render: Callable[[], Awaitable[bytes]]
    content_type: str
    keys: ApiKeys

    def router(self) -> APIRouter:
        router = APIRouter(tags=["Health"])
        router.add_api_route(
            "/metrics",
            self.metrics,
            operation_id="get_metrics",
            methods=["GET"],
            summary="What is counted, for Prometheus",
            response_model=None,
            response_class=Response,
            responses=responses("Metrics in Prometheus' text format.", PLAIN_TEXT, 401, 500),
        )
        return router

    async def metrics(self, request: Request) -> Response:
        """Numbers only, of all keys together. Open, unless METRICS_KEY is set."""
        if self.keys:
            self.keys.authenticate(request.headers.get("authorization", ""), setting="METRICS_KEY")
        return Response(await self.render(), media_type=self.content_type)
