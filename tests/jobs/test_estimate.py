"""How long the line is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.jobs.estimate import Estimate
from tests.domain.strategies import unhurried


def test_before_any_job_has_ended_there_is_a_guess() -> None:
    estimate = Estimate(permits=2)
    assert estimate.wait_seconds(0) == 10.0
    assert estimate.next_place_seconds() == 5.0


def test_first_job_replaces_the_guess_and_later_ones_move_the_mean() -> None:
    estimate = Estimate(permits=1)
    estimate.finished(100.0)
    assert estimate.wait_seconds(0) == 100.0
    estimate.finished(50.0)
    assert estimate.wait_seconds(0) == pytest.approx(90.0)


@pytest.mark.parametrize(("queued", "rounds"), [(0, 1), (2, 1), (3, 2), (5, 2), (6, 3)])
def test_line_moves_by_as_many_as_there_are_permits(queued: int, rounds: int) -> None:
    estimate = Estimate(permits=3)
    estimate.finished(10.0)
    assert estimate.wait_seconds(queued) == 10.0 * rounds


@unhurried
@given(st.lists(st.floats(0, 1e6), min_size=1), st.integers(1, 256), st.integers(0, 1000))
def test_estimate_lies_between_the_shortest_and_the_longest_job(seconds: list[float], permits: int, n: int) -> None:
    estimate = Estimate(permits=permits)
    for each in seconds:
        estimate.finished(each)
    mean = estimate.wait_seconds(0)
    assert min(seconds) <= mean + 1e-6
    assert mean <= max(seconds) + 1e-6
    assert estimate.wait_seconds(n) <= estimate.wait_seconds(n + 1)
    assert 0 <= estimate.next_place_seconds() <= mean
