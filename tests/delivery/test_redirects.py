"""Downloads follow redirects to allowed URLs; uploads and webhooks follow none."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Any

import pytest

from app.delivery.client import open_client
from app.domain.access import AllowedHosts
from app.domain.errors import TransferFailed
from tests.delivery.listening import FakeResolver, ReroutingBackend, counting_listener, move
from tests.support.fault_server import answer, drip, endless_body, fault_server, response_head

if TYPE_CHECKING:
    import httpx

pytestmark = pytest.mark.anyio

FOLLOWED = [301, 302, 303, 308]


def client_for(allowed: str = "127.0.0.1", **options: Any) -> httpx.AsyncClient:
    return open_client(
        allowed=AllowedHosts.parse(allowed),
        connect_timeout_seconds=60,
        read_write_timeout_seconds=60,
        max_connections=2,
        ssl_context=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
        **options,
    )


async def failure_of(transfer: str, client: httpx.AsyncClient, url: str, **options: Any) -> TransferFailed:
    async with client:
        with pytest.raises(TransferFailed) as caught:
            await move(transfer, client, url, **options)
    assert "secret" not in str(caught.value)
    return caught.value


@pytest.mark.parametrize("status", FOLLOWED)
async def test_redirected_download_sends_no_extra_headers(status: int) -> None:
    async with fault_server(answer(200, b"audio")) as second:
        leading = answer(
            status, b"x" * 100, Location=second.url("/b?sig=other"), Set_Cookie="a=b", WWW_Authenticate="Basic"
        )
        async with fault_server(leading) as first, client_for() as client:
            assert (await move("download", client, first.url("/a?sig=secret"))).data == b"audio"
    (request,) = second.requests
    assert (request.method, request.target, request.body) == ("GET", "/b?sig=other", b"")
    assert request.headers["host"] == f"127.0.0.1:{second.port}"
    assert request.headers["accept-encoding"] == "identity"
    assert set(request.headers) == {"host", "accept", "accept-encoding", "connection", "user-agent"}


@pytest.mark.parametrize(
    ("location", "target"),
    [
        ("other?sig=1", "/bucket/other?sig=1"),
        ("/else", "/else"),
        ("../up", "/up"),
        ("?page=2", "/bucket/key?page=2"),
        ("//127.0.0.1:{}/rooted", "/rooted"),
        ("HTTP://127.0.0.1:{}/k#fragment", "/k"),
        ("#fragment", "/bucket/key?X-Amz-Signature=secret"),
        ("/a%20b%2Fc?d=%26", "/a%20b%2Fc?d=%26"),
    ],
)
async def test_location_is_resolved_against_the_redirecting_url(location: str, target: str) -> None:
    async with fault_server() as server, client_for() as client:
        server.behaviours += [answer(302, Location=location.replace("{}", str(server.port))), answer(200, b"audio")]
        assert (await move("download", client, server.url("/bucket/key?X-Amz-Signature=secret"))).data == b"audio"
    assert server.requests[1].target == target


async def test_sixth_redirect_is_a_final_failure() -> None:
    onwards = answer(302, Location="/next")
    async with fault_server(*[onwards] * 5, answer(200, b"audio")) as server, client_for() as client:
        assert (await move("download", client, server.url())).data == b"audio"
    async with fault_server(onwards) as server:  # a loop
        failure = await failure_of("download", client_for(), server.url())
        assert server.connections == 6
    assert str(failure) == (
        "HTTP 302 after 5 redirects, which is the limit: use the URL of the audio itself (attempt 1/3)"
        f" from http://127.0.0.1:{server.port}/bucket/key"
    )
    assert not failure.retryable


@pytest.mark.parametrize("status", FOLLOWED)
@pytest.mark.parametrize(
    ("location", "sentence"),
    [
        (None, "without a Location header"),
        ("", "without a Location header"),
        ("ftp://example.com/secret", "its Location has the scheme ftp: only https is allowed"),
        ("file:///etc/passwd", "its Location has the scheme file"),
        ("data:audio/wav;base64,AAAA", "its Location has the scheme data"),
        ("javascript:secret", "its Location has the scheme javascript"),
        ("http://[::1", "its Location is not a URL"),
        ("http://[not]/secret", "its Location is not a URL"),
        ("https://user:secret@example.com/", "its Location has a user or password"),
        ("https://@example.com/", "its Location has a user or password"),
        ("https:\\\\example.com\\secret", "its Location contains a space, a control character or a backslash"),
        ("/\\example.com/?secret", "its Location contains a space, a control character or a backslash"),
        ("https://example.com/a secret", "its Location contains a space, a control character or a backslash"),
        ("https://example.com/\x85secret", "its Location contains a space, a control character or a backslash"),
        ("https://example.com/" + "secret" * 1400, "its Location is longer than 8192 characters"),
        ("https://example.com:443secret/", "its Location is not a URL"),
        ("https://example.com:0/?secret", "the URL has an invalid port"),
        ("https:///secret", "its Location has no host"),
        ("https://a..b/?secret", "its Location has a host that is not a valid name"),
        ("https://xn--zzzzzz--/?secret", "its Location has a host that is not a valid name"),
        ("http://example.com/?secret", "the URL uses plain http, which is only allowed for hosts in URL_ALLOWED_HOSTS"),
    ],
)
async def test_forbidden_location_is_a_final_failure(location: str | None, sentence: str, status: int) -> None:
    leading = answer(status) if location is None else answer(status, Location=location)
    async with fault_server(leading) as server:
        rerouted = ReroutingBackend(1, stay=[server.port])
        client = client_for(resolver=FakeResolver(["127.0.0.1"]), backend=rerouted)
        failure = await failure_of("download", client, server.url())
        assert server.connections == len(rerouted.addresses) == 1
    named = sentence if sentence.startswith("without") else f"to a refused target: {sentence}"
    assert str(failure).startswith(f"HTTP {status} {named}")
    assert (failure.attempts, failure.retryable) == (1, False)


async def test_two_locations_are_a_final_failure() -> None:
    twice = answer(302, Location="/a", location="/b")
    async with fault_server(twice) as server:
        failure = await failure_of("download", client_for(), server.url())
    assert str(failure).startswith("HTTP 302 to a refused target: its Location is given twice (attempt 1/3)")


TARGETS = [
    *("http://127.0.0.1:{}/", "https://127.0.0.1:{}/", "https://[::1]:{}/", "https://localhost:{}/", "//localhost:{}/"),
    *("http://169.254.169.254/latest/meta-data/", "https://169.254.169.254/", "http://[fd00:ec2::254]/latest/"),
    *("https://[fd00:ec2::254]/", "http://100.100.100.200/", "https://100.100.100.200/", "https://0xa9fea9fe/"),
    *("http://metadata.google.internal/computeMetadata/v1/", "https://metadata.google.internal/", "https://127.1:{}/"),
    *("https://[::ffff:169.254.169.254]/", "https://2130706433:{}/", "https://127。0。0。1:{}/", "https://10.0.0.5/"),
]


@pytest.mark.parametrize("location", TARGETS, ids=ascii)
async def test_redirect_to_a_private_address_is_not_contacted(location: str) -> None:
    async with counting_listener() as inside, fault_server() as first:
        target = location.replace("{}", str(inside.port))
        first.behaviours.append(answer(302, Location=target.encode().decode("latin-1")))  # as UTF-8 on the wire
        rerouted = ReroutingBackend(inside.port, stay=[first.port])
        client = client_for(f"127.0.0.1:{first.port}", resolver=FakeResolver(["127.0.0.1"]), backend=rerouted)
        failure = await failure_of("download", client, first.url())
        assert (inside.connections, len(rerouted.addresses)) == (0, 1)
    assert str(failure).startswith("HTTP 302 to a refused target: the URL names ")
    assert ", which is not a public address: use a public host, or ask the operator to add " in str(failure)
    assert (failure.attempts, failure.retryable) == (1, False)


async def test_redirect_to_a_name_with_a_private_address_is_not_contacted() -> None:
    async with counting_listener() as inside:
        leading = answer(302, Location="https://innocent.example/k?sig=secret")
        async with fault_server(leading) as first:
            resolver = FakeResolver(["127.0.0.1"], ["8.8.8.8", "169.254.169.254"])
            rerouted = ReroutingBackend(inside.port, stay=[first.port])
            client = client_for(f"127.0.0.1:{first.port}", resolver=resolver, backend=rerouted)
            failure = await failure_of("download", client, first.url())
        assert inside.connections == 0
    assert resolver.calls[1:] == [("innocent.example", 443)]
    assert str(failure).startswith(
        "HTTP 302 to a refused target: innocent.example has an address that is not public: use a public host, or ask"
        " the operator to add innocent.example:443 to URL_ALLOWED_HOSTS (attempt 1/3)"
    )


async def test_redirect_to_an_allowed_or_public_host_is_followed() -> None:
    async with counting_listener() as inside:
        for location, allowed in ((f"http://127.0.0.1:{inside.port}/", "127.0.0.1"), ("https://public.example/", "")):
            async with fault_server(answer(302, Location=location)) as first:
                client = client_for(
                    f"127.0.0.1:{first.port}, {allowed}",
                    resolver=FakeResolver(["127.0.0.1"], ["8.8.8.8"]),
                    backend=ReroutingBackend(inside.port, stay=[first.port]),
                )
                failure = await failure_of("download", client, first.url(), attempts=1)
            assert failure.retryable
        assert inside.connections == 2


async def test_307_repeats_the_request_to_the_same_url() -> None:
    async with counting_listener() as elsewhere:
        leading = answer(307, Location=f"http://127.0.0.1:{elsewhere.port}/")
        async with fault_server(leading, answer(200, b"audio")) as server, client_for() as client:
            assert (await move("download", client, server.url())).data == b"audio"
        assert elsewhere.connections == 0
    assert {request.target for request in server.requests} == {"/bucket/key?X-Amz-Signature=secret-signature"}


async def test_retry_after_a_redirect_starts_at_the_first_url() -> None:
    again = answer(503), answer(200, b"audio")
    async with fault_server(*again) as second, fault_server() as first, client_for() as client:
        first.behaviours.append(answer(301, Location=second.url("/b")))
        assert (await move("download", client, first.url())).data == b"audio"
    assert (first.connections, second.connections) == (2, 2)


async def test_redirects_share_the_total_timeout_of_the_attempt() -> None:
    onwards = response_head(302, {"Location": "/next", "Content-Length": "0"})
    async with fault_server(drip(onwards, seconds_between=0.005)) as server:  # 0.3 s each
        failure = await failure_of("download", client_for(), server.url(), attempts=1, total=0.1)
        assert server.connections < 6
    assert str(failure).startswith("Total timeout after 0.1s (attempt 1/1)")


async def test_body_of_a_redirect_is_not_read() -> None:
    endless = endless_body(status=302, Location="/next")
    async with fault_server(endless, answer(200, b"audio")) as server, client_for() as client:
        assert (await move("download", client, server.url())).data == b"audio"


@pytest.mark.parametrize("transfer", ["upload", "webhook"])
@pytest.mark.parametrize("status", [300, 301, 302, 303, 304, 305, 307, 308])
async def test_uploads_and_webhooks_follow_no_redirects(status: int, transfer: str) -> None:
    async with counting_listener() as elsewhere:
        for location in (f"http://127.0.0.1:{elsewhere.port}/", "http://[::1", "\xff"):
            async with fault_server(answer(status, Location=location)) as server:
                failure = await failure_of(transfer, client_for(), server.url())
            assert str(failure).startswith(f"HTTP {status} (attempt {3 if status == 307 else 1}/3)")
        assert elsewhere.connections == 0
