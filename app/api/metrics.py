"""``/metrics``: what is counted, for Prometheus."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING

from fastapi import APIRouter, Request
from fastapi.responses import Response

from app.api.schemas import failures
from app.domain.telemetry import Answered

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from app.api.keys import ApiKeys
    from app.domain.telemetry import Tell


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricsPage:
    """``render`` blocks and gives the page; ``keys`` are those of METRICS_KEY."""

    render: Callable[[], bytes]
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
            responses={
                200: {
                    "description": "Prometheus' text format.",
                    "content": {"text/plain": {"schema": {"type": "string"}}},
                },
                **failures(401, 500),
            },
        )
        return router

    async def metrics(self, request: Request) -> Response:
        """Numbers only, of all keys together. Open, unless METRICS_KEY is set."""
        if self.keys:
            self.keys.required(request.headers.get("authorization", ""), setting="METRICS_KEY")
        return Response(await asyncio.to_thread(self.render), media_type=self.content_type)


class Counted:
    """Tells of every answer, by the template of its route."""

    def __init__(self, app: ASGIApp, *, tell: Tell) -> None:
        self._app = app
        self._tell = tell

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        told = False

        def tell(status: int) -> None:
            nonlocal told
            if not told:
                self._tell(Answered(getattr(scope.get("route"), "path", ""), status))
            told = True

        async def counting_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                tell(message["status"])
            await send(message)

        try:
            await self._app(scope, receive, counting_send)
        except Exception:
            tell(HTTPStatus.INTERNAL_SERVER_ERROR)
            raise
