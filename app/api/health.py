"""``/health`` for people and load balancers, ``/health/ready`` for routing, and ``/metrics`` for Prometheus."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from app import __version__
from app.api.dependencies import ServiceParts
from app.api.openapi import PLAIN_TEXT, json_body, responses
from app.api.schemas import HealthReport, Readiness
from app.domain.job import JobStatus

if TYPE_CHECKING:
    from app.api.dependencies import Parts, TransferTimeouts
    from app.jobs.estimate import Capacity

#: Part of the API: clients look for this sentence.
NOTE: Final = "These bound transfers only: transcription itself has no timeout and runs as long as it needs."
_RETRY_SECONDS: Final = "10"

router = APIRouter(tags=["Health"])


@router.get(
    "/health",
    operation_id="get_health",
    summary="Get the state of the server",
    response_model=None,
    responses=responses("The state of the server.", json_body(HealthReport), 500),
)
async def get_health(parts: ServiceParts) -> dict[str, Any]:
    """Return the state of the server: always 200 while the process runs, and without an API key."""
    summary = await health_summary(parts)
    return {
        "status": summary["status"],
        "gpu_available": summary["device"] == "cuda",
        "device": summary["device"],
        "version": __version__,
        "model": summary["model"],
        "models": [{"name": state.name, "loaded": state.loaded} for state in parts.pool.model_registry.states],
        "devices": [
            {state.value: round(share, 3) for state, share in shares.items()} for shares in parts.pool.device_shares
        ],
        "concurrency": summary["concurrency"],
        **_cluster(parts.capacity()),
        "recovered": asdict(parts.jobs.recovery.recovered),
        "timeouts": _timeouts(parts.timeouts),
    }


@router.get(
    "/health/ready",
    operation_id="get_readiness",
    summary="Check if the server accepts work",
    response_model=None,
    responses={
        **responses("The server accepts work.", json_body(Readiness), 500),
        503: {"description": "The server does not accept work now.", "content": json_body(Readiness)},
    },
)
async def get_readiness(parts: ServiceParts) -> Response:
    """Return 200 if the model is loaded and the server is not shutting down, else 503."""
    status = _status(parts)
    if status == "healthy":
        return JSONResponse({"status": status})
    return JSONResponse({"status": status}, status_code=503, headers={"Retry-After": _RETRY_SECONDS})


@router.get(
    "/metrics",
    operation_id="get_metrics",
    summary="Get metrics for Prometheus",
    response_model=None,
    response_class=Response,
    responses=responses("Metrics in Prometheus' text format.", PLAIN_TEXT, 401, 500),
)
async def get_metrics(request: Request, parts: ServiceParts) -> Response:
    """Return metrics of all API keys together. They require METRICS_KEY if that is set, and no key otherwise."""
    page = parts.metrics
    if page.keys:
        page.keys.authenticate(request.headers.get("authorization", ""), setting="METRICS_KEY")
    return Response(await page.render(), media_type=page.content_type)


async def health_summary(parts: Parts) -> dict[str, Any]:
    """Return what changes while the server runs: its status, the default model, and the work in progress."""
    model = parts.pool.model_registry.default
    return {
        "status": _status(parts),
        "device": model.device,
        "model": {"name": model.name, "compute_type": model.compute_type, "loaded": model.loaded},
        "concurrency": await _concurrency(parts),
    }


def _status(parts: Parts) -> str:
    if parts.pool.failing:
        return "failing"
    if parts.jobs.runner.draining:
        return "draining"
    return "healthy" if parts.pool.ready else "loading"


async def _concurrency(parts: Parts) -> dict[str, int]:
    counts = await parts.jobs.store.counts()
    capacity = parts.capacity()
    return {
        "max_concurrent_requests": capacity.slots,
        "active_transcriptions": capacity.active,
        "active_jobs": counts[JobStatus.QUEUED] + counts[JobStatus.PROCESSING],
        "processing": counts[JobStatus.PROCESSING],
        "queued": counts[JobStatus.QUEUED],
        "completed": counts[JobStatus.COMPLETED],
        "failed": counts[JobStatus.FAILED],
        "available_slots": capacity.slots - capacity.active,
    }


def _cluster(capacity: Capacity) -> dict[str, Any]:
    """Return what a node for clients says about the cluster; nothing elsewhere."""
    if capacity.workers is None:
        return {}
    unserved = [{"name": name, "waiting": number} for name, number in sorted(capacity.unserved.items())]
    return {"cluster": {"workers": capacity.workers, "unserved_models": unserved}}


def _timeouts(timeouts: TransferTimeouts) -> dict[str, float | str]:
    return {
        "upload_timeout_seconds": timeouts.upload,
        "upload_timeout_minutes": round(timeouts.upload / 60, 2),
        "connect_timeout_seconds": timeouts.connect,
        "pool_timeout_seconds": timeouts.pool,
        "upload_max_attempts": timeouts.attempts,
        "note": NOTE,
    }
