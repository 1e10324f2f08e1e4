"""Proxies and passwords in the environment are not used for the URLs of clients."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

import httpx
import pytest

from app.delivery.client import open_client
from app.domain.access import AllowedHosts
from app.domain.errors import TransferFailed
from tests.delivery.listening import TRANSFERS, FakeResolver, ReroutingBackend, counting_listener, move
from tests.support.fault_server import answer, fault_server

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.anyio

PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy")


def client_for(allowed: str, backend: ReroutingBackend | None = None) -> httpx.AsyncClient:
    return open_client(
        allowed=AllowedHosts.parse(allowed),
        connect_timeout_seconds=60,
        read_write_timeout_seconds=60,
        max_connections=2,
        ssl_context=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
        resolver=FakeResolver(["8.8.8.8"]) if backend else None,
        backend=backend,
    )


def remove_proxy_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*PROXIES, "NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("transfer", TRANSFERS)
@pytest.mark.parametrize("scheme", ["http", "socks5"])
@pytest.mark.parametrize("name", PROXIES)
async def test_proxy_in_the_environment_is_ignored(
    name: str, scheme: str, transfer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    remove_proxy_variables(monkeypatch)
    async with counting_listener() as proxy, counting_listener() as public, fault_server(answer(200)) as server:
        monkeypatch.setenv(name, f"{scheme}://127.0.0.1:{proxy.port}")
        async with client_for("127.0.0.1") as client:
            await move(transfer, client, server.url())
        async with client_for("", ReroutingBackend(public.port)) as client:
            with pytest.raises(TransferFailed):
                await move(transfer, client, "https://public.example/k", attempts=1)
            with pytest.raises(TransferFailed, match="refused"):
                await move(transfer, client, f"http://127.0.0.1:{server.port}/k")
        assert (proxy.connections, public.connections, server.connections) == (0, 1, 1)


@pytest.mark.parametrize("transfer", TRANSFERS)
@pytest.mark.parametrize("name", ["NO_PROXY", "no_proxy"])
async def test_no_proxy_variable_does_not_bypass_the_rules(
    name: str, transfer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with counting_listener() as inside:
        monkeypatch.setenv(name, "*")
        async with client_for("") as client:
            with pytest.raises(TransferFailed, match="refused"):
                await move(transfer, client, f"https://127.0.0.1:{inside.port}/k")
        assert inside.connections == 0


async def test_plain_client_would_use_the_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    remove_proxy_variables(monkeypatch)
    async with counting_listener() as proxy:
        monkeypatch.setenv("ALL_PROXY", f"http://127.0.0.1:{proxy.port}")
        async with httpx.AsyncClient(verify=False) as client:  # noqa: S501  nothing is sent
            with pytest.raises(httpx.RemoteProtocolError):
                await client.get("http://public.example/")
        assert proxy.connections == 1


@pytest.mark.parametrize("transfer", TRANSFERS)
async def test_netrc_passwords_are_not_sent(transfer: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    netrc = tmp_path / ".netrc"
    netrc.write_text("machine 127.0.0.1 login a password b\ndefault login a password b\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("HOME", str(tmp_path))
    async with fault_server(answer(200)) as server, client_for("127.0.0.1") as client:
        await move(transfer, client, server.url())
    assert "authorization" not in server.requests[0].headers
