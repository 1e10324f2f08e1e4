"""Rate limits: never more than the rate over any period, and never a rejection below it."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.access import Rate, TrustedProxies
from app.edge import rate_limit as rates
from app.edge.middleware import ConcurrencyLimit
from app.edge.rate_limit import Allowance, RateLimiter, duration, network_key
from tests.api.test_keys_and_limits import bearer
from tests.support.service import serving
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from pathlib import Path

    import httpx

    from app.transcription.whisper import WhisperModel
    from tests.support.held_model import Held


class Time:
    """A clock that a test sets."""

    seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def test_burst_up_to_the_rate_is_allowed_and_one_more_waits() -> None:
    limiter = RateLimiter(Rate(3, 60), now=Time())
    assert [limiter.wait_seconds("a") for _ in range(4)] == [0, 0, 0, pytest.approx(20)]
    assert limiter.wait_seconds("b") == 0


def test_rejected_request_is_not_counted() -> None:
    time = Time()
    limiter = RateLimiter(Rate(1, 10), now=time)
    limiter.wait_seconds("a")
    for _ in range(100):
        assert limiter.wait_seconds("a") > 0
    time.seconds = 10
    assert limiter.wait_seconds("a") == 0


@given(st.integers(1, 20), st.floats(0.1, 100), st.lists(st.floats(0, 50, allow_nan=False), min_size=1, max_size=100))
def test_rate_is_never_exceeded_and_waiting_helps(requests: int, seconds: float, pauses: list[float]) -> None:
    time, allowed = Time(), []
    limiter = RateLimiter(Rate(requests, seconds), now=time)
    for pause in pauses:
        time.seconds += pause
        wait = limiter.wait_seconds("a")
        if wait:
            assert wait <= seconds / requests + 1e-6
            time.seconds += wait
            assert limiter.wait_seconds("a") == 0
        allowed.append(time.seconds)
    for start in allowed:
        assert sum(start <= moment < start + seconds * (1 - 1e-6) for moment in allowed) <= 2 * requests


def test_oldest_keys_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rates, "MAX_KEYS", 100)
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


def test_allowance_shrinks_with_each_request_and_comes_back() -> None:
    time = Time()
    limiter = RateLimiter(Rate(3, 60), now=time)
    assert limiter.allowance("a") == Allowance(3, 3, 0.0)
    for remaining in (2, 1, 0, 0):
        limiter.wait_seconds("a")
        assert limiter.allowance("a").remaining == remaining
    assert limiter.allowance("a").reset_seconds == pytest.approx(60)
    time.seconds = 20
    assert limiter.allowance("a").remaining == 1
    time.seconds = 60
    assert limiter.allowance("a") == Allowance(3, 3, 0.0)


@given(st.integers(1, 50), st.floats(0.1, 1000), st.lists(st.floats(0, 50), min_size=1, max_size=60))
def test_remaining_requests_are_allowed_and_no_more(requests: int, seconds: float, pauses: list[float]) -> None:
    time = Time()
    limiter = RateLimiter(Rate(requests, seconds), now=time)
    for pause in pauses:
        time.seconds += pause
        remaining = limiter.allowance("a").remaining
        assert (limiter.wait_seconds("a") == 0) == (remaining > 0)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (0.0004, "1ms"),
        (0.02, "20ms"),
        (0.9999, "1s"),
        (1, "1s"),
        (8.64, "8.64s"),
        (59.9994, "1m0s"),
        (72.5, "1m12.5s"),
        (360, "6m0s"),
        (3600, "1h0m0s"),
        (86400, "24h0m0s"),
        (3725.001, "1h2m5.001s"),
    ],
)
def test_duration_is_written_as_in_openais_headers(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("address", "key"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("unknown", "unknown"),
    ],
)
def test_ipv6_network_counts_as_one_client(address: str, key: str) -> None:
    assert network_key(address) == key


def test_concurrent_requests_are_counted_per_address_except_proxies() -> None:
    limit = ConcurrencyLimit(2, trusted=TrustedProxies.parse("192.0.2.1"))
    with limit.counted("203.0.113.5") as first, limit.counted("203.0.113.5") as second:
        with limit.counted("203.0.113.5") as third, limit.counted("203.0.113.6") as other:
            assert (first, second, third, other) == (True, True, False, True)
        with limit.counted("203.0.113.5") as again:
            assert not again
    assert limit._counts == {}
    with limit.counted("192.0.2.1"), limit.counted("192.0.2.1"), limit.counted("192.0.2.1") as proxy:
        assert proxy


def test_addresses_of_one_network_share_a_limit_except_a_proxy() -> None:
    limit = ConcurrencyLimit(1, trusted=TrustedProxies.parse("::1, 2001:db8::9"))
    with (
        limit.counted("2001:db8::1") as first,
        limit.counted("2001:db8::2") as second,
        limit.counted("2001:db8::9") as proxy,
    ):
        assert (first, second, proxy) == (True, False, True)
    with limit.counted("::1"), limit.counted("::1") as local:
        assert local


@pytest.mark.anyio
@pytest.mark.full(reason="takes more than a second")
async def test_client_behind_a_proxy_has_a_limit_on_concurrent_requests(
    tmp_path: Path, model: WhisperModel, samples: Path, held: Held
) -> None:
    async with serving(tmp_path / "data", lambda: model, max_connections_per_address=2) as running:
        audio = (samples / "hello.wav").read_bytes()

        async def transcribe(address: str) -> int:
            response = await running.client.post(
                "/v1/audio/transcriptions", files={"file": audio}, headers={"X-Forwarded-For": address}, timeout=60
            )
            return response.status_code

        waiting = [asyncio.create_task(transcribe("2001:db8::1")) for _ in range(2)]
        await eventually(lambda: running.service.jobs.store.queued_count + running.service.pool.active == 2)
        assert await transcribe("2001:db8::2") == 503
        others = asyncio.create_task(transcribe("2001:db8:0:1::1"))
        held.open.set()
        assert await asyncio.gather(*waiting, others) == [200, 200, 200]


@pytest.mark.anyio
async def test_key_over_its_rate_gets_429_and_other_keys_do_not(tmp_path: Path, model: WhisperModel) -> None:
    async with serving(tmp_path / "data", lambda: model, api_keys="alpha,beta", rate_limit="3/hour") as running:
        for _ in range(3):
            assert (await running.client.get("/v1/jobs", headers=bearer("alpha"))).status_code == 200
        rejected = await running.client.get("/v1/jobs", headers=bearer("alpha"))
        assert rejected.status_code == 429
        error = rejected.json()["error"]
        assert (error["type"], error["code"]) == ("rate_limit_error", "rate_limit_exceeded")
        assert "RATE_LIMIT allows 3 requests in 3600 s" in error["message"]
        assert rejected.headers["retry-after"] == "120"
        assert (await running.client.get("/v1/jobs", headers=bearer("beta"))).status_code == 200
        assert (await running.client.get("/health")).status_code == 200


@pytest.mark.anyio
async def test_headers_say_what_is_left_of_the_rate(tmp_path: Path, model: WhisperModel) -> None:
    def allowance(response: httpx.Response) -> dict[str, str]:
        prefix = "x-ratelimit-"
        return {name.removeprefix(prefix): text for name, text in response.headers.items() if name.startswith(prefix)}

    async with serving(tmp_path / "data", lambda: model, api_keys="alpha,beta", rate_limit="2/hour") as running:
        seen = [allowance(await running.client.get("/v1/none", headers=bearer("alpha"))) for _ in range(3)]
        assert [headers["remaining-requests"] for headers in seen] == ["1", "0", "0"]
        assert {headers["limit-requests"] for headers in seen} == {"2"}
        resets = [re.fullmatch(r"(?:1h0m|(\d+)m)[\d.]+s", headers["reset-requests"]) for headers in seen]
        assert [(int(reset[1] or 60) + 1) // 30 for reset in resets if reset] == [1, 2, 2]
        other = allowance(await running.client.get("/v1/models", headers=bearer("beta")))
        assert other["remaining-requests"] == "1"
        wrong = allowance(await running.client.get("/v1/models", headers=bearer("wrong")))
        assert wrong["remaining-requests"] == "1"  # of its address
        asr = [
            allowance(await running.client.post(path, headers=bearer("beta"))) for path in ("/asr", "/detect-language")
        ]
        assert [headers["remaining-requests"] for headers in asr] == ["0", "0"]
        assert allowance(await running.client.get("/health")) == {}
    async with serving(tmp_path / "other", lambda: model) as running:
        assert allowance(await running.client.get("/v1/models")) == {}


@pytest.mark.anyio
async def test_wrong_keys_are_counted_by_the_forwarded_address(tmp_path: Path, model: WhisperModel) -> None:
    async with serving(tmp_path / "data", lambda: model, api_keys="alpha", rate_limit="2/hour") as running:

        async def status(address: str) -> int:
            response = await running.client.get("/v1/jobs", headers=bearer("wrong") | {"X-Forwarded-For": address})
            return response.status_code

        assert [await status("203.0.113.5") for _ in range(3)] == [401, 401, 429]
        assert await status("203.0.113.6") == 401
        assert (await running.client.get("/v1/jobs", headers=bearer("alpha"))).status_code == 200


@pytest.mark.anyio
async def test_without_keys_addresses_are_counted_and_only_proxies_trusted(tmp_path: Path, model: WhisperModel) -> None:
    settings: dict[str, Any] = {"rate_limit": "2/hour", "forwarded_allow_ips": "192.0.2.1"}
    async with serving(tmp_path / "data", lambda: model, **settings) as running:
        statuses = [
            (await running.client.get("/v1/jobs", headers={"X-Forwarded-For": f"203.0.113.{number}"})).status_code
            for number in range(3)
        ]
        assert statuses == [200, 200, 429]
