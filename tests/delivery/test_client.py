"""Connections of the guarded client."""

from __future__ import annotations

import errno
import socket
import ssl
from typing import TYPE_CHECKING

import anyio
import httpcore
import httpx
import pytest
import trustme

from app.delivery.attempts import Clock, RoundOptions
from app.delivery.client import GuardedBackend, open_client
from app.delivery.failures import AttemptError
from app.delivery.upload import PresignedUploader
from app.domain.access import AllowedHosts
from app.domain.errors import DeliveryFailed, RefusedUrl
from tests.delivery.listening import FakeResolver
from tests.support.fault_server import answer, fault_server, full_backlog

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from app.delivery.client import Resolver

pytestmark = pytest.mark.anyio


def _raise(exc: Exception) -> None:
    raise exc


class RecordingBackend(httpcore.AsyncNetworkBackend):
    """A backend that records its calls and connects to this machine if the host is ``reachable``."""

    def __init__(self, port: int, *, reachable: str) -> None:
        self.port = port
        self.reachable = reachable
        self.calls: list[tuple[str, int]] = []
        self._real = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109  httpcore's interface
        local_address: str | None = None,  # noqa: ARG002
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,  # noqa: ARG002
    ) -> httpcore.AsyncNetworkStream:
        self.calls.append((host, port))
        if host != self.reachable:
            raise httpcore.ConnectError("no")
        return await self._real.connect_tcp("127.0.0.1", self.port, timeout=timeout)


def client_with(
    resolver: Resolver | None, allowed: str = "", ssl_context: ssl.SSLContext | None = None
) -> httpx.AsyncClient:
    return open_client(
        allowed=AllowedHosts.parse(allowed),
        connect_timeout_seconds=30,
        read_write_timeout_seconds=30,
        max_connections=5,
        resolver=resolver,
        ssl_context=ssl_context or ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
    )


async def failure_of(client: httpx.AsyncClient, url: str) -> DeliveryFailed:
    async def sleep(_seconds: float) -> None:
        return

    uploader = PresignedUploader(client, RoundOptions(total_timeout_seconds=30, clock=Clock(sleep=sleep)))
    async with client:
        with pytest.raises(DeliveryFailed) as caught:
            await uploader.put(url, b"x", headers={}, media_type="text/plain")
    assert isinstance(caught.value.__cause__, AttemptError)
    return caught.value


async def test_client_works_after_refused_urls() -> None:
    resolver = FakeResolver(["127.0.0.1"])
    async with fault_server(answer(200)) as server, client_with(resolver, f"good.example:{server.port}") as client:
        for _ in range(6):  # more than the pool has connections
            with pytest.raises(RefusedUrl):
                await client.get("https://bad.example/")
        assert (await client.get(f"http://good.example:{server.port}/")).status_code == 200


async def test_name_is_resolved_once_per_connection() -> None:
    rebinding = FakeResolver(["8.8.8.8"], ["127.0.0.1"])
    async with fault_server(answer(200)) as server:
        recorder = RecordingBackend(server.port, reachable="8.8.8.8")
        backend = GuardedBackend(AllowedHosts(), resolver=rebinding, backend=recorder)
        async with httpcore.AsyncConnectionPool(network_backend=backend) as pool:
            response = await pool.request("GET", "http://rebinding.example/k")
        assert response.status == 200
        assert server.requests[0].headers["host"] == "rebinding.example"
    assert rebinding.calls == [("rebinding.example", 80)]
    assert recorder.calls == [("8.8.8.8", 80)]


async def test_addresses_are_tried_in_turn() -> None:
    async with fault_server(answer(200)) as server:
        recorder = RecordingBackend(server.port, reachable="9.9.9.9")
        resolver = FakeResolver(["2600::1", "8.8.8.8", "9.9.9.9"])
        backend = GuardedBackend(AllowedHosts(), resolver=resolver, backend=recorder)
        await (await backend.connect_tcp("three.example", 443, timeout=1)).aclose()
        assert [host for host, _ in recorder.calls] == ["2600::1", "8.8.8.8", "9.9.9.9"]
        with pytest.raises(httpcore.ConnectError):
            await GuardedBackend(AllowedHosts(), resolver=FakeResolver(["8.8.8.8"]), backend=recorder).connect_tcp(
                "x", 1
            )


async def test_unresponsive_address_leaves_time_for_the_next() -> None:
    with full_backlog() as hanging:
        async with fault_server(answer(200)) as server:
            real = httpcore.AnyIOBackend()

            class FirstHangs(httpcore.AsyncNetworkBackend):
                async def connect_tcp(
                    self,
                    host: str,
                    port: int,  # noqa: ARG002
                    timeout: float | None = None,  # noqa: ASYNC109
                    local_address: str | None = None,  # noqa: ARG002
                    socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,  # noqa: ARG002
                ) -> httpcore.AsyncNetworkStream:
                    target = hanging if host == "8.8.8.8" else server.port
                    return await real.connect_tcp("127.0.0.1", target, timeout=timeout)

            resolver = FakeResolver(["8.8.8.8", "9.9.9.9"])
            backend = GuardedBackend(AllowedHosts(), resolver=resolver, backend=FirstHangs())
            with anyio.fail_after(30):
                await (await backend.connect_tcp("two.example", 80, timeout=2)).aclose()


async def test_allowed_host_can_have_a_private_address() -> None:
    resolver = FakeResolver(["127.0.0.1"])
    async with fault_server(answer(200)) as server:
        async with client_with(resolver, f"minio.local:{server.port}") as client:
            response = await client.get(server.url().replace("127.0.0.1", "minio.local"))
        assert response.status_code == 200
        failure = await failure_of(client_with(resolver, "minio.local:1"), f"http://minio.local:{server.port}/k")
        assert str(failure).startswith("refused: the URL names minio.local, which is not a public address")


async def test_tls_and_host_header_use_the_name() -> None:
    authority = trustme.CA()
    serving = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("minio.local").configure_cert(serving)
    names: list[str | None] = []
    serving.sni_callback = lambda _socket, name, _context: names.append(name)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    async with fault_server(answer(200), ssl_context=serving) as server:
        resolver = FakeResolver(["127.0.0.1"])
        async with client_with(resolver, "minio.local", trusting) as client:
            response = await client.get(f"https://minio.local:{server.port}/k")
        assert response.status_code == 200
        assert server.requests[0].headers["host"] == f"minio.local:{server.port}"
    assert names == ["minio.local"]


async def test_unresolvable_name_is_retried() -> None:
    async def no_such_name(_host: str, _port: int) -> Sequence[str]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    failure = await failure_of(client_with(no_such_name), "https://missing.example/k")
    assert str(failure.__cause__) == "Could not resolve host"
    assert (failure.attempts, failure.retryable) == (3, True)


async def test_name_without_addresses_fails() -> None:
    failure = await failure_of(client_with(FakeResolver([])), "https://empty.example/k")
    assert str(failure.__cause__) == "Connection failed"


async def test_slow_resolver_is_a_connect_timeout() -> None:
    async def hang(_host: str, _port: int) -> Sequence[str]:
        await anyio.sleep_forever()
        return []

    async with client_with(hang) as client:
        with pytest.raises(httpx.ConnectTimeout):
            await client.get("https://slow.example/k", timeout=httpx.Timeout(5, connect=0.1))


async def test_unreachable_network_is_reported() -> None:
    class Unreachable(httpcore.AsyncNetworkBackend):
        async def connect_tcp(self, *_args: object, **_kwargs: object) -> httpcore.AsyncNetworkStream:
            try:
                _raise(OSError(errno.ENETUNREACH, "Network is unreachable"))
            except OSError as exc:
                raise httpcore.ConnectError(str(exc)) from exc
            raise AssertionError

    client = client_with(FakeResolver(["8.8.8.8"]))
    transport = client._transport
    assert isinstance(transport, httpx.AsyncHTTPTransport)
    transport._pool = httpcore.AsyncConnectionPool(network_backend=Unreachable())
    failure = await failure_of(client, "https://far.example/k")
    assert (str(failure.__cause__), failure.retryable) == ("Network unreachable", True)


async def test_exception_handled_by_the_caller_is_not_the_cause() -> None:
    async def fail(_host: str, _port: int) -> Sequence[str]:
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    try:
        _raise(ssl.SSLCertVerificationError())
    except ssl.SSLCertVerificationError:
        failure = await failure_of(client_with(fail), "https://far.example/k")
    assert str(failure.__cause__) == "Could not resolve host"


async def test_international_name_that_httpx_rejects_is_a_final_failure() -> None:
    """The rules refuse it, but an old journal can contain such a URL."""
    failure = await failure_of(client_with(FakeResolver(["8.8.8.8"])), "https://xn--zzzzzz--/k?sig=secret")
    assert str(failure.__cause__) == "The request could not be sent (IDNAError)"
    assert (failure.attempts, failure.retryable) == (1, False)


async def test_local_sockets_are_refused() -> None:
    with pytest.raises(RefusedUrl, match="local socket"):
        await GuardedBackend(AllowedHosts()).connect_unix_socket("/run/docker.sock")


async def test_every_request_uses_the_guarded_backend() -> None:
    """httpx has no argument for the network backend, so the client replaces a private attribute."""
    resolver = FakeResolver(["127.0.0.1"])
    async with client_with(resolver) as client:
        for url in ("https://a.example/", "https://b.example/"):
            with pytest.raises(RefusedUrl):
                await client.get(url)
    assert [host for host, _ in resolver.calls] == ["a.example", "b.example"]


async def test_certificate_store_from_the_environment_is_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    authority = trustme.CA()
    serving = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(serving)
    bundle = tmp_path / "authority.pem"
    authority.cert_pem.write_to_path(str(bundle))
    monkeypatch.setenv("SSL_CERT_FILE", str(bundle))
    async with fault_server(answer(200), ssl_context=serving) as server:
        client = open_client(
            allowed=AllowedHosts.parse("127.0.0.1"),
            connect_timeout_seconds=60,
            read_write_timeout_seconds=60,
            max_connections=1,
        )
        async with client:
            assert (await client.get(server.url())).status_code == 200
