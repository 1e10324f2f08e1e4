"""Jobs whose result goes to several URLs, each in its format."""

from __future__ import annotations

import asyncio
import json
import logging
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

import pytest

from app.domain.errors import InvalidRequest, UndecodableAudio
from app.domain.formats import ResponseFormat
from app.domain.job import Delivery, DeliveryStatus, Job, JobStatus, Target, Upload
from app.jobs import transitions
from app.jobs.journal import Journal
from app.jobs.retention import Retention
from app.transcription.models import ModelRegistry
from tests.jobs.rig import open_rig
from tests.support.fault_server import answer, fault_server, never_answer, response_head
from tests.support.service_clock import FakeServiceClock
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from tests.jobs.rig import Rig
    from tests.support.fault_server import Behaviour, Connection, FaultServer

pytestmark = pytest.mark.anyio

_QUEUED, PROCESSING, COMPLETED, FAILED, CANCELLED = JobStatus
PENDING, DELIVERED, GIVEN_UP = DeliveryStatus
FORMATS: Final = (ResponseFormat.DOCUMENT, ResponseFormat.SRT, ResponseFormat.TEXT)
#: The Unix time at which the service clock of these tests is 0.
START: Final = 1_790_000_000.0


def a_rig(root: Path, service_clock: FakeServiceClock, **changes: Any) -> AbstractAsyncContextManager[Rig]:
    """Open a rig with rounds of one attempt at each target, for a day, and a journal in ``root``."""
    root.mkdir(exist_ok=True)
    values: dict[str, Any] = {"max_age_seconds": 86_400.0, "attempts": 1}
    return open_rig(
        root,
        journal=Journal(root / "journal.sqlite3", service_clock),
        service_clock=service_clock,
        now=lambda: START + service_clock.seconds,
        **values | changes,
    )


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    async with a_rig(tmp_path / "data", FakeServiceClock()) as opened:
        yield opened


@asynccontextmanager
async def targets(*behaviours: list[Behaviour]) -> AsyncIterator[list[FaultServer]]:
    """Start a server for each target."""
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(fault_server(*each)) for each in behaviours]


def upload_to_all(servers: list[FaultServer], *, ends: tuple[float | None, ...] = (None,) * 3) -> dict[str, Any]:
    """Return the fields of a job with an upload for each server; ``ends`` are those of the URLs."""
    uploads = tuple(
        Upload(url=server.url(f"/{chosen}?sig=secret"), format=chosen, expires_at=end)
        for server, chosen, end in zip(servers, FORMATS, ends, strict=True)
    )
    return {"uploads": uploads, "delivery": Delivery(targets=(Target(),) * len(uploads))}


def statuses(job: Job) -> list[DeliveryStatus]:
    assert job.delivery is not None
    return [target.status for target in job.delivery.targets]


def attempts(job: Job) -> list[int]:
    assert job.delivery is not None
    return [target.attempts for target in job.delivery.targets]


def kept(job: Job) -> list[bool]:
    return [upload.is_kept for upload in job.uploads]


def received(servers: list[FaultServer]) -> list[int]:
    return [len(server.requests) for server in servers]


async def test_every_url_receives_its_format(rig: Rig) -> None:
    async with targets([answer(200)], [answer(200)], [answer(200)]) as servers:
        job = await rig.ended(await rig.submit(**upload_to_all(servers)))
        bodies = [server.requests[0].body for server in servers]
        types = [server.requests[0].headers["content-type"] for server in servers]
    assert (job.status, job.error, received(servers)) == (COMPLETED, None, [1, 1, 1])
    assert (statuses(job), attempts(job), kept(job)) == ([DELIVERED] * 3, [1] * 3, [False] * 3)
    assert json.loads(bodies[0])["text"] == "Grüße an alle."
    assert bodies[1].startswith(b"1\n00:00:0")
    assert bodies[2].decode() == "Grüße an alle.\n"
    assert types == ["application/json", *["text/plain; charset=utf-8"] * 2]


@pytest.mark.parametrize("refusing", range(3))
async def test_refused_upload_fails_the_job_after_the_others(
    rig: Rig, caplog: pytest.LogCaptureFixture, refusing: int
) -> None:
    behaviours = [[answer(200)] for _ in FORMATS]
    behaviours[refusing] = [answer(403), answer(200)]
    async with targets(*behaviours) as servers:
        job = await rig.ended(await rig.submit(**upload_to_all(servers)))
        cause = f"HTTP 403 (attempt 1/1) to {servers[refusing].url(f'/{FORMATS[refusing]}')}"
        assert (job.status, job.error, job.error_type) == (FAILED, cause, "DeliveryFailed")
        assert statuses(job) == [GIVEN_UP if number == refusing else DELIVERED for number in range(3)]
        assert kept(job) == [number == refusing for number in range(3)]
        ends = [record.message for record in caplog.records if record.message.startswith("❌ Background job")]
        assert ends == [f"❌ Background job {job.id} failed: DeliveryFailed: {cause}"]
        assert "secret" not in caplog.text
        await rig.intake.redeliver(job.id, ())
        job = await rig.ended(job)
        assert received(servers) == [2 if number == refusing else 1 for number in range(3)]
    assert (job.status, job.error, statuses(job), kept(job)) == (COMPLETED, None, [DELIVERED] * 3, [False] * 3)


async def test_all_causes_of_a_failed_delivery_are_named(rig: Rig) -> None:
    async with targets([answer(403)], [answer(200)], [answer(404)]) as servers:
        job = await rig.ended(await rig.submit(**upload_to_all(servers)))
        causes = [
            f"HTTP {status} (attempt 1/1) to {servers[number].url(f'/{FORMATS[number]}')}"
            for number, status in ((0, 403), (2, 404))
        ]
    assert (job.status, job.error) == (FAILED, "; ".join(causes))


async def test_next_round_is_for_the_uploads_that_are_left(rig: Rig) -> None:
    async with targets([answer(200)], [answer(503), answer(503), answer(200)], [answer(200)]) as servers:
        job = await rig.submit(**upload_to_all(servers))
        for rounds, wait in ((1, 30), (2, 120)):
            now = await rig.put_off(job, rounds=rounds)
            assert (now.status, now.error, received(servers)) == (PROCESSING, None, [1, rounds, 1])
            assert (statuses(now), kept(now)) == ([DELIVERED, PENDING, DELIVERED], [False, True, False])
            assert now.delivery is not None
            assert now.delivery.next_attempt_at == START + rig.service_clock.seconds + wait
            rig.service_clock.advance(wait)
        now = await rig.ended(job)
        assert received(servers) == [1, 3, 1]
        assert len({request.body for request in servers[1].requests}) == 1
    assert (now.status, statuses(now), attempts(now)) == (COMPLETED, [DELIVERED] * 3, [1, 3, 1])
    assert now.delivery is not None
    assert (now.delivery.attempts, now.delivery.last_error, now.delivery.next_attempt_at) == (5, None, None)


async def test_longest_wait_that_a_store_asks_for_counts(rig: Rig) -> None:
    busy = [[answer(503), answer(200)], *([answer(429, Retry_After=wait), answer(200)] for wait in ("300", "90"))]
    async with targets(*busy) as servers:
        job = await rig.submit(**upload_to_all(servers))
        now = await rig.put_off(job, rounds=1)
        assert now.delivery is not None
        assert now.delivery.next_attempt_at == START + 300
        rig.service_clock.advance(300)
        assert (await rig.ended(job)).status is COMPLETED


async def test_url_that_expires_between_rounds_is_given_up_alone(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="app")
    behaviours = ([answer(503)], [answer(503), answer(503), answer(200)], [answer(200)])
    async with targets(*behaviours) as servers:
        job = await rig.submit(**upload_to_all(servers, ends=(START + 40, START + 5000, START + 10)))
        assert rig.now(job).upload_expires_at == START + 10
        await rig.put_off(job, rounds=1)
        assert rig.now(job).upload_expires_at == START + 40  # the one that ends sooner has been used
        rig.service_clock.advance(30)
        now = await rig.put_off(job, rounds=2)
        assert now.delivery is not None
        assert now.delivery.next_attempt_at == START + 150  # for the second: the first has no time left
        rig.service_clock.advance(10)
        last = f"HTTP 503 (attempt 1/1) to {servers[0].url('/document')}"
        await eventually(lambda: statuses(rig.now(job)) == [GIVEN_UP, PENDING, DELIVERED])
        now = rig.now(job)
        assert (now.status, now.upload_expires_at, received(servers)) == (PROCESSING, START + 5000, [2, 2, 1])
        assert now.delivery is not None
        assert now.delivery.next_attempt_at == START + 150
        assert kept(now) == [False, True, False]
        rig.service_clock.advance(110)
        now = await rig.ended(job)
        cause = (
            f"upload_presigned_url {servers[0].url('/document')} expired at 2026-09-21 14:14:00 UTC: sign a new URL "
            f"that is valid for longer. The last attempt before: {last}"
        )
    assert (now.status, now.error, statuses(now)) == (FAILED, cause, [GIVEN_UP, DELIVERED, DELIVERED])
    assert f"Job {job.id}: its result could not be delivered: {cause}" in caplog.messages
    with pytest.raises(InvalidRequest, match="send fresh ones for all 3 uploads as"):
        await rig.intake.redeliver(job.id, ())


async def test_uploads_are_given_up_at_the_maximum_age(tmp_path: Path) -> None:
    async with (
        a_rig(tmp_path / "data", FakeServiceClock(), max_age_seconds=40.0) as rig,
        targets([answer(503)], [answer(200)], [answer(503)]) as servers,
    ):
        job = await rig.submit(**upload_to_all(servers))
        await rig.put_off(job, rounds=1)
        rig.service_clock.advance(40)
        now = await rig.ended(job)
        urls = [servers[number].url(f"/{FORMATS[number]}") for number in (0, 2)]
        causes = [f"HTTP 503 (attempt 1/1) to {url}; given up after 1 attempt in 1 round" for url in urls]
    assert (now.status, now.error, statuses(now)) == (FAILED, "; ".join(causes), [GIVEN_UP, DELIVERED, GIVEN_UP])


async def test_failure_document_goes_to_every_url(rig: Rig) -> None:
    rig.transcriber.undecodable = UndecodableAudio("The file is no audio.")
    async with targets([answer(200)], [answer(403)], [answer(503), answer(200)]) as servers:
        job = await rig.submit(**upload_to_all(servers))
        await rig.put_off(job, rounds=1)
        rig.service_clock.advance(30)
        now = await rig.ended(job)
        assert received(servers) == [1, 1, 2]
        (body,) = {request.body for server in servers for request in server.requests}
        types = {request.headers["content-type"] for server in servers for request in server.requests}
    assert (json.loads(body)["error"], types) == ("The file is no audio.", {"application/json"})
    assert (now.status, now.error, kept(now)) == (FAILED, "The file is no audio.", [False] * 3)
    assert statuses(now) == [DELIVERED, GIVEN_UP, DELIVERED]


async def test_cancelled_job_keeps_what_has_arrived(rig: Rig) -> None:
    async with targets([answer(200)], [answer(503)], [answer(503)]) as servers:
        job = await rig.submit(**upload_to_all(servers))
        await rig.put_off(job, rounds=1)
        now = (await rig.intake.cancel(job.id)).job
    cancelled = "The job was cancelled."
    assert now.delivery is not None
    assert [target.last_error for target in now.delivery.targets] == [None, cancelled, cancelled]
    assert (now.status, now.delivery.last_error, kept(now)) == (CANCELLED, cancelled, [False] * 3)
    assert statuses(now) == [DELIVERED, GIVEN_UP, GIVEN_UP]


async def test_cancellation_during_an_upload_leaves_the_others_out(rig: Rig) -> None:
    async with targets([never_answer()], [answer(200)], [answer(200)]) as servers:
        job = await rig.submit(**upload_to_all(servers))
        await servers[0].came.wait()
        now = (await rig.intake.cancel(job.id)).job
        assert (now.status, statuses(now)) == (CANCELLED, [GIVEN_UP] * 3)
        assert rig.deliveries.running == 0
        assert [server.connections for server in servers] == [1, 0, 0]


async def test_cancellation_between_two_uploads_leaves_the_others_out(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="app")
    jobs: list[Job] = []

    async def cancel(connection: Connection) -> None:
        """Accept the upload while the job is cancelled, before its round is stopped."""
        await connection.read_request()
        now, retention = rig.service_clock.now(), Retention(finished_seconds=1.0, undelivered_seconds=1.0)
        await rig.store.commit(jobs[0].id, transitions.cancelled, now=now, retention=retention)
        await connection.send(response_head(200, {"Content-Length": "0"}))

    async with targets([cancel], [answer(200)], [answer(200)]) as servers:
        rig.transcriber.on_model.hold()
        jobs.append(await rig.submit(**upload_to_all(servers)))
        rig.transcriber.on_model.release()
        now = await rig.ended(jobs[0])
        await eventually(lambda: rig.deliveries.running == 0)
        assert [message[0] for message in caplog.messages].count("📤") == 1
        assert [server.connections for server in servers] == [1, 0, 0]
    assert (now.status, statuses(now)) == (CANCELLED, [GIVEN_UP] * 3)


async def test_upload_that_arrived_is_not_repeated_after_a_restart(tmp_path: Path) -> None:
    service_clock, again = FakeServiceClock(), FakeServiceClock()
    async with targets([answer(200)], [answer(503), answer(200)], [answer(200)]) as servers:
        async with a_rig(tmp_path / "data", service_clock, forget=False) as first:
            job = await first.submit(**upload_to_all(servers))
            await first.put_off(job, rounds=1)
        async with a_rig(tmp_path / "data", again) as second:
            assert (statuses(second.now(job)), kept(second.now(job))) == (
                [DELIVERED, PENDING, DELIVERED],
                [False, True, False],
            )
            again.advance(30)
            await second.recovery.resume(ModelRegistry("small"))
            now = await second.ended(job)
        assert received(servers) == [1, 2, 1]
    assert (now.status, statuses(now)) == (COMPLETED, [DELIVERED] * 3)


async def test_result_that_was_lost_goes_where_it_has_not_arrived(tmp_path: Path) -> None:
    service_clock, again = FakeServiceClock(), FakeServiceClock()
    async with targets([answer(200)], [answer(503), answer(200)], [answer(200)]) as servers:
        async with a_rig(tmp_path / "data", service_clock, forget=False) as first:
            job = await first.submit(**upload_to_all(servers))
            await first.put_off(job, rounds=1)
            await asyncio.to_thread(first.put_audio, job.id, b"RIFF and so on")
        (tmp_path / "data" / "jobs" / job.id / "result.json").unlink()
        async with a_rig(tmp_path / "data", again) as second:
            await second.recovery.resume(ModelRegistry("small"))
            now = await second.ended(job)
            assert len(second.transcriber.calls) == 1
        assert received(servers) == [1, 2, 1]
    assert (now.status, statuses(now)) == (COMPLETED, [DELIVERED] * 3)


async def test_fresh_urls_receive_everything_again(rig: Rig) -> None:
    fine = [answer(200)]
    async with targets(fine, [answer(403)], fine) as servers, targets(fine, fine, fine) as others:
        job = await rig.ended(await rig.submit(**upload_to_all(servers)))
        assert job.status is FAILED
        await rig.intake.redeliver(job.id, upload_to_all(others)["uploads"])
        job = await rig.ended(job)
        assert (received(servers), received(others)) == ([1, 1, 1], [1, 1, 1])
        assert [other.requests[0].body for other in others] == [server.requests[0].body for server in servers]
        assert (job.status, statuses(job), attempts(job)) == (COMPLETED, [DELIVERED] * 3, [1] * 3)
        with pytest.raises(InvalidRequest, match="send fresh ones for all 3 uploads as"):
            await rig.intake.redeliver(job.id, ())  # they have been erased, having been used
        assert rig.now(job) == job
