"""Requests from web pages of other origins: who is rejected, and whom ``CORS_ALLOWED_ORIGINS`` lets in.

Browsers let every page send simple requests to every server, this one included. With API keys that does no harm,
because a foreign page has none. Without keys, `CrossOriginGuard` rejects them.
"""

from __future__ import annotations

import ipaddress
from contextlib import suppress
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware

from app.api.errors import error_response
from app.domain.errors import CrossOriginRequest
from app.domain.origins import normalized_origin

if TYPE_CHECKING:
    from starlette.responses import Response
    from starlette.types import ASGIApp, Receive, Scope, Send

    from app.domain.access import TrustedProxies
    from app.domain.origins import AllowedOrigins

#: What a browser says of a request's origin (W3C, Fetch Metadata): that of this server, or the user's own navigation.
_OWN_SITES: Final = ("same-origin", "none")
_SAFE_METHODS: Final = ("GET", "HEAD")
_METHODS: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
#: The scheme of a page that opens a WebSocket of its own server.
_PAGE_SCHEMES: Final = {"ws": "http", "wss": "https"}
#: Response headers that pages of allowed origins can read, besides those that browsers always show.
_EXPOSED_HEADERS: Final = (
    "Accept-Ranges",
    "Content-Disposition",
    "Content-Range",
    "ETag",
    "Location",
    "Retry-After",
    "X-Client-Request-Id",
    "openai-processing-ms",
    "x-ratelimit-limit-requests",
    "x-ratelimit-remaining-requests",
    "x-ratelimit-reset-requests",
    "x-request-id",
    "x-should-retry",
)


def cors_options(allowed: AllowedOrigins) -> dict[str, Any]:
    """Return the options of Starlette's CORSMiddleware. Keys are sent as a header, never as a cookie."""
    return {
        "allow_origins": sorted(allowed.origins),
        "allow_methods": _METHODS,
        "allow_headers": ("*",),
        "allow_private_network": True,
        "expose_headers": _EXPOSED_HEADERS,
    }


class CrossOriginSharing(CORSMiddleware):
    """Starlette's middleware with `cors_options`, whose refusals are errors of the API."""

    def preflight_response(self, request_headers: Headers) -> Response:
        response = super().preflight_response(request_headers)
        if response.status_code < HTTPStatus.BAD_REQUEST:
            return response
        origin, method = request_headers["origin"], request_headers["access-control-request-method"]
        if not self.is_allowed_origin(origin):
            page = normalized_origin(origin) or "another site"
            problem = f"Pages of {page} cannot use this server: add the page to CORS_ALLOWED_ORIGINS."
        else:
            problem = f"Pages cannot send {method} requests: use {', '.join(_METHODS)}."
        refusal = error_response(CrossOriginRequest(problem))
        refusal.headers["Vary"] = response.headers["Vary"]
        return refusal


class CrossOriginGuard:
    """Middleware that rejects requests from foreign web pages, for servers without API keys.

    Programs other than browsers send neither ``Sec-Fetch-Site`` nor ``Origin`` and always pass. ``trusted`` proxies
    can name the host that the browser asked for; if ``is_local`` is true, only local host names are served.
    """

    def __init__(self, app: ASGIApp, *, is_local: bool, trusted: TrustedProxies, allowed: AllowedOrigins) -> None:
        self._app = app
        self._is_local = is_local
        self._trusted = trusted
        self._allowed = allowed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_guarded = scope["type"] in ("http", "websocket") and not scope["path"].startswith("/health")
        if is_guarded and (problem := self._problem(scope, Headers(scope=scope))):
            await error_response(CrossOriginRequest(problem))(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _problem(self, scope: Scope, headers: Headers) -> str | None:
        if self._is_foreign(scope, headers):
            page = normalized_origin(headers.get("origin", "")) or "another site"
            return (
                f"Pages of {page} cannot use this server while API_KEYS is empty: set API_KEYS, and send one of the "
                "keys with each request, or add the page to CORS_ALLOWED_ORIGINS. If this is the server's own page "
                "behind a proxy, the proxy must pass on Host and X-Forwarded-Proto, and FORWARDED_ALLOW_IPS must list "
                "it."
            )
        if self._is_local and not is_local_name(hostname(headers.get("host", ""))):
            return (
                "This server listens on a loopback address without API_KEYS, so it only accepts requests for "
                "localhost host names: use http://127.0.0.1 or http://localhost, or set API_KEYS."
            )
        return None

    def _is_foreign(self, scope: Scope, headers: Headers) -> bool:
        """Return whether the request comes from a page of another origin that is not allowed."""
        origin, site = headers.get("origin"), headers.get("sec-fetch-site")
        if origin is not None and self._allowed.covers(origin):
            return False
        if site is not None:
            return site not in _OWN_SITES and not _is_navigation(scope, headers)
        return origin is not None and normalized_origin(origin) not in self._own_origins(scope, headers)

    def _own_origins(self, scope: Scope, headers: Headers) -> set[str]:
        """Return the origins under which the client may have reached this server.

        uvicorn has set the scheme from the ``X-Forwarded-Proto`` of a trusted proxy.
        """
        hosts = [headers.get("host", "")]
        if self._trusted.covers(scope.get("state", {}).get("peer", "")):
            hosts.append(headers.get("x-forwarded-host", "").partition(",")[0].strip())
        scheme = _PAGE_SCHEMES.get(scope["scheme"], scope["scheme"])
        origins = (normalized_origin(f"{scheme}://{host}") for host in hosts)
        return {origin for origin in origins if origin is not None}


def _is_navigation(scope: Scope, headers: Headers) -> bool:
    """Return whether a user follows a link of another page to this server, which changes nothing."""
    return scope.get("method") in _SAFE_METHODS and headers.get("sec-fetch-mode") == "navigate"


def hostname(host: str) -> str:
    """Return the header ``Host`` in lower case, without its port, or an empty string if it is malformed."""
    with suppress(ValueError):
        return urlsplit(f"//{host}").hostname or ""
    return ""


def is_local_name(host: str) -> bool:
    """Return True if ``host`` is an address, or a name that nobody can register in the public DNS."""
    with suppress(ValueError):
        return bool(ipaddress.ip_address(host))
    return "." not in host or host.endswith(".localhost")
