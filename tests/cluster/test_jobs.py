"""Jobs whose client, worker and delivery are at different nodes."""

from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING

import pytest

from app.domain.errors import InvalidRequest, ShutDown, UndecodableAudio, UnknownJob
from app.domain.job import DeliveryStatus, JobStatus
from app.domain.usage import DAY_SECONDS, Usage
from app.jobs.registry import JobFilter
from tests.jobs.rig import upload_to
from tests.support.fake_transcriber import GREETING
from tests.support.fault_server import answer, fault_server
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from tests.cluster.nodes import Cluster, Node

pytestmark = [pytest.mark.anyio, pytest.mark.full(reason="starts nodes of a cluster")]

COMPLETED, FAILED, CANCELLED = JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELLED


@pytest.fixture
async def nodes(cluster: Cluster) -> tuple[Node, Node, Node]:
    """Two nodes for clients, and one that transcribes."""
    return await cluster.start("api"), await cluster.start("api"), await cluster.start("worker")


@pytest.mark.smoke
async def test_job_goes_from_one_node_through_another(nodes: tuple[Node, Node, Node]) -> None:
    first, second, worker = nodes
    job = await first.submit()
    ended = await second.until(job, COMPLETED)
    assert len(worker.transcriber.calls) == 1
    assert ended.job.starts == 1
    transcript, _ = await asyncio.to_thread(second.jobs.spool.result, job.id)
    assert transcript == GREETING


async def test_result_is_delivered_once(nodes: tuple[Node, Node, Node]) -> None:
    first, second, _ = nodes
    async with fault_server(answer(200)) as target:
        job = await first.submit(**upload_to(target.url("/result")))
        ended = await second.until(job, COMPLETED)
        assert ended.job.delivery is not None
        assert ended.job.delivery.status is DeliveryStatus.DELIVERED
        (request,) = target.requests
        assert json.loads(request.body)["job_id"] == job.id


async def test_round_that_failed_is_repeated_when_it_is_due(cluster: Cluster) -> None:
    cluster.max_age_seconds = 86_400.0
    node = await cluster.start("all")
    async with fault_server(answer(503, Retry_After="61"), answer(200)) as target:
        job = await node.submit(**upload_to(target.url("/result")))

        async def is_put_off() -> bool:
            delivery = (await node.read(job)).job.delivery
            return delivery is not None and delivery.rounds == 1

        await eventually(is_put_off)
        await _bring_forward(node)
        await node.until(job, COMPLETED)
        assert len(target.requests) == 2


async def test_client_gets_the_outcome_through_its_node(nodes: tuple[Node, Node, Node]) -> None:
    first, _, worker = nodes
    job = await first.submit(synchronous=True)
    assert await first.jobs.runner.outcome(job.id) is None
    assert first.jobs.store.get(job.id).job.has_result
    worker.transcriber.undecodable = UndecodableAudio("This is no audio.", code="no_audio")
    other = await first.submit(synchronous=True)
    error = await first.jobs.runner.outcome(other.id)
    assert isinstance(error, UndecodableAudio)
    assert (str(error), error.code, error.param) == ("This is no audio.", "no_audio", "file")


async def test_stream_gets_the_segments_of_another_node(nodes: tuple[Node, Node, Node]) -> None:
    first, _, worker = nodes
    worker.transcriber.finishing.hold()
    job = await first.submit(synchronous=True, streamed=True)
    with first.jobs.segments.subscribe(job.id) as segments:
        received = [segment for _ in GREETING.segments for segment in await segments.get() or ()]
        assert received == list(GREETING.segments)
        worker.transcriber.finishing.release()
        assert await first.jobs.runner.outcome(job.id) is None
        assert segments.empty()


async def test_progress_is_shown_on_other_nodes(nodes: tuple[Node, Node, Node]) -> None:
    first, second, worker = nodes
    worker.transcriber.finishing.hold()
    job = await first.submit(owner="a")
    await second.until(job, JobStatus.PROCESSING)

    async def is_shown() -> bool:
        live = await second.jobs.store.find(job.id, owner="a")
        return live.language == "german" and len(await second.jobs.segments.read_so_far(job.id)) == 2

    await eventually(is_shown)
    worker.transcriber.finishing.release()
    await first.until(job, COMPLETED)


async def test_subscription_notices_changes_of_another_node(nodes: tuple[Node, Node, Node]) -> None:
    first, second, worker = nodes
    worker.transcriber.on_model.hold()
    job = await first.submit(owner="a")
    with second.jobs.subscriptions.subscribe(job.id) as subscription:
        worker.transcriber.on_model.release()
        while (await second.jobs.store.find(job.id, owner="a")).job.is_active:
            assert await subscription.wait(60)
            subscription.clear()
    changes = second.jobs.changes.since(0, owner="a")
    assert changes is not None
    assert [change.job_id for change in changes] == [job.id]


async def test_cancelled_job_stops_on_its_worker(nodes: tuple[Node, Node, Node]) -> None:
    first, second, worker = nodes
    worker.transcriber.on_model.hold()
    job = await first.submit()
    await worker.transcriber.on_model.reached()
    await second.read(job)
    await second.jobs.intake.cancel(job.id)
    await eventually(lambda: worker.transcriber.cancelled == 1)
    assert (await first.read(job)).status is CANCELLED
    await eventually(lambda: not worker.jobs.runner.is_running(job.id))
    await eventually(lambda: _has_no_task(first))


async def test_forgotten_job_stops_on_its_worker(nodes: tuple[Node, Node, Node]) -> None:
    first, second, worker = nodes
    worker.transcriber.on_model.hold()
    job = await first.submit()
    await worker.transcriber.on_model.reached()
    await second.jobs.intake.forget(job.id)
    await eventually(lambda: worker.transcriber.cancelled == 1)
    with pytest.raises(UnknownJob):
        await first.read(job)
    await eventually(lambda: not worker.jobs.store.knows(job.id))


async def test_waiting_client_learns_that_its_job_is_gone(nodes: tuple[Node, Node, Node]) -> None:
    first, second, worker = nodes
    worker.transcriber.on_model.hold()
    job = await first.submit(synchronous=True)
    outcome = asyncio.create_task(first.jobs.runner.outcome(job.id))
    await worker.transcriber.on_model.reached()
    await second.jobs.intake.forget(job.id)
    assert isinstance(await outcome, ShutDown)


async def test_job_is_renamed_while_another_node_works_on_it(nodes: tuple[Node, Node, Node]) -> None:
    first, second, worker = nodes
    worker.transcriber.on_model.hold()
    job = await first.submit(owner="a")
    await worker.transcriber.on_model.reached()
    await second.jobs.intake.rename(job.id, "Interview")
    worker.transcriber.on_model.release()
    ended = await first.until(job, COMPLETED)
    assert ended.job.name == "Interview"
    page = await first.jobs.store.page(owner="a", wanted=JobFilter(text="VIEW"), limit=10)
    assert [live.job.id for live in page.jobs] == [job.id]


async def test_result_is_delivered_again_from_another_node(nodes: tuple[Node, Node, Node]) -> None:
    first, second, _ = nodes
    job = await first.submit()
    await second.until(job, COMPLETED)
    async with fault_server(answer(200)) as target:
        uploads = upload_to(target.url("/result"))["uploads"]
        await second.jobs.intake.redeliver(job.id, uploads)
        await first.until(job, COMPLETED)
        assert len(target.requests) == 1
    with pytest.raises(InvalidRequest):
        await second.jobs.intake.redeliver(job.id, ())


async def test_usage_without_a_job_is_known_to_all_nodes(cluster: Cluster) -> None:
    first, second = await cluster.start("all"), await cluster.start("all")
    today = int(time.time()) // DAY_SECONDS
    for seconds in (1.5, 2.0):
        first.jobs.store.add_usage("a", "demo", Usage(seconds, 1))
        first.jobs.store.add_usage("b", "demo", Usage(seconds, 1))
    assert first.jobs.store.usage.seconds("a", day=today) == 3.5
    await eventually(lambda: second.jobs.store.usage.seconds("a", day=today) == 3.5)
    await first.end()
    assert second.jobs.store.usage.seconds("b", day=today) == 3.5


async def test_same_key_on_two_nodes_at_once_makes_one_job(nodes: tuple[Node, Node, Node]) -> None:
    first, second, worker = nodes
    jobs = await asyncio.gather(*(node.submit(owner="a", idempotency_key="k") for node in (first, second) * 5))
    assert len({job.id for job in jobs}) == 1
    other = await first.submit(owner="b", idempotency_key="k")
    assert other.id != jobs[0].id
    await second.until(jobs[0], COMPLETED)
    await second.until(other, COMPLETED)
    assert len(worker.transcriber.calls) == 2


async def test_audio_from_a_url_is_downloaded_before_its_transcription(nodes: tuple[Node, Node, Node]) -> None:
    first, second, worker = nodes
    async with fault_server(answer(200, b"some audio")) as source:
        job = await first.submit(source_url=source.url("/audio"))
        ended = await second.until(job, COMPLETED)
    assert ended.job.source_url == ""
    assert ended.job.audio_bytes == len(b"some audio")
    assert len(worker.transcriber.calls) == 1


async def test_failed_download_fails_the_job(nodes: tuple[Node, Node, Node]) -> None:
    first, second, worker = nodes
    async with fault_server(answer(404)) as source:
        job = await first.submit(source_url=source.url("/audio"))
        ended = await second.until(job, FAILED)
    assert ended.job.error_type == "DownloadFailed"
    assert not worker.transcriber.calls


async def _has_no_task(node: Node) -> bool:
    async with node.jobs._database.connection() as connection:
        cursor = await connection.execute("SELECT FROM procrastinate_jobs")
        return await cursor.fetchone() is None


async def _bring_forward(node: Node) -> None:
    """Make the next round of all deliveries due, as if its time had come."""
    node.jobs._service_clock.continue_from(node.jobs._service_clock.seconds + 3600)
    async with node.jobs._database.connection() as connection:
        await connection.execute("UPDATE procrastinate_jobs SET scheduled_at = now() WHERE status = 'todo'")
