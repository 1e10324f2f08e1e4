"""The ids of requests: ``x-request-id`` of every response, and ``X-Client-Request-Id``, which a client can send.

The opening of a WebSocket is a request; its response accepts or refuses it.

Both are OpenAI's (API reference, "Debugging requests"): its SDKs show the first as ``_request_id``, and the second must
be at most 512 ASCII characters.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from starlette.datastructures import Headers, MutableHeaders

from app.domain.errors import InvalidRequest
from app.domain.log_context import CurrentRequest, current_request

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

#: The kinds of connections that carry requests, and the messages that begin their responses.
REQUESTS: Final = ("http", "websocket")
RESPONSE_STARTS: Final = ("http.response.start", "websocket.accept", "websocket.http.response.start")
REQUEST_ID: Final = "x-request-id"
CLIENT_REQUEST_ID: Final = "X-Client-Request-Id"
_MAX_CLIENT_ID_LENGTH: Final = 512


class RequestIds:
    """Middleware that gives every request an id, which its response and its log lines carry.

    The id that a client sends is in the same places, if it is valid.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in REQUESTS:
            client_id = Headers(scope=scope).get(CLIENT_REQUEST_ID)
            request = CurrentRequest(client_id=client_id if client_id and _is_valid(client_id) else None)
            # Never reset, because the response to an unexpected exception is made outside of this middleware. The
            # server runs each of them in a task of its own, and so in a context of its own.
            current_request.set(request)
            send = partial(_send_with_ids, send, request)
        await self._app(scope, receive, send)


async def _send_with_ids(send: Send, request: CurrentRequest, message: Message) -> None:
    if message["type"] in RESPONSE_STARTS:
        headers = MutableHeaders(scope=message)
        headers[REQUEST_ID] = request.id
        if request.client_id is not None:
            headers[CLIENT_REQUEST_ID] = request.client_id
    await send(message)


def check_client_request_id(headers: Headers) -> None:
    """Raise InvalidRequest if the client gave its request an id that is too long, or not printable ASCII."""
    client_id = headers.get(CLIENT_REQUEST_ID, "")
    if not _is_valid(client_id):
        raise InvalidRequest(
            f"`{CLIENT_REQUEST_ID}` must be at most {_MAX_CLIENT_ID_LENGTH} printable ASCII characters, got "
            f"{len(client_id)} characters: use a UUID, for example, or leave it out.",
            code="invalid_client_request_id",
        )


def _is_valid(client_id: str) -> bool:
    return len(client_id) <= _MAX_CLIENT_ID_LENGTH and client_id.isascii() and client_id.isprintable()
