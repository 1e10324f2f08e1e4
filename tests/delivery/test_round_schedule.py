"""The waits between rounds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.delivery.retry import RoundSchedule
from tests.domain.strategies import unhurried

FRACTIONS = st.floats(min_value=0, max_value=1)


def no_jitter() -> float:
    return 0.5


@pytest.mark.parametrize(
    ("rounds", "seconds"),
    [(1, 30), (2, 120), (3, 600), (4, 1800), (5, 3600), (6, 3600), (24, 3600), (10**6, 3600)],
)
def test_waits_grow_to_an_hour(rounds: int, seconds: float) -> None:
    assert RoundSchedule().wait_after(rounds, random=no_jitter) == pytest.approx(seconds)


@unhurried
@given(st.integers(min_value=1, max_value=10**9), FRACTIONS)
def test_wait_varies_by_a_fifth(rounds: int, fraction: float) -> None:
    schedule = RoundSchedule()
    usual = schedule.wait_after(rounds, random=no_jitter)
    wait = schedule.wait_after(rounds, random=lambda: fraction)
    assert usual * 0.8 <= wait <= usual * 1.2 + 1e-9
    assert 0 < wait <= 4320 + 1e-9


def test_extremes_of_jitter_are_the_extremes_of_the_wait() -> None:
    schedule = RoundSchedule()
    assert schedule.wait_after(1, random=lambda: 0.0) == pytest.approx(24.0)
    assert schedule.wait_after(1, random=lambda: 1.0) == pytest.approx(36.0)


def test_delivery_has_28_rounds_a_day() -> None:
    """The documentation says so: four rounds in the first hour, and about one an hour afterwards."""
    schedule, at, rounds = RoundSchedule(), 0.0, 0
    while at < schedule.max_age_seconds:
        rounds += 1
        at += schedule.wait_after(rounds, random=no_jitter)
    assert rounds == 28
