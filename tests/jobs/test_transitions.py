"""The durable changes of a job, and the webhook event that reports its end."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, Final

import pytest

from app.domain.errors import DeliveryFailed, UndecodableAudio
from app.domain.formats import ResponseFormat
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
    Webhook,
)
from app.jobs import transitions
from app.jobs.retention import Retention
from app.jobs.serializers import job_view
from app.jobs.service_clock import Moment
from app.jobs.transitions import message_of
from tests.jobs.rig import a_job, one_target
from tests.support.fake_transcriber import GREETING

QUEUED, PROCESSING, COMPLETED, FAILED, CANCELLED = JobStatus
PENDING, DELIVERED, GIVEN_UP = DeliveryStatus
JSON: Final = ResponseFormat.JSON
URL: Final = "https://b.example/k?X-Amz-Signature=secret"


NOW: Final = Moment(unix=5000.0, service_seconds=100.0)
RETENTION: Final = Retention(finished_seconds=3600.0, undelivered_seconds=604_800.0)
UPLOAD, WEBHOOK = DeliveryKind
REFUSED: Final = DeliveryFailed("HTTP 403", attempts=1, retryable=False)

End = Callable[..., Job]
COMPLETE: Final[End] = partial(transitions.delivered, kind=UPLOAD, number=0, now=NOW, retention=RETENTION)
CANCEL: Final[End] = partial(transitions.cancelled, now=NOW, retention=RETENTION)
FAIL: Final[End] = partial(transitions.failed, error=UndecodableAudio("No."), now=NOW, retention=RETENTION)
GIVE_UP: Final[End] = partial(
    transitions.delivery_given_up, kind=UPLOAD, number=0, error=REFUSED, url_expired=False, now=NOW, retention=RETENTION
)
#: Every way to end, with a job that can end this way.
ENDS: Final[list[tuple[JobStatus, End, bool]]] = [
    (COMPLETED, COMPLETE, True),
    (CANCELLED, CANCEL, False),
    (CANCELLED, CANCEL, True),
    (FAILED, FAIL, False),
    (FAILED, GIVE_UP, True),
]
every_end = pytest.mark.parametrize(("status", "end", "has_result"), ENDS)


def running(**changes: Any) -> LiveJob:
    """Return a job on the model, with everything that a client can ask for."""
    values: dict[str, Any] = {
        "source_url": URL,
        "uploads": (Upload(url=URL, headers=(("x-amz-meta", "secret"),), format=JSON, expires_at=9e9),),
        "delivery": Delivery(),
        "webhook": Webhook(url=URL),
    }
    job = a_job(**values | changes)
    if job.has_result:
        job = job.moved_to(PROCESSING, at=1.0)
    return LiveJob(job).progressed(Progress.on_model, at=1.0)


def event_of(job: Job) -> dict[str, Any]:
    assert job.webhook is not None
    event: dict[str, Any] = json.loads(job.webhook.body)
    return event


@every_end
def test_every_end_has_its_time_and_its_event(status: JobStatus, end: End, *, has_result: bool) -> None:
    job = end(running(has_result=has_result))
    assert (job.status, job.ended_at, job.ended_service_seconds, job.started_at) == (status, 5000.0, 100.0, 1.0)
    assert job.webhook_delivery == Delivery(since=100.0, next_round=100.0)
    assert job.webhook is not None
    assert job.webhook.url == URL
    assert job.webhook.event_id.startswith("msg_")


@every_end
def test_event_has_the_view_of_the_ended_job(status: JobStatus, end: End, *, has_result: bool) -> None:
    job = end(running(has_result=has_result, metadata={"name": "Grüße 😀"}))
    view = job_view(LiveJob(job), now=NOW, retention=RETENTION)
    del view["webhook"]  # not sent yet
    assert event_of(job) == {"type": f"job.{status.value}", "data": view}
    assert "secret" not in json.dumps(event_of(job))


def test_event_is_strict_json() -> None:
    job = COMPLETE(running(has_result=True, metadata={"name": "\u2028</script>\\"}))
    assert job.webhook is not None
    assert event_of(job)["data"]["metadata"] == {"name": "\u2028</script>\\"}
    assert "\n" not in job.webhook.body


@every_end
@pytest.mark.parametrize("webhook", [None, Webhook(url="")])
def test_job_without_a_webhook_has_no_event(
    status: JobStatus, end: End, webhook: Webhook | None, *, has_result: bool
) -> None:
    job = end(running(has_result=has_result, webhook=webhook))
    assert (job.status, job.webhook_delivery, job.webhook) == (status, None, webhook)


def test_every_end_has_its_own_event_id() -> None:
    first, second = CANCEL(running()), CANCEL(running())
    assert first.webhook is not None
    assert second.webhook is not None
    assert first.webhook.event_id != second.webhook.event_id


@every_end
@pytest.mark.parametrize("later", [CANCEL, FAIL])
def test_job_that_has_ended_stays_as_it_is(status: JobStatus, end: End, later: End, *, has_result: bool) -> None:
    ended = LiveJob(end(running(has_result=has_result)))
    assert later(ended) is ended.job
    assert ended.status is status


def begun(job: Job, node: str) -> Job:
    return transitions.work_started(LiveJob(job), node=node)


def withdrawn(job: Job, node: str) -> Job:
    return transitions.start_withdrawn(LiveJob(job), node=node)


def died(job: Job, *, alone: bool) -> Job:
    return transitions.process_died(LiveJob(job), alone=alone)


def test_node_takes_back_only_its_own_start() -> None:
    """One that was taken for dead comes back when others have begun the same work."""
    first = begun(a_job(), "a")
    assert withdrawn(first, "a") == replace(first, starts=0, begun_on=None)
    lost = died(first, alone=False)
    assert withdrawn(lost, "a") is lost
    second = begun(lost, "b")
    assert withdrawn(second, "a") is second
    assert second.starts == 2
    assert withdrawn(second, "b") == lost


def test_death_is_counted_once_and_only_for_work_that_had_begun() -> None:
    job = a_job()
    assert died(job, alone=True) is job
    dead = died(begun(job, "a"), alone=True)
    assert (dead.starts, dead.lone_deaths) == (1, 1)
    assert died(dead, alone=True) is dead


@pytest.mark.parametrize(("deaths", "lone_deaths"), [(3, 3), (10, 0), (10, 2), (5, 3)])
def test_file_is_deadly_after_three_lone_deaths_or_ten_starts(deaths: int, lone_deaths: int) -> None:
    job = a_job()
    for number in range(deaths):
        assert not job.is_deadly
        assert job.is_suspect == (number >= 2)
        job = died(begun(job, "a"), alone=number >= deaths - lone_deaths)
    assert job.is_deadly


def test_stored_result_ends_what_was_begun() -> None:
    live = running(begun_on="a")
    job = transitions.result_stored(live, GREETING, processing_time=0.0, now=NOW, retention=RETENTION)
    assert job.begun_on is None


def test_stored_result_is_due_for_upload() -> None:
    live = running(delivery=one_target(attempts=2))
    job = transitions.result_stored(live, GREETING, processing_time=2.5, now=NOW, retention=RETENTION)
    assert (job.status, job.has_result, job.started_at, job.progress_percent) == (PROCESSING, True, 1.0, 100.0)
    assert (job.language, job.audio_duration, job.processing_time) == (GREETING.language, GREETING.duration, 2.5)
    assert job.delivery == Delivery(since=100.0, next_round=100.0)


def test_stored_result_without_an_upload_completes_the_job() -> None:
    live = LiveJob(a_job())  # silence never needs the model
    job = transitions.result_stored(live, GREETING, processing_time=0.0, now=NOW, retention=RETENTION)
    assert (job.status, job.started_at, job.ended_at) == (COMPLETED, 5000.0, 5000.0)


def test_completed_job_has_no_error_and_no_upload_url() -> None:
    job = COMPLETE(running(has_result=True, error="HTTP 503", error_type="DeliveryFailed"))
    assert (LiveJob(job).phrase, job.progress_percent) == (Phrase.DONE, 100.0)
    assert (job.error, job.error_type) == (None, None)
    (upload,) = job.uploads
    assert (upload.url, upload.headers) == ("", ())


def test_failure_document_is_due_at_once_and_the_source_url_erased() -> None:
    job = FAIL(running(delivery=one_target(attempts=2)))
    assert (job.error, job.error_type, LiveJob(job).phrase) == ("No.", "UndecodableAudio", Phrase.FAILED)
    assert job.delivery == Delivery(since=100.0, next_round=100.0)
    assert (job.uploads[0].url, job.source_url) == (URL, "")
    assert job.due_delivery(UPLOAD) == job.delivery
    assert not job.is_settled


def test_failure_keeps_the_progress_that_was_shown() -> None:
    live = running().progressed(Progress.decoded, 10.0)
    live = live.progressed(Progress.transcribed, language="german", percent=40.0)
    job = FAIL(live)
    assert (job.audio_duration, job.language, job.progress_percent) == (10.0, "german", 40.0)


def test_failure_of_a_job_without_an_upload_is_settled() -> None:
    job = FAIL(running(uploads=(), delivery=None, webhook=None))
    assert (job.delivery, job.due_delivery(UPLOAD), job.is_settled) == (None, None, True)


def test_result_that_can_not_be_delivered_keeps_its_attempts() -> None:
    before = one_target(attempts=6, rounds=2, next_attempt_at=5.0, last_error="HTTP 500")
    live = running(has_result=True, delivery=before).attempted(UPLOAD, 0, attempts=7, error="HTTP 403")
    job = GIVE_UP(live)
    assert (job.status, job.error, job.has_result) == (FAILED, "HTTP 403", True)
    assert job.delivery == one_target(status=GIVEN_UP, attempts=7, rounds=2, last_error="HTTP 403")
    assert job.due_delivery(UPLOAD) is None


@pytest.mark.parametrize("url_expired", [True, False])
def test_upload_url_is_kept_for_another_delivery_unless_it_expired(*, url_expired: bool) -> None:
    job = transitions.delivery_given_up(
        running(has_result=True), UPLOAD, 0, REFUSED, url_expired=url_expired, now=NOW, retention=RETENTION
    )
    assert job.uploads[0].is_kept is not url_expired


def with_two_uploads(**changes: Any) -> LiveJob:
    """Return a job whose result is due at two URLs."""
    upload = Upload(url=URL, format=JSON, expires_at=9e9)
    uploads = (upload, replace(upload, url=f"{URL}-2", expires_at=8e9))
    state = Delivery(targets=(Target(attempts=1), Target(attempts=1)), since=1.0, next_round=1.0)
    return running(**{"has_result": True, "uploads": uploads, "delivery": state} | changes)


@pytest.mark.parametrize("first", [0, 1])
def test_result_completes_its_job_once_it_has_arrived_everywhere(first: int) -> None:
    live = with_two_uploads()
    job = COMPLETE(live, number=first)
    assert (job.status, job.webhook_delivery) == (PROCESSING, None)
    assert [upload.is_kept for upload in job.uploads] == [first == 1, first == 0]
    job = COMPLETE(LiveJob(job), number=1 - first)
    assert (job.status, [upload.is_kept for upload in job.uploads]) == (COMPLETED, [False, False])
    assert event_of(job)["data"]["delivery"]["uploads"] == [
        {"format": "json", "status": "delivered", "attempts": 1, "expires_at": 9e9},
        {"format": "json", "status": "delivered", "attempts": 1, "expires_at": 8e9},
    ]


@pytest.mark.parametrize("first", [0, 1])
def test_given_up_target_fails_the_job_once_the_other_has_its_result(first: int) -> None:
    job = GIVE_UP(with_two_uploads(), number=first)
    assert (job.status, job.error, job.webhook_delivery) == (PROCESSING, None, None)
    job = COMPLETE(LiveJob(job), number=1 - first)
    assert (job.status, job.error, job.error_type) == (FAILED, "HTTP 403", "DeliveryFailed")
    assert [upload.is_kept for upload in job.uploads] == [first == 0, first == 1]


def test_postponed_round_keeps_the_errors_of_its_targets() -> None:
    later = NOW.later(30)
    job = transitions.round_postponed(
        with_two_uploads(), UPLOAD, errors={1: "HTTP 503"}, next_round=later, will_be_tried=True
    )
    assert job.delivery == Delivery(
        targets=(Target(attempts=1), Target(attempts=1, last_error="HTTP 503")),
        rounds=1,
        since=1.0,
        next_round=later.service_seconds,
        next_attempt_at=later.unix,
    )


def test_redelivery_without_urls_is_for_the_targets_without_a_result() -> None:
    live = with_two_uploads()
    failed = GIVE_UP(LiveJob(COMPLETE(live, number=0)), number=1)
    job = transitions.redelivered(LiveJob(failed), uploads=(), now=NOW)
    assert job.delivery is not None
    assert job.delivery.targets == (Target(status=DELIVERED, attempts=1), Target())
    fresh = transitions.redelivered(LiveJob(failed), uploads=live.job.uploads, now=NOW)
    assert fresh.delivery is not None
    assert fresh.delivery.targets == (Target(), Target())
    assert fresh.uploads == live.job.uploads


def test_expired_urls_alone_are_erased() -> None:
    job = transitions.expired_urls_erased(with_two_uploads(), now=8e9)
    assert [upload.is_kept for upload in job.uploads] == [True, False]


def test_urls_of_a_replay_are_used_until_the_upload_has_begun() -> None:
    fresh = (Upload(url=f"{URL}-fresh", format=JSON),)
    waiting = running()
    assert transitions.uploads_replaced(waiting, uploads=fresh).uploads == fresh
    for begun in (running(has_result=True), running(delivery=one_target(attempts=1))):
        assert transitions.uploads_replaced(begun, uploads=fresh) is begun.job
    assert transitions.uploads_replaced(waiting, uploads=()) is waiting.job


def test_cancelled_job_uploads_nothing_and_keeps_only_the_webhook_url() -> None:
    job = CANCEL(running())
    (upload,) = job.uploads
    assert (upload.url, upload.headers, job.source_url) == ("", (), "")
    assert job.delivery is not None
    assert job.delivery.targets == (Target(status=GIVEN_UP, last_error="The job was cancelled."),)
    assert job.due_delivery(UPLOAD) is None
    assert job.due_delivery(WEBHOOK) is not None
    assert CANCEL(LiveJob(a_job())).source_url is None  # the audio was in the request


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (RuntimeError("It broke."), "It broke."),
        (RuntimeError(), "RuntimeError"),
        (RuntimeError(f"GET {URL} broke"), "GET https://b.example/k?… broke"),
    ],
)
def test_error_message_has_no_secrets(error: Exception, message: str) -> None:
    assert message_of(error) == message
    job = transitions.failed(running(), error, now=NOW, retention=RETENTION)
    assert (job.error, event_of(job)["data"]["error"]) == (message, message)
