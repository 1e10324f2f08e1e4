"""Checks made before the first byte of a body is read: API keys, rates and sizes; and headers of every response.

All of it is pure ASGI: FastAPI's dependencies would run after a form had been received.
"""

from __future__ import annotations

import asyncio
import logging
import math
import re
import time
from collections import Counter
from contextlib import contextmanager, suppress
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Final
from urllib.parse import quote, urlsplit

from starlette.datastructures import Headers, MutableHeaders, QueryParams

from app.api.arriving_files import body_too_large
from app.api.errors import error_response, too_many_connections
from app.api.multipart import FORM_OVERHEAD_BYTES
from app.api.requests import is_limited
from app.domain.access import ApiKeys
from app.domain.client_secrets import KEY_SUBPROTOCOL, PREFIX
from app.domain.errors import BodyTooLarge, InvalidRequest, InvalidTicket, TooManyRequests, Unauthorized
from app.domain.events import ResponseSent
from app.edge.rate_limit import RateLimiter, duration, network_key
from app.edge.request_ids import REQUESTS, RESPONSE_STARTS, check_client_request_id

if TYPE_CHECKING:
    from collections.abc import Iterator

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from app.domain.access import ApiKey, Rate, TrustedProxies
    from app.domain.client_secrets import ClientSecret, ClientSecrets
    from app.domain.events import EventSink
    from app.domain.tickets import Tickets
    from app.edge.rate_limit import Allowance

logger = logging.getLogger(__name__)

#: Paths of the API that can be asked before a key is known.
_OPEN_PATHS: Final = frozenset({"/v1/server"})
#: The beginning of paths for which the keys in METRICS_KEY are valid too.
_USAGE_PATHS: Final = "/v1/organization/usage/"
#: The only path that can be requested with a ticket instead of a key.
_TICKETED_PATH: Final = re.compile("/v1/jobs/(?P<job_id>[^/]+)/audio")
_ABSOLUTE_FORM: Final = re.compile("https?://", re.IGNORECASE)
_NAMED_MODEL: Final = re.compile("(/openai)?/v1/models/+[^/]")
_AZURE_PATH: Final = re.compile(
    "/openai/deployments/(?P<deployment>[^/]+)(?P<route>/audio/(?:transcriptions|translations))"
)
#: How long to read the rest of a rejected upload, so that the client gets to read its response.
_LINGER_SECONDS: Final = 10.0
#: The least time between two log lines about rejected keys.
_REJECTION_LOG_SECONDS: Final = 10.0
#: Responses keep their declared type, cannot be framed, and leak no URL to other sites.
_SECURITY_HEADERS: Final = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class RequestLimits:
    """Middleware that checks the API key, the request rate, the announced size and the number of requests at once."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        keys: ApiKeys,
        metrics_keys: ApiKeys,
        rate: Rate | None,
        max_upload_bytes: int,
        concurrency: ConcurrencyLimit,
        tickets: Tickets,
        client_secrets: ClientSecrets,
    ) -> None:
        self._app = app
        self._keys = keys
        self._usage_keys = ApiKeys((*metrics_keys, *keys))
        self._tickets = tickets
        self._client_secrets = client_secrets
        self._limiter = None if rate is None else RateLimiter(rate)
        self._max_upload_bytes = max_upload_bytes
        self._concurrency = concurrency
        self._rejections = RejectionLog()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in REQUESTS or not is_limited(scope["path"]):
            await self._app(scope, receive, send)
            return
        scope.setdefault("state", {})
        if self._limiter is not None:
            send = partial(_send_with_allowance, send, scope)
        try:
            self._check(scope)
        except (Unauthorized, BodyTooLarge, TooManyRequests, InvalidRequest) as exc:
            await error_response(exc)(scope, receive, send)
            return
        with self._concurrency.counted(_address(scope)) as is_allowed:
            if is_allowed:
                await self._app(scope, receive, send)
            else:
                await too_many_connections()(scope, receive, send)

    def _check(self, scope: Scope) -> None:
        """Set the owner of the request, and raise if it is not allowed."""
        headers = Headers(scope=scope)
        state = scope["state"]
        state["owner"] = state["key_name"] = ""
        if (secret := self._client_secret(scope, headers)) is not None:
            self._check_rate(scope, secret.owner or network_key(_address(scope)))
            state["owner"], state["key_name"], state["session"] = secret.owner, secret.key_name, secret.session
        elif not self._keys or scope["path"] in _OPEN_PATHS:
            self._check_rate(scope, network_key(_address(scope)))
        else:
            try:
                key = self._key_of_ticket(scope, headers) or self._authenticate(scope, headers)
            except Unauthorized:
                self._rejections.add(_address(scope))
                self._check_rate(scope, network_key(_address(scope)))
                raise
            self._check_rate(scope, key.fingerprint)
            state["owner"], state["key_name"] = key.fingerprint, key.name
        check_client_request_id(headers)
        self._check_length(headers)

    def _authenticate(self, scope: Scope, headers: Headers) -> ApiKey:
        keys = self._usage_keys if scope["path"].startswith(_USAGE_PATHS) else self._keys
        return keys.authenticate(_authorization(headers) or _browser_key(scope), setting="API_KEYS")

    def _client_secret(self, scope: Scope, headers: Headers) -> ClientSecret | None:
        """Return the client secret with which a realtime session is opened, or None if it is opened with an API key.

        Raises:
            Unauthorized: it is wrong, or has expired.
        """
        if scope["type"] != "websocket":
            return None
        value = (_authorization(headers) or _browser_key(scope)).partition(" ")[2].strip()
        if not value.startswith(PREFIX):
            return None
        secret = self._client_secrets.find(value, now=time.time())
        if secret is None and self._keys:
            self._rejections.add(_address(scope))
            self._check_rate(scope, network_key(_address(scope)))
            raise Unauthorized(
                "The client secret is wrong or has expired: get another one with POST /v1/realtime/client_secrets."
            )
        return secret

    def _key_of_ticket(self, scope: Scope, headers: Headers) -> ApiKey | None:
        """Return the key that a ticket stands for, or None if the request has none, or an API key of its own.

        Raises:
            InvalidTicket: it is not valid for what is requested.
        """
        match = _TICKETED_PATH.fullmatch(scope["path"])
        ticket = QueryParams(scope["query_string"]).get("ticket")
        if match is None or ticket is None or scope["method"] not in ("GET", "HEAD") or _authorization(headers):
            return None
        for key in self._keys:
            if self._tickets.is_valid(ticket, match["job_id"], owner=key.fingerprint, now=time.time()):
                return key
        raise InvalidTicket(
            "The ticket is not valid for this recording, or no longer: get another one with POST "
            "/v1/jobs/<job_id>/audio/ticket, or send an API key."
        )

    def _check_rate(self, scope: Scope, key: str) -> None:
        if self._limiter is None:
            return
        wait = self._limiter.wait_seconds(key)
        scope["state"]["allowance"] = self._limiter.allowance(key)
        if not wait:
            return
        raise TooManyRequests(
            f"Too many requests: RATE_LIMIT allows {self._limiter.rate}. Retry after the time in the header "
            "Retry-After.",
            retry_after_seconds=math.ceil(wait),
        )

    def _check_length(self, headers: Headers) -> None:
        length = headers.get("content-length", "0")
        if length.isdecimal() and int(length) > self._max_upload_bytes + FORM_OVERHEAD_BYTES:
            raise body_too_large(self._max_upload_bytes)


async def _send_with_allowance(send: Send, scope: Scope, message: Message) -> None:
    """Send what is left of the rate, in OpenAI's headers."""
    if message["type"] in RESPONSE_STARTS:
        allowance: Allowance = scope["state"]["allowance"]
        headers = MutableHeaders(scope=message)
        headers["x-ratelimit-limit-requests"] = str(allowance.limit)
        headers["x-ratelimit-remaining-requests"] = str(allowance.remaining)
        headers["x-ratelimit-reset-requests"] = duration(allowance.reset_seconds)
    await send(message)


class ConcurrencyLimit:
    """A limit on the requests of one address that are in progress at the same time.

    Behind a proxy this takes the place of a limit on connections. ``trusted`` proxies themselves have no limit;
    ``per_address`` 0 means no limit at all.
    """

    def __init__(self, per_address: int, *, trusted: TrustedProxies) -> None:
        self._per_address = per_address
        self._trusted = trusted
        self._counts: Counter[str] = Counter()

    @contextmanager
    def counted(self, address: str) -> Iterator[bool]:
        """Yield True and count the request inside the block, or yield False if the limit is reached."""
        key = network_key(address)
        is_full = bool(self._per_address) and self._counts[key] >= self._per_address
        if is_full and not self._trusted.covers(address):
            yield False
            return
        self._counts[key] += 1
        try:
            yield True
        finally:
            self._counts[key] -= 1
            if not self._counts[key]:
                del self._counts[key]


class RejectionLog:
    """Log lines about missing and wrong keys, at most one every few seconds."""

    def __init__(self) -> None:
        self._count = 0
        self._logged_at = -math.inf

    def add(self, address: str) -> None:
        """Count a rejected request, and log the count if the last line is old enough."""
        self._count += 1
        now = time.monotonic()
        if now - self._logged_at >= _REJECTION_LOG_SECONDS:
            logger.warning("🔑 %d requests had no key, or a wrong one; the last came from %s", self._count, address)
            self._count, self._logged_at = 0, now


def _authorization(headers: Headers) -> str:
    """Return the header ``Authorization``, or what ``api-key`` means, which Azure's SDK sends instead."""
    key = headers.get("api-key")
    return headers.get("authorization", "" if key is None else f"Bearer {key}")


def _browser_key(scope: Scope) -> str:
    """Return the header that the subprotocol of a browser stands for: pages can't set headers of WebSockets."""
    offered = (name for name in scope.get("subprotocols", ()) if name.startswith(KEY_SUBPROTOCOL))
    return next((f"Bearer {name.removeprefix(KEY_SUBPROTOCOL)}" for name in offered), "")


def _address(scope: Scope) -> str:
    client: tuple[str, int] | None = scope.get("client")
    return client[0] if client else ""


class RequestTargets:
    """Middleware that serves paths in the forms in which clients write them.

    These are absolute-form targets (RFC 9112, section 3.2.2), repeated and trailing slashes (except in the name of a
    model, which can be a path), the prefix that Groq's SDK adds to any base URL, and the paths of Azure's SDK, whose
    deployment is the model.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in REQUESTS:
            path, deployment = canonical_path(scope["path"])
            if path != scope["path"]:
                scope = {**scope, "path": path, "raw_path": quote(path).encode()}
            scope.setdefault("state", {})["deployment"] = deployment
        await self._app(scope, receive, send)


def canonical_path(target: str) -> tuple[str, str | None]:
    """Return the path of this API that a request's target means, and the deployment that it names, if any."""
    path = urlsplit(target).path or "/" if _ABSOLUTE_FORM.match(target) else target
    path = re.sub("^/{2,}", "/", path)
    if not _NAMED_MODEL.match(path):
        path = re.sub("/{2,}", "/", path)
        path = path if path == "/" else path.removesuffix("/")
    if of_azure := _AZURE_PATH.fullmatch(path):
        return f"/v1{of_azure['route']}", of_azure["deployment"]
    return path.removeprefix("/openai") if path.startswith("/openai/v1/") else path, None


class LingeringClose:
    """Middleware that delays the end of a response to a client that is still sending its request.

    A server that closes a connection with unread bytes resets it, and the client may lose the response. So the rest
    of the body is read for a while first.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = _LingeringExchange(receive, send, has_unread=_has_body(Headers(scope=scope)))
        await self._app(scope, exchange.receive, exchange.send)


class _LingeringExchange:
    """One request and its response; ``has_unread`` is True until the whole body was read."""

    def __init__(self, receive: Receive, send: Send, *, has_unread: bool) -> None:
        self._receive = receive
        self._send = send
        self._has_unread = has_unread

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.disconnect" or not message.get("more_body", False):
            self._has_unread = False
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start" and self._has_unread:
            MutableHeaders(scope=message)["connection"] = "close"
        if message["type"] != "http.response.body" or message.get("more_body", False) or not self._has_unread:
            await self._send(message)
            return
        await self._send({**message, "more_body": True})
        with suppress(TimeoutError):
            async with asyncio.timeout(_LINGER_SECONDS):
                while self._has_unread:
                    await self.receive()
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})


def _has_body(headers: Headers) -> bool:
    return "transfer-encoding" in headers or headers.get("content-length", "0") != "0"


class SecurityHeaders:
    """Middleware that adds security headers to every response."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            send = partial(_send_with_security_headers, send)
        await self._app(scope, receive, send)


async def _send_with_security_headers(send: Send, message: Message) -> None:
    if message["type"] == "http.response.start":
        headers = MutableHeaders(scope=message)
        for name, value in _SECURITY_HEADERS.items():
            headers.setdefault(name, value)
    await send(message)


class ResponseEvents:
    """Middleware that emits an event for every response, with the template of its route."""

    def __init__(self, app: ASGIApp, *, emit: EventSink) -> None:
        self._app = app
        self._emit = emit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in REQUESTS:
            await self._app(scope, receive, send)
            return
        counted = _CountedResponse(scope, send, self._emit)
        try:
            await self._app(scope, receive, counted.send)
        except Exception:
            counted.report(HTTPStatus.INTERNAL_SERVER_ERROR)
            raise


class _CountedResponse:
    """A response that emits one event with its status."""

    def __init__(self, scope: Scope, send: Send, emit: EventSink) -> None:
        self._scope = scope
        self._send = send
        self._emit = emit
        self._is_reported = False

    async def send(self, message: Message) -> None:
        match message["type"]:
            case "http.response.start" | "websocket.http.response.start":
                self.report(message["status"])
            case "websocket.accept":
                self.report(HTTPStatus.SWITCHING_PROTOCOLS)
            case "websocket.close":  # before it is accepted, which uvicorn answers so
                self.report(HTTPStatus.FORBIDDEN)
        await self._send(message)

    def report(self, status: int) -> None:
        """Emit the event, unless that has been done."""
        if not self._is_reported:
            self._emit(ResponseSent(getattr(self._scope.get("route"), "path", ""), status))
        self._is_reported = True
