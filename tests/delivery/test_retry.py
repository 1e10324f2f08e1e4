"""Backoff, retryable statuses and Retry-After."""

from __future__ import annotations

import math
from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.delivery.retry import (
    MAX_RETRY_AFTER_SECONDS,
    RetryPolicy,
    is_retryable_status,
    parse_retry_after,
)

FRACTION = st.floats(0, 1)


def test_backoff_doubles_up_to_ten_seconds() -> None:
    policy = RetryPolicy()
    waits = [policy.wait_before(attempt, random=lambda: 0.5) for attempt in range(2, 8)]
    assert waits == [2, 4, 8, 10, 10, 10]


@given(attempt=st.integers(-5, 10**9), fraction=FRACTION)
def test_wait_is_the_backoff_with_jitter(attempt: int, fraction: float) -> None:
    policy = RetryPolicy()
    backoff = policy.backoff_before(attempt)
    assert 2 <= backoff <= 10
    assert 0.8 * backoff <= policy.wait_before(attempt, random=lambda: fraction) <= 1.2 * backoff


@given(
    attempt=st.integers(1, 10**6),
    initial=st.floats(0, 1e300),
    longest=st.floats(0, 1e300),
    jitter=st.floats(0, 1),
    fraction=FRACTION,
)
def test_wait_is_finite_for_every_policy(
    attempt: int, initial: float, longest: float, jitter: float, fraction: float
) -> None:
    policy = RetryPolicy(wait_initial=initial, wait_max=longest, jitter=jitter)
    wait = policy.wait_before(attempt, random=lambda: fraction)
    assert math.isfinite(wait)
    assert 0 <= wait <= 2 * longest


@given(st.integers(2, 5000))
def test_backoff_never_decreases(attempt: int) -> None:
    assert RetryPolicy().backoff_before(attempt) <= RetryPolicy().backoff_before(attempt + 1)


def test_policy_without_attempts_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        RetryPolicy(attempts=0)


@given(status=st.integers(100, 999), code=st.none() | st.text())
def test_retryable_statuses_are_those_of_the_contract(status: int, code: str | None) -> None:
    listed = status in {307, 408, 425, 429} or 500 <= status < 600
    assert is_retryable_status(status, code) == (listed or (status == 400 and code == "RequestTimeout"))


@given(st.integers(0, 10**6))
def test_retry_after_in_seconds_is_parsed(seconds: int) -> None:
    assert parse_retry_after(f" {seconds} ", now=0) == seconds


@given(moment=st.integers(0, 4_000_000_000), now=st.integers(0, 4_000_000_000))
def test_retry_after_date_is_relative_to_now(moment: int, now: int) -> None:
    expected = min(max(moment - now, 0), MAX_RETRY_AFTER_SECONDS)
    assert parse_retry_after(formatdate(moment, usegmt=True), now=now) == expected


@given(st.text() | st.from_regex(r"[0-9]{1,400}", fullmatch=True))
def test_retry_after_is_finite_and_not_negative(value: str) -> None:
    seconds = parse_retry_after(value, now=1e9)
    assert seconds is None or 0 <= seconds <= MAX_RETRY_AFTER_SECONDS


@pytest.mark.parametrize(
    "value", [None, "", "soon", "-5", "1.5", "1e3", "Wed, 99 Foo 2026 00:00:00 GMT", "9" * 400 + "x", "٣"]
)
def test_malformed_retry_after_is_ignored(value: str | None) -> None:
    assert parse_retry_after(value, now=0) is None


@pytest.mark.parametrize("value", ["Mon, 01 Jan 0001 00:00:00 +1400", "Fri, 31 Dec 9999 23:59:59 -1400"])
def test_extreme_retry_after_dates_are_accepted(value: str) -> None:
    parse_retry_after(value, now=0)
