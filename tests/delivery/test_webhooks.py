"""Webhook events: signatures, attempts and failures."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai import InvalidWebhookSignatureError, OpenAI

from app.delivery.attempts import Clock, RoundOptions
from app.delivery.retry import RetryPolicy
from app.delivery.webhooks import WebhookSender
from app.domain.access import WebhookSecret
from app.domain.errors import DeliveryFailed
from tests.domain.strategies import unhurried
from tests.support.fault_server import answer, close_before_status, drip_body, drip_status, fault_server, never_answer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.delivery.conftest import OpenClient
    from tests.support.fault_server import Behaviour, SeenRequest

KEY: Final = bytes(range(32))
SECRET_TEXT: Final = f"whsec_{base64.b64encode(KEY).decode()}"
SECRET: Final = WebhookSecret.parse(SECRET_TEXT)
BODY: Final = '{"type":"job.completed","data":{"job_id":"4f0c","metadata":{"name":"Grüße, 你好 😀"}}}'.encode()

EVENT_IDS: Final = st.from_regex(r"\Amsg_[a-z0-9]{1,40}\Z")


def openai_client(secret: str = SECRET_TEXT) -> OpenAI:
    return OpenAI(api_key="none", webhook_secret=secret)


def headers_of(event_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    return {
        "webhook-id": event_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": SECRET.signature(event_id, timestamp, body),
    }


# The secret.


@pytest.mark.parametrize("size", [16, 24, 32, 64])
def test_secret_is_decoded(size: int) -> None:
    key = bytes(range(size))
    assert WebhookSecret.parse(f"whsec_{base64.b64encode(key).decode()}").key == key


@pytest.mark.parametrize(
    "text",
    [
        "",
        "whsec_",
        "c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0",  # no prefix
        "WHSEC_c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0",
        "whsec_c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV",  # truncated
        "whsec_c2VjcmV0c2VjcmV0 c2VjcmV0c2VjcmV0",
        "whsec_c2VjcmV0-2VjcmV0_2VjcmV0c2VjcmV0",  # the URL-safe alphabet
        "whsec_geheimgeheimgeheimgeheimgehä",
        "whsec_" + base64.b64encode(bytes(15)).decode(),
        "whsec_whsec_c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0",
    ],
)
def test_malformed_secret_is_refused_without_quoting_it(text: str) -> None:
    with pytest.raises(ValueError, match="must be whsec_ followed by the base64 of at least 16 random bytes") as caught:
        WebhookSecret.parse(text)
    encoded = text.removeprefix("whsec_")
    assert not encoded or encoded not in str(caught.value)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_secret_is_not_in_its_repr() -> None:
    assert repr(SECRET) == str(SECRET) == "WebhookSecret()"


# The signature.


def test_signature_matches_the_example_of_the_specification() -> None:
    """The libraries of Standard Webhooks are tested with it too."""
    secret = WebhookSecret.parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    body = b'{"test": 2432232314}'
    assert secret.signature("msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, body) == (
        "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    )


@unhurried
@given(
    st.binary(min_size=16, max_size=64), st.from_regex(r"\Amsg_[a-z0-9]{1,40}\Z"), st.integers(0, 2**40), st.binary()
)
def test_signature_is_an_hmac_of_id_timestamp_and_body(key: bytes, event_id: str, timestamp: int, body: bytes) -> None:
    signed = event_id.encode() + b"." + str(timestamp).encode() + b"." + body
    expected = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    assert WebhookSecret(key).signature(event_id, timestamp, body) == f"v1,{expected}"


def test_openai_client_accepts_the_signature() -> None:
    headers = headers_of("msg_1", int(time.time()), BODY)
    openai_client().webhooks.verify_signature(BODY, headers)
    event = openai_client().webhooks.unwrap(BODY, headers)
    assert event.to_dict() == json.loads(BODY)


@pytest.mark.parametrize("change", ["webhook-id", "webhook-timestamp", "body", "secret"])
def test_openai_client_refuses_tampered_events(change: str) -> None:
    timestamp = int(time.time())
    headers, body, client = headers_of("msg_1", timestamp, BODY), BODY, openai_client()
    if change == "body":
        body = BODY.replace(b"completed", b"cancelled")
    elif change == "secret":
        client = openai_client(f"whsec_{base64.b64encode(bytes(32)).decode()}")
    else:
        headers[change] = {"webhook-id": "msg_2", "webhook-timestamp": str(timestamp - 1)}[change]
    with pytest.raises(InvalidWebhookSignatureError):
        client.webhooks.verify_signature(body, headers)


# The POST.


@asynccontextmanager
async def sender_for_loopback(
    client_for_loopback: OpenClient, clock: Clock, *, total: float = 5.0, attempts: int = 3
) -> AsyncIterator[WebhookSender]:
    async with client_for_loopback() as client:
        options = RoundOptions(total_timeout_seconds=total, policy=RetryPolicy(attempts=attempts), clock=clock)
        yield WebhookSender(client, SECRET, options)


def check_signed(request: SeenRequest) -> None:
    openai_client().webhooks.verify_signature(request.body, dict(request.headers))


@pytest.mark.anyio
@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
async def test_event_is_posted_as_signed_json(client_for_loopback: OpenClient, clock: Clock, status: int) -> None:
    async with fault_server(answer(status)) as receiver, sender_for_loopback(client_for_loopback, clock) as sender:
        await sender.post(receiver.url("/hook?token=a%20b"), BODY, event_id="msg_1")
    (request,) = receiver.requests
    assert (request.method, request.target, request.body) == ("POST", "/hook?token=a%20b", BODY)
    assert request.headers["content-type"] == "application/json"
    assert request.headers["webhook-id"] == "msg_1"
    assert abs(int(request.headers["webhook-timestamp"]) - time.time()) < 60
    check_signed(request)


@pytest.mark.anyio
async def test_attempts_share_id_and_body_but_not_timestamp(client_for_loopback: OpenClient) -> None:
    now = time.time() - 30

    async def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    clock = Clock(sleep=sleep, now=lambda: now, random=lambda: 0.5)
    attempts: list[tuple[int, str | None]] = []
    async with (
        fault_server(answer(503), close_before_status(), answer(200)) as receiver,
        sender_for_loopback(client_for_loopback, clock) as sender,
    ):
        await sender.post(receiver.url("/hook"), BODY, event_id="msg_1", on_attempt=lambda *seen: attempts.append(seen))
    assert {(request.headers["webhook-id"], request.body) for request in receiver.requests} == {("msg_1", BODY)}
    first, *others = (int(request.headers["webhook-timestamp"]) for request in receiver.requests)
    assert [at - first for at in others] == [2, 6]
    assert attempts == [(1, "HTTP 503"), (2, "Connection closed before a response"), (3, None)]
    for request in receiver.requests:
        check_signed(request)


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("behaviour", "attempts", "cause", "retryable"),
    [
        (answer(500), 3, "HTTP 500 (attempt 3/3)", True),
        (answer(429, Retry_After="3600"), 1, "HTTP 429 (attempt 1/3)", True),
        (answer(307, Location="http://127.0.0.1:1/"), 3, "HTTP 307 (attempt 3/3)", True),
        (answer(301, Location="http://127.0.0.1:1/"), 1, "HTTP 301 (attempt 1/3)", False),
        (answer(400), 1, "HTTP 400 (attempt 1/3)", False),
        (answer(401), 1, "HTTP 401 (attempt 1/3)", False),
        (answer(404), 1, "HTTP 404 (attempt 1/3)", False),
        (answer(410), 1, "HTTP 410 (attempt 1/3)", False),
        (close_before_status(), 3, "Connection closed before a response (attempt 3/3)", True),
    ],
)
async def test_failure_names_cause_and_url_without_its_query(
    client_for_loopback: OpenClient,
    clock: Clock,
    behaviour: Behaviour,
    attempts: int,
    cause: str,
    retryable: bool,  # noqa: FBT001  # a parameter of the test
) -> None:
    async with fault_server(behaviour) as receiver, sender_for_loopback(client_for_loopback, clock) as sender:
        with pytest.raises(DeliveryFailed) as caught:
            await sender.post(receiver.url("/hook?token=secret"), BODY, event_id="msg_1")
    assert str(caught.value) == f"{cause} to {receiver.url('/hook')}"
    assert (caught.value.attempts, caught.value.retryable) == (attempts, retryable)
    assert receiver.connections == attempts


@pytest.mark.anyio
@pytest.mark.parametrize("behaviour", [never_answer(), drip_status(seconds_between=0.02)])
async def test_slow_receiver_times_out(client_for_loopback: OpenClient, clock: Clock, behaviour: Behaviour) -> None:
    async with (
        fault_server(behaviour) as receiver,
        sender_for_loopback(client_for_loopback, clock, total=0.2, attempts=1) as sender,
    ):
        with pytest.raises(DeliveryFailed, match=r"timeout after 0\.2s \(attempt 1/1\)"):
            await sender.post(receiver.url("/hook"), BODY, event_id="msg_1")


@pytest.mark.anyio
async def test_response_to_an_event_is_not_read(client_for_loopback: OpenClient, clock: Clock) -> None:
    """The status is enough."""
    async with (
        fault_server(drip_body(200, seconds_between=600)) as receiver,
        sender_for_loopback(client_for_loopback, clock, total=60, attempts=1) as sender,
    ):
        await sender.post(receiver.url("/hook"), BODY, event_id="msg_1")
