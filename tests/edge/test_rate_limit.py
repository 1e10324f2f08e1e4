"""How often one may ask: never more than the rate in any stretch of time, and never refused below it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.access import Rate, TrustedProxies
from app.edge import rate_limit as rates
from app.edge.middleware import RequestsAtOnce
from app.edge.rate_limit import RateLimiter, subscriber
from tests.api.test_keys_and_limits import bearer
from tests.support.service import serving
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from pathlib import Path

    from app.transcription.whisper import WhisperModel
    from tests.support.held_model import Held


class Time:
    """Seconds that pass when they are told to."""

    seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def test_as_many_as_allowed_may_come_at_once_and_one_more_waits() -> None:
    limiter = RateLimiter(Rate(3, 60), now=Time())
    assert [limiter.wait_seconds("a") for _ in range(4)] == [0, 0, 0, pytest.approx(20)]
    assert limiter.wait_seconds("b") == 0


def test_refused_request_counts_for_nothing() -> None:
    time = Time()
    limiter = RateLimiter(Rate(1, 10), now=time)
    limiter.wait_seconds("a")
    for _ in range(100):
        assert limiter.wait_seconds("a") > 0
    time.seconds = 10
    assert limiter.wait_seconds("a") == 0


@given(st.integers(1, 20), st.floats(0.1, 100), st.lists(st.floats(0, 50, allow_nan=False), min_size=1, max_size=100))
def test_no_stretch_of_time_sees_more_than_twice_the_rate_and_waiting_helps(
    requests: int, seconds: float, pauses: list[float]
) -> None:
    time, taken = Time(), []
    limiter = RateLimiter(Rate(requests, seconds), now=time)
    for pause in pauses:
        time.seconds += pause
        wait = limiter.wait_seconds("a")
        if wait:
            assert wait <= seconds / requests + 1e-6
            time.seconds += wait
            assert limiter.wait_seconds("a") == 0
        taken.append(time.seconds)
    for first in taken:
        assert sum(first <= one < first + seconds * (1 - 1e-6) for one in taken) <= 2 * requests


def test_those_not_seen_for_longest_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rates, "MOST_REMEMBERED", 100)
    time = Time()
    limiter = RateLimiter(Rate(1, 60), now=time)
    for number in range(1000):
        time.seconds += 0.001
        assert limiter.wait_seconds(f"192.0.2.{number}") == 0
        assert len(limiter._free_at) <= 100
    assert limiter.wait_seconds("192.0.2.999") > 0
    time.seconds += 3600
    for _ in range(60):
        time.seconds += 61
        limiter.wait_seconds("b")
    assert len(limiter._free_at) == 1


@pytest.mark.parametrize(
    ("address", "whose"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("unknown", "unknown"),
    ],
)
def test_network_of_an_ipv6_subscriber_counts_as_one(address: str, whose: str) -> None:
    assert subscriber(address) == whose


def test_requests_at_work_are_counted_for_each_address_but_the_proxies() -> None:
    at_once = RequestsAtOnce(2, trusted=TrustedProxies.parse("192.0.2.1"))
    with at_once.counted("203.0.113.5") as first, at_once.counted("203.0.113.5") as second:
        with at_once.counted("203.0.113.5") as third, at_once.counted("203.0.113.6") as other:
            assert (first, second, third, other) == (True, True, False, True)
        with at_once.counted("203.0.113.5") as again:
            assert not again
    assert at_once._counts == {}
    with at_once.counted("192.0.2.1"), at_once.counted("192.0.2.1"), at_once.counted("192.0.2.1") as proxy:
        assert proxy


def test_addresses_of_one_network_share_their_requests_at_once_but_a_proxy_in_it_has_any_number() -> None:
    at_once = RequestsAtOnce(1, trusted=TrustedProxies.parse("::1, 2001:db8::9"))
    with (
        at_once.counted("2001:db8::1") as first,
        at_once.counted("2001:db8::2") as second,
        at_once.counted("2001:db8::9") as proxy,
    ):
        assert (first, second, proxy) == (True, False, True)
    with at_once.counted("::1"), at_once.counted("::1") as local:
        assert local


@pytest.mark.anyio
async def test_client_behind_a_proxy_has_so_many_requests_at_once_as_connections(
    tmp_path: Path, model: WhisperModel, samples: Path, held: Held
) -> None:
    async with serving(tmp_path / "data", lambda: model, max_connections_per_address=2) as running:
        audio = (samples / "hello.wav").read_bytes()

        async def transcribe(address: str) -> int:
            answer = await running.client.post(
                "/v1/audio/transcriptions", files={"file": audio}, headers={"X-Forwarded-For": address}, timeout=60
            )
            return answer.status_code

        waiting = [asyncio.create_task(transcribe("2001:db8::1")) for _ in range(2)]
        await eventually(lambda: running.service.jobs.registry.waiting_count + running.service.pool.active == 2)
        assert await transcribe("2001:db8::2") == 503
        others = asyncio.create_task(transcribe("2001:db8:0:1::1"))
        held.open.set()
        assert await asyncio.gather(*waiting, others) == [200, 200, 200]


@pytest.mark.anyio
async def test_key_that_asks_too_often_is_429_and_others_are_not(tmp_path: Path, model: WhisperModel) -> None:
    async with serving(tmp_path / "data", lambda: model, api_keys="alpha,beta", rate_limit="3/hour") as running:
        for _ in range(3):
            assert (await running.client.get("/v1/jobs", headers=bearer("alpha"))).status_code == 200
        refused = await running.client.get("/v1/jobs", headers=bearer("alpha"))
        assert refused.status_code == 429
        error = refused.json()["error"]
        assert (error["type"], error["code"]) == ("rate_limit_error", "rate_limit_exceeded")
        assert "RATE_LIMIT allows 3 requests in 3600 s" in error["message"]
        assert refused.headers["retry-after"] == "120"
        assert (await running.client.get("/v1/jobs", headers=bearer("beta"))).status_code == 200
        assert (await running.client.get("/health")).status_code == 200


@pytest.mark.anyio
async def test_wrong_keys_are_counted_by_address_as_a_proxy_tells_it(tmp_path: Path, model: WhisperModel) -> None:
    async with serving(tmp_path / "data", lambda: model, api_keys="alpha", rate_limit="2/hour") as running:

        async def status(address: str) -> int:
            answer = await running.client.get("/v1/jobs", headers=bearer("wrong") | {"X-Forwarded-For": address})
            return answer.status_code

        assert [await status("203.0.113.5") for _ in range(3)] == [401, 401, 429]
        assert await status("203.0.113.6") == 401
        assert (await running.client.get("/v1/jobs", headers=bearer("alpha"))).status_code == 200


@pytest.mark.anyio
async def test_without_keys_addresses_are_counted_and_only_proxies_are_believed(
    tmp_path: Path, model: WhisperModel
) -> None:
    settings: dict[str, Any] = {"rate_limit": "2/hour", "forwarded_allow_ips": "192.0.2.1"}
    async with serving(tmp_path / "data", lambda: model, **settings) as running:
        statuses = [
            (await running.client.get("/v1/jobs", headers={"X-Forwarded-For": f"203.0.113.{number}"})).status_code
            for number in range(3)
        ]
        assert statuses == [200, 200, 429]
