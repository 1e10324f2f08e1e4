"""Transfers don't reach private hosts, whatever their spelling or the answer of the resolver."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

import pytest

from app.api.submission import SubmissionReader
from app.delivery.client import open_client
from app.delivery.url_rules import UrlRules
from app.domain.access import AllowedHosts
from app.domain.errors import InvalidRequest, TransferFailed
from app.transcription.models import ModelRegistry
from tests.delivery.forbidden import ANSWERS, HOSTS, URLS
from tests.delivery.listening import TRANSFERS, FakeResolver, ReroutingBackend, counting_listener, has_ipv6, move

if TYPE_CHECKING:
    import httpcore
    import httpx

    from app.delivery.client import Resolver

pytestmark = pytest.mark.anyio

QUERY = "X-Amz-Signature=verysecret"
FIELDS = {"download": "s3_presigned_url", "upload": "upload_presigned_url", "webhook": "webhook_url"}


def client_with(
    *, allowed: str = "", resolver: Resolver | None = None, backend: httpcore.AsyncNetworkBackend | None = None
) -> httpx.AsyncClient:
    return open_client(
        allowed=AllowedHosts.parse(allowed),
        connect_timeout_seconds=60,
        read_write_timeout_seconds=60,
        max_connections=5,
        ssl_context=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
        resolver=resolver,
        backend=backend,
    )


def submitted(transfer: str, url: str) -> InvalidRequest:
    """Submit a form with this URL and return the error."""
    reader = SubmissionReader(UrlRules(AllowedHosts()), has_webhook_secret=True, max_retention_seconds=7200)
    with pytest.raises(InvalidRequest) as caught:
        reader.read({FIELDS[transfer]: [url]}, has_file=transfer != "download", models=ModelRegistry("small"))
    assert caught.value.param == FIELDS[transfer]
    assert "verysecret" not in str(caught.value)
    return caught.value


async def failure_of(transfer: str, client: httpx.AsyncClient, url: str) -> TransferFailed:
    async with client:
        with pytest.raises(TransferFailed) as caught:
            await move(transfer, client, url)
    assert "verysecret" not in str(caught.value)
    return caught.value


def test_corpus_has_at_least_200_targets() -> None:
    assert len(set(HOSTS)) == len(HOSTS)
    assert len({*HOSTS, *URLS}) >= 200


@pytest.mark.parametrize("transfer", TRANSFERS)
@pytest.mark.parametrize("host", HOSTS, ids=ascii)
async def test_forbidden_host_is_refused_at_submission_and_transfer(host: str, transfer: str) -> None:
    """The resolver and the network would lead to the listener."""
    async with counting_listener() as listener:
        url = f"https://{host}:{listener.port}/key?{QUERY}"
        submitted(transfer, url)
        resolver, rerouted = FakeResolver(["8.8.8.8"]), ReroutingBackend(listener.port)
        failure = await failure_of(transfer, client_with(resolver=resolver, backend=rerouted), url)
        assert (failure.attempts, failure.retryable) == (1, False)
        assert (listener.connections, listener.packets, resolver.calls, rerouted.addresses) == (0, 0, [], [])


@pytest.mark.parametrize("transfer", TRANSFERS)
@pytest.mark.parametrize("host", HOSTS, ids=ascii)
@pytest.mark.full(reason="tries hundreds of hosts")
async def test_forbidden_host_is_unreachable_with_the_systems_resolver(host: str, transfer: str) -> None:
    async with counting_listener() as listener:
        await failure_of(transfer, client_with(), f"https://{host}:{listener.port}/key?{QUERY}")
        assert (listener.connections, listener.packets) == (0, 0)


@pytest.mark.parametrize("transfer", TRANSFERS)
@pytest.mark.parametrize("form", URLS, ids=lambda form: ascii(form)[:60])
async def test_forbidden_url_is_refused_and_not_contacted(form: str, transfer: str) -> None:
    async with counting_listener() as listener:
        url = form.replace("{}", str(listener.port))
        assert "secret@" not in str(submitted(transfer, url))
        rerouted = ReroutingBackend(listener.port)
        await failure_of(transfer, client_with(resolver=FakeResolver(["127.0.0.1"]), backend=rerouted), url)
        assert (listener.connections, listener.packets, rerouted.addresses) == (0, 0, [])


@pytest.mark.parametrize("transfer", TRANSFERS)
@pytest.mark.parametrize("answer", ANSWERS, ids=str)
async def test_name_with_a_private_address_is_a_final_failure(answer: list[str], transfer: str) -> None:
    async with counting_listener() as listener:
        resolver, rerouted = FakeResolver(answer), ReroutingBackend(listener.port)
        client = client_with(resolver=resolver, backend=rerouted)
        failure = await failure_of(transfer, client, f"https://innocent.example/key?{QUERY}")
        assert str(failure).startswith(
            "refused: innocent.example has an address that is not public: use a public host, or ask the"
            " operator to add innocent.example:443 to URL_ALLOWED_HOSTS (attempt 1/3)"
        )
        assert not any(address in str(failure) for address in answer if address)
        assert not failure.retryable
        assert resolver.calls == [("innocent.example", 443)]
        assert (listener.connections, rerouted.addresses) == (0, [])


@pytest.mark.parametrize("transfer", TRANSFERS)
async def test_each_connection_checks_its_own_resolution(transfer: str) -> None:
    """DNS rebinding: the name is public at first, then it points to this machine."""
    async with counting_listener() as listener:
        resolver, rerouted = FakeResolver(["8.8.8.8"], ["127.0.0.1"], ["8.8.8.8"]), ReroutingBackend(listener.port)
        client = client_with(resolver=resolver, backend=rerouted)
        failure = await failure_of(transfer, client, f"https://rebinding.example/key?{QUERY}")
        assert (failure.attempts, failure.retryable) == (2, False)
        assert str(failure).startswith("refused: rebinding.example has an address that is not public")
        assert rerouted.addresses == ["8.8.8.8"]
        assert listener.connections == 1


@pytest.mark.parametrize("transfer", TRANSFERS)
@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "localhost"])
async def test_listener_counts_allowed_connections(host: str, transfer: str) -> None:
    if host == "[::1]" and not has_ipv6():
        pytest.skip("This machine has no ::1.")
    async with counting_listener() as listener:
        url = f"http://{host}:{listener.port}/key?{QUERY}"
        failure = await failure_of(transfer, client_with(allowed=f"{host}:{listener.port}"), url)
        assert (failure.attempts, failure.retryable) == (3, True)
        assert listener.connections >= 3


@pytest.mark.parametrize("transfer", TRANSFERS)
async def test_listener_counts_rerouted_connections(transfer: str) -> None:
    async with counting_listener() as listener:
        resolver, rerouted = FakeResolver(["8.8.8.8"]), ReroutingBackend(listener.port)
        await failure_of(transfer, client_with(resolver=resolver, backend=rerouted), "https://public.example/key")
        assert listener.connections == 3


@pytest.mark.parametrize("transfer", TRANSFERS)
async def test_host_that_is_no_longer_allowed_is_not_contacted(transfer: str) -> None:
    """URLs in the journal were checked with earlier settings."""
    async with counting_listener() as listener:
        resolver, rerouted = FakeResolver(["8.8.8.8"]), ReroutingBackend(listener.port)
        failure = await failure_of(
            transfer, client_with(resolver=resolver, backend=rerouted), f"http://a.example/k?{QUERY}"
        )
        assert str(failure).startswith("refused: the URL uses plain http, which is only allowed for hosts in")
        assert (failure.attempts, listener.connections, resolver.calls) == (1, 0, [])
