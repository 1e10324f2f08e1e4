"""``/v1/models``: the served models and their aliases, in OpenAI's shape."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from fastapi import APIRouter, HTTPException

from app.api.dependencies import ServiceParts
from app.api.openapi import json_body, responses
from app.api.schemas import Model, ModelList

if TYPE_CHECKING:
    from app.transcription.models import ModelState

_OWNER: Final = "transcription-service"

router = APIRouter(prefix="/v1/models", tags=["Models"])


@router.get(
    "",
    operation_id="list_models",
    summary="List models",
    response_model=None,
    responses=responses("The served models.", json_body(ModelList), 401, 500, 503),
)
async def list_models(parts: ServiceParts) -> dict[str, Any]:
    """Return the served models and their aliases, the default model first."""
    parts.pool.require_ready()
    registry = parts.pool.model_registry
    return {"object": "list", "data": [_model(name, registry.find(name), parts.started_at) for name in registry.names]}


@router.get(
    "/{model_id:path}",
    operation_id="get_model",
    summary="Retrieve a model",
    response_model=None,
    responses=responses("The served model.", json_body(Model), 401, 404, 500, 503),
)
async def get_model(model_id: str, parts: ServiceParts) -> dict[str, Any]:
    """Return a served model by its name or an alias. A name can contain `/`."""
    parts.pool.require_ready()
    if not model_id.strip():
        raise HTTPException(404)
    return _model(model_id, parts.pool.model_registry.find(model_id), parts.started_at)


def _model(name: str, state: ModelState, started_at: int) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": started_at, "owned_by": _OWNER, "loaded": state.loaded}
