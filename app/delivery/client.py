"""An HTTP client that only connects to allowed addresses: it resolves a name once and connects to what it checked."""

from __future__ import annotations

import asyncio
import socket
import time
from concurrent.futures import Future
from http.cookiejar import CookieJar, DefaultCookiePolicy
from threading import Thread
from typing import TYPE_CHECKING, Any, Final

import anyio
import httpcore
import httpx

from app import __version__
from app.delivery.addresses import is_public
from app.delivery.url_rules import UrlRules
from app.domain.errors import RefusedUrl

if TYPE_CHECKING:
    import ssl
    from collections.abc import Awaitable, Callable, Iterable, Sequence

    from app.domain.access import AllowedHosts

    Resolver = Callable[[str, int], Awaitable[Sequence[str]]]


class _TcpStream(httpcore.AsyncNetworkStream):
    """A connection that is closed if its TLS handshake is cancelled. httpcore leaves it open."""

    def __init__(self, stream: httpcore.AsyncNetworkStream) -> None:
        self._stream = stream

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109
        return await self._stream.read(max_bytes, timeout)

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109
        await self._stream.write(buffer, timeout)

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109
    ) -> httpcore.AsyncNetworkStream:
        try:
            return await self._stream.start_tls(ssl_context, server_hostname, timeout)
        except anyio.get_cancelled_exc_class():
            with anyio.CancelScope(shield=True):
                await self._stream.aclose()
            raise

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


class GuardedBackend(httpcore.AsyncNetworkBackend):
    """A network backend that connects to public addresses, and to any address of the hosts in ``allowed``.

    A name is resolved once, so that a later, different answer of the resolver has no effect (DNS rebinding). TLS and
    the Host header still use the name.
    """

    def __init__(
        self,
        allowed: AllowedHosts,
        *,
        resolver: Resolver | None = None,
        backend: httpcore.AsyncNetworkBackend | None = None,
    ) -> None:
        self._allowed = allowed
        self._resolve = resolver or SystemResolver()
        self._backend = backend or httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109  httpcore's interface
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Connect within ``timeout`` seconds, including the resolution of the name.

        Raises:
            RefusedUrl: an address of ``host`` is not public.
            httpcore.ConnectTimeout, httpcore.ConnectError: no address accepted the connection.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        addresses = await self._addresses(host, port, timeout)
        for number, address in enumerate(addresses):
            share = None if deadline is None else (deadline - time.monotonic()) / (len(addresses) - number)
            try:
                stream = await self._backend.connect_tcp(
                    address,
                    port,
                    timeout=share,
                    local_address=local_address,
                    socket_options=socket_options,
                )
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                if number == len(addresses) - 1:
                    raise
            else:
                return _TcpStream(stream)
        raise httpcore.ConnectError(f"{host} has no address")

    async def _addresses(self, host: str, port: int, timeout: float | None) -> Sequence[str]:  # noqa: ASYNC109
        try:
            with anyio.fail_after(timeout):
                addresses = await self._resolve(host, port)
        except TimeoutError as exc:
            raise httpcore.ConnectTimeout(str(exc)) from exc
        except (OSError, UnicodeError) as exc:
            raise httpcore.ConnectError(str(exc)) from exc
        if not self._allowed.covers(host, port) and not all(map(is_public, addresses)):
            raise RefusedUrl(
                f"{host} has an address that is not public: use a public host, or ask the operator to add"
                f" {host}:{port} to URL_ALLOWED_HOSTS"
            )
        return addresses

    async def connect_unix_socket(
        self,
        path: str,
        timeout: float | None = None,  # noqa: ARG002, ASYNC109  httpcore's interface
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,  # noqa: ARG002
    ) -> httpcore.AsyncNetworkStream:
        raise RefusedUrl(f"{path} is a local socket")

    async def sleep(self, seconds: float) -> None:
        await anyio.sleep(seconds)


class GuardedTransport(httpx.AsyncHTTPTransport):
    """httpx's transport with its own network backend, for which httpx has no argument.

    Each URL is checked against ``rules`` again, since it can come from a redirect, or from a journal that is older than
    the settings. The ``Location`` headers of a response are moved to the list ``extensions["location"]``, since httpx
    raises for a malformed one.
    """

    def __init__(
        self,
        backend: httpcore.AsyncNetworkBackend,
        *,
        rules: UrlRules,
        ssl_context: ssl.SSLContext,
        max_connections: int,
    ) -> None:
        super().__init__(verify=ssl_context, trust_env=False)
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=ssl_context,
            max_connections=max_connections,
            max_keepalive_connections=0,  # transfers are rare, and a new connection is never stale
            network_backend=backend,
        )
        self._rules = rules

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send ``request``, or raise RefusedUrl before its host is resolved."""
        problem = self._rules.problem(str(request.url))
        if problem is not None:
            raise RefusedUrl(f"the URL {problem.removesuffix('.')}")
        response = await super().handle_async_request(request)
        response.extensions["location"] = response.headers.get_list("Location")
        response.headers.pop("Location", None)
        return response


def open_client(
    *,
    allowed: AllowedHosts,
    connect_timeout_seconds: float,
    read_write_timeout_seconds: float,
    max_connections: int,
    pool_timeout_seconds: float = 10.0,
    ssl_context: ssl.SSLContext | None = None,
    resolver: Resolver | None = None,
    backend: httpcore.AsyncNetworkBackend | None = None,
) -> httpx.AsyncClient:
    """Return a client for URLs that clients name: without proxies, redirects and cookies.

    It ignores the environment, except for the certificate store in ``SSL_CERT_FILE`` or ``SSL_CERT_DIR``.
    """
    transport = GuardedTransport(
        GuardedBackend(allowed, resolver=resolver, backend=backend),
        rules=UrlRules(allowed),
        ssl_context=ssl_context or httpx.create_ssl_context(),
        max_connections=max_connections,
    )
    return httpx.AsyncClient(
        transport=transport,
        trust_env=False,
        follow_redirects=False,
        cookies=CookieJar(policy=DefaultCookiePolicy(allowed_domains=[])),
        headers={"User-Agent": f"transcription-service/{__version__}", "Accept-Encoding": "identity"},
        timeout=httpx.Timeout(read_write_timeout_seconds, connect=connect_timeout_seconds, pool=pool_timeout_seconds),
    )


#: More than the number of concurrent transfers, since a lookup continues after its transfer has timed out.
MAX_LOOKUPS: Final = 256


class SystemResolver:
    """The system's resolver, called in at most ``max_lookups`` threads of its own. Further lookups wait.

    A slow name server, which any client can name, must not occupy the few threads of the event loop, which write files.
    A lookup can't be stopped, so it counts until it ends even if its caller is cancelled. The threads are daemons, so
    that the process can end without waiting for name servers.
    """

    def __init__(
        self, *, max_lookups: int = MAX_LOOKUPS, lookup: Callable[[str, int], Sequence[str]] | None = None
    ) -> None:
        self._free_lookups = asyncio.Semaphore(max_lookups)
        self._lookup = lookup or system_addresses

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        """Return the addresses of ``host``, in the system's order of preference.

        Raises:
            OSError: the name has no address (``socket.gaierror``), or no thread could be started.
            UnicodeError: ``host`` is not a valid name.
        """
        await self._free_lookups.acquire()
        loop = asyncio.get_running_loop()
        addresses: Future[Sequence[str]] = Future()
        addresses.set_running_or_notify_cancel()
        addresses.add_done_callback(lambda _: _call_soon(loop, self._free_lookups.release))
        try:
            Thread(target=_look_up, args=(addresses, self._lookup, host, port), name="resolver", daemon=True).start()
        except RuntimeError as exc:
            addresses.set_exception(OSError(str(exc)))
        return await asyncio.wrap_future(addresses)


def system_addresses(host: str, port: int) -> Sequence[str]:
    """Return the addresses of ``host`` from ``getaddrinfo``, which blocks without a time limit."""
    entries = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in entries))


def _look_up(future: Future[Sequence[str]], lookup: Callable[[str, int], Sequence[str]], host: str, port: int) -> None:
    try:
        addresses = lookup(host, port)
    except Exception as exc:  # noqa: BLE001  raised where the future is awaited
        future.set_exception(exc)
    else:
        future.set_result(addresses)


def _call_soon(loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(callback)
