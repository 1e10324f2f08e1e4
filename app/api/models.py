"""``/v1/models``: what may be named as ``model``, in OpenAI's shape."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from fastapi import APIRouter

from app.api.submission import MODEL_ALIAS
from app.domain.errors import UnknownModel

if TYPE_CHECKING:
    from app.transcription.loading import LoadingTranscriber

_OWNER: Final = "transcription-service"


@dataclass(frozen=True, slots=True, kw_only=True)
class Models:
    """What the routes need. ``started_at`` is what models are said to have been created at."""

    transcriber: LoadingTranscriber
    started_at: int = field(default_factory=lambda: int(time.time()))

    def router(self) -> APIRouter:
        router = APIRouter(prefix="/v1/models", tags=["Models"])
        router.add_api_route("", self.list_models, methods=["GET"], summary="List models")
        router.add_api_route("/{model_id:path}", self.get_model, methods=["GET"], summary="Look at a model")
        return router

    async def list_models(self) -> dict[str, Any]:
        """The served model and its alias."""
        return {"object": "list", "data": [self._view(name) for name in self._names()]}

    async def get_model(self, model_id: str) -> dict[str, Any]:
        """The served model by its name or its alias; names may contain `/`."""
        names = self._names()
        if model_id not in names:
            raise UnknownModel(
                f"The model {model_id[:100]!r} is not served here: use {' or '.join(names)}.",
                param="model",
                code="model_not_found",
            )
        return self._view(model_id)

    def _names(self) -> list[str]:
        self.transcriber.require_ready()
        return [self.transcriber.model.name, MODEL_ALIAS]

    def _view(self, name: str) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": self.started_at, "owned_by": _OWNER}
