"""Translation of exceptions into HTTP responses with OpenAI's error envelope, the same on every route."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Match

from app.domain import errors
from app.domain.log_context import CurrentRequest, current_request
from app.domain.redaction import without_queries

if TYPE_CHECKING:
    from fastapi import FastAPI, Request
    from starlette.types import Receive, Scope, Send

#: The status that web servers log when a client disconnects before the response. No client ever receives it.
CLIENT_CLOSED_REQUEST: Final = 499
_RETRY_CONNECTION_SECONDS: Final = 5
_RETRY_SHUTDOWN_SECONDS: Final = 10
_METHODS: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")

#: OpenAI's code, and type, for a quota.
_INSUFFICIENT_QUOTA: Final = "insufficient_quota"
#: Status and default ``code`` by class. The first class that matches counts, so subclasses stand before their bases.
_STATUS: Final[tuple[tuple[type[Exception], int, str | None], ...]] = (
    (errors.UnknownModel, 404, "model_not_found"),
    (errors.UnknownJob, 404, "job_not_found"),
    (errors.NotKept, 404, None),
    (errors.EditConflict, 412, "edit_conflict"),
    (errors.BodyTooLarge, 413, "too_large"),
    (errors.EncodedBody, 415, "encoded_body"),
    (errors.AudioTooLong, 413, None),
    (errors.InvalidRequest, 400, None),
    (errors.DownloadFailed, 400, "download_failed"),
    (errors.InvalidTicket, 401, "invalid_ticket"),
    (errors.Unauthorized, 401, "invalid_api_key"),
    (errors.CrossOriginRequest, 403, "foreign_page"),
    (errors.QuotaExceeded, 429, _INSUFFICIENT_QUOTA),
    (errors.QueueFull, 429, "queue_full"),
    (errors.TooManyRequests, 429, "rate_limit_exceeded"),
    (errors.TooManySessions, 429, "too_many_sessions"),
    (errors.ModelLoading, 503, "model_loading"),
    (errors.Draining, 503, "draining"),
    (errors.ShutDown, 503, "draining"),
    (errors.EngineFailed, 503, "engine_failed"),
    (errors.DiskFull, 507, "disk_full"),
    (errors.SpoolUnavailable, 503, "spool_unavailable"),
    (errors.StorageUnavailable, 503, "database_unavailable"),
    (errors.JournalFailed, 500, "journal_failed"),
)


def error_response(exc: Exception) -> JSONResponse:
    """Return the response for an exception. An unexpected one is a 500 that does not reveal the cause."""
    for kind, status, default_code in _STATUS:
        if isinstance(exc, kind):
            return envelope(
                status,
                str(exc),
                param=getattr(exc, "param", None),
                code=getattr(exc, "code", None) or default_code,
                retry_after=_retry_after(exc),
            )
    message = (
        str(exc) if isinstance(exc, errors.ServiceError) else "Internal error: see the server's log for its cause."
    )
    return envelope(500, message)


def envelope(
    status: int,
    message: str,
    *,
    param: str | None = None,
    code: str | None = None,
    retry_after: int | None = None,
) -> JSONResponse:
    """Return ``{"error": {…}}`` with its headers; ``retry_after`` is in seconds.

    OpenAI's SDKs retry every 5xx and 429, so one without ``retry_after`` says that a retry is pointless. A response
    that is sent before there is a request gets an id of its own.
    """
    headers = {"x-request-id": (current_request.get() or CurrentRequest()).id}
    if retry_after is not None:
        headers["Retry-After"] = str(retry_after)
    elif status >= HTTPStatus.INTERNAL_SERVER_ERROR or code == _INSUFFICIENT_QUOTA:
        headers["x-should-retry"] = "false"
    if status == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = "Bearer"
    # Messages quote values of the client, and a presigned URL may have been sent in the wrong field.
    error: dict[str, Any] = {
        "message": without_queries(message),
        "param": param and without_queries(param),
        "type": code if code == _INSUFFICIENT_QUOTA else _error_type(status),
        "code": code,
    }
    return JSONResponse({"error": error}, status_code=status, headers=headers)


def too_many_connections() -> JSONResponse:
    """Return the response to a client that exceeds a limit on connections."""
    return envelope(
        503,
        "Too many connections, in total or from your address: close some, or retry later.",
        code="too_many_connections",
        retry_after=_RETRY_CONNECTION_SECONDS,
    )


def install(app: FastAPI) -> None:
    """Register the handlers, so that every exception gets the envelope, those of the framework included."""
    app.add_exception_handler(ClientDisconnect, _handle_disconnect)
    app.add_exception_handler(errors.ServiceError, _handle_any)
    app.add_exception_handler(HTTPException, _handle_framework_error)
    app.add_exception_handler(RequestValidationError, _handle_invalid_parameter)
    app.add_exception_handler(Exception, _handle_any)
    app.router.default = _handle_unknown_path


async def _handle_any(_: Request, exc: Exception) -> JSONResponse:
    return error_response(exc)


async def _handle_disconnect(_: Request, __: Exception) -> Response:
    return Response(status_code=CLIENT_CLOSED_REQUEST)


async def _handle_invalid_parameter(_: Request, exc: Exception) -> JSONResponse:
    assert isinstance(exc, RequestValidationError)  # noqa: S101  # registered for this class
    first = exc.errors()[0]
    name = str(first["loc"][-1])
    reason = str(first["msg"])
    return envelope(400, f"`{name}` is invalid: {reason[0].lower()}{reason[1:]}.", param=name)


async def _handle_framework_error(request: Request, exc: Exception) -> JSONResponse:
    assert isinstance(exc, HTTPException)  # noqa: S101  # registered for this class
    message = str(exc.detail)
    headers = dict(exc.headers or {})
    if exc.status_code == HTTPStatus.NOT_FOUND:
        message = f"{request.method} {request.url.path} does not exist: {_hint(request)}."
    if exc.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        headers["Allow"] = ", ".join(_allowed_methods(request))
        message = f"{request.method} is not allowed on {request.url.path}: use {headers['Allow']}."
    response = envelope(exc.status_code, message)
    response.headers.update(headers)
    return response


async def _handle_unknown_path(scope: Scope, receive: Receive, send: Send) -> None:
    """Refuse a WebSocket with a sentence, where the framework would send a bare 403."""
    if scope["type"] != "websocket":
        raise HTTPException(HTTPStatus.NOT_FOUND)
    message = f"{scope['path']} is no WebSocket of this server: use /v1/realtime."
    await envelope(HTTPStatus.NOT_FOUND, message)(scope, receive, send)


def _hint(request: Request) -> str:
    """Return what to do about a path that does not exist: the last part of it may be a route under ``/v1``."""
    parts = request.url.path.strip("/").split("/")
    for first in range(len(parts)):
        path = "/".join(["", "v1", *parts[first:]])
        scope = {**request.scope, "path": path}
        if any(route.matches(scope)[0] is not Match.NONE for route in request.app.routes):
            return f"did you mean {path}? The base URL of this API ends with /v1"
    return "see /docs for all routes"


def _allowed_methods(request: Request) -> list[str]:
    """Return the methods of all routes with this path; the framework names only those of the first."""
    return [method for method in _METHODS if _is_allowed(request, method)]


def _is_allowed(request: Request, method: str) -> bool:
    scope = {**request.scope, "method": method}
    return any(route.matches(scope)[0] is Match.FULL for route in request.app.routes)


def _retry_after(exc: Exception) -> int | None:
    if isinstance(exc, errors.Unavailable):
        return exc.retry_after_seconds
    return _RETRY_SHUTDOWN_SECONDS if isinstance(exc, errors.ShutDown) else None


def _error_type(status: int) -> str:
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        return "rate_limit_error"
    return "invalid_request_error" if status < HTTPStatus.INTERNAL_SERVER_ERROR else "server_error"
