"""``/v1/realtime``: live transcription over a WebSocket, and the secrets with which browsers open it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

from fastapi import APIRouter, Request
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from app.api.dependencies import ServiceParts
from app.api.errors import error_response
from app.api.openapi import CLIENT_SECRET_OPERATION, json_body, responses
from app.api.requests import parse_json_object, read_small_body
from app.api.schemas import RealtimeClientSecret
from app.domain.client_secrets import KEY_SUBPROTOCOL, ClientSecret
from app.domain.errors import InvalidRequest, ServiceError
from app.realtime.config import SessionConfig
from app.realtime.server_events import new_id, session_object

if TYPE_CHECKING:
    from app.api.dependencies import JobParts, Parts
    from app.domain.usage import Usage

router = APIRouter(prefix="/v1/realtime", tags=["Realtime"])

#: The lifetimes of client secrets in seconds, as in OpenAI's API.
_DEFAULT_SECONDS: Final = 600
_MIN_SECONDS: Final = 10
_MAX_SECONDS: Final = 7200
_EXAMPLE: Final = '{"session": {"type": "transcription"}}'
#: The subprotocol that OpenAI's clients in browsers expect to be chosen.
_SUBPROTOCOL: Final = "realtime"


@router.post(
    "/client_secrets",
    operation_id="create_realtime_client_secret",
    summary="Create a client secret",
    response_model=None,
    responses=responses("The secret.", json_body(RealtimeClientSecret), *(400, 401, 404, 429, 500, 503)),
    openapi_extra=CLIENT_SECRET_OPERATION,
)
async def create_client_secret(request: Request, parts: ServiceParts) -> dict[str, Any]:
    """Return a secret for a browser, which opens realtime sessions in place of the API key, for a short while.

    The sessions begin with the configuration that is sent here.
    """
    body = await read_small_body(request)
    sent = parse_json_object(body, example=_EXAMPLE) if body.strip() else {}
    config = SessionConfig().updated(sent.get("session", {}))
    parts.sessions.check(config)
    now = time.time()
    expires_at = int(now) + _lifetime(sent.get("expires_after", {}))
    secret = ClientSecret(
        owner=request.state.owner,
        key_name=request.state.key_name,
        session=config.model_dump(),
        expires_at=expires_at,
    )
    return {
        "value": parts.client_secrets.issue(secret, now=now),
        "expires_at": expires_at,
        "session": session_object(config, session_id=new_id("sess"), expires_at=expires_at),
    }


def _lifetime(expires_after: Any) -> int:
    """Return the seconds for which a secret is valid."""
    anchor = expires_after.get("anchor", "created_at") if isinstance(expires_after, dict) else "created_at"
    if anchor != "created_at":
        raise InvalidRequest("`expires_after.anchor` must be created_at.", param="expires_after.anchor")
    seconds = expires_after.get("seconds", _DEFAULT_SECONDS) if isinstance(expires_after, dict) else None
    if not isinstance(seconds, int) or isinstance(seconds, bool) or not _MIN_SECONDS <= seconds <= _MAX_SECONDS:
        raise InvalidRequest(
            f"`expires_after.seconds` must be a whole number from {_MIN_SECONDS} to {_MAX_SECONDS}.",
            param="expires_after.seconds",
        )
    return seconds


@router.websocket("")
async def open_session(websocket: WebSocket) -> None:
    """Serve a realtime session. What can't begin is refused with the status and the body of an HTTP error."""
    parts: Parts = websocket.app.state.parts
    try:
        parts.pool.require_ready()
        config = _first_config(websocket)
        parts.sessions.check(config)
        account = _Account(parts.jobs, websocket.state.owner)
        account.check()
        with parts.sessions.reserved():
            await websocket.accept(subprotocol=_subprotocol(websocket))
            await parts.sessions.serve(_Channel(websocket), config, account=account, key_name=websocket.state.key_name)
    except ServiceError as exc:
        if websocket.application_state is WebSocketState.CONNECTING:
            await websocket.send_denial_response(error_response(exc))
    except WebSocketDisconnect:
        pass  # before the session began


def _first_config(websocket: WebSocket) -> SessionConfig:
    """Return the configuration of the client secret or the default one, with the model of the query, if it has one.

    Raises:
        InvalidRequest: the client wants another kind of session.
    """
    intent = websocket.query_params.get("intent", "transcription")
    if intent != "transcription":
        raise InvalidRequest(
            f"`intent` must be transcription, got {intent[:100]}: this server has no model that talks.",
            param="intent",
        )
    config = SessionConfig().updated(getattr(websocket.state, "session", {}))
    if model := websocket.query_params.get("model"):
        config = config.updated({"audio": {"input": {"transcription": {"model": model}}}})
    return config


def _subprotocol(websocket: WebSocket) -> str | None:
    """Return the subprotocol to choose, which is never one that holds a key."""
    offered = [name for name in websocket.scope["subprotocols"] if not name.startswith(KEY_SUBPROTOCOL)]
    return _SUBPROTOCOL if _SUBPROTOCOL in offered else next(iter(offered), None)


class _Account:
    """The usage of an API key. See :class:`app.realtime.session.Account`."""

    def __init__(self, jobs: JobParts, owner: str) -> None:
        self._jobs = jobs
        self._owner = owner

    def add(self, model: str, usage: Usage) -> None:
        self._jobs.store.add_usage(self._owner, model, usage)

    def check(self) -> None:
        self._jobs.quotas.check(self._owner)


class _Channel:
    """The WebSocket of a session. See :class:`app.realtime.session.Channel`."""

    def __init__(self, websocket: WebSocket) -> None:
        self._websocket = websocket

    async def receive(self) -> str | bytes | None:
        message = await self._websocket.receive()
        if message["type"] == "websocket.disconnect":
            return None
        text: str | None = message.get("text")
        content: bytes | None = message.get("bytes")
        return content or b"" if text is None else text

    async def send(self, text: str) -> None:
        try:
            await self._websocket.send_text(text)
        except (WebSocketDisconnect, RuntimeError):
            return  # the client has gone, which the reader notices

    async def close(self, code: int, reason: str) -> None:
        try:
            await self._websocket.close(code, reason)
        except (WebSocketDisconnect, RuntimeError):
            return
