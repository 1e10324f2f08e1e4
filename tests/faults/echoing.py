"""Stores, receivers and a collector on the loopback that fail in every way, and repeat in it whatever is secret."""

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

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from pathlib import Path

    from tests.support.fault_server import Connection, FaultServer, SeenRequest
    from tests.support.marked_secrets import Secrets

    Fault = Callable[["FairSlots", Connection, SeenRequest], Awaitable[None]]

_STARTS_WITHIN: Final = 10


class FairSlots:
    """A server whose URLs name what it does, ``/denied/…``, and others that can't be spoken to."""

    def __init__(self, secrets: Secrets, audio: bytes) -> None:
        self.secrets = secrets
        self.audio = audio
        self.seen: Counter[str] = Counter()
        self.plain: FaultServer
        self.unverified: FaultServer
        self.collector: FaultServer
        self.refused_port = free_port()

    def base(self, fault: str) -> str:
        """What comes before the query in a URL with that fault."""
        place = f"127.0.0.1:{self.plain.port}"
        elsewhere = {
            "tls-to-plain": f"https://{place}/ok/key",
            "unverified": f"https://127.0.0.1:{self.unverified.port}/ok/key",
            "refused": f"http://127.0.0.1:{self.refused_port}/key",
            "unresolvable": "https://nowhere.invalid/key",
        }
        return elsewhere.get(fault, f"http://{place}/{fault}/key")

    @property
    def requests(self) -> list[SeenRequest]:
        """All but those to the collector."""
        return [*self.plain.requests, *self.unverified.requests]

    async def serve(self, connection: Connection) -> None:
        request = await connection.read_request()
        fault = request.target.partition("?")[0].split("/")[1]
        self.seen[request.target] += 1
        await FAULTS[fault](self, connection, request)


async def _ok(places: FairSlots, connection: Connection, request: SeenRequest) -> None:
    body = places.audio if request.method == "GET" else b""
    await connection.send(response_head(200, {"Content-Length": str(len(body)), "Connection": "close"}) + body)


def _said(request: SeenRequest) -> str:
    """All that was sent, as stores repeat it."""
    values = "".join(f"<{name}>{value}</{name}>" for name, value in parse_qsl(request.target.partition("?")[2]))
    headers = "".join(f"{name}:{value}\n" for name, value in request.headers.items())
    return (
        f"<SignatureProvided>{request.target}</SignatureProvided><StringToSign>{request.method}\n{request.target}\n"
        f"{headers}</StringToSign>{values}"
    )


def _saying(status: int, code: str) -> Fault:
    async def behave(_places: FairSlots, connection: Connection, request: SeenRequest) -> None:
        body = f'<?xml version="1.0"?><Error><Code>{code}</Code>{_said(request)}</Error>'.encode()
        head = {
            "Content-Length": str(len(body)),
            "Retry-After": request.target,
            "x-request-url": request.target,
            "Set-Cookie": f"session={request.target}",
        }
        await connection.send(response_head(status, head) + body)

    return behave


async def _busy(places: FairSlots, connection: Connection, request: SeenRequest) -> None:
    if places.seen[request.target] > 1:
        await _ok(places, connection, request)
        return
    body = _said(request).encode()
    await connection.send(response_head(503, {"Retry-After": "1", "Content-Length": str(len(body))}) + body)


def _leading(status: int, target: str) -> Fault:
    """An answer whose ``Location`` has a signature of its own."""

    async def behave(places: FairSlots, connection: Connection, _request: SeenRequest) -> None:
        secrets = places.secrets
        filled = target.format(
            here=places.plain.url(""), signature=secrets.make("location"), password=secrets.make("locationpassword")
        )
        cookie = f"id={secrets.make('cookie')}; Path=/"
        await connection.send(
            response_head(status, {"Location": filled, "Set-Cookie": cookie, "Content-Length": "0"}),
        )

    return behave


async def _reset(places: FairSlots, connection: Connection, request: SeenRequest) -> None:
    if request.method == "GET":
        await connection.send(response_head(200, {"Content-Length": "1000000"}) + places.audio)
        await asyncio.sleep(0.05)  # a reset at once may overtake the bytes
    connection.reset()


async def _closed(_places: FairSlots, _connection: Connection, _request: SeenRequest) -> None:
    pass


async def _cut_short(_places: FairSlots, connection: Connection, request: SeenRequest) -> None:
    await connection.send(response_head(200 if request.method == "GET" else 500, {"Content-Length": "1000000"}))
    await connection.send(_said(request).encode())


async def _drip(_places: FairSlots, connection: Connection, request: SeenRequest) -> None:
    for byte in f"HTTP/1.1 200 {request.target * 100}".encode():
        await connection.send(bytes([byte]))
        await asyncio.sleep(0.05)


async def _silent(_places: FairSlots, connection: Connection, _request: SeenRequest) -> None:
    await connection.until_closed()


def _writing(text: str) -> Fault:
    """An answer that is none; ``{url}`` in it is what was asked for."""

    async def behave(_places: FairSlots, connection: Connection, request: SeenRequest) -> None:
        await connection.send(text.format(url=request.target).encode())

    return behave


def _lending(text: str) -> Fault:
    """A file that is no audio, but has URLs in it."""

    async def behave(places: FairSlots, connection: Connection, request: SeenRequest) -> None:
        url = places.plain.url(f"/ok/part.ts?X-Amz-Signature={places.secrets.make('infile')}")
        body = text.format(url=url, said=_said(request)).encode()
        await connection.send(response_head(200, {"Content-Length": str(len(body))}) + body)

    return behave


#: The faults that a server has; what is final comes first, then what passes.
FAULTS: Final[dict[str, Fault]] = {
    "ok": _ok,
    "busy": _busy,
    "denied": _saying(403, "SignatureDoesNotMatch"),
    "bad": _saying(400, "AuthorizationQueryParametersError"),
    "gone": _saying(404, "no code: {said}"),
    "moved": _leading(302, "{here}/ok/key?X-Amz-Signature={signature}#{password}"),
    "misled": _leading(302, "https://10.1.2.3/key?X-Amz-Signature={signature}"),
    "misled-to-file": _leading(301, "file:///etc/passwd?sig={signature}"),
    "misled-with-password": _leading(308, "https://user:{password}@127.0.0.1/key?token={signature}"),
    "misled-with-space": _leading(303, "https://127.0.0.1/a key?token={signature}"),
    "going-round": _leading(302, "{here}/going-round/key?X-Amz-Signature={signature}"),
    "page": _lending("<html>{said} {url}</html>"),
    "playlist": _lending("#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{url}\n#EXT-X-ENDLIST\n"),
    "reason": _writing("HTTP/1.1 403 {url}\r\nContent-Length: 0\r\n\r\n"),
    "broken": _saying(500, "InternalError"),
    "later": _leading(307, "{here}/ok/key?X-Amz-Signature={signature}"),
    "reset": _reset,
    "closed": _closed,
    "cut-short": _cut_short,
    "drip": _drip,
    "silent": _silent,
    "garbage": _writing("SSH-2.0 {url}\r\n\r\n"),
    "bad-header": _writing("HTTP/1.1 200 OK\r\nbad header {url}\r\nContent-Length: 0\r\n\r\n"),
    "bad-status": _writing("HTTP/1.1 9{url} OK\r\n\r\n"),
}
#: Those of servers that can't be spoken to.
SILENT_FAULTS: Final = ("tls-to-plain", "unverified", "refused", "unresolvable")


@contextmanager
def places(secrets: Secrets, audio: Path) -> Iterator[FairSlots]:
    """They are there, on a thread of their own, until the block ends."""
    made = FairSlots(secrets, audio.read_bytes())
    started = threading.Event()
    ending: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    async def serve() -> None:
        async with AsyncExitStack() as stack:
            made.plain = await stack.enter_async_context(fault_server(made.serve))
            made.unverified = await stack.enter_async_context(
                fault_server(answer(200), ssl_context=_unverified_certificate())
            )
            made.collector = await stack.enter_async_context(fault_server(answer(200, Connection="close")))
            end, loop = asyncio.Event(), asyncio.get_running_loop()
            ending.append((loop, end))
            started.set()
            await end.wait()

    thread = threading.Thread(target=lambda: asyncio.run(serve()), name="places")
    thread.start()
    if not started.wait(_STARTS_WITHIN):
        raise RuntimeError("The places did not start.")
    try:
        yield made
    finally:
        loop, end = ending[0]
        loop.call_soon_threadsafe(end.set)
        thread.join(_STARTS_WITHIN)


def _unverified_certificate() -> ssl.SSLContext:
    """One of an authority that nobody knows."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    return context
