"""What is decided before the first byte of a body: keys and sizes. Pure ASGI, so that nothing is read for nothing."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import Counter
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final

from starlette.datastructures import Headers, MutableHeaders

from app.api.errors import error_response, too_many_connections
from app.api.rates import RateLimiter, subscriber
from app.domain.errors import BodyTooLarge, TooManyRequests, Unauthorized

if TYPE_CHECKING:
    from collections.abc import Iterator

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from app.api.connections import TrustedProxies
    from app.api.keys import ApiKeys
    from app.api.rates import Rate

logger = logging.getLogger(__name__)

#: Room for the form's other fields and the boundaries between them.
FORM_OVERHEAD_BYTES: Final = 8 * 1024 * 1024
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
                key = self._keys.required(headers.get("authorization", ""), setting="API_KEYS")
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
        if is_full and not self._trusted.cover(address):
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


def body_too_large(max_upload_bytes: int) -> BodyTooLarge:
    return BodyTooLarge(
        f"The file is too large: MAX_UPLOAD_BYTES allows {max_upload_bytes} bytes. Send compressed audio (Opus, "
        "MP3), or split it.",
        param="file",
    )


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
