"""Exceptions → OpenAI's error envelope, the same on every route."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Match

from app.domain import errors
from app.domain.redaction import without_queries

if TYPE_CHECKING:
    from fastapi import FastAPI, Request

#: What web servers write down for a client that did not wait for its answer.
CLIENT_CLOSED_REQUEST: Final = 499
_RETRY_CONNECTIONS_SECONDS: Final = 5
_METHODS: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")

#: Read from top to bottom: the first class that fits.
_STATUS: Final[tuple[tuple[type[Exception], int, str | None], ...]] = (
    (errors.UnknownModel, 404, "model_not_found"),
    (errors.UnknownJob, 404, "job_not_found"),
    (errors.BodyTooLarge, 413, "too_large"),
    (errors.AudioTooLong, 413, None),
    (errors.InvalidRequest, 400, None),
    (errors.DownloadFailed, 400, "download_failed"),
    (errors.Unauthorized, 401, "invalid_api_key"),
    (errors.CrossOriginRequest, 403, "foreign_page"),
    (errors.QueueFull, 429, "queue_full"),
    (errors.TooManyRequests, 429, "rate_limit_exceeded"),
    (errors.ModelLoading, 503, "model_loading"),
    (errors.Draining, 503, "draining"),
    (errors.ShutDown, 503, "draining"),
    (errors.EngineFailed, 503, "engine_failed"),
    (errors.DiskFull, 507, "disk_full"),
    (errors.JournalFailed, 500, "journal_failed"),
)


def error_response(exc: Exception) -> JSONResponse:
    """The answer for an exception of this service; whatever is unknown is a 500 that says nothing of its cause."""
    for kind, status, code in _STATUS:
        if isinstance(exc, kind):
            own = getattr(exc, "code", None)
            return envelope(
                status,
                str(exc),
                param=getattr(exc, "param", None),
                code=own or code,
                retry_after=_retry_after(exc),
            )
    message = str(exc) if isinstance(exc, errors.ServiceError) else "The server failed; its log says why."
    return envelope(500, message)


def envelope(
    status: int,
    message: str,
    *,
    param: str | None = None,
    code: str | None = None,
    retry_after: int | None = None,
) -> JSONResponse:
    """``{"error": {…}}``. OpenAI's SDKs retry every 5xx: those that will not heal tell them not to."""
    headers = {}
    if retry_after is not None:
        headers["Retry-After"] = str(retry_after)
    elif status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        headers["x-should-retry"] = "false"
    if status == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = "Bearer"
    # A message may quote what was sent, and that may be a URL in the wrong place.
    safe = {"message": without_queries(message), "param": param and without_queries(param)}
    error: dict[str, Any] = {**safe, "type": _type(status), "code": code}
    return JSONResponse({"error": error}, status_code=status, headers=headers)


def too_many_connections() -> JSONResponse:
    """The answer to whom there is no room for."""
    return envelope(
        503,
        "The server has as many connections as it takes, in all or from your address: try again in a while.",
        code="too_many_connections",
        retry_after=_RETRY_CONNECTIONS_SECONDS,
    )


def install(app: FastAPI) -> None:
    """Has every exception answered with the envelope, the framework's own included."""

    async def ours(_: Request, exc: Exception) -> JSONResponse:
        return error_response(exc)

    async def http(request: Request, exc: Exception) -> JSONResponse:
        assert isinstance(exc, HTTPException)  # noqa: S101  # what the handler is registered for
        return _framework_error(request, exc)

    async def validation(_: Request, exc: Exception) -> JSONResponse:
        assert isinstance(exc, RequestValidationError)  # noqa: S101  # what the handler is registered for
        first = exc.errors()[0]
        name = str(first["loc"][-1])
        return envelope(400, f"{name} is wrong: {first['msg'][0].lower()}{first['msg'][1:]}.", param=name)

    async def gone(_: Request, __: Exception) -> Response:
        return Response(status_code=CLIENT_CLOSED_REQUEST)

    app.add_exception_handler(ClientDisconnect, gone)
    app.add_exception_handler(errors.ServiceError, ours)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(RequestValidationError, validation)
    app.add_exception_handler(Exception, ours)


def _framework_error(request: Request, exc: HTTPException) -> JSONResponse:
    message = str(exc.detail)
    headers = dict(exc.headers or {})
    if exc.status_code == HTTPStatus.NOT_FOUND:
        message = f"There is no {request.method} {request.url.path} here: see /docs for what there is."
    if exc.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        headers["Allow"] = ", ".join(_allowed_methods(request))
        message = f"{request.method} is not allowed on {request.url.path}: use {headers['Allow']}."
    response = envelope(exc.status_code, message)
    response.headers.update(headers)
    return response


def _allowed_methods(request: Request) -> list[str]:
    """What all routes of this path take; the framework names those of the first only."""

    def is_taken(method: str) -> bool:
        scope = {**request.scope, "method": method}
        return any(route.matches(scope)[0] is Match.FULL for route in request.app.routes)

    return [method for method in _METHODS if is_taken(method)]


def _retry_after(exc: Exception) -> int | None:
    if isinstance(exc, errors.Unavailable):
        return exc.retry_after_seconds
    return 10 if isinstance(exc, errors.ShutDown) else None


def _type(status: int) -> str:
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        return "rate_limit_error"
    return "invalid_request_error" if status < HTTPStatus.INTERNAL_SERVER_ERROR else "server_error"
