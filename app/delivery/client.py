"""The HTTP client that dials only where it may: names are resolved once, and judged addresses dialled."""

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
    """A connection that is also closed when its TLS handshake is cancelled; httpcore's own stays open then."""

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
    """Connects to public addresses, and to any address of the hosts in ``allowed``.

    The name is resolved once, so a resolver that later answers otherwise is never asked. TLS and the Host
    header keep the name: only the dial uses the address.
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
        """Connect within ``timeout`` seconds in all, the resolution included.

        Raises:
            RefusedUrl: an address of ``host`` is not public.
            httpcore.ConnectTimeout, httpcore.ConnectError: there is no connection.
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
                f"{host} is not at public addresses only: use a public host, or have {host}:{port} added to the"
                " server's URL_ALLOWED_HOSTS"
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
    """httpx's transport over a pool with its own network backend, which httpx has no argument for.

    Each URL is held to ``rules`` again: it may come from a redirect, or from a journal that is older than the
    server's settings. A redirect's ``Location`` is moved to the response's ``extensions["location"]``, a list, out
    of the sight of httpx, which fails on one that is not a URL.
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
            max_keepalive_connections=0,  # transfers are rare: better a new connection than a stale one
            network_backend=backend,
        )
        self._rules = rules

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """The answer, or RefusedUrl before anything is resolved."""
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
    """A client for URLs that users name: no proxy, no redirects, no cookies, nothing from the environment.

    The certificate store alone may be named there (``SSL_CERT_FILE``, ``SSL_CERT_DIR``).
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


#: More than transfers run at once, as a lookup that its transfer has given up goes on until the system ends it.
LOOKUPS: Final = 256


class SystemResolver:
    """The system's resolver, asked by at most ``at_once`` threads; further names wait.

    The event loop's own threads are few and write files: a slow name server, which any client can name, must not use
    them up. A lookup can't be stopped, so its place is free at its end, not when its caller is cancelled; the
    threads are daemons, as the end of the process does not wait for name servers.
    """

    def __init__(self, *, at_once: int = LOOKUPS, lookup: Callable[[str, int], Sequence[str]] | None = None) -> None:
        self._places = asyncio.Semaphore(at_once)
        self._lookup = lookup or system_addresses

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        """Every address of ``host``, in the system's order of preference.

        Raises:
            OSError: the name has none (``socket.gaierror``), or no thread could be started.
            UnicodeError: it is no name.
        """
        await self._places.acquire()
        loop = asyncio.get_running_loop()
        found: Future[Sequence[str]] = Future()
        found.set_running_or_notify_cancel()
        found.add_done_callback(lambda _: _tell(loop, self._places.release))
        try:
            Thread(target=_look_up, args=(found, self._lookup, host, port), name="resolver", daemon=True).start()
        except RuntimeError as exc:
            found.set_exception(OSError(str(exc)))
        return await asyncio.wrap_future(found)


def system_addresses(host: str, port: int) -> Sequence[str]:
    """``getaddrinfo``, which blocks for as long as the system's resolver likes."""
    answers = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(answer[4][0]) for answer in answers))


def _look_up(found: Future[Sequence[str]], lookup: Callable[[str, int], Sequence[str]], host: str, port: int) -> None:
    try:
        addresses = lookup(host, port)
    except Exception as exc:  # noqa: BLE001  whatever it is, it is raised where it is waited for
        found.set_exception(exc)
    else:
        found.set_result(addresses)


def _tell(loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(callback)
