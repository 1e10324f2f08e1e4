"""Listeners that count connections, and a network backend that leads every address to one of them."""

from __future__ import annotations

import asyncio
import socket
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import httpcore

from app.delivery.attempts import Clock, RoundOptions
from app.delivery.download import AudioDownloader
from app.delivery.retry import RetryPolicy
from app.delivery.upload import PresignedUploader
from app.delivery.webhooks import WebhookSender
from app.domain.access import WebhookSecret

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Sequence

    import httpx

TRANSFERS = ("download", "upload", "webhook")


@dataclass(slots=True)
class Listener:
    """A port of 127.0.0.1 and ::1 that counts connections, which it closes, and UDP packets."""

    port: int = 0
    connections: int = 0
    packets: int = 0

    async def accept(self, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        writer.close()


class _Packets(asyncio.DatagramProtocol):
    def __init__(self, listener: Listener) -> None:
        self._listener = listener

    def datagram_received(self, data: bytes, addr: object) -> None:  # noqa: ARG002  asyncio's interface
        self._listener.packets += 1


def has_ipv6() -> bool:
    """Return whether this machine has ::1. Some containers don't."""
    with suppress(OSError), socket.create_server(("::1", 0), family=socket.AF_INET6):
        return True
    return False


@asynccontextmanager
async def counting_listener() -> AsyncIterator[Listener]:
    listener = Listener()
    hosts = ("127.0.0.1", "::1") if has_ipv6() else ("127.0.0.1",)
    async with AsyncExitStack() as stack:
        for tries_left in reversed(range(20)):
            try:
                await _listen(listener, hosts, stack)
                break
            except OSError:  # the port is taken on one of the addresses
                await stack.aclose()
                if not tries_left:
                    raise
        yield listener


async def _listen(listener: Listener, hosts: Iterable[str], stack: AsyncExitStack) -> None:
    listener.port = 0
    for host in hosts:
        server = await stack.enter_async_context(await asyncio.start_server(listener.accept, host, listener.port))
        listener.port = server.sockets[0].getsockname()[1]
        transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
            lambda: _Packets(listener), local_addr=(host, listener.port)
        )
        stack.callback(transport.close)


class ReroutingBackend(httpcore.AsyncNetworkBackend):
    """A backend that connects to ``port`` of this machine for every address, except for ports in ``stay``."""

    def __init__(self, port: int, *, stay: Iterable[int] = ()) -> None:
        self.addresses: list[str] = []
        self._port = port
        self._stay = frozenset(stay)
        self._real = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109  httpcore's interface
        local_address: str | None = None,  # noqa: ARG002
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,  # noqa: ARG002
    ) -> httpcore.AsyncNetworkStream:
        self.addresses.append(host)
        return await self._real.connect_tcp("127.0.0.1", port if port in self._stay else self._port, timeout=timeout)


class FakeResolver:
    """A resolver with an answer for each call. The last answer is repeated."""

    def __init__(self, *answers: Sequence[str]) -> None:
        self.answers = answers
        self.calls: list[tuple[str, int]] = []

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        answer = self.answers[min(len(self.calls), len(self.answers) - 1)]
        self.calls.append((host, port))
        return answer


class MemoryFile:
    """A file in memory."""

    def __init__(self) -> None:
        self.data = b""

    def write(self, data: bytes) -> None:
        self.data += data

    def close(self) -> None:
        pass


async def move(
    transfer: str, client: httpx.AsyncClient, url: str, *, attempts: int = 3, total: float = 5.0
) -> MemoryFile:
    """Run one round of a download, upload or webhook without waits, and return the file of the download."""
    options = RoundOptions(
        total_timeout_seconds=total, policy=RetryPolicy(attempts=attempts), clock=Clock(sleep=_sleep_not)
    )
    file = MemoryFile()
    if transfer == "download":
        await AudioDownloader(client, options, max_bytes=1000).fetch(url, lambda: file)
    elif transfer == "upload":
        await PresignedUploader(client, options).put(url, b"transcript", headers={}, media_type="text/plain")
    else:
        await WebhookSender(client, WebhookSecret(b"k" * 24), options).post(url, b"{}", event_id="msg_1")
    return file


async def _sleep_not(_seconds: float) -> None:
    return
