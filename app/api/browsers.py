"""What a web page may not do with a service that is open to whoever is on its machine, and what its answers may not do
in a browser.

Without keys a service on 127.0.0.1 trusts the machine, and so every page that its user looks at: a page can send forms
to any address, and can have its own name lead to 127.0.0.1 to read the answers (DNS rebinding). Such requests name the
page in ``Origin``, or its name in ``Host``, which no script can change. Sources: RFC 6454; Fetch, forbidden headers.
"""

from __future__ import annotations

import ipaddress
from contextlib import suppress
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders

from app.api.errors import error_response
from app.domain.errors import ForeignPage

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

#: An answer is what it says it is; no page may frame it or learn where its reader came from.
_HEADERS: Final = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class SafeHeaders:
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


class NoForeignPages:
    """Refuses what a browser sends for another site's page. For services without keys: a page does not know those."""

    def __init__(self, app: ASGIApp, *, is_local: bool) -> None:
        self._app = app
        self._is_local = is_local

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_asked = scope["type"] == "http" and not scope["path"].startswith("/health")
        if is_asked and (problem := self._problem(Headers(scope=scope))):
            await error_response(ForeignPage(problem))(scope, receive, send)
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
