"""When further rounds follow, and that every wait has an end."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.delivery.retry import RoundSchedule
from tests.domain.strategies import unhurried

SHARES = st.floats(min_value=0, max_value=1)


def middle() -> float:
    return 0.5


@pytest.mark.parametrize(
    ("rounds", "seconds"),
    [(1, 30), (2, 120), (3, 600), (4, 1800), (5, 3600), (6, 3600), (24, 3600), (10**6, 3600)],
)
def test_rounds_follow_after_30_s_2_min_10_min_30_min_and_then_every_hour(rounds: int, seconds: float) -> None:
    assert RoundSchedule().wait_after(rounds, random=middle) == pytest.approx(seconds)


@unhurried
@given(st.integers(min_value=1, max_value=10**9), SHARES)
def test_wait_varies_by_a_fifth_either_way(rounds: int, share: float) -> None:
    schedule = RoundSchedule()
    usual = schedule.wait_after(rounds, random=middle)
    wait = schedule.wait_after(rounds, random=lambda: share)
    assert usual * 0.8 <= wait <= usual * 1.2 + 1e-9
    assert 0 < wait <= schedule.longest_wait + 1e-9


def test_both_ends_of_chance_are_the_ends_of_the_wait() -> None:
    schedule = RoundSchedule()
    assert schedule.wait_after(1, random=lambda: 0.0) == pytest.approx(24.0)
    assert schedule.wait_after(1, random=lambda: 1.0) == pytest.approx(36.0)


def test_longest_wait_is_the_hour_at_its_longest() -> None:
    assert RoundSchedule().longest_wait == pytest.approx(4320.0)
    assert RoundSchedule(waits=(5.0, 1.0), jitter=0.0).longest_wait == 5.0


def test_a_day_of_rounds_is_what_is_documented() -> None:
    """Delivery is tried for a day: 4 rounds in the first hour, and about hourly then."""
    schedule, at, rounds = RoundSchedule(), 0.0, 0
    while at < schedule.max_age_seconds:
        rounds += 1
        at += schedule.wait_after(rounds, random=middle)
    assert rounds == 28
