"""``/v1/models``: what may be named as ``model``, in OpenAI's shape."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from fastapi import APIRouter, HTTPException

from app.api.openapi import json_body, responses
from app.api.schemas import Model, ModelList

if TYPE_CHECKING:
    from app.transcription.pool import ModelPool

_OWNER: Final = "transcription-service"


@dataclass(frozen=True, slots=True, kw_only=True)
class Models:
    """What the routes need. ``started_at`` is what models are said to have been created at."""

    pool: ModelPool
    started_at: int = field(default_factory=lambda: int(time.time()))

    def router(self) -> APIRouter:
        router = APIRouter(prefix="/v1/models", tags=["Models"])
        router.add_api_route(
            "",
            self.list_models,
            operation_id="list_models",
            methods=["GET"],
            summary="List models",
            response_model=None,
            responses=responses("The served models.", json_body(ModelList), 401, 500, 503),
        )
        router.add_api_route(
            "/{model_id:path}",
            self.get_model,
            operation_id="get_model",
            methods=["GET"],
            summary="Look at a model",
            response_model=None,
            responses=responses("The served model.", json_body(Model), 401, 404, 500, 503),
        )
        return router

    async def list_models(self) -> dict[str, Any]:
        """The served models, the default first, and their aliases."""
        self.pool.require_ready()
        return {"object": "list", "data": [self._view(name) for name in self.pool.model_registry.names]}

    async def get_model(self, model_id: str) -> dict[str, Any]:
        """A served model by its name or an alias; names may contain `/`."""
        self.pool.require_ready()
        if not model_id.strip():
            raise HTTPException(404)
        self.pool.model_registry.find(model_id)
        return self._view(model_id)

    def _view(self, name: str) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": self.started_at, "owned_by": _OWNER}
