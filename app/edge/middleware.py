"""What is decided before the first byte of a body: keys and sizes. Pure ASGI, so that nothing is read for nothing."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import math
import time
from collections import Counter
from contextlib import contextmanager, suppress
from http import HTTPStatus
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders

from app.api.errors import error_response, too_many_connections
from app.api.multipart import FORM_OVERHEAD_BYTES, body_too_large
from app.domain.errors import BodyTooLarge, CrossOriginRequest, TooManyRequests, Unauthorized
from app.domain.events import ResponseSent
from app.edge.rate_limit import RateLimiter, subscriber

if TYPE_CHECKING:
    from collections.abc import Iterator

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from app.domain.access import ApiKeys, Rate, TrustedProxies
    from app.domain.events import EventSink

logger = logging.getLogger(__name__)

#: So long a client that is refused in mid-upload is listened to, so that it can read its answer.
_LINGER_SECONDS: Final = 10.0
#: How often refusals are spoken of at most.
_REFUSALS_SECONDS: Final = 10.0


class Limits:
    """Refuses requests without a key, those of who asks too often, and bodies that say they are too large."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        keys: ApiKeys,
        rate: Rate | None,
        max_upload_bytes: int,
        at_once: RequestsAtOnce,
    ) -> None:
        self._app = app
        self._at_once = at_once
        self._keys = keys
        self._limiter = None if rate is None else RateLimiter(rate)
        self._max_upload_bytes = max_upload_bytes
        self._refusals = Refusals()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith("/v1/"):
            await self._app(scope, receive, send)
            return
        try:
            self._admit(scope)
        except (Unauthorized, BodyTooLarge, TooManyRequests) as exc:
            await error_response(exc)(scope, receive, send)
            return
        with self._at_once.counted(_address(scope)) as has_room:
            if has_room:
                await self._app(scope, receive, send)
            else:
                await too_many_connections()(scope, receive, send)

    def _admit(self, scope: Scope) -> None:
        headers = Headers(scope=scope)
        state = scope.setdefault("state", {})
        state["owner"] = state["key_name"] = ""
        if not self._keys:
            self._check_rate(subscriber(_address(scope)))
        else:
            try:
                key = self._keys.authenticate(headers.get("authorization", ""), setting="API_KEYS")
            except Unauthorized:
                self._refusals.note(_address(scope))
                self._check_rate(subscriber(_address(scope)))
                raise
            self._check_rate(key.fingerprint)
            state["owner"], state["key_name"] = key.fingerprint, key.name
        self._check_length(headers)

    def _check_rate(self, who: str) -> None:
        if self._limiter is None or not (wait := self._limiter.wait_seconds(who)):
            return
        raise TooManyRequests(
            f"Too many requests: RATE_LIMIT allows {self._limiter.rate}. Try again in a while.",
            retry_after_seconds=math.ceil(wait),
        )

    def _check_length(self, headers: Headers) -> None:
        length = headers.get("content-length", "0")
        if length.isdecimal() and int(length) > self._max_upload_bytes + FORM_OVERHEAD_BYTES:
            raise body_too_large(self._max_upload_bytes)


class RequestsAtOnce:
    """Counts the requests of each address at work. Behind a proxy they are what connections are without one.

    The proxies' own addresses have no limit, nor has anybody where ``per_address`` is 0.
    """

    def __init__(self, per_address: int, *, trusted: TrustedProxies) -> None:
        self._per_address = per_address
        self._trusted = trusted
        self._counts: Counter[str] = Counter()

    @contextmanager
    def counted(self, address: str) -> Iterator[bool]:
        """Whether there is room for one more, which counts while inside."""
        who = subscriber(address)
        is_full = bool(self._per_address) and self._counts[who] >= self._per_address
        if is_full and not self._trusted.covers(address):
            yield False
            return
        self._counts[who] += 1
        try:
            yield True
        finally:
            self._counts[who] -= 1
            if not self._counts[who]:
                del self._counts[who]


class Refusals:
    """Says in the log that keys were missing or wrong, now and then, however many they were."""

    def __init__(self) -> None:
        self._count = 0
        self._said_at = -math.inf

    def note(self, address: str) -> None:
        self._count += 1
        now = time.monotonic()
        if now - self._said_at >= _REFUSALS_SECONDS:
            logger.warning("🔑 %d requests had no key, or a wrong one; the last came from %s", self._count, address)
            self._count, self._said_at = 0, now


def _address(scope: Scope) -> str:
    client: tuple[str, int] | None = scope.get("client")
    return client[0] if client else ""


class OtherPrefix:
    """Answers ``/openai/v1/…`` as ``/v1/…``: the SDK of Groq puts the prefix before whatever it is told to call."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"].startswith("/openai/v1/"):
            path = scope["path"].removeprefix("/openai")
            scope = {**scope, "path": path, "raw_path": path.encode()}
        await self._app(scope, receive, send)


class LingeringClose:
    """Answers clients that are refused while they still send, and closes such a connection only after a while.

    A server that closes with unread bytes resets the connection, and the client may lose the answer.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        unread = _has_body(Headers(scope=scope))

        async def watched_receive() -> Message:
            nonlocal unread
            message = await receive()
            if message["type"] == "http.disconnect" or not message.get("more_body", False):
                unread = False
            return message

        async def lingering_send(message: Message) -> None:
            if message["type"] == "http.response.start" and unread:
                MutableHeaders(scope=message)["connection"] = "close"
            if message["type"] != "http.response.body" or message.get("more_body", False) or not unread:
                await send(message)
                return
            await send({**message, "more_body": True})
            with suppress(TimeoutError):
                async with asyncio.timeout(_LINGER_SECONDS):
                    while unread:
                        await watched_receive()
            await send({"type": "http.response.body", "body": b"", "more_body": False})

        await self._app(scope, watched_receive, lingering_send)


def _has_body(headers: Headers) -> bool:
    return "transfer-encoding" in headers or headers.get("content-length", "0") != "0"


#: An answer is what it says it is; no page may frame it or learn where its reader came from.
_HEADERS: Final = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class SecurityHeaders:
    """Adds to every answer what keeps a browser from making more of it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def safe_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        await self._app(scope, receive, safe_send)


class CrossOriginGuard:
    """Refuses what a browser sends for another site's page. For services without keys: a page does not know those."""

    def __init__(self, app: ASGIApp, *, is_local: bool) -> None:
        self._app = app
        self._is_local = is_local

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_asked = scope["type"] == "http" and not scope["path"].startswith("/health")
        if is_asked and (problem := self._problem(Headers(scope=scope))):
            await error_response(CrossOriginRequest(problem))(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _problem(self, headers: Headers) -> str | None:
        host, origin = hostname(f"//{headers.get('host', '')}"), headers.get("origin")
        if origin is not None and hostname(origin) != host:
            page = hostname(origin) or "another site"
            return (
                f"A page of {page} may not use this server while API_KEYS is empty: set API_KEYS, and send one of them."
            )
        if self._is_local and not names_this_machine(host):
            return (
                "This server listens on this machine only and has no API_KEYS, so it is not asked by names of "
                "elsewhere: use http://127.0.0.1 or http://localhost, or set API_KEYS."
            )
        return None


def hostname(url: str) -> str:
    """The host of a URL in lower case, without its port; empty where there is none."""
    with suppress(ValueError):
        return urlsplit(url).hostname or ""
    return ""


def names_this_machine(host: str) -> bool:
    """Whether ``host`` is an address, or a name that nobody elsewhere can own."""
    with suppress(ValueError):
        return bool(ipaddress.ip_address(host))
    return "." not in host or host.endswith(".localhost")


class Counted:
    """Tells of every answer, by the template of its route."""

    def __init__(self, app: ASGIApp, *, emit: EventSink) -> None:
        self._app = app
        self._emit = emit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        told = False

        def tell(status: int) -> None:
            nonlocal told
            if not told:
                self._emit(ResponseSent(getattr(scope.get("route"), "path", ""), status))
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
