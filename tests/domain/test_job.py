"""Transitions between the statuses of a job, and what a finished job shows."""

from __future__ import annotations

import dataclasses
from dataclasses import replace
from itertools import product
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.errors import IllegalTransition
from app.domain.formats import Rendering, ResponseFormat
from app.domain.job import (
    Delivery,
    DeliveryKind,
    DeliveryStatus,
    Job,
    JobStatus,
    LiveJob,
    Phrase,
    Progress,
    Target,
    Upload,
)
from app.domain.transcript import TranscriptionOptions
from tests.domain.strategies import unhurried

QUEUED, PROCESSING, COMPLETED, FAILED, CANCELLED = JobStatus
UPLOAD = DeliveryKind.UPLOAD

#: Written down again, so that a slip in the table of the code is seen.
ALLOWED: Final = {
    (QUEUED, PROCESSING),
    (QUEUED, FAILED),
    (QUEUED, CANCELLED),
    (PROCESSING, COMPLETED),
    (PROCESSING, FAILED),
    (PROCESSING, CANCELLED),
    (COMPLETED, PROCESSING),
    (FAILED, PROCESSING),
}
FINAL: Final = {COMPLETED: "Done", FAILED: "Failed", CANCELLED: "Cancelled"}


def a_job(status: JobStatus = QUEUED) -> Job:
    return Job(
        id="4f0c",
        accepted_at=100.0,
        model="small",
        options=TranscriptionOptions(),
        rendering=Rendering(),
        source_url="https://bucket.example/audio?X-Amz-Signature=secret",
        uploads=(
            Upload(
                url="https://bucket.example/key?X-Amz-Signature=secret",
                headers=(("x-amz-meta-token", "secret"),),
                format=ResponseFormat.JSON,
            ),
        ),
        status=status,
    )


@pytest.mark.parametrize(("before", "after"), sorted(ALLOWED))
def test_job_moves_along_the_line_of_statuses(before: JobStatus, after: JobStatus) -> None:
    job = a_job(before)
    assert job.moved_to(after, at=110.0).status is after
    assert job.status is before


@pytest.mark.parametrize(("before", "after"), sorted(set(product(JobStatus, JobStatus)) - ALLOWED))
def test_every_other_move_is_refused_with_both_statuses_named(before: JobStatus, after: JobStatus) -> None:
    with pytest.raises(IllegalTransition, match=rf"4f0c.*from {before} to {after}"):
        a_job(before).moved_to(after, at=110.0)


@unhurried
@given(st.lists(st.tuples(st.sampled_from(JobStatus), st.floats(min_value=100, max_value=1e9)), max_size=8))
def test_whatever_is_tried_a_job_stays_as_it_ended_unless_it_is_delivered_again(
    tries: list[tuple[JobStatus, float]],
) -> None:
    job, ended = a_job(), None
    for status, at in tries:
        before = job
        try:
            job = job.moved_to(status, at=at)
        except IllegalTransition:
            assert job is before
            continue
        assert before.is_active or (status is PROCESSING and before.status is not CANCELLED)
        ended = (status, at) if status.is_final else None
    assert job.is_active == (ended is None)
    if ended is not None:
        assert (job.status, job.ended_at) == ended


@pytest.mark.parametrize("status", JobStatus)
def test_only_three_statuses_are_final(status: JobStatus) -> None:
    assert status.is_final == (status in FINAL)
    assert a_job(status).is_active == (status not in FINAL)


@pytest.mark.parametrize(("status", "phrase"), FINAL.items())
def test_ended_job_shows_its_final_phrase_and_time(status: JobStatus, phrase: str) -> None:
    live = LiveJob(a_job(PROCESSING)).progressed(Progress.showing, Phrase.WAITING)
    live = live.with_job(live.job.moved_to(status, at=142.5))
    assert (live.phrase, live.job.ended_at) == (phrase, 142.5)


def test_completed_job_is_at_a_hundred_percent() -> None:
    job = replace(a_job(PROCESSING), progress_percent=40.0)
    assert job.moved_to(COMPLETED, at=1.0).progress_percent == 100.0
    assert job.moved_to(FAILED, at=1.0).progress_percent == 40.0
    assert job.moved_to(CANCELLED, at=1.0).progress_percent == 40.0


def test_job_is_processing_from_its_first_slot() -> None:
    live = LiveJob(a_job())
    assert (live.status, live.phrase) == (QUEUED, "Waiting for GPU availability")
    live = live.progressed(Progress.on_model, at=120.0)
    assert (live.status, live.phrase, live.started_at) == (PROCESSING, "Transcribing audio", 120.0)
    live = live.progressed(Progress.showing, Phrase.WAITING).progressed(Progress.on_model, at=130.0)
    assert (live.status, live.started_at, live.job.status) == (PROCESSING, 120.0, QUEUED)


def test_share_is_done_once_it_is_transcribed_and_heard() -> None:
    live = LiveJob(a_job()).progressed(Progress.transcribed, language="german", percent=40.0)
    assert live.percent == 40.0
    live = live.progressed(Progress.heard, percent=10.0)
    assert live.percent == 10.0
    assert live.progressed(Progress.heard, percent=60.0).percent == 40.0


def test_job_with_a_result_shows_that_it_is_uploaded() -> None:
    live = LiveJob(a_job()).progressed(Progress.on_model, at=120.0)
    live = live.with_job(replace(live.job.moved_to(PROCESSING, at=130.0), has_result=True, progress_percent=100.0))
    assert (live.status, live.phrase, live.percent) == (PROCESSING, "Uploading results", 100.0)


def test_progress_after_the_result_is_ignored() -> None:
    live = LiveJob(replace(a_job(PROCESSING), has_result=True))
    assert live.progressed(Progress.decoded, 10.0) is live


def test_attempts_of_the_round_under_way_are_shown_until_its_outcome_is_committed() -> None:
    tried = Target(attempts=4, last_error="HTTP 503")
    due = replace(
        a_job(PROCESSING),
        has_result=True,
        delivery=Delivery(targets=(Target(attempts=3),), rounds=1, next_attempt_at=5.0),
    )
    live = LiveJob(due).attempted(UPLOAD, 0, attempts=4, error="HTTP 503")
    assert live.delivery(UPLOAD) == Delivery(targets=(tried,), rounds=1)
    assert live.job == due
    committed = live.with_job(due.with_delivery(UPLOAD, Delivery(targets=(tried,), rounds=2)))
    assert committed.delivery(UPLOAD) == Delivery(targets=(tried,), rounds=2)


@pytest.mark.parametrize(
    ("statuses", "status"),
    [
        ("pending", "pending"),
        ("delivered failed pending", "pending"),
        ("delivered failed delivered", "failed"),
        ("delivered delivered", "delivered"),
    ],
)
def test_delivery_is_pending_until_no_target_is(statuses: str, status: str) -> None:
    state = Delivery(targets=tuple(Target(status=DeliveryStatus(each)) for each in statuses.split()))
    assert state.status == status


def test_delivery_sums_up_its_targets() -> None:
    refused, busy = (Target(attempts=n, last_error=f"HTTP {status}") for n, status in ((1, 403), (2, 503)))
    state = Delivery(targets=(refused, Target(attempts=3), busy, busy))
    assert (state.attempts, state.last_error, state.pending) == (8, "HTTP 403; HTTP 503", (0, 1, 2, 3))


def test_next_attempt_is_planned_until_no_target_is_pending() -> None:
    state = Delivery(targets=(Target(), Target()), next_attempt_at=5.0)
    state = state.with_target(1, state.targets[1].given_up("HTTP 403"))
    assert (state.pending, state.next_attempt_at) == ((0,), 5.0)
    state = state.with_target(0, state.targets[0].delivered())
    assert (state.pending, state.next_attempt_at) == ((), None)


def test_attempts_of_several_targets_are_shown_side_by_side() -> None:
    due = replace(a_job(PROCESSING), has_result=True, delivery=Delivery(targets=(Target(), Target())))
    due = replace(due, uploads=due.uploads * 2)
    live = LiveJob(due).attempted(UPLOAD, 0, attempts=1, error="HTTP 503").attempted(UPLOAD, 1, attempts=1, error=None)
    assert live.delivery(UPLOAD) == Delivery(targets=(Target(attempts=1, last_error="HTTP 503"), Target(attempts=1)))


def test_earliest_end_of_the_urls_still_to_be_used_counts() -> None:
    uploads = tuple(
        Upload(url="https://b.example", format=ResponseFormat.JSON, expires_at=end) for end in (7.0, None, 5.0)
    )
    pending, arrived = Target(), Target().delivered()
    for targets, end in (
        ((pending, pending, pending), 5.0),
        ((pending, pending, arrived), 7.0),
        ((arrived, pending, arrived), None),
        ((arrived, arrived, arrived), 5.0),
    ):
        job = replace(a_job(), uploads=uploads, delivery=Delivery(targets=targets))
        assert job.upload_expires_at == end
    assert a_job().upload_expires_at is None


def test_attempt_of_a_delivery_that_is_no_longer_due_is_ignored() -> None:
    live = LiveJob(a_job(CANCELLED))
    assert live.attempted(UPLOAD, 0, attempts=1, error=None) is live


def test_every_change_has_its_revision() -> None:
    live = LiveJob(a_job()).progressed(Progress.decoded, 10.0)
    assert live.revision == 1
    assert live.progressed(Progress.showing, Phrase.WAITING) is live
    assert live.with_job(replace(live.job, revision=2)).revision == 2


def test_change_makes_another_job_and_leaves_the_first() -> None:
    job = a_job()
    other = replace(job, language="german")
    assert (job.language, other.language) == (None, "german")
    with pytest.raises(dataclasses.FrozenInstanceError):
        job.language = "german"  # type: ignore[misc]  # what is refused


def test_repr_of_a_job_shows_no_presigned_url_and_no_header() -> None:
    assert "secret" not in repr(a_job())


def test_phrases_are_those_of_the_contract() -> None:
    assert [phrase.value for phrase in Phrase] == [
        "Waiting for GPU availability",
        "Downloading audio",
        "Transcribing audio",
        "Telling speakers apart",
        "Uploading results",
        "Done",
        "Failed",
        "Cancelled",
    ]
