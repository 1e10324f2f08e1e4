"""Whose windows go onto the model: turns, ranks, batches."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from app.domain.transcript import Task
from app.transcription.scheduler import PATIENCE, Pace, Rank, Scheduler, Work
from app.transcription.slots import Slots
from app.transcription.vad import Span
from app.transcription.window import Window

if TYPE_CHECKING:
    from app.transcription.scheduler import Step


def window(number: int = 0, *, language: str | None = "en", channel: int = 0, beam_size: int = 5) -> Window:
    return Window(
        channel=channel,
        number=number,
        spans=(Span(number * 480_000, (number + 1) * 480_000),),
        features=np.zeros((80, 3000), np.float32),
        task=Task.TRANSCRIBE,
        beam_size=beam_size,
        temperatures=(0.0, 0.2),
        language=language,
    )


def together(*, slots: int = 3, batch_size: int = 8) -> Scheduler:
    """A device that encodes and decodes a batch at once, as a GPU does."""
    return Scheduler(slots=Slots(slots), batch_size=batch_size, encodes_apart=False)


def added(scheduler: Scheduler, windows: int, *, awaited: bool = False, complete: bool = True) -> Work:
    """A request with so many windows, all that it will have if it is ``complete``."""
    work = Work(awaited=awaited)
    scheduler.add(work)
    for number in range(windows):
        scheduler.submit(work, window(number))
    work.complete = complete
    return work


def owners(scheduler: Scheduler, step: Step | None) -> list[Work]:
    assert step is not None
    return [scheduler.owner(one) for one in step.windows]


def encoded_next(scheduler: Scheduler) -> Window:
    """The one window that the device encodes now, and gives back."""
    step = scheduler.next_step()
    assert step is not None
    assert not step.decode
    (one,) = step.windows
    one.encoded = np.zeros((1500, 4), np.float32)
    scheduler.put_back(one)
    return one


def done(scheduler: Scheduler, step: Step) -> None:
    """The device has transcribed the windows; requests without any left go."""
    for one in step.windows:
        work = scheduler.owner(one)
        scheduler.finish(one)
        if work.complete and not work.outstanding:
            scheduler.remove(work)


def test_nothing_to_do_without_windows() -> None:
    scheduler = together()
    added(scheduler, 0, complete=False)
    assert scheduler.next_step() is None
    assert scheduler.held == 0


def test_long_requests_share_a_batch_window_by_window() -> None:
    scheduler = together()
    works = [added(scheduler, count) for count in (50, 20, 7)]
    batch = owners(scheduler, scheduler.next_step())
    assert [batch.count(work) for work in works] == [3, 3, 2]
    assert scheduler.held == 3


def test_three_long_requests_do_not_shut_out_a_fourth() -> None:
    scheduler = together()
    works = [added(scheduler, 100) for _ in range(4)]
    shares = dict.fromkeys(works, 0)
    for _ in range(12):
        step = scheduler.next_step()
        assert step is not None
        assert scheduler.held <= 3
        for work in owners(scheduler, step):
            shares[work] += 1
        done(scheduler, step)
    assert max(shares.values()) - min(shares.values()) <= 3


def test_short_request_is_next_and_alone_while_all_permits_are_held() -> None:
    scheduler = together()
    long = [added(scheduler, 100) for _ in range(3)]
    first = scheduler.next_step()
    assert first is not None
    short = added(scheduler, 1)
    done(scheduler, first)
    turns: list[bool] = []
    long[0].on_turn = long[1].on_turn = long[2].on_turn = turns.append
    second = scheduler.next_step()
    assert owners(scheduler, second) == [short]
    assert short.has_slot
    assert turns == [False]


def test_long_ones_come_along_where_that_costs_no_time() -> None:
    scheduler = together()
    for size in range(1, 9):
        scheduler.pace.measured(size, 0.2 if size <= 4 else 0.4)
    long = added(scheduler, 100)
    short = added(scheduler, 1)
    batch = owners(scheduler, scheduler.next_step())
    assert batch == [short, long, long, long]


def test_batches_of_long_ones_are_small_while_someone_may_turn_out_short() -> None:
    scheduler = together()
    scheduler.pace.measured(1, 0.2)
    scheduler.pace.measured(8, 1.0)
    added(scheduler, 100)
    arriving = added(scheduler, 0, complete=False)
    step = scheduler.next_step()
    assert step is not None
    assert len(step.windows) == 1
    scheduler.remove(arriving)
    following = scheduler.next_step()
    assert following is not None
    assert len(following.windows) == 8


def test_long_one_whose_speech_is_still_looked_for_makes_no_batch_small() -> None:
    scheduler = together()
    added(scheduler, 100)
    searched = added(scheduler, 0, complete=False)
    searched.long = True
    step = scheduler.next_step()
    assert step is not None
    assert len(step.windows) == 8


def test_awaited_requests_go_before_jobs_and_starve_none() -> None:
    scheduler = together(slots=1, batch_size=1)
    job = added(scheduler, 1)
    led: list[bool] = []
    for _ in range(PATIENCE + 2):
        added(scheduler, 1, awaited=True)
        step = scheduler.next_step()
        assert step is not None
        led.append(owners(scheduler, step) == [job])
        done(scheduler, step)
    assert led.count(True) == 1
    assert led.index(True) == PATIENCE


def test_long_request_is_served_while_short_ones_keep_coming() -> None:
    scheduler = together(slots=1)
    long = added(scheduler, 100)
    served = 0
    for _ in range(50):
        added(scheduler, 1)
        step = scheduler.next_step()
        assert step is not None
        served += long in owners(scheduler, step)
        done(scheduler, step)
    assert served == 50 // (PATIENCE + 1)


def test_language_is_detected_by_the_first_window_alone() -> None:
    scheduler = together()
    work = Work()
    scheduler.add(work)
    for number in range(5):
        scheduler.submit(work, window(number, language=None))
    step = scheduler.next_step()
    assert step is not None
    assert [one.number for one in step.windows] == [0]
    assert scheduler.next_step() is None
    step.windows[0].language = "de"
    scheduler.finish(step.windows[0])
    following = scheduler.next_step()
    assert following is not None
    assert [(one.number, one.language) for one in following.windows] == [(number, "de") for number in range(1, 5)]


def test_each_channel_has_its_own_language() -> None:
    scheduler = together()
    work = Work()
    scheduler.add(work)
    for number in range(2):
        for channel in range(2):
            scheduler.submit(work, window(number, language=None, channel=channel))
    step = scheduler.next_step()
    assert step is not None
    assert [(one.channel, one.number) for one in step.windows] == [(0, 0), (1, 0)]


def test_windows_of_another_key_wait_for_a_batch_of_their_own() -> None:
    scheduler = together()
    one, other = Work(), Work()
    for work, beams in ((one, 5), (other, 1)):
        scheduler.add(work)
        scheduler.submit(work, window(beam_size=beams))
        work.complete = True
    assert owners(scheduler, scheduler.next_step()) == [one]
    assert owners(scheduler, scheduler.next_step()) == [other]


def test_on_a_cpu_windows_are_encoded_one_by_one_and_a_short_one_steps_in_between() -> None:
    scheduler = Scheduler(slots=Slots(3), batch_size=4, encodes_apart=True)
    long = added(scheduler, 100)
    encoded = [encoded_next(scheduler) for _ in range(2)]
    short = added(scheduler, 1)
    assert scheduler.owner(encoded_next(scheduler)) is short
    decoding = scheduler.next_step()
    assert decoding is not None
    assert decoding.decode
    assert owners(scheduler, decoding) == [short]
    done(scheduler, decoding)
    for _ in range(2):
        encoded_next(scheduler)
    together_at_last = scheduler.next_step()
    assert together_at_last is not None
    assert together_at_last.decode
    assert set(encoded) < set(together_at_last.windows)
    assert {scheduler.owner(one) for one in together_at_last.windows} == {long}


def test_permit_of_a_dropped_request_is_free_when_its_batch_ends() -> None:
    scheduler = together(slots=1)
    dropped, waiting = added(scheduler, 5), added(scheduler, 5)
    step = scheduler.next_step()
    assert step is not None
    scheduler.remove(dropped)
    assert scheduler.held == 1
    assert scheduler.next_step() is None
    for one in step.windows:
        scheduler.put_back(one)
    assert scheduler.held == 0
    assert set(owners(scheduler, scheduler.next_step())) == {waiting}


def test_rank_follows_what_is_left() -> None:
    scheduler = together()
    assert added(scheduler, 2, awaited=True).rank is Rank.SHORT_AWAITED
    assert added(scheduler, 2).rank is Rank.SHORT
    assert added(scheduler, 3, awaited=True).rank is Rank.LONG_AWAITED
    assert added(scheduler, 1, complete=False).rank is Rank.LONG


def test_pace_is_careful_where_it_has_not_measured() -> None:
    pace = Pace()
    assert pace.predicted(3) is None
    pace.measured(2, 1.0)
    assert pace.predicted(4) == 2.0
    assert pace.predicted(1) == 0.5
    assert pace.most_within(1.0, at_least=1, limit=8) == 2


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 12), st.booleans()), min_size=1, max_size=12),
    st.integers(1, 4),
    st.integers(1, 8),
    st.booleans(),
)
def test_everything_is_transcribed_once_within_the_permits(
    requests: list[tuple[int, bool]],
    slots: int,
    batch_size: int,
    encodes_apart: bool,  # noqa: FBT001  # given by hypothesis
) -> None:
    scheduler = Scheduler(slots=Slots(slots), batch_size=batch_size, encodes_apart=encodes_apart)
    for windows, awaited in requests:
        added(scheduler, windows, awaited=awaited)
    transcribed: list[Window] = []
    while (step := scheduler.next_step()) is not None:
        assert scheduler.held <= slots
        assert len(step.windows) <= batch_size
        assert all(scheduler.owner(one).has_slot for one in step.windows)
        assert len({one.key for one in step.windows}) == 1
        if step.decode:
            transcribed += step.windows
            done(scheduler, step)
        else:
            step.windows[0].encoded = np.zeros((1, 1), np.float32)
            scheduler.put_back(step.windows[0])
    assert len(transcribed) == len(set(transcribed)) == sum(windows for windows, _ in requests)
    assert scheduler.held == 0
    assert scheduler.works == []
