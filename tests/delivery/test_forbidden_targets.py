"""Nothing is sent to what is not public: no spelling, no answer of a resolver, no way of the three gets there."""

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
from tests.delivery.listening import WAYS, Answers, Rerouted, counting_listener, has_ipv6, move

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
        connect_timeout_seconds=5,
        read_write_timeout_seconds=5,
        max_connections=5,
        ssl_context=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
        resolver=resolver,
        backend=backend,
    )


def submitted(way: str, url: str) -> InvalidRequest:
    """How a form with this URL is refused."""
    reader = SubmissionReader(UrlRules(AllowedHosts()), has_webhook_secret=True)
    with pytest.raises(InvalidRequest) as caught:
        reader.read({FIELDS[way]: [url]}, has_file=way != "download", models=ModelRegistry("small"))
    assert caught.value.param == FIELDS[way]
    assert "verysecret" not in str(caught.value)
    return caught.value


async def failure_of(way: str, client: httpx.AsyncClient, url: str) -> TransferFailed:
    async with client:
        with pytest.raises(TransferFailed) as caught:
            await move(way, client, url)
    assert "verysecret" not in str(caught.value)
    return caught.value


def test_there_are_many_of_them() -> None:
    assert len(set(HOSTS)) == len(HOSTS)
    assert len({*HOSTS, *URLS}) >= 200


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("host", HOSTS, ids=ascii)
async def test_host_is_refused_when_it_is_submitted_and_when_it_is_sent_to(host: str, way: str) -> None:
    """A resolver that takes every name for a public one, and a network that leads to the listener, would help it."""
    async with counting_listener() as listener:
        url = f"https://{host}:{listener.port}/key?{QUERY}"
        submitted(way, url)
        resolver, rerouted = Answers(["8.8.8.8"]), Rerouted(listener.port)
        failure = await failure_of(way, client_with(resolver=resolver, backend=rerouted), url)
        assert (failure.attempts, failure.retryable) == (1, False)
        assert (listener.connections, listener.packets, resolver.asked, rerouted.dialled) == (0, 0, [], [])


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("host", HOSTS, ids=ascii)
async def test_host_reaches_nothing_by_way_of_the_systems_own_resolver_and_network(host: str, way: str) -> None:
    async with counting_listener() as listener:
        await failure_of(way, client_with(), f"https://{host}:{listener.port}/key?{QUERY}")
        assert (listener.connections, listener.packets) == (0, 0)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("form", URLS, ids=lambda form: ascii(form)[:60])
async def test_url_is_refused_and_reaches_nothing(form: str, way: str) -> None:
    async with counting_listener() as listener:
        url = form.replace("{}", str(listener.port))
        assert "secret@" not in str(submitted(way, url))
        rerouted = Rerouted(listener.port)
        await failure_of(way, client_with(resolver=Answers(["127.0.0.1"]), backend=rerouted), url)
        assert (listener.connections, listener.packets, rerouted.dialled) == (0, 0, [])


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("answer", ANSWERS, ids=str)
async def test_name_with_any_answer_that_is_not_public_is_refused_for_good(answer: list[str], way: str) -> None:
    async with counting_listener() as listener:
        resolver, rerouted = Answers(answer), Rerouted(listener.port)
        client = client_with(resolver=resolver, backend=rerouted)
        failure = await failure_of(way, client, f"https://innocent.example/key?{QUERY}")
        assert str(failure).startswith(
            "refused: innocent.example is not at public addresses only: use a public host, or have"
            " innocent.example:443 added to the server's URL_ALLOWED_HOSTS (attempt 1/3)"
        )
        assert not any(address in str(failure) for address in answer if address)
        assert not failure.retryable
        assert resolver.asked == [("innocent.example", 443)]
        assert (listener.connections, rerouted.dialled) == (0, [])


@pytest.mark.parametrize("way", WAYS)
async def test_each_dial_asks_once_and_is_judged_by_its_own_answer(way: str) -> None:
    """DNS rebinding: the name is public at first, and then it is this machine."""
    async with counting_listener() as listener:
        resolver, rerouted = Answers(["8.8.8.8"], ["127.0.0.1"], ["8.8.8.8"]), Rerouted(listener.port)
        client = client_with(resolver=resolver, backend=rerouted)
        failure = await failure_of(way, client, f"https://rebinding.example/key?{QUERY}")
        assert (failure.attempts, failure.retryable) == (2, False)
        assert str(failure).startswith("refused: rebinding.example is not at public addresses only")
        assert rerouted.dialled == ["8.8.8.8"]
        assert listener.connections == 1


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "localhost"])
async def test_the_same_listener_counts_who_is_allowed(host: str, way: str) -> None:
    if host == "[::1]" and not has_ipv6():
        pytest.skip("This machine has no ::1.")
    async with counting_listener() as listener:
        url = f"http://{host}:{listener.port}/key?{QUERY}"
        failure = await failure_of(way, client_with(allowed=f"{host}:{listener.port}"), url)
        assert (failure.attempts, failure.retryable) == (3, True)
        assert listener.connections >= 3


@pytest.mark.parametrize("way", WAYS)
async def test_the_rerouted_network_counts_who_is_public(way: str) -> None:
    async with counting_listener() as listener:
        resolver, rerouted = Answers(["8.8.8.8"]), Rerouted(listener.port)
        await failure_of(way, client_with(resolver=resolver, backend=rerouted), "https://public.example/key")
        assert listener.connections == 3


@pytest.mark.parametrize("way", WAYS)
async def test_host_that_is_no_longer_allowed_gets_nothing_in_plain_text(way: str) -> None:
    """URLs in the journal were checked with the settings of then."""
    async with counting_listener() as listener:
        resolver, rerouted = Answers(["8.8.8.8"]), Rerouted(listener.port)
        failure = await failure_of(way, client_with(resolver=resolver, backend=rerouted), f"http://a.example/k?{QUERY}")
        assert str(failure).startswith("refused: the URL uses plain http: only https is allowed, except for hosts in")
        assert (failure.attempts, listener.connections, resolver.asked) == (1, 0, [])
