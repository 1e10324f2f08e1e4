"""Uploads to misbehaving receivers over real connections."""

from __future__ import annotations

import gc
import logging
import ssl
import time
import traceback
from email.utils import formatdate
from typing import TYPE_CHECKING

import anyio
import pytest
import trustme

from app import __version__
from app.delivery.attempts import RoundOptions
from app.delivery.failures import AttemptError
from app.delivery.retry import RetryPolicy
from app.delivery.upload import PresignedUploader
from app.domain.errors import DeliveryFailed
from tests.support.fault_server import (
    Connection,
    FaultServer,
    answer,
    close_before_status,
    drip_body,
    drip_status,
    fault_server,
    full_backlog,
    never_answer,
    never_read,
    never_speak,
    raw,
    reset_before_status,
    reset_while_receiving,
    speak_first,
)

if TYPE_CHECKING:
    from tests.delivery.conftest import OpenClient, OpenUploader
    from tests.support.fault_server import Behaviour

pytestmark = pytest.mark.anyio

BODY = b'{"text":"hello"}'
SECRET = "secret-signature"
SLOW_DOWN = b"<?xml version='1.0'?><Error><Code>SlowDown</Code><Message>X-Amz-Signature=oops</Message></Error>"


async def put(uploader: PresignedUploader, server: FaultServer | str, body: bytes = BODY) -> int:
    """Upload ``body`` and return the number of attempts."""
    url = server if isinstance(server, str) else server.url()
    attempts: list[int] = []
    await uploader.put(
        url,
        body,
        headers={},
        media_type="application/json",
        on_attempt=lambda number, _error: attempts.append(number),
    )
    return attempts[-1]


async def failure_of(uploader: PresignedUploader, server: FaultServer | str, body: bytes = BODY) -> DeliveryFailed:
    with pytest.raises(DeliveryFailed) as caught:
        await put(uploader, server, body)
    return caught.value


def cause_of(failure: DeliveryFailed) -> str:
    assert isinstance(failure.__cause__, AttemptError)
    return str(failure.__cause__)


async def test_result_arrives_complete_with_length_and_type(uploader_for_loopback: OpenUploader) -> None:
    async with fault_server(answer(200)) as server, uploader_for_loopback() as uploader:
        assert await put(uploader, server) == 1
    request = server.requests[0]
    assert (request.method, request.target, request.body) == (
        "PUT",
        "/bucket/key?X-Amz-Signature=secret-signature",
        BODY,
    )
    assert request.headers["content-length"] == str(len(BODY))
    assert request.headers["content-type"] == "application/json"
    assert "transfer-encoding" not in request.headers


@pytest.mark.parametrize(
    "target",
    [
        "/bucket/a/./b/../c.json?X-Amz-Signature=secret-signature",
        "/../key",
        "//bucket//key",
        "/key%2f%2E%2e/~('!*)/[x]|{y}\"<>^`?a=b/../c&d=%e4'",
        "/key?",
    ],
)
async def test_signed_path_and_query_are_sent_byte_for_byte(uploader_for_loopback: OpenUploader, target: str) -> None:
    async with fault_server(answer(200)) as server, uploader_for_loopback() as uploader:
        await put(uploader, server.url(target))
        await put(uploader, server.url(target + "#fragment"))
    assert [request.target for request in server.requests] == [target, target]


async def test_characters_beyond_ascii_are_encoded(uploader_for_loopback: OpenUploader) -> None:
    async with fault_server(answer(200)) as server, uploader_for_loopback() as uploader:
        await put(uploader, server.url("/grüße.json"))
        await put(uploader, f"{server.scheme}://{server.host}:{server.port}")
    assert [request.target for request in server.requests] == ["/gr%C3%BC%C3%9Fe.json", "/"]


async def test_no_unsigned_headers_are_sent(uploader_for_loopback: OpenUploader) -> None:
    async with fault_server(answer(200)) as server, uploader_for_loopback() as uploader:
        await uploader.put(
            server.url("/k?AWSAccessKeyId=a&Signature=b&Expires=1"), BODY, headers={}, media_type="text/vtt"
        )
    headers = server.requests[0].headers
    assert headers.keys() == {"host", "accept", "accept-encoding", "connection", "user-agent", "content-length"}
    assert headers["accept-encoding"] == "identity"
    assert headers["user-agent"] == f"transcription-service/{__version__}"


async def test_empty_body_has_a_content_length(uploader_for_loopback: OpenUploader) -> None:
    async with fault_server(answer(204)) as server, uploader_for_loopback() as uploader:
        assert await put(uploader, server, b"") == 1
    assert server.requests[0].headers["content-length"] == "0"


async def test_failed_round_reports_cause_attempts_and_url(
    uploader_for_loopback: OpenUploader, waits: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "app")
    async with fault_server(answer(503, SLOW_DOWN)) as server, uploader_for_loopback() as uploader:
        failure = await failure_of(uploader, server)
    assert str(failure) == f"HTTP 503 SlowDown (attempt 3/3) to http://127.0.0.1:{server.port}/bucket/key"
    assert (failure.attempts, failure.retryable) == (3, True)
    assert waits == [2.0, 4.0]
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("WARNING", "⚠️ Attempt 1/3: HTTP 503 SlowDown"),
        ("INFO", "🔄 Retry attempt 2/3 after 2s delay..."),
        ("WARNING", "⚠️ Attempt 2/3: HTTP 503 SlowDown"),
        ("INFO", "🔄 Retry attempt 3/3 after 4s delay..."),
        ("WARNING", "⚠️ Attempt 3/3: HTTP 503 SlowDown"),
        ("ERROR", "❌ All 3 upload attempts failed"),
    ]


async def test_upload_succeeds_at_the_second_attempt(
    uploader_for_loopback: OpenUploader, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "app")
    attempts: list[tuple[int, str | None]] = []
    async with fault_server(answer(503), answer(200)) as server, uploader_for_loopback() as uploader:
        await uploader.put(
            server.url(),
            BODY,
            headers={},
            media_type="application/json",
            on_attempt=lambda number, error: attempts.append((number, error)),
        )
    assert attempts == [(1, "HTTP 503"), (2, None)]
    assert [request.body for request in server.requests] == [BODY, BODY]
    assert caplog.messages[-1] == "✅ Successfully uploaded result to user-provided URL (16 bytes)"


@pytest.mark.parametrize("status", [307, 408, 425, 429, 500, 502, 503, 504, 599])
async def test_retryable_status_is_retried(status: int, uploader_for_loopback: OpenUploader) -> None:
    async with fault_server(answer(status), answer(201)) as server, uploader_for_loopback() as uploader:
        assert await put(uploader, server) == 2


@pytest.mark.parametrize("status", [301, 302, 303, 304, 308, 400, 401, 403, 404, 405, 409, 411, 412, 413, 422])
async def test_other_status_is_a_final_failure(
    status: int, uploader_for_loopback: OpenUploader, caplog: pytest.LogCaptureFixture
) -> None:
    async with fault_server(answer(status)) as server, uploader_for_loopback() as uploader:
        failure = await failure_of(uploader, server)
    assert str(failure).startswith(f"HTTP {status} (attempt 1/3) to ")
    assert (failure.attempts, failure.retryable, server.connections) == (1, False, 1)
    assert caplog.messages == [f"⚠️ Attempt 1/3: HTTP {status}"]


async def test_307_is_retried_at_the_same_url_and_not_followed(uploader_for_loopback: OpenUploader) -> None:
    async with fault_server(answer(200)) as trap:
        elsewhere = answer(307, Location=trap.url("/stolen"))
        async with fault_server(elsewhere, answer(200)) as server, uploader_for_loopback() as uploader:
            assert await put(uploader, server) == 2
        assert [request.target for request in server.requests] == [server.url().partition(str(server.port))[2]] * 2
        assert trap.requests == []


@pytest.mark.parametrize("location", ["http://[", "https://\u00ff:x/", ""])
async def test_malformed_redirect_is_reported_as_its_status(location: str, uploader_for_loopback: OpenUploader) -> None:
    async with fault_server(answer(302, Location=location)) as server, uploader_for_loopback() as uploader:
        assert cause_of(await failure_of(uploader, server)) == "HTTP 302"


async def test_request_timeout_of_s3_is_retried(uploader_for_loopback: OpenUploader) -> None:
    slow = answer(400, b"<Error><Code>RequestTimeout</Code></Error>")
    async with fault_server(slow, answer(200)) as server, uploader_for_loopback() as uploader:
        assert await put(uploader, server) == 2


async def test_error_code_of_azure_is_read_from_its_header(uploader_for_loopback: OpenUploader) -> None:
    denied = answer(403, x_ms_error_code="AuthenticationFailed")
    async with fault_server(denied) as server, uploader_for_loopback() as uploader:
        assert cause_of(await failure_of(uploader, server)) == "HTTP 403 AuthenticationFailed"


@pytest.mark.parametrize(
    "body",
    [
        b"<Error><Code>no words, https://x/?sig=secret</Code></Error>",
        b"<Error><Code></Code></Error>",
        b"<Code>" + b"A" * 65 + b"</Code>",
        b" " * 8192 + b"<Code>TooLate</Code>",
        b"\xff\xfe<Code",
    ],
)
async def test_only_the_code_of_an_error_body_is_kept(body: bytes, uploader_for_loopback: OpenUploader) -> None:
    async with fault_server(answer(403, body)) as server, uploader_for_loopback() as uploader:
        assert cause_of(await failure_of(uploader, server)) == "HTTP 403"


async def test_retry_after_replaces_a_shorter_backoff(
    uploader_for_loopback: OpenUploader, waits: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "app")
    script = answer(429, Retry_After="7"), answer(503, Retry_After="1"), answer(200)
    async with fault_server(*script) as server, uploader_for_loopback() as uploader:
        assert await put(uploader, server) == 3
    assert waits == [7.0, 4.0]
    assert "🔄 Retry attempt 2/3 after 7s delay..." in caplog.messages


async def test_retry_after_can_be_a_date(uploader_for_loopback: OpenUploader, waits: list[float]) -> None:
    date = formatdate(time.time() + 50, usegmt=True)
    async with fault_server(answer(503, Retry_After=date), answer(200)) as server, uploader_for_loopback() as uploader:
        await put(uploader, server)
    assert 20 < waits[0] <= 50


async def test_long_retry_after_ends_the_round(
    uploader_for_loopback: OpenUploader, waits: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    async with fault_server(answer(503, Retry_After="61")) as server, uploader_for_loopback() as uploader:
        failure = await failure_of(uploader, server)
    assert (failure.attempts, failure.retryable, waits) == (1, True, [])
    assert isinstance(failure.__cause__, AttemptError)
    assert failure.__cause__.retry_after_seconds == 61
    assert caplog.records[-1].levelname == "ERROR"
    assert caplog.messages[-1] == "❌ All 3 upload attempts failed"


@pytest.mark.usefixtures("late_deadline")
async def test_connect_timeout_is_reported(uploader_for_loopback: OpenUploader) -> None:
    with full_backlog() as port:
        async with uploader_for_loopback(connect=0.2, attempts=2) as uploader:
            failure = await failure_of(uploader, f"http://127.0.0.1:{port}/key")
    assert str(failure) == f"Connection timeout after 0.2s (attempt 2/2) to http://127.0.0.1:{port}/key"
    assert failure.retryable


@pytest.mark.usefixtures("late_deadline")
async def test_read_timeout_is_reported(uploader_for_loopback: OpenUploader) -> None:
    async with fault_server(never_answer()) as server, uploader_for_loopback(total=0.3, attempts=1) as uploader:
        failure = await failure_of(uploader, server)
    assert (cause_of(failure), failure.retryable) == ("Read timeout after 0.3s", True)


@pytest.mark.usefixtures("late_deadline")
async def test_write_timeout_is_reported(uploader_for_loopback: OpenUploader) -> None:
    large = bytes(30_000_000)
    async with fault_server(never_read()) as server, uploader_for_loopback(total=0.3, attempts=1) as uploader:
        failure = await failure_of(uploader, server, large)
    assert (cause_of(failure), failure.retryable) == ("Write timeout after 0.3s", True)


@pytest.mark.usefixtures("late_deadline")
async def test_pool_timeout_is_reported(uploader_for_loopback: OpenUploader) -> None:
    async with (
        fault_server(never_answer()) as server,
        uploader_for_loopback(total=2.0, attempts=1, max_connections=1) as uploader,
        anyio.create_task_group() as group,
    ):
        group.start_soon(put, uploader, server)
        await server.came.wait()
        failure = await failure_of(uploader, server)
        group.cancel_scope.cancel()
    assert (cause_of(failure), failure.retryable) == ("Pool timeout after 0.3s", True)


async def test_slow_receiver_is_stopped_by_the_total_timeout(uploader_for_loopback: OpenUploader) -> None:
    dripping = drip_status(seconds_between=0.05)
    async with fault_server(dripping) as server, uploader_for_loopback(total=0.3, attempts=1) as uploader:
        failure = await failure_of(uploader, server)
    assert (cause_of(failure), failure.retryable) == ("Total timeout after 0.3s", True)


async def test_body_of_a_successful_response_is_not_read(uploader_for_loopback: OpenUploader) -> None:
    dripping = drip_body(200, seconds_between=600)
    async with fault_server(dripping) as server, uploader_for_loopback(total=600) as uploader:
        with anyio.fail_after(60):
            assert await put(uploader, server) == 1


@pytest.mark.full(reason="takes more than a second")
async def test_slow_body_of_a_failure_does_not_hide_its_status(uploader_for_loopback: OpenUploader) -> None:
    dripping = drip_body(403, seconds_between=0.01)
    async with fault_server(dripping) as server, uploader_for_loopback(total=2) as uploader:
        assert cause_of(await failure_of(uploader, server)) == "HTTP 403"


async def test_refused_connection_is_retried(uploader_for_loopback: OpenUploader) -> None:
    async with fault_server(answer(200)) as server:
        pass
    async with uploader_for_loopback() as uploader:
        failure = await failure_of(uploader, server)
    assert (cause_of(failure), failure.attempts, failure.retryable) == ("Connection refused", 3, True)


@pytest.mark.parametrize("behaviour", [close_before_status(), reset_before_status(), raw(b"HTTP/1.1 2")])
async def test_connection_closed_before_the_status_is_retried(
    behaviour: Behaviour, uploader_for_loopback: OpenUploader
) -> None:
    async with fault_server(behaviour, behaviour, answer(200)) as server, uploader_for_loopback() as uploader:
        assert await put(uploader, server) == 3
    async with fault_server(behaviour) as server, uploader_for_loopback() as uploader:
        assert cause_of(await failure_of(uploader, server)) == "Connection closed before a response"


async def test_reset_during_the_upload_is_retried(uploader_for_loopback: OpenUploader) -> None:
    large = bytes(5_000_000)
    script = reset_while_receiving(), answer(200)
    async with fault_server(*script) as server, uploader_for_loopback() as uploader:
        assert await put(uploader, server, large) == 2
    assert server.requests[0].body == large


async def test_response_that_is_not_http_is_reported(uploader_for_loopback: OpenUploader) -> None:
    async with fault_server(raw(b"SSH-2.0-OpenSSH_9.6\r\n\r\n")) as server, uploader_for_loopback() as uploader:
        assert cause_of(await failure_of(uploader, server)) == "Not an HTTP response"


async def test_cookies_are_not_stored(uploader_for_loopback: OpenUploader) -> None:
    baking = answer(200, Set_Cookie="session=1; Path=/")
    async with fault_server(baking) as server, uploader_for_loopback() as uploader:
        await put(uploader, server)
        await put(uploader, server)
    assert "cookie" not in server.requests[1].headers


async def test_cancelled_upload_stops(uploader_for_loopback: OpenUploader) -> None:
    async with fault_server(never_answer()) as server, uploader_for_loopback(total=600) as uploader:
        with anyio.fail_after(30):
            async with anyio.create_task_group() as group:
                group.start_soon(put, uploader, server)
                await server.came.wait()
                group.cancel_scope.cancel()
    assert server.connections == 1


async def test_cancelled_wait_between_attempts_stops(client_for_loopback: OpenClient) -> None:
    failed = anyio.Event()
    policy = RetryPolicy(wait_initial=600, wait_max=600)
    async with fault_server(answer(503)) as server, client_for_loopback() as client:
        uploader = PresignedUploader(client, RoundOptions(total_timeout_seconds=600, policy=policy))
        with anyio.fail_after(30):
            async with anyio.create_task_group() as group:

                async def upload() -> None:
                    await uploader.put(
                        server.url(), BODY, headers={}, media_type="text/vtt", on_attempt=lambda *_: failed.set()
                    )

                group.start_soon(upload)
                await failed.wait()
                group.cancel_scope.cancel()
    assert server.connections == 1


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def server_context(authority: trustme.CA, name: str) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(name).configure_cert(context)
    return context


def client_context(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


async def test_upload_succeeds_with_a_trusted_certificate(
    authority: trustme.CA, uploader_for_loopback: OpenUploader
) -> None:
    trusting = client_context(authority)
    async with (
        fault_server(answer(200), ssl_context=server_context(authority, "127.0.0.1")) as server,
        uploader_for_loopback(ssl_context=trusting) as uploader,
    ):
        assert await put(uploader, server) == 1


@pytest.mark.parametrize(("name", "trusted"), [("127.0.0.1", "nobody"), ("elsewhere.example", "authority")])
async def test_untrusted_certificate_is_a_final_failure(
    name: str, trusted: str, authority: trustme.CA, uploader_for_loopback: OpenUploader
) -> None:
    context = client_context(authority) if trusted == "authority" else ssl.create_default_context()
    async with (
        fault_server(answer(200), ssl_context=server_context(authority, name)) as server,
        uploader_for_loopback(ssl_context=context) as uploader,
    ):
        failure = await failure_of(uploader, server)
    assert (cause_of(failure), failure.attempts, failure.retryable) == ("Certificate verification failed", 1, False)
    assert server.requests == []


async def test_receiver_without_tls_is_reported(uploader_for_loopback: OpenUploader) -> None:
    async with fault_server(speak_first(b"220 hello\r\n")) as server, uploader_for_loopback() as uploader:
        failure = await failure_of(uploader, server.url().replace("http:", "https:"))
    sentence = "TLS failure (WRONG_VERSION_NUMBER)"
    assert (cause_of(failure), failure.attempts, failure.retryable) == (sentence, 3, True)


@pytest.mark.parametrize(
    ("total", "connect", "sentence"),
    [(60.0, 0.2, "Connection timeout after 0.2s"), (0.2, 60.0, "Total timeout after 0.2s")],
)
async def test_unfinished_tls_handshake_times_out_and_closes_the_socket(
    total: float, connect: float, sentence: str, uploader_for_loopback: OpenUploader
) -> None:
    async with (
        fault_server(never_speak()) as server,
        uploader_for_loopback(attempts=1, total=total, connect=connect) as uploader,
    ):
        failure = await failure_of(uploader, server.url().replace("http:", "https:"))
        del uploader
    gc.collect()  # a socket left open warns when it is collected, and warnings are errors
    assert (cause_of(failure), failure.retryable) == (sentence, True)


@pytest.mark.parametrize("said", [b"", b"\x15\x03\x01\x00\x02\x01\x00"], ids=["nothing", "close_notify"])
async def test_connection_closed_during_the_tls_handshake_is_reported(
    said: bytes, uploader_for_loopback: OpenUploader
) -> None:
    async def close_at_once(connection: Connection) -> None:
        await connection.send(said)

    async with fault_server(close_at_once) as server, uploader_for_loopback(attempts=1) as uploader:
        failure = await failure_of(uploader, server.url().replace("http:", "https:"))
    assert (cause_of(failure), failure.retryable) == ("Connection closed before a response", True)


@pytest.mark.parametrize(
    "behaviour", [answer(503, SLOW_DOWN), answer(403), close_before_status(), never_answer(), raw(b"no\r\n\r\n")]
)
async def test_signature_is_in_no_log_exception_or_traceback(
    behaviour: Behaviour, uploader_for_loopback: OpenUploader, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "app")
    async with fault_server(behaviour) as server, uploader_for_loopback(total=0.2, attempts=2) as uploader:
        failure = await failure_of(uploader, server)
    assert SECRET not in "".join(traceback.format_exception(failure))
    assert SECRET not in repr(failure)
    assert caplog.records
    assert all(record.name.startswith("app.") for record in caplog.records if record.levelno > logging.INFO)
    assert all(SECRET not in record.getMessage() for record in caplog.records if record.name.startswith("app."))
