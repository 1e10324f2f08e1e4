"""``/v1/server``: what a client can ask of this server, before it has a key."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter

from app import __version__
from app.api.dependencies import ServiceParts
from app.api.openapi import json_body, responses
from app.api.schemas import Server
from app.domain.formats import ResponseFormat

if TYPE_CHECKING:
    from app.transcription.models import ModelState

router = APIRouter(prefix="/v1", tags=["Health"])


@router.get(
    "/server",
    operation_id="get_server",
    summary="Get the limits and features of the server",
    response_model=None,
    responses=responses("The limits and features of the server.", json_body(Server), 500),
)
async def get_server(parts: ServiceParts) -> dict[str, Any]:
    """Return what a client can ask of this server. No API key is needed."""
    limits, registry = parts.limits, parts.pool.model_registry
    realtime = limits.realtime
    return {
        "version": __version__,
        "requires_key": limits.requires_key,
        "max_upload_bytes": limits.max_upload_bytes,
        "max_audio_seconds": limits.max_audio_seconds,
        "retention_seconds": {"default": limits.retention_seconds, "max": limits.max_retention_seconds},
        "models": [_model(state, is_default=state is registry.default) for state in registry.states],
        "result_formats": [each.value for each in ResponseFormat],
        **({} if realtime is None else {"realtime": asdict(realtime)}),
        "features": {
            "diarization": limits.has_diarization,
            "edits": True,
            "keep_audio": True,
            "realtime": realtime is not None,
            "webhooks": limits.has_webhooks,
        },
    }


def _model(state: ModelState, *, is_default: bool) -> dict[str, Any]:
    """Return a model. What it can do is known once it has been loaded."""
    model = {"id": state.public_name, "is_default": is_default}
    if not state.is_known:
        return model
    languages = sorted(state.languages) if state.is_multilingual else ["en"]
    return {
        **model,
        "multilingual": state.is_multilingual,
        "can_translate": state.can_translate,
        "languages": languages,
    }
