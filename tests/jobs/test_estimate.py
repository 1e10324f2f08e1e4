"""The estimate of when jobs will be done."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.jobs.estimate import Estimate, Pace
from tests.domain.strategies import unhurried


def test_duration_is_guessed_before_any_job_has_ended() -> None:
    estimate = Estimate(slots=2)
    assert estimate.wait_seconds(0) == 10.0
    assert estimate.next_place_seconds() == 5.0


def test_first_job_replaces_the_guess_and_later_ones_move_it() -> None:
    estimate = Estimate(slots=1)
    estimate.finished(100.0)
    assert estimate.wait_seconds(0) == 100.0
    estimate.finished(50.0)
    assert estimate.wait_seconds(0) == pytest.approx(90.0)


@pytest.mark.parametrize(("queued", "rounds"), [(0, 1), (2, 1), (3, 2), (5, 2), (6, 3)])
def test_queue_moves_by_the_number_of_slots(queued: int, rounds: int) -> None:
    estimate = Estimate(slots=3)
    estimate.finished(10.0)
    assert estimate.wait_seconds(queued) == 10.0 * rounds


@unhurried
@given(st.lists(st.floats(0, 1e6), min_size=1), st.integers(1, 256), st.integers(0, 1000))
def test_estimate_lies_between_the_shortest_and_the_longest_job(seconds: list[float], slots: int, n: int) -> None:
    estimate = Estimate(slots=slots)
    for each in seconds:
        estimate.finished(each)
    mean = estimate.wait_seconds(0)
    assert min(seconds) <= mean + 1e-6
    assert mean <= max(seconds) + 1e-6
    assert estimate.wait_seconds(n) <= estimate.wait_seconds(n + 1)
    assert 0 <= estimate.next_place_seconds() <= mean


class Watch:
    """A clock that the test sets."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_speed_is_measured_while_there_is_work_and_not_between() -> None:
    watch = Watch()
    estimate = Estimate(slots=3, clock=watch)
    assert estimate.model.measured is None
    assert estimate.backlog([60.0]).seconds_left(60.0) is None
    for _ in range(3):
        with estimate.model.at_work(), estimate.model.at_work():
            watch.now += 10
            estimate.model.done(300.0)
        watch.now += 3600
    assert estimate.model.measured == pytest.approx(30.0, rel=0.05)


def test_short_request_hardly_waits_for_a_long_one() -> None:
    watch = Watch()
    estimate = Estimate(slots=3, clock=watch)
    with estimate.model.at_work():
        watch.now += 1
        estimate.model.done(10.0)
    assert estimate.backlog([5.0, 3600.0, 3600.0]).seconds_left(5.0) == pytest.approx(1.5)
    assert estimate.backlog([5.0, 3600.0]).seconds_left(3600.0) == pytest.approx(360.5)
    estimate.finished(4.0, 40.0)
    assert estimate.backlog([None, None]).seconds_left(None) == pytest.approx(8.0)


class Machines(Estimate):
    """The estimate of a process among machines with these paces."""

    def __init__(self, *paces: Pace) -> None:
        super().__init__(slots=1)
        self._paces = paces

    def paces(self) -> tuple[Pace, ...]:
        return self._paces


def test_machines_share_a_queue_and_not_a_request() -> None:
    estimate = Machines(
        Pace(slots=2, model=10.0, job_seconds=10.0, audio_seconds=60.0),
        Pace(slots=4, model=30.0, job_seconds=20.0, audio_seconds=100.0),
    )
    assert estimate.wait_seconds(6) == 2 * 15.0
    assert estimate.next_place_seconds() == 15.0 / 6
    assert estimate.backlog([400.0]).seconds_left(400.0) == 20.0
    assert estimate.backlog([400.0] * 4).seconds_left(400.0) == 40.0
    assert estimate.backlog([None] * 10).seconds_left(None) == 20.0
    assert estimate.voices_backlog([400.0]).seconds_left(400.0) is None


def test_machine_without_a_measurement_counts_as_the_others_on_average() -> None:
    estimate = Machines(Pace(slots=1, model=10.0, voices=5.0), Pace(slots=1), Pace(slots=1, model=20.0))
    assert estimate.backlog([150.0] * 3).seconds_left(150.0) == 10.0
    assert estimate.voices_backlog([150.0] * 3).seconds_left(150.0) == 30.0


def test_duration_is_guessed_without_any_machine() -> None:
    estimate = Machines()
    assert estimate.wait_seconds(1) == 20.0
    assert estimate.next_place_seconds() == 10.0
    assert estimate.backlog([60.0]).seconds_left(60.0) is None


def test_recent_speed_counts_more() -> None:
    watch = Watch()
    estimate = Estimate(slots=1, clock=watch)
    with estimate.model.at_work():
        for speed in (1.0, 10.0):
            for _ in range(100):
                watch.now += 10
                estimate.model.done(10 * speed)
    assert estimate.model.measured is not None
    assert 8.5 < estimate.model.measured < 10.0
