"""Deliveries over hours, days and restarts: when they are repeated, and when they are given up."""

from __future__ import annotations

import asyncio
import json
import logging
from itertools import cycle
from typing import TYPE_CHECKING, Any, Final

import pytest

from app.domain.errors import InvalidRequest, UndecodableAudio
from app.domain.formats import ResponseFormat
from app.domain.job import Delivery, DeliveryStatus, Job, JobStatus, Upload, Webhook
from app.jobs.journal import Journal
from app.jobs.system import DELIVERIES
from tests.jobs.rig import SECRET, open_rig, upload_to
from tests.support.fault_server import (
    answer,
    close_before_status,
    fault_server,
    never_answer,
    reset_before_status,
    response_head,
)
from tests.support.service_clock import FakeServiceClock
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from tests.jobs.rig import Rig
    from tests.support.fault_server import Behaviour, Connection, SeenRequest

pytestmark = pytest.mark.anyio

QUEUED, PROCESSING, COMPLETED, FAILED, CANCELLED = JobStatus
PENDING, DELIVERED, GIVEN_UP = DeliveryStatus
DAY: Final = 86_400.0
#: The Unix time at which the service_clock of these tests is 0.
START: Final = 1_790_000_000.0
DOCUMENT: Final = ResponseFormat.DOCUMENT


def a_days_rig(root: Path, **changes: Any) -> AbstractAsyncContextManager[Rig]:
    """Open a rig with rounds of one attempt each, for a day; the wall clock follows the service clock."""
    service_clock = changes.setdefault("service_clock", FakeServiceClock())
    values: dict[str, Any] = {"max_age_seconds": DAY, "attempts": 1, "now": lambda: START + service_clock.seconds}
    return open_rig(root, **values | changes)


def journalled(root: Path, service_clock: FakeServiceClock) -> Journal:
    root.mkdir(exist_ok=True)
    return Journal(root / "journal.sqlite3", service_clock)


def expiring(url: str, *, at: float) -> dict[str, Any]:
    """Return the fields of a job whose upload URL expires at ``at``."""
    return {"uploads": (Upload(url=url, format=DOCUMENT, expires_at=at),), "delivery": Delivery()}


def notifying(url: str) -> dict[str, Any]:
    return {"webhook": Webhook(url=url)}


def delivery_of(job: Job) -> Delivery:
    assert job.delivery is not None
    return job.delivery


def webhook_delivery_of(job: Job) -> Delivery:
    assert job.webhook_delivery is not None
    return job.webhook_delivery


def url_of(job: Job) -> str:
    (upload,) = job.uploads
    return upload.url


def held(event: asyncio.Event, status: int = 200) -> Behaviour:
    """Return a behaviour that responds once ``event`` is set."""

    async def behave(connection: Connection) -> None:
        await connection.read_request()
        await event.wait()
        await connection.send(response_head(status, {"Content-Length": "0"}))

    return behave


async def what_is_due_begins() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def nothing_begins(rig: Rig) -> None:
    await what_is_due_begins()
    assert rig.deliveries.running == 0


async def pass_time(rig: Rig, seconds: float) -> None:
    """Advance the service clock and wait for the rounds that are due then."""
    rig.service_clock.advance(seconds)
    await what_is_due_begins()
    await eventually(lambda: rig.deliveries.running == 0)


# The schedule.


async def test_rounds_follow_the_schedule_to_the_second(tmp_path: Path) -> None:
    async with a_days_rig(tmp_path) as rig, fault_server(answer(503)) as target:
        job = await rig.submit(**upload_to(target.url()))
        for number, wait in enumerate((30, 120, 600, 1800, 3600, 3600, 3600), start=1):
            state = delivery_of(await rig.put_off(job, rounds=number))
            assert (state.status, state.attempts, target.connections) == (PENDING, number, number)
            assert state.next_attempt_at == pytest.approx(START + rig.service_clock.seconds + wait)
            rig.service_clock.advance(wait - 1)
            await nothing_begins(rig)
            rig.service_clock.advance(1)


async def test_job_shows_when_its_upload_is_retried(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="app")
    async with a_days_rig(tmp_path, attempts=3) as rig, fault_server(answer(503)) as target:
        job = await rig.submit(**upload_to(target.url("/key?sig=secret")))
        now = await rig.put_off(job, rounds=1)
        assert (now.status, rig.live(job).phrase, now.has_result) == (PROCESSING, "Uploading results", True)
        assert (now.error, now.ended_at) == (None, None)
        state = delivery_of(now)
        assert (state.attempts, state.rounds, state.next_attempt_at) == (3, 1, START + 30)
        assert state.last_error == f"HTTP 503 (attempt 3/3) to {target.url('/key')}"
        assert "❌ All 3 upload attempts failed" in caplog.messages
        assert caplog.messages[-1].startswith(f"🔄 Job {job.id}: next round of upload attempts in 30s, at 2026-09-21 ")
        rig.service_clock.advance(30)
        assert delivery_of(await rig.put_off(job, rounds=2)).attempts == 6
        assert rig.waits == [2.0, 4.0, 2.0, 4.0]
        assert "secret" not in caplog.text


async def test_upload_url_is_erased_after_success_in_a_later_round(tmp_path: Path) -> None:
    async with (
        a_days_rig(tmp_path) as rig,
        fault_server(answer(503), close_before_status(), reset_before_status(), answer(200)) as target,
    ):
        job = await rig.submit(**upload_to(target.url("/key?sig=secret")))
        for number, wait in enumerate((30, 120, 600), start=1):
            await rig.put_off(job, rounds=number)
            rig.service_clock.advance(wait)
        now = await rig.ended(job)
    assert (now.status, now.error) == (COMPLETED, None)
    state = delivery_of(now)
    assert (state.status, state.attempts, state.last_error, state.next_attempt_at) == (DELIVERED, 4, None, None)
    assert url_of(now) == ""
    assert len({request.body for request in target.requests}) == 1


@pytest.mark.parametrize("asked", [61, 3600, 50_000])
async def test_long_retry_after_sets_the_time_of_the_next_round(tmp_path: Path, asked: int) -> None:
    async with (
        a_days_rig(tmp_path, attempts=3) as rig,
        fault_server(answer(429, Retry_After=str(asked)), answer(200)) as target,
    ):
        job = await rig.submit(**upload_to(target.url()))
        state = delivery_of(await rig.put_off(job, rounds=1))
        assert (state.attempts, state.next_attempt_at) == (1, START + asked)
        rig.service_clock.advance(asked - 1)
        await nothing_begins(rig)
        rig.service_clock.advance(1)
        assert (await rig.ended(job)).status is COMPLETED


async def test_short_retry_after_is_waited_for_within_the_round(tmp_path: Path) -> None:
    async with (
        a_days_rig(tmp_path, attempts=3) as rig,
        fault_server(answer(503, Retry_After="60"), answer(200)) as target,
    ):
        assert (await rig.ended(await rig.submit(**upload_to(target.url())))).status is COMPLETED
        assert rig.waits == [60.0]


@pytest.mark.parametrize("status", [301, 400, 403, 404, 412])
async def test_final_response_ends_the_delivery_in_any_round(tmp_path: Path, status: int) -> None:
    async with a_days_rig(tmp_path) as rig, fault_server(answer(503), answer(status)) as target:
        job = await rig.submit(**upload_to(target.url("/key")))
        await rig.put_off(job, rounds=1)
        rig.service_clock.advance(30)
        now = await rig.ended(job)
    assert (now.status, now.error_type, now.has_result) == (FAILED, "DeliveryFailed", True)
    assert now.error == f"HTTP {status} (attempt 1/1) to {target.url('/key')}"
    assert (delivery_of(now).status, delivery_of(now).attempts) == (GIVEN_UP, 2)
    assert url_of(now) != ""  # the owner may put it right, and have the result delivered again


async def test_waiting_delivery_has_no_task(tmp_path: Path) -> None:
    async with a_days_rig(tmp_path) as rig, fault_server(answer(503)) as target:
        before = len(asyncio.all_tasks())
        jobs = [await rig.submit(**upload_to(target.url())) for _ in range(60)]
        for job in jobs:
            await rig.put_off(job, rounds=1)
        await eventually(lambda: len(asyncio.all_tasks()) <= before)


# Giving up.


async def test_delivery_is_given_up_at_its_maximum_age(tmp_path: Path) -> None:
    async with a_days_rig(tmp_path, max_age_seconds=200.0) as rig, fault_server(answer(503)) as target:
        job = await rig.submit(**upload_to(target.url("/key")))
        for number, wait in enumerate((30, 120), start=1):
            await rig.put_off(job, rounds=number)
            rig.service_clock.advance(wait)
        assert delivery_of(await rig.put_off(job, rounds=3)).next_attempt_at is None  # it would come too late
        rig.service_clock.advance(49)
        await nothing_begins(rig)
        rig.service_clock.advance(1)
        now = await rig.ended(job)
    cause = f"HTTP 503 (attempt 1/1) to {target.url('/key')}"
    assert now.error == f"{cause}; given up after 3 attempts in 3 rounds"
    assert (now.status, now.error_type, now.has_result) == (FAILED, "DeliveryFailed", True)
    assert (delivery_of(now).status, delivery_of(now).attempts) == (GIVEN_UP, 3)
    assert delivery_of(now).last_error == now.error
    assert target.connections == 3


async def test_retry_after_beyond_the_maximum_age_is_not_waited_for(tmp_path: Path) -> None:
    async with a_days_rig(tmp_path) as rig, fault_server(answer(503, Retry_After=str(10**9))) as target:
        job = await rig.submit(**upload_to(target.url()))
        assert delivery_of(await rig.put_off(job, rounds=1)).next_attempt_at is None
        rig.service_clock.advance(DAY - 1)
        await nothing_begins(rig)
        rig.service_clock.advance(1)
        now = await rig.ended(job)
    assert (now.error or "").endswith("; given up after 1 attempt in 1 round")
    assert target.connections == 1


async def test_url_that_expires_between_rounds_fails_the_job_at_once(tmp_path: Path) -> None:
    async with a_days_rig(tmp_path) as rig, fault_server(answer(503)) as target:
        job = await rig.submit(**expiring(target.url("/key?sig=secret"), at=START + 100))
        await rig.put_off(job, rounds=1)
        rig.service_clock.advance(30)
        assert delivery_of(await rig.put_off(job, rounds=2)).next_attempt_at is None  # it would come too late
        rig.service_clock.advance(69)
        await nothing_begins(rig)
        assert rig.now(job).status is PROCESSING
        rig.service_clock.advance(1)
        now = await rig.ended(job)
    assert (now.status, now.error_type, now.has_result) == (FAILED, "DeliveryFailed", True)
    assert now.error == (
        "upload_presigned_url expired at 2026-09-21 14:15:00 UTC: sign a new URL that is valid for longer. "
        f"The last attempt before: HTTP 503 (attempt 1/1) to {target.url('/key')}"
    )
    assert (delivery_of(now).status, delivery_of(now).attempts) == (GIVEN_UP, 2)
    assert url_of(now) == ""
    assert target.connections == 2


async def test_url_that_expired_in_the_queue_is_not_tried(tmp_path: Path) -> None:
    async with a_days_rig(tmp_path) as rig, fault_server(answer(200)) as target:
        rig.transcriber.on_model.hold()
        job = await rig.submit(**expiring(target.url(), at=START + 100))
        await rig.transcriber.on_model.reached()
        rig.service_clock.advance(100)
        rig.transcriber.on_model.release()
        now = await rig.ended(job)
    assert now.status is FAILED
    assert (now.error or "").startswith("upload_presigned_url expired at ")
    assert "attempt before" not in (now.error or "")
    assert (url_of(now), target.connections) == ("", 0)


# Failure documents.


async def test_failure_document_is_delivered_in_rounds(tmp_path: Path) -> None:
    async with (
        a_days_rig(tmp_path) as rig,
        fault_server(answer(503), answer(503), answer(200)) as target,
        fault_server(answer(200)) as hook,
    ):
        rig.transcriber.undecodable = UndecodableAudio("The file is no audio.")
        job = await rig.submit(**upload_to(target.url("/key?sig=secret")), **notifying(hook.url()))
        now = await rig.put_off(job, rounds=1)
        assert (now.status, now.error, delivery_of(now).status) == (FAILED, "The file is no audio.", PENDING)
        await eventually(lambda: len(hook.requests) == 1)  # who waits for the event is not kept waiting
        rig.service_clock.advance(30)
        await rig.put_off(job, rounds=2)
        rig.service_clock.advance(120)
        now = await rig.ended(job)
    assert (now.status, now.error, now.error_type) == (FAILED, "The file is no audio.", "UndecodableAudio")
    assert (delivery_of(now).status, delivery_of(now).attempts, url_of(now)) == (DELIVERED, 3, "")
    (document,) = {request.body for request in target.requests}
    assert json.loads(document)["error"] == "The file is no audio."
    assert rig.registry.statuses(job.id) == [QUEUED, FAILED]


async def test_rejected_failure_document_is_given_up_and_its_url_erased(tmp_path: Path) -> None:
    async with a_days_rig(tmp_path) as rig, fault_server(answer(403)) as target:
        rig.transcriber.undecodable = UndecodableAudio("The file is no audio.")
        now = await rig.ended(await rig.submit(**upload_to(target.url("/key"))))
    assert (now.status, now.error) == (FAILED, "The file is no audio.")
    assert delivery_of(now).status is GIVEN_UP
    assert delivery_of(now).last_error == f"HTTP 403 (attempt 1/1) to {target.url('/key')}"
    assert (url_of(now), target.connections) == ("", 1)


# Webhooks.


def check_signed(request: SeenRequest) -> None:
    names = ("webhook-id", "webhook-timestamp", "webhook-signature")
    event_id, timestamp, signature = (request.headers[name] for name in names)
    assert signature == SECRET.signature(event_id, int(timestamp), request.body)


async def test_webhook_event_keeps_its_id_and_body_in_all_rounds(tmp_path: Path) -> None:
    async with a_days_rig(tmp_path) as rig, fault_server(answer(503), answer(500), answer(204)) as hook:
        job = await rig.submit(**notifying(hook.url("/hook?token=secret")))
        for number, wait in enumerate((30, 120), start=1):
            now = await rig.put_off(job, rounds=number)
            assert (now.status, webhook_delivery_of(now).status) == (COMPLETED, PENDING)
            rig.service_clock.advance(wait)
        now = await rig.ended(job)
    assert (webhook_delivery_of(now).status, webhook_delivery_of(now).attempts) == (DELIVERED, 3)
    assert now.webhook is not None
    assert (now.webhook.url, now.webhook.body) == ("", "")
    assert len({(request.headers["webhook-id"], request.body) for request in hook.requests}) == 1
    times = [int(request.headers["webhook-timestamp"]) - START for request in hook.requests]
    assert times == [0, 30, 150]
    for request in hook.requests:
        check_signed(request)
    event = json.loads(hook.requests[0].body)
    assert (event["type"], event["data"]["job_id"]) == ("job.completed", job.id)


async def test_webhook_event_is_given_up_after_a_day(tmp_path: Path) -> None:
    async with a_days_rig(tmp_path) as rig, fault_server(answer(503)) as hook:
        job = await rig.submit(**notifying(hook.url("/hook")))
        await rig.put_off(job, rounds=1)
        rig.service_clock.advance(DAY)
        now = await rig.ended(job)
    assert (now.status, now.error) == (COMPLETED, None)
    cause = f"HTTP 503 (attempt 1/1) to {hook.url('/hook')}"
    assert webhook_delivery_of(now).status is GIVEN_UP
    assert webhook_delivery_of(now).last_error == f"{cause}; given up after 1 attempt in 1 round"
    assert now.webhook is not None
    assert now.webhook.url == ""


async def test_webhook_event_without_a_secret_is_given_up(tmp_path: Path) -> None:
    async with a_days_rig(tmp_path, webhook_secret=None) as rig, fault_server(answer(200)) as hook:
        now = await rig.ended(await rig.submit(**notifying(hook.url())))
    assert (now.status, webhook_delivery_of(now).status) == (COMPLETED, GIVEN_UP)
    assert webhook_delivery_of(now).last_error == "WEBHOOK_SECRET is no longer set"
    assert hook.connections == 0


@pytest.mark.parametrize("status", [200, 410, 503])
async def test_second_end_during_a_webhook_round_is_sent_too(tmp_path: Path, status: int) -> None:
    """The delivery failed, its event is under way, and meanwhile the result is delivered again with success."""
    heard = asyncio.Event()
    async with (
        a_days_rig(tmp_path) as rig,
        fault_server(answer(403), answer(200)) as target,
        fault_server(held(heard, status), answer(200)) as hook,
    ):
        job = await rig.submit(**upload_to(target.url()), **notifying(hook.url()))
        await eventually(lambda: len(hook.requests) == 1)
        await rig.intake.redeliver(job.id, (Upload(url=target.url("/fresh"), format=DOCUMENT),))
        await eventually(lambda: rig.now(job).status is COMPLETED)
        heard.set()
        now = await rig.ended(job)
    assert [json.loads(request.body)["type"] for request in hook.requests] == ["job.failed", "job.completed"]
    assert len({request.headers["webhook-id"] for request in hook.requests}) == 2
    assert (webhook_delivery_of(now).status, webhook_delivery_of(now).attempts) == (DELIVERED, 1)


async def test_webhook_url_is_kept_while_the_job_may_end_again(tmp_path: Path) -> None:
    async with (
        a_days_rig(tmp_path) as rig,
        fault_server(answer(403), answer(200)) as target,
        fault_server(answer(200)) as hook,
    ):
        job = await rig.submit(**upload_to(target.url()), **notifying(hook.url()))
        assert (await rig.ended(job)).webhook == Webhook(
            url=hook.url(), event_id=hook.requests[0].headers["webhook-id"]
        )
        await rig.intake.redeliver(job.id, ())
        now = await rig.ended(job)
    assert now.webhook is not None
    assert (now.webhook.url, now.webhook.body) == ("", "")
    assert [json.loads(request.body)["type"] for request in hook.requests] == ["job.failed", "job.completed"]
    assert len({request.headers["webhook-id"] for request in hook.requests}) == 2


# Stopping.


async def test_number_of_running_rounds_is_limited(tmp_path: Path) -> None:
    async with a_days_rig(tmp_path) as rig, fault_server(never_answer()) as target:
        jobs = [await rig.submit(**upload_to(target.url())) for _ in range(DELIVERIES + 6)]
        await eventually(lambda: all(rig.now(job).has_result for job in jobs) and target.connections == DELIVERIES)
        assert rig.deliveries.running == DELIVERIES
        assert all(rig.runner.is_running(job.id) for job in jobs)  # the last ones are due, and wait for a place
        under_way = [job for job in jobs if rig.deliveries.is_running(job.id)]
        for number, job in enumerate(under_way[:3], start=1):
            await rig.intake.cancel(job.id)
            await eventually(lambda number=number: target.connections == DELIVERIES + number)  # type: ignore[misc]  # likewise
            assert rig.deliveries.running == DELIVERIES


async def test_client_with_hanging_stores_leaves_slots_for_others(tmp_path: Path) -> None:
    async with a_days_rig(tmp_path) as rig, fault_server(never_answer()) as stuck, fault_server(answer(200)) as good:
        slow = [await rig.submit(**upload_to(stuck.url()), owner="a") for _ in range(70)]
        await eventually(lambda: stuck.connections == 48)
        other = await rig.submit(**upload_to(good.url()), owner="b")
        assert (await rig.ended(other)).status == "completed"
        assert rig.deliveries.running == 48
        for number, job in enumerate([job for job in slow if rig.deliveries.is_running(job.id)][:5], start=1):
            await rig.intake.cancel(job.id)
            await eventually(lambda number=number: stuck.connections == 48 + number)  # type: ignore[misc]  # a loop's variable
        for job in slow:
            if rig.now(job).is_active:
                await rig.intake.cancel(job.id)
        await eventually(lambda: rig.deliveries.running == 0)


async def test_stopped_delivery_continues_when_it_is_scheduled_again(tmp_path: Path) -> None:
    async with a_days_rig(tmp_path) as rig, fault_server(never_answer(), answer(200)) as target:
        job = await rig.submit(**upload_to(target.url()))
        await target.came.wait()
        await rig.deliveries.stop(job.id)
        assert not rig.deliveries.is_running(job.id)
        assert rig.now(job).has_delivery_due
        rig.deliveries.add(job.id)
        assert (await rig.ended(job)).status is COMPLETED
        rig.deliveries.add(job.id)
        rig.deliveries.add("one that never was")
        await nothing_begins(rig)


async def test_drain_finishes_due_rounds_and_begins_no_later_ones(tmp_path: Path) -> None:
    heard = asyncio.Event()
    async with a_days_rig(tmp_path) as rig, fault_server(answer(503), held(heard)) as target:
        later = await rig.submit(**upload_to(target.url("/later")))
        await rig.put_off(later, rounds=1)
        job = await rig.submit(**upload_to(target.url("/now")))
        await eventually(lambda: rig.deliveries.is_running(job.id))
        draining = asyncio.create_task(rig.deliveries.drain(asyncio.get_running_loop().time() + 30))
        await asyncio.sleep(0)
        heard.set()
        async with asyncio.timeout(60):
            await draining
        assert rig.now(job).status is COMPLETED
        rig.service_clock.advance(30)
        await nothing_begins(rig)
        assert rig.now(later).has_delivery_due


async def test_drain_cancels_slow_rounds_and_leaves_them_due(tmp_path: Path) -> None:
    async with a_days_rig(tmp_path) as rig, fault_server(never_answer()) as target:
        job = await rig.submit(**upload_to(target.url()))
        await target.came.wait()
        async with asyncio.timeout(60):
            await rig.deliveries.drain(asyncio.get_running_loop().time() + 0.05)
        assert rig.deliveries.running == 0
        assert rig.now(job).has_delivery_due
        assert (rig.now(job).status, delivery_of(rig.now(job)).rounds) == (PROCESSING, 0)


async def test_cancelled_job_is_not_delivered_again(tmp_path: Path) -> None:
    async with a_days_rig(tmp_path) as rig, fault_server(answer(503)) as target:
        job = await rig.submit(**upload_to(target.url()))
        await rig.put_off(job, rounds=1)
        now = (await rig.intake.cancel(job.id)).job
        assert (now.status, delivery_of(now).status, url_of(now)) == (CANCELLED, GIVEN_UP, "")
        assert delivery_of(now).last_error == "The job was cancelled."
        rig.service_clock.advance(DAY)
        await nothing_begins(rig)
    assert target.connections == 1


async def test_forgotten_job_is_not_delivered_again(tmp_path: Path) -> None:
    async with a_days_rig(tmp_path) as rig, fault_server(answer(503)) as target:
        job = await rig.submit(**upload_to(target.url()))
        await rig.put_off(job, rounds=1)
        await rig.intake.forget(job.id)
        rig.service_clock.advance(DAY)
        await nothing_begins(rig)
        assert rig.deaths == []
    assert target.connections == 1


# Through a restart.


def down_until(event: asyncio.Event) -> Behaviour:
    """Return a behaviour that fails in one way after another until ``event`` is set."""
    ways = cycle([answer(503), close_before_status(), reset_before_status(), answer(429)])

    async def behave(connection: Connection) -> None:
        await (answer(200) if event.is_set() else next(ways))(connection)

    return behave


async def test_everything_is_delivered_after_an_outage_and_a_restart(
    tmp_path: Path,
) -> None:
    up, service_clock, again = asyncio.Event(), FakeServiceClock(), FakeServiceClock()
    async with fault_server(down_until(up)) as target, fault_server(down_until(up)) as hook:
        async with a_days_rig(
            tmp_path, service_clock=service_clock, journal=journalled(tmp_path, service_clock), forget=False
        ) as first:
            jobs = [await first.submit(**upload_to(target.url("/result")), **notifying(hook.url())) for _ in range(2)]
            for job in jobs:
                await first.put_off(job, rounds=1)
            first.transcriber.error = UndecodableAudio("No.")
            jobs.append(await first.submit(**upload_to(target.url("/failure")), **notifying(hook.url())))
            await first.put_off(jobs[2], rounds=1)
            for _ in range(6):
                await pass_time(first, 300)
        async with a_days_rig(tmp_path, service_clock=again, journal=journalled(tmp_path, again)) as second:
            assert again.seconds == 1800
            assert [second.now(job).status for job in jobs] == [PROCESSING, PROCESSING, FAILED]
            for _ in range(6):
                await pass_time(second, 300)
            assert not any(second.now(job).is_settled for job in jobs)
            up.set()
            for _ in range(12):
                await pass_time(second, 300)
            found = [second.now(job) for job in jobs]
            assert second.transcriber.calls == []
    assert [job.status for job in found] == [COMPLETED, COMPLETED, FAILED]
    assert [delivery_of(job).status for job in found] == [DELIVERED] * 3
    assert [webhook_delivery_of(job).status for job in found] == [DELIVERED] * 3
    assert [url_of(job) for job in found] == [""] * 3
    for path, count in (("/result", 2), ("/failure", 1)):
        bodies = {request.body for request in target.requests if request.target.startswith(path)}
        assert len(bodies) == count
    events = {(request.headers["webhook-id"], request.body) for request in hook.requests}
    assert sorted(json.loads(body)["type"] for _, body in events) == ["job.completed", "job.completed", "job.failed"]


async def failed_over_a_restart(
    root: Path, url: str, *, expires_at: float | None, between: Callable[[FakeServiceClock], float]
) -> tuple[Job, AbstractAsyncContextManager[Rig]]:
    """Return a job whose first round failed, and the next process, whose wall clock shows ``between``."""
    service_clock = FakeServiceClock()
    async with a_days_rig(
        root, service_clock=service_clock, journal=journalled(root, service_clock), forget=False
    ) as first:
        wanted = upload_to(url) if expires_at is None else expiring(url, at=expires_at)
        job = await first.submit(**wanted)
        await first.put_off(job, rounds=1)
    again = FakeServiceClock()
    return job, a_days_rig(root, service_clock=again, journal=journalled(root, again), now=lambda: between(again))


async def test_result_can_be_redelivered_elsewhere_after_giving_up(tmp_path: Path) -> None:
    async with fault_server(answer(503)) as target, fault_server(answer(200)) as other:
        job, following = await failed_over_a_restart(
            tmp_path, target.url("/key"), expires_at=None, between=lambda service_clock: START + service_clock.seconds
        )
        async with following as rig:
            while rig.now(job).is_active:
                await pass_time(rig, 600)
            assert rig.service_clock.seconds == pytest.approx(DAY, abs=1200)
            now = rig.now(job)
            attempts = delivery_of(now).attempts
            assert 25 <= attempts <= 31
            cause = f"HTTP 503 (attempt 1/1) to {target.url('/key')}"
            assert now.error == f"{cause}; given up after {attempts} attempts in {attempts} rounds"
            assert target.connections == attempts
            again = await rig.intake.redeliver(job.id, (Upload(url=other.url("/fresh"), format=DOCUMENT),))
            assert (again.status, again.phrase) == (PROCESSING, "Uploading results")
            now = await rig.ended(job)
            assert (now.status, now.error, now.error_type) == (COMPLETED, None, None)
            assert (delivery_of(now).status, delivery_of(now).attempts) == (DELIVERED, 1)
            assert rig.transcriber.calls == []
    assert other.requests[0].body == target.requests[0].body


async def test_url_that_expired_during_downtime_needs_a_fresh_one(tmp_path: Path) -> None:
    async with fault_server(answer(503)) as target, fault_server(answer(200)) as other:
        job, following = await failed_over_a_restart(
            tmp_path,
            target.url("/key"),
            expires_at=START + 7200,
            between=lambda service_clock: START + 9999 + service_clock.seconds,
        )
        async with following as rig:
            now = await rig.ended(job)
            assert (now.status, now.has_result, url_of(now)) == (FAILED, True, "")
            assert (now.error or "").startswith("upload_presigned_url expired at 2026-09-21 16:13:20 UTC: sign a new ")
            assert target.connections == 1
            with pytest.raises(InvalidRequest, match="send a fresh one as"):
                await rig.intake.redeliver(job.id, ())
            assert rig.now(job) == now
            await rig.intake.redeliver(job.id, (Upload(url=other.url("/fresh"), format=DOCUMENT),))
            now = await rig.ended(job)
            assert (now.status, now.error, url_of(now)) == (COMPLETED, None, "")
            assert rig.transcriber.calls == []


async def test_delivery_due_during_downtime_begins_at_once(tmp_path: Path) -> None:
    async with fault_server(answer(503), answer(200)) as target:
        job, following = await failed_over_a_restart(
            tmp_path, target.url(), expires_at=None, between=lambda service_clock: START + 3600 + service_clock.seconds
        )
        async with following as rig:
            assert (await rig.ended(job)).status is COMPLETED
            assert rig.service_clock.seconds == 0


# Delivering again.


async def test_failed_redelivery_can_be_repeated(tmp_path: Path) -> None:
    async with a_days_rig(tmp_path) as rig, fault_server(answer(403), answer(403), answer(200)) as target:
        job = await rig.submit(**upload_to(target.url("/key")))
        assert (await rig.ended(job)).status is FAILED
        await rig.intake.redeliver(job.id, ())
        assert (await rig.ended(job)).status is FAILED
        await rig.intake.redeliver(job.id, ())
        now = await rig.ended(job)
    assert (now.status, now.error, target.connections) == (COMPLETED, None, 3)
    assert rig.registry.statuses(job.id) == [QUEUED, PROCESSING, FAILED, PROCESSING, FAILED, PROCESSING, COMPLETED]


async def test_redelivery_has_its_own_maximum_age(tmp_path: Path) -> None:
    """A day from when it was asked for, whatever was tried before."""
    async with a_days_rig(tmp_path) as rig, fault_server(answer(503)) as target:
        job = await rig.submit(**upload_to(target.url("/key")))
        await rig.put_off(job, rounds=1)
        rig.service_clock.advance(DAY)
        assert (await rig.ended(job)).status is FAILED
        await rig.intake.redeliver(job.id, ())
        state = delivery_of(await rig.put_off(job, rounds=1))
        assert (state.status, state.attempts, state.next_attempt_at) == (PENDING, 1, START + DAY + 30)


async def test_redelivery_that_is_cancelled_stays_cancelled(tmp_path: Path) -> None:
    async with a_days_rig(tmp_path) as rig, fault_server(answer(403), answer(503)) as target:
        job = await rig.submit(**upload_to(target.url("/key")))
        assert (await rig.ended(job)).status is FAILED
        await rig.intake.redeliver(job.id, ())
        await rig.put_off(job, rounds=1)
        assert (await rig.intake.cancel(job.id)).status is CANCELLED
        with pytest.raises(InvalidRequest, match="was cancelled: submit it again"):
            await rig.intake.redeliver(job.id, (Upload(url=target.url("/fresh"), format=DOCUMENT),))
        rig.service_clock.advance(DAY)
        await nothing_begins(rig)
