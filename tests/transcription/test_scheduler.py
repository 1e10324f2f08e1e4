"""The choice of windows for each batch: slots, ranks, batch sizes."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.domain.transcript import Task
from app.transcription.language_detection import LanguageGuess
from app.transcription.scheduler import MAX_PASSED_OVER, Pace, Scheduler
from app.transcription.slots import Slots
from app.transcription.transcription import Rank, Transcription
from app.transcription.vad import Span
from app.transcription.window import Window
from tests.support.observed_transcription import ObservedTranscription

if TYPE_CHECKING:
    from app.transcription.scheduler import Batch


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


def gpu_scheduler(*, slots: int = 3, batch_size: int = 8) -> Scheduler:
    """Return a scheduler for a device that encodes and decodes a batch at once."""
    return Scheduler(slots=Slots(slots), batch_size=batch_size, encodes_apart=False)


def add(
    scheduler: Scheduler, windows: int, *, synchronous: bool = False, complete: bool = True
) -> ObservedTranscription:
    """Add a transcription with this many windows, which are all of them if it is ``complete``."""
    transcription = ObservedTranscription(synchronous=synchronous)
    scheduler.add(transcription)
    for number in range(windows):
        scheduler.submit(transcription, window(number))
    transcription.complete = complete
    return transcription


def next_batch(scheduler: Scheduler) -> Batch:
    batch = scheduler.next_batch()
    assert batch is not None
    return batch


def owners(scheduler: Scheduler, batch: Batch) -> list[Transcription]:
    return [scheduler.owner(item) for item in batch.windows]


def encode_next(scheduler: Scheduler) -> Window:
    """Encode the one window of the next batch, put it back and return it."""
    batch = next_batch(scheduler)
    assert not batch.decode
    (item,) = batch.windows
    item.encoded = np.zeros((1500, 4), np.float32)
    scheduler.put_back(item)
    return item


def finish(scheduler: Scheduler, batch: Batch) -> None:
    """Finish the windows of a batch, and remove transcriptions that have none left."""
    for item in batch.windows:
        transcription = scheduler.owner(item)
        scheduler.finish(item)
        if transcription.complete and not transcription.outstanding:
            scheduler.remove(transcription)


def test_nothing_to_do_without_windows() -> None:
    scheduler = gpu_scheduler()
    add(scheduler, 0, complete=False)
    assert scheduler.next_batch() is None
    assert scheduler.held == 0


def test_long_transcriptions_share_a_batch_evenly() -> None:
    scheduler = gpu_scheduler()
    transcriptions = [add(scheduler, count) for count in (50, 20, 7)]
    batch = owners(scheduler, next_batch(scheduler))
    assert [batch.count(transcription) for transcription in transcriptions] == [3, 3, 2]
    assert scheduler.held == 3


def test_fourth_long_transcription_gets_its_share_of_three_slots() -> None:
    scheduler = gpu_scheduler()
    transcriptions: list[Transcription] = [add(scheduler, 100) for _ in range(4)]
    shares = dict.fromkeys(transcriptions, 0)
    for _ in range(12):
        batch = next_batch(scheduler)
        assert scheduler.held <= 3
        for transcription in owners(scheduler, batch):
            shares[transcription] += 1
        finish(scheduler, batch)
    assert max(shares.values()) - min(shares.values()) <= 3


def test_short_transcription_is_next_and_alone_when_all_slots_are_held() -> None:
    scheduler = gpu_scheduler()
    long = [add(scheduler, 100) for _ in range(3)]
    first = next_batch(scheduler)
    short = add(scheduler, 1)
    finish(scheduler, first)
    second = next_batch(scheduler)
    assert owners(scheduler, second) == [short]
    assert short.has_slot
    changes = sorted(transcription.slot_changes for transcription in long)
    assert changes == [["granted"], ["granted"], ["granted", "taken back"]]


def test_long_transcriptions_join_a_batch_if_that_takes_no_longer() -> None:
    scheduler = gpu_scheduler()
    for size in range(1, 9):
        scheduler.pace.record(size, 0.2 if size <= 4 else 0.4)
    long = add(scheduler, 100)
    short = add(scheduler, 1)
    batch = owners(scheduler, next_batch(scheduler))
    assert batch == [short, long, long, long]


def test_long_batches_are_small_while_a_transcription_may_turn_out_short() -> None:
    scheduler = gpu_scheduler()
    scheduler.pace.record(1, 0.2)
    scheduler.pace.record(8, 1.0)
    add(scheduler, 100)
    arriving = add(scheduler, 0, complete=False)
    batch = next_batch(scheduler)
    assert len(batch.windows) == 1
    scheduler.remove(arriving)
    following = next_batch(scheduler)
    assert len(following.windows) == 8


def test_known_long_transcription_does_not_make_batches_small() -> None:
    scheduler = gpu_scheduler()
    add(scheduler, 100)
    searched = add(scheduler, 0, complete=False)
    searched.known_long = True
    batch = next_batch(scheduler)
    assert len(batch.windows) == 8


@pytest.mark.parametrize(
    ("seconds_of_four", "expected"),
    [pytest.param(0.44, 4, id="almost as efficient"), pytest.param(0.6, 8, id="less efficient")],
)
def test_long_batches_are_half_as_large_while_the_next_short_transcription_is_expected(
    seconds_of_four: float, expected: int
) -> None:
    scheduler = gpu_scheduler()
    scheduler.pace.record(4, seconds_of_four)
    scheduler.pace.record(8, 0.8)
    long = add(scheduler, 1000)
    long.known_long = True
    assert len(next_batch(scheduler).windows) == 8
    add(scheduler, 1)
    finish(scheduler, next_batch(scheduler))
    sizes = [len(next_batch(scheduler).windows) for _ in range(60)]
    assert sizes == [expected] * 50 + [8] * 10


def test_end_of_a_long_transcription_does_not_make_batches_small() -> None:
    scheduler = gpu_scheduler()
    scheduler.pace.record(4, 0.4)
    scheduler.pace.record(8, 0.8)
    for windows in (9, 1000):
        add(scheduler, windows).known_long = True
    ending = [next_batch(scheduler) for _ in range(3)]
    assert [len(batch.windows) for batch in ending] == [8, 8, 8]


@pytest.mark.parametrize(("batch_size", "sampled"), [(1, 1), (8, 2), (16, 3), (32, 6)])
def test_windows_whose_texts_are_sampled_have_smaller_batches(batch_size: int, sampled: int) -> None:
    scheduler = gpu_scheduler(batch_size=batch_size)
    transcription = add(scheduler, 100)
    assert len(next_batch(scheduler).windows) == batch_size
    for item in transcription.ready:
        item.remaining_temperatures = (0.4,)
    assert len(next_batch(scheduler).windows) == sampled


def test_synchronous_requests_go_first_but_do_not_starve_jobs() -> None:
    scheduler = gpu_scheduler(slots=1, batch_size=1)
    job = add(scheduler, 1)
    job_was_served: list[bool] = []
    for _ in range(MAX_PASSED_OVER + 2):
        add(scheduler, 1, synchronous=True)
        batch = next_batch(scheduler)
        job_was_served.append(owners(scheduler, batch) == [job])
        finish(scheduler, batch)
    assert job_was_served.count(True) == 1
    assert job_was_served.index(True) == MAX_PASSED_OVER


def test_long_transcription_is_served_while_short_ones_keep_arriving() -> None:
    scheduler = gpu_scheduler(slots=1)
    long = add(scheduler, 100)
    served = 0
    for _ in range(50):
        add(scheduler, 1)
        batch = next_batch(scheduler)
        served += long in owners(scheduler, batch)
        finish(scheduler, batch)
    assert served == 50 // (MAX_PASSED_OVER + 1)


def test_language_is_detected_by_the_first_window_alone() -> None:
    scheduler = gpu_scheduler()
    transcription = Transcription()
    scheduler.add(transcription)
    for number in range(5):
        scheduler.submit(transcription, window(number, language=None))
    batch = next_batch(scheduler)
    assert [item.number for item in batch.windows] == [0]
    assert scheduler.next_batch() is None
    batch.windows[0].language = "de"
    scheduler.finish(batch.windows[0])
    following = next_batch(scheduler)
    assert [(item.number, item.language) for item in following.windows] == [(number, "de") for number in range(1, 5)]


def test_windows_detect_the_language_until_one_is_certain() -> None:
    scheduler = gpu_scheduler()
    transcription = Transcription()
    scheduler.add(transcription)
    for number in range(5):
        scheduler.submit(transcription, window(number, language=None))
    first = next_batch(scheduler).windows[0]
    first.guesses = (LanguageGuess("la", 0.5), LanguageGuess("en", 0.4))
    first.language = "en"
    scheduler.finish(first)
    (second,) = next_batch(scheduler).windows
    assert (second.number, second.language) == (1, None)
    assert transcription.languages[0].best == "en"
    second.guesses = (LanguageGuess("de", 0.9),)
    second.language = "de"
    scheduler.finish(second)
    assert [item.language for item in next_batch(scheduler).windows] == ["de"] * 3


def test_each_channel_has_its_own_language() -> None:
    scheduler = gpu_scheduler()
    transcription = Transcription()
    scheduler.add(transcription)
    for number in range(2):
        for channel in range(2):
            scheduler.submit(transcription, window(number, language=None, channel=channel))
    batch = next_batch(scheduler)
    assert [(item.channel, item.number) for item in batch.windows] == [(0, 0), (1, 0)]


def test_windows_with_candidates_share_a_batch_from_the_beginning() -> None:
    scheduler = gpu_scheduler()
    transcription = Transcription()
    scheduler.add(transcription)
    for number in range(3):
        scheduler.submit(transcription, replace(window(number, language=None), candidates=("de", "en")))
    transcription.languages[0].settle("fr")
    batch = next_batch(scheduler)
    assert [(item.number, item.language) for item in batch.windows] == [(0, None), (1, None), (2, None)]


def test_windows_with_another_key_wait_for_their_own_batch() -> None:
    scheduler = gpu_scheduler()
    wide, narrow = Transcription(), Transcription()
    for transcription, beam_size in ((wide, 5), (narrow, 1)):
        scheduler.add(transcription)
        scheduler.submit(transcription, window(beam_size=beam_size))
        transcription.complete = True
    assert owners(scheduler, next_batch(scheduler)) == [wide]
    assert owners(scheduler, next_batch(scheduler)) == [narrow]


def test_short_transcription_is_served_between_encodings_on_a_cpu() -> None:
    scheduler = Scheduler(slots=Slots(3), batch_size=4, encodes_apart=True)
    long = add(scheduler, 100)
    encoded = [encode_next(scheduler) for _ in range(2)]
    short = add(scheduler, 1)
    assert scheduler.owner(encode_next(scheduler)) is short
    decoding = next_batch(scheduler)
    assert decoding.decode
    assert owners(scheduler, decoding) == [short]
    finish(scheduler, decoding)
    for _ in range(2):
        encode_next(scheduler)
    decoding_together = next_batch(scheduler)
    assert decoding_together.decode
    assert set(encoded) < set(decoding_together.windows)
    assert {scheduler.owner(item) for item in decoding_together.windows} == {long}


def test_slot_of_a_dropped_transcription_is_free_when_its_batch_ends() -> None:
    scheduler = gpu_scheduler(slots=1)
    dropped, waiting = add(scheduler, 5), add(scheduler, 5)
    batch = next_batch(scheduler)
    scheduler.remove(dropped)
    assert scheduler.held == 1
    assert scheduler.next_batch() is None
    for item in batch.windows:
        scheduler.put_back(item)
    assert scheduler.held == 0
    assert set(owners(scheduler, next_batch(scheduler))) == {waiting}


def test_rank_depends_on_the_windows_that_are_left() -> None:
    scheduler = gpu_scheduler()
    assert add(scheduler, 2, synchronous=True).rank is Rank.SHORT_SYNCHRONOUS
    assert add(scheduler, 2).rank is Rank.SHORT
    assert add(scheduler, 3, synchronous=True).rank is Rank.LONG_SYNCHRONOUS
    assert add(scheduler, 1, complete=False).rank is Rank.LONG


def test_pace_predicts_unmeasured_sizes_in_proportion() -> None:
    pace = Pace()
    assert pace.predict(3) is None
    pace.record(2, 1.0)
    assert pace.predict(4) == 2.0
    assert pace.predict(1) == 0.5
    assert pace.largest_within(1.0, at_least=1, limit=8) == 2


def test_pace_predicts_sizes_between_measured_ones_on_a_line() -> None:
    pace = Pace()
    pace.record(1, 0.2)
    pace.record(5, 1.0)
    pace.record(9, 1.2)
    assert [pace.predict(size) for size in (3, 5, 7, 18)] == pytest.approx([0.6, 1.0, 1.1, 2.4])


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 12), st.booleans()), min_size=1, max_size=12),
    st.integers(1, 4),
    st.integers(1, 8),
    st.booleans(),
)
@pytest.mark.full(reason="takes more than a second")
def test_all_windows_are_transcribed_once_within_the_slots(
    transcriptions: list[tuple[int, bool]],
    slots: int,
    batch_size: int,
    encodes_apart: bool,  # noqa: FBT001  # given by hypothesis
) -> None:
    scheduler = Scheduler(slots=Slots(slots), batch_size=batch_size, encodes_apart=encodes_apart)
    for windows, synchronous in transcriptions:
        add(scheduler, windows, synchronous=synchronous)
    transcribed: list[Window] = []
    while (batch := scheduler.next_batch()) is not None:
        assert scheduler.held <= slots
        assert len(batch.windows) <= batch_size
        assert all(scheduler.owner(item).has_slot for item in batch.windows)
        assert len({item.key for item in batch.windows}) == 1
        if batch.decode:
            transcribed += batch.windows
            finish(scheduler, batch)
        else:
            batch.windows[0].encoded = np.zeros((1, 1), np.float32)
            scheduler.put_back(batch.windows[0])
    assert len(transcribed) == len(set(transcribed)) == sum(windows for windows, _ in transcriptions)
    assert scheduler.held == 0
    assert scheduler.transcriptions == []
