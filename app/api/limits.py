"""What is decided before the first byte of a body: keys and sizes. Pure ASGI, so that nothing is read for nothing."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from starlette.datastructures import Headers, MutableHeaders

from app.api.errors import error_response
from app.domain.errors import BodyTooLarge, Unauthorized

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

#: Room for the form's other fields and the boundaries between them.
FORM_OVERHEAD_BYTES: Final = 8 * 1024 * 1024
#: So long a client that is refused in mid-upload is listened to, so that it can read its answer.
_LINGER_SECONDS: Final = 10.0


class ApiKeys:
    """The keys that open ``/v1``; without any it is open."""

    def __init__(self, keys: tuple[str, ...]) -> None:
        self._keys = {key.encode(): hashlib.sha256(key.encode()).hexdigest()[:16] for key in keys}

    def owner(self, headers: Headers) -> str:
        """The fingerprint of the request's key, empty where none is needed.

        Raises:
            Unauthorized: none, or a wrong one.
        """
        if not self._keys:
            return ""
        scheme, _, given = headers.get("authorization", "").partition(" ")
        found = ""
        for key, fingerprint in self._keys.items():
            if hmac.compare_digest(key, given.strip().encode()) and scheme.lower() == "bearer":
                found = fingerprint
        if found:
            return found
        problem = "The API key is wrong" if given else "There is no API key"
        raise Unauthorized(f"{problem}: send the header 'Authorization: Bearer KEY' with one of the keys in API_KEYS.")


class Limits:
    """Refuses requests without a key, and bodies that say they are too large."""

    def __init__(self, app: ASGIApp, *, keys: ApiKeys, max_upload_bytes: int) -> None:
        self._app = app
        self._keys = keys
        self._max_upload_bytes = max_upload_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith("/v1/"):
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        try:
            scope.setdefault("state", {})["owner"] = self._keys.owner(headers)
            self._check_length(headers)
        except (Unauthorized, BodyTooLarge) as exc:
            await error_response(exc)(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _check_length(self, headers: Headers) -> None:
        length = headers.get("content-length", "0")
        if length.isdecimal() and int(length) > self._max_upload_bytes + FORM_OVERHEAD_BYTES:
            raise body_too_large(self._max_upload_bytes)


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
