"""The end of a job, made of the job alone, with the event that tells of it."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.errors import DeliveryFailed, UndecodableAudio
from app.domain.formats import Rendering
from app.domain.job import Delivery, DeliveryStatus, Job, JobStatus, Progress, Upload, Webhook
from app.jobs.estimate import Estimate
from app.jobs.retention import Retention
from app.jobs.serializers import JobViews
from app.jobs.store import Registry
from app.jobs.transitions import Endings, message_of
from tests.domain.strategies import unhurried
from tests.jobs.rig import a_job
from tests.support.service_clock import FakeUptime

if TYPE_CHECKING:
    from collections.abc import Callable

    Change = Callable[[Job], Job]

QUEUED, PROCESSING, COMPLETED, FAILED, CANCELLED = JobStatus
PENDING, DELIVERED, GIVEN_UP = DeliveryStatus
URL: Final = "https://b.example/k?X-Amz-Signature=secret"


class Ends:
    """Endings at an service_clock of 100 s, and the views that they take their events from."""

    def __init__(self) -> None:
        self.service_clock = FakeUptime(100.0)
        retention = Retention(finished_seconds=3600.0, undelivered_seconds=604_800.0, service_clock=self.service_clock)
        self.views = JobViews(Registry(), retention, Estimate(slots=1))
        self.made = Endings(self.views, self.service_clock)

    def each(self) -> dict[JobStatus, list[Change]]:
        """Every kind of end, by the status that it gives."""
        return {
            COMPLETED: [self.made.completed(language="english")],
            CANCELLED: [self.made.cancelled()],
            FAILED: [
                self.made.failed(UndecodableAudio("No.")),
                self.made.undeliverable(DeliveryFailed("HTTP 403", attempts=1, retryable=False)),
            ],
        }


@pytest.fixture
def ends() -> Ends:
    return Ends()


def running(**changes: Any) -> Job:
    """A job that everything is wanted of, at work."""
    values: dict[str, Any] = {
        "source_url": URL,
        "upload": Upload(url=URL, headers=(("x-amz-meta", "secret"),), rendering=Rendering(), expires_at=9e9),
        "delivery": Delivery(expires_at=9e9),
        "webhook": Webhook(url=URL),
    }
    return a_job(**values | changes).moved_to(PROCESSING, at=1.0)


def event_of(job: Job) -> dict[str, Any]:
    assert job.webhook is not None
    event: dict[str, Any] = json.loads(job.webhook.body)
    return event


def test_every_end_has_its_time_and_its_event(ends: Ends) -> None:
    before = time.time()
    for status, changes in ends.each().items():
        for change in changes:
            job = change(running())
            assert (job.status, job.ended_uptime) == (status, 100.0)
            assert before <= (job.ended_at or 0) <= time.time()
            assert job.notification == Delivery(since=100.0, next_round=100.0)
            assert job.webhook is not None
            assert job.webhook.url == URL
            assert job.webhook.event_id.startswith("msg_")


def test_event_is_the_job_as_it_then_is(ends: Ends) -> None:
    for status, changes in ends.each().items():
        for change in changes:
            job = change(running(metadata={"name": "Grüße 😀"}))
            view = ends.views.one(job)
            del view["webhook"]  # told of nobody yet
            assert event_of(job) == {"type": f"job.{status.value}", "data": view}
            assert "secret" not in json.dumps(event_of(job))


def test_event_fits_in_the_strictest_json(ends: Ends) -> None:
    job = ends.made.completed()(running(metadata={"name": "\u2028</script>\\"}))
    assert job.webhook is not None
    assert event_of(job)["data"]["metadata"] == {"name": "\u2028</script>\\"}
    assert "\n" not in job.webhook.body


def test_job_without_a_webhook_has_no_event(ends: Ends) -> None:
    for changes in ends.each().values():
        for change in changes:
            for webhook in (None, Webhook(url="")):
                job = change(running(webhook=webhook))
                assert (job.notification, job.webhook) == (None, webhook)


def test_change_is_the_same_each_time_that_it_is_made(ends: Ends) -> None:
    """It is made for the journal, and again for the registry."""
    job = running()
    for changes in ends.each().values():
        for change in changes:
            assert change(job) == change(job)
    first, second = ends.made.completed()(job), ends.made.completed()(job)
    assert first.webhook is not None
    assert second.webhook is not None
    assert first.webhook.event_id != second.webhook.event_id  # two ends are two events


@unhurried
@given(st.sampled_from([COMPLETED, FAILED, CANCELLED]), st.integers(min_value=0, max_value=3))
def test_job_that_has_ended_stays_as_it_is(end: JobStatus, second: int) -> None:
    ends = Ends()
    ended = ends.each()[end][0](running())
    later = [change for changes in ends.each().values() for change in changes][second]
    assert later(ended) is ended


def test_completed_job_is_done_and_has_no_error(ends: Ends) -> None:
    job = ends.made.completed(language="english")(running(error="HTTP 503", error_type="DeliveryFailed"))
    assert (job.progress, job.progress_percent, job.language) == (Progress.DONE, 100.0, "english")
    assert (job.error, job.error_type) == (None, None)


def test_failure_is_to_be_reported_from_now_on_and_its_audio_is_wanted_no_more(ends: Ends) -> None:
    job = ends.made.failed(UndecodableAudio("No."))(running(delivery=Delivery(attempts=2, expires_at=9e9)))
    assert (job.error, job.error_type, job.progress) == ("No.", "UndecodableAudio", Progress.FAILED)
    assert job.delivery == Delivery(since=100.0, next_round=100.0, expires_at=9e9)
    assert job.upload is not None
    assert (job.upload.url, job.source_url) == (URL, "")
    assert job.upload_is_due
    assert not job.is_settled


def test_failure_of_a_job_that_is_delivered_nowhere_is_reported_nowhere(ends: Ends) -> None:
    job = ends.made.failed(UndecodableAudio("No."))(running(upload=None, delivery=None, webhook=None))
    assert (job.delivery, job.upload_is_due, job.is_settled) == (None, False, True)


def test_result_that_did_not_arrive_is_kept_with_what_was_tried(ends: Ends) -> None:
    error = DeliveryFailed("HTTP 503 (attempt 3/3)", attempts=3, retryable=True)
    before = Delivery(attempts=6, rounds=2, next_attempt_at=5.0, last_error="HTTP 500")
    job = ends.made.undeliverable(error)(running(has_result=True, delivery=before))
    assert (job.status, job.error, job.has_result) == (FAILED, "HTTP 503 (attempt 3/3)", True)
    assert job.delivery is not None
    assert (job.delivery.status, job.delivery.attempts, job.delivery.rounds) == (GIVEN_UP, 6, 2)
    assert (job.delivery.last_error, job.delivery.next_attempt_at) == (job.error, None)
    assert not job.upload_is_due


def test_cancelled_job_puts_nothing_and_keeps_no_secret_but_that_of_its_event(ends: Ends) -> None:
    job = ends.made.cancelled()(running())
    assert job.upload is not None
    assert (job.upload.url, job.upload.headers, job.source_url) == ("", (), "")
    assert job.delivery is not None
    assert (job.delivery.status, job.delivery.last_error) == (GIVEN_UP, "The job was cancelled.")
    assert not job.upload_is_due
    assert job.event_is_due
    queued = a_job()
    assert ends.made.cancelled()(queued).source_url is None  # it had its audio in the request


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (RuntimeError("It broke."), "It broke."),
        (RuntimeError(), "RuntimeError"),
        (RuntimeError(f"GET {URL} broke"), "GET https://b.example/k?… broke"),
    ],
)
def test_error_is_told_in_a_sentence_without_secrets(ends: Ends, error: Exception, message: str) -> None:
    assert message_of(error) == message
    job = ends.made.failed(error)(running())
    assert (job.error, event_of(job)["data"]["error"]) == (message, message)
