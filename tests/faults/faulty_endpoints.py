"""Stores, webhook receivers and a trace collector that fail in every way and repeat secrets in their responses."""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections import Counter
from contextlib import AsyncExitStack, contextmanager
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qsl

import trustme

from tests.support.fault_server import answer, fault_server, response_head
from tests.support.program import free_port
from tests.support.waiting import LIMIT_SECONDS

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from pathlib import Path

    from tests.support.fault_server import Connection, FaultServer, SeenRequest
    from tests.support.marked_secrets import Secrets

    Fault = Callable[["FaultyEndpoints", Connection, SeenRequest], Awaitable[None]]


class FaultyEndpoints:
    """A server whose URLs name their fault, such as ``/denied/…``, and servers that cannot be talked to."""

    def __init__(self, secrets: Secrets, audio: bytes) -> None:
        self.secrets = secrets
        self.audio = audio
        self.seen: Counter[str] = Counter()
        self.plain: FaultServer
        self.unverified: FaultServer
        self.collector: FaultServer
        self.refused_port = free_port()

    def base(self, fault: str) -> str:
        """Return the URL with this fault, without a query."""
        host = f"127.0.0.1:{self.plain.port}"
        unreachable = {
            "tls-to-plain": f"https://{host}/ok/key",
            "unverified": f"https://127.0.0.1:{self.unverified.port}/ok/key",
            "refused": f"http://127.0.0.1:{self.refused_port}/key",
            "unresolvable": "https://nowhere.invalid/key",
        }
        return unreachable.get(fault, f"http://{host}/{fault}/key")

    @property
    def requests(self) -> list[SeenRequest]:
        """The requests to stores and webhook receivers."""
        return [*self.plain.requests, *self.unverified.requests]

    async def serve(self, connection: Connection) -> None:
        """Answer a request with the fault that its path names."""
        request = await connection.read_request()
        fault = request.target.partition("?")[0].split("/")[1]
        self.seen[request.target] += 1
        await FAULTS[fault](self, connection, request)


async def _ok(endpoints: FaultyEndpoints, connection: Connection, request: SeenRequest) -> None:
    body = endpoints.audio if request.method == "GET" else b""
    await connection.send(response_head(200, {"Content-Length": str(len(body)), "Connection": "close"}) + body)


def _echo(request: SeenRequest) -> str:
    """Return everything that was sent, as stores repeat it in errors."""
    values = "".join(f"<{name}>{value}</{name}>" for name, value in parse_qsl(request.target.partition("?")[2]))
    headers = "".join(f"{name}:{value}\n" for name, value in request.headers.items())
    return (
        f"<SignatureProvided>{request.target}</SignatureProvided><StringToSign>{request.method}\n{request.target}\n"
        f"{headers}</StringToSign>{values}"
    )


def _error(status: int, code: str) -> Fault:
    async def behave(_endpoints: FaultyEndpoints, connection: Connection, request: SeenRequest) -> None:
        body = f'<?xml version="1.0"?><Error><Code>{code}</Code>{_echo(request)}</Error>'.encode()
        head = {
            "Content-Length": str(len(body)),
            "Retry-After": request.target,
            "x-request-url": request.target,
            "Set-Cookie": f"session={request.target}",
        }
        await connection.send(response_head(status, head) + body)

    return behave


async def _busy(endpoints: FaultyEndpoints, connection: Connection, request: SeenRequest) -> None:
    if endpoints.seen[request.target] > 1:
        await _ok(endpoints, connection, request)
        return
    body = _echo(request).encode()
    await connection.send(response_head(503, {"Retry-After": "1", "Content-Length": str(len(body))}) + body)


def _redirect(status: int, target: str) -> Fault:
    """Redirect to a ``Location`` with another secret."""

    async def behave(endpoints: FaultyEndpoints, connection: Connection, _request: SeenRequest) -> None:
        secrets = endpoints.secrets
        location = target.format(
            here=endpoints.plain.url(""), signature=secrets.make("location"), password=secrets.make("locationpassword")
        )
        cookie = f"id={secrets.make('cookie')}; Path=/"
        await connection.send(
            response_head(status, {"Location": location, "Set-Cookie": cookie, "Content-Length": "0"}),
        )

    return behave


async def _reset(endpoints: FaultyEndpoints, connection: Connection, request: SeenRequest) -> None:
    if request.method == "GET":
        await connection.send(response_head(200, {"Content-Length": "1000000"}) + endpoints.audio)
        await asyncio.sleep(0.05)  # an immediate reset can overtake the bytes
    connection.reset()


async def _closed(_endpoints: FaultyEndpoints, _connection: Connection, _request: SeenRequest) -> None:
    pass


async def _cut_short(_endpoints: FaultyEndpoints, connection: Connection, request: SeenRequest) -> None:
    await connection.send(response_head(200 if request.method == "GET" else 500, {"Content-Length": "1000000"}))
    await connection.send(_echo(request).encode())


async def _drip(_endpoints: FaultyEndpoints, connection: Connection, request: SeenRequest) -> None:
    for byte in f"HTTP/1.1 200 {request.target * 100}".encode():
        await connection.send(bytes([byte]))
        await asyncio.sleep(0.05)


async def _silent(_endpoints: FaultyEndpoints, connection: Connection, _request: SeenRequest) -> None:
    await connection.until_closed()


def _raw(text: str) -> Fault:
    """Send text that is no valid response, with the requested target as ``{url}``."""

    async def behave(_endpoints: FaultyEndpoints, connection: Connection, request: SeenRequest) -> None:
        await connection.send(text.format(url=request.target).encode())

    return behave


def _file(text: str) -> Fault:
    """Serve a file with URLs in it that is not audio."""

    async def behave(endpoints: FaultyEndpoints, connection: Connection, request: SeenRequest) -> None:
        url = endpoints.plain.url(f"/ok/part.ts?X-Amz-Signature={endpoints.secrets.make('infile')}")
        body = text.format(url=url, echo=_echo(request)).encode()
        await connection.send(response_head(200, {"Content-Length": str(len(body))}) + body)

    return behave


#: Faults by their path: first those that are final, then temporary ones.
FAULTS: Final[dict[str, Fault]] = {
    "ok": _ok,
    "busy": _busy,
    "denied": _error(403, "SignatureDoesNotMatch"),
    "bad": _error(400, "AuthorizationQueryParametersError"),
    "gone": _error(404, "no code: {echo}"),
    "moved": _redirect(302, "{here}/ok/key?X-Amz-Signature={signature}#{password}"),
    "misled": _redirect(302, "https://10.1.2.3/key?X-Amz-Signature={signature}"),
    "misled-to-file": _redirect(301, "file:///etc/passwd?sig={signature}"),
    "misled-with-password": _redirect(308, "https://user:{password}@127.0.0.1/key?token={signature}"),
    "misled-with-space": _redirect(303, "https://127.0.0.1/a key?token={signature}"),
    "going-round": _redirect(302, "{here}/going-round/key?X-Amz-Signature={signature}"),
    "page": _file("<html>{echo} {url}</html>"),
    "playlist": _file("#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{url}\n#EXT-X-ENDLIST\n"),
    "reason": _raw("HTTP/1.1 403 {url}\r\nContent-Length: 0\r\n\r\n"),
    "broken": _error(500, "InternalError"),
    "later": _redirect(307, "{here}/ok/key?X-Amz-Signature={signature}"),
    "reset": _reset,
    "closed": _closed,
    "cut-short": _cut_short,
    "drip": _drip,
    "silent": _silent,
    "garbage": _raw("SSH-2.0 {url}\r\n\r\n"),
    "bad-header": _raw("HTTP/1.1 200 OK\r\nbad header {url}\r\nContent-Length: 0\r\n\r\n"),
    "bad-status": _raw("HTTP/1.1 9{url} OK\r\n\r\n"),
}
#: Faults of servers that send no response.
SILENT_FAULTS: Final = ("tls-to-plain", "unverified", "refused", "unresolvable")


@contextmanager
def faulty_endpoints(secrets: Secrets, audio: Path) -> Iterator[FaultyEndpoints]:
    """Run all servers in their own thread until the block ends."""
    running = FaultyEndpoints(secrets, audio.read_bytes())
    started = threading.Event()
    ending: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    async def serve() -> None:
        async with AsyncExitStack() as stack:
            running.plain = await stack.enter_async_context(fault_server(running.serve))
            running.unverified = await stack.enter_async_context(
                fault_server(answer(200), ssl_context=_unverified_certificate())
            )
            running.collector = await stack.enter_async_context(fault_server(answer(200, Connection="close")))
            end, loop = asyncio.Event(), asyncio.get_running_loop()
            ending.append((loop, end))
            started.set()
            await end.wait()

    thread = threading.Thread(target=lambda: asyncio.run(serve()), name="faulty-endpoints")
    thread.start()
    if not started.wait(LIMIT_SECONDS):
        raise RuntimeError("The faulty endpoints did not start.")
    try:
        yield running
    finally:
        loop, end = ending[0]
        loop.call_soon_threadsafe(end.set)
        thread.join(LIMIT_SECONDS)


def _unverified_certificate() -> ssl.SSLContext:
    """Return a certificate that no client trusts."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    return context
