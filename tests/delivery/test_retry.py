"""Backoff, outcomes and Retry-After, for every number there is."""

from __future__ import annotations

import math
from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.delivery.retry import (
    LONGEST_RETRY_AFTER_SECONDS,
    RetryPolicy,
    is_retryable_status,
    parse_retry_after,
)

CHANCE = st.floats(0, 1)


def test_a_round_waits_two_then_four_seconds_and_never_more_than_ten() -> None:
    policy = RetryPolicy()
    waits = [policy.wait_before(attempt, random=lambda: 0.5) for attempt in range(2, 8)]
    assert waits == [2, 4, 8, 10, 10, 10]


@given(attempt=st.integers(-5, 10**9), chance=CHANCE)
def test_every_wait_is_the_backoff_give_or_take_a_fifth(attempt: int, chance: float) -> None:
    policy = RetryPolicy()
    backoff = policy.backoff_before(attempt)
    assert 2 <= backoff <= 10
    assert 0.8 * backoff <= policy.wait_before(attempt, random=lambda: chance) <= 1.2 * backoff


@given(
    attempt=st.integers(1, 10**6),
    initial=st.floats(0, 1e300),
    longest=st.floats(0, 1e300),
    jitter=st.floats(0, 1),
    chance=CHANCE,
)
def test_no_policy_overflows(attempt: int, initial: float, longest: float, jitter: float, chance: float) -> None:
    policy = RetryPolicy(wait_initial=initial, wait_max=longest, jitter=jitter)
    wait = policy.wait_before(attempt, random=lambda: chance)
    assert math.isfinite(wait)
    assert 0 <= wait <= 2 * longest


@given(st.integers(2, 5000))
def test_backoff_never_shrinks(attempt: int) -> None:
    assert RetryPolicy().backoff_before(attempt) <= RetryPolicy().backoff_before(attempt + 1)


def test_a_round_without_attempts_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        RetryPolicy(attempts=0)


@given(status=st.integers(100, 999), code=st.none() | st.text())
def test_what_may_pass_is_exactly_what_the_contract_lists(status: int, code: str | None) -> None:
    listed = status in {307, 408, 425, 429} or 500 <= status < 600
    assert is_retryable_status(status, code) == (listed or (status == 400 and code == "RequestTimeout"))


@given(st.integers(0, 10**6))
def test_retry_after_in_seconds_is_taken_as_it_is(seconds: int) -> None:
    assert parse_retry_after(f" {seconds} ", now=0) == seconds


@given(moment=st.integers(0, 4_000_000_000), now=st.integers(0, 4_000_000_000))
def test_retry_after_as_a_date_counts_from_now(moment: int, now: int) -> None:
    wanted = min(max(moment - now, 0), LONGEST_RETRY_AFTER_SECONDS)
    assert parse_retry_after(formatdate(moment, usegmt=True), now=now) == wanted


@given(st.text() | st.from_regex(r"[0-9]{1,400}", fullmatch=True))
def test_no_retry_after_is_negative_infinite_or_an_error(value: str) -> None:
    seconds = parse_retry_after(value, now=1e9)
    assert seconds is None or 0 <= seconds <= LONGEST_RETRY_AFTER_SECONDS


@pytest.mark.parametrize(
    "value", [None, "", "soon", "-5", "1.5", "1e3", "Wed, 99 Foo 2026 00:00:00 GMT", "9" * 400 + "x", "٣"]
)
def test_retry_after_that_says_nothing_is_nothing(value: str | None) -> None:
    assert parse_retry_after(value, now=0) is None


@pytest.mark.parametrize("value", ["Mon, 01 Jan 0001 00:00:00 +1400", "Fri, 31 Dec 9999 23:59:59 -1400"])
def test_dates_at_the_ends_of_the_calendar_are_no_error(value: str) -> None:
    parse_retry_after(value, now=0)
