"""Crashes of nodes and of the database lose nothing that was accepted."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from app.cluster import database as database_module
from app.domain.errors import StorageUnavailable, UnknownJob
from app.domain.job import JobStatus
from tests.jobs.rig import upload_to
from tests.support.fake_transcriber import GREETING
from tests.support.fault_server import answer, fault_server
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from pathlib import Path

    from local_postgres import LocalPostgres

    from tests.cluster.nodes import Cluster, Node

pytestmark = [pytest.mark.anyio, pytest.mark.full(reason="starts nodes of a cluster")]

COMPLETED = JobStatus.COMPLETED
TERMINATE = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
    " AND datname = current_database()"
)


async def execute(node: Node, statement: str, *values: Any) -> list[tuple[Any, ...]]:
    """Run a statement as an operator could, and return its rows."""
    async with node.jobs._database.connection() as connection:
        cursor = await connection.execute(statement, values)
        return await cursor.fetchall() if cursor.description is not None else []


def results(folder: Path) -> list[Path]:
    return [path for path in (folder / "objects" / "results").rglob("*result.json") if path.is_file()]


async def test_first_result_wins_if_two_workers_have_the_same_job(cluster: Cluster) -> None:
    paused, api = await cluster.start("worker"), await cluster.start("api")
    paused.transcriber.finishing.hold()
    job = await api.submit()
    await paused.transcriber.finishing.reached()
    second = await cluster.start("worker")
    await second.jobs._tasks.transcribe(job.id, "")  # as if the other one had been taken for dead
    ended = await api.until(job, COMPLETED)
    paused.transcriber.finishing.release()
    await eventually(lambda: not paused.jobs.runner.is_running(job.id))
    assert len(paused.transcriber.calls) == len(second.transcriber.calls) == 1
    assert len(await asyncio.to_thread(results, cluster.folder)) == 1
    assert (await api.read(job)).job == ended.job
    await asyncio.to_thread(api.jobs.spool.result, job.id)


async def test_job_whose_task_is_lost_gets_another(cluster: Cluster) -> None:
    api = await cluster.start("api")
    job = await api.submit()
    await execute(api, "DELETE FROM procrastinate_jobs")
    await api.jobs._upkeep.keep_up()
    assert await execute(api, "SELECT count(*) FROM procrastinate_jobs") == [(1,)]
    await api.jobs._upkeep.keep_up()
    assert await execute(api, "SELECT count(*) FROM procrastinate_jobs") == [(1,)]
    await cluster.start("worker")
    await api.until(job, COMPLETED)


async def test_delivery_whose_task_is_lost_gets_another(cluster: Cluster) -> None:
    worker = await cluster.start("worker")
    async with fault_server(answer(200)) as target:
        job = await worker.submit(**upload_to(target.url("/result")))
        await eventually(lambda: worker.jobs.store.get(job.id).job.has_result)
        await execute(worker, "DELETE FROM procrastinate_jobs")
        await worker.jobs._upkeep.keep_up()
        api = await cluster.start("api")
        await api.until(job, COMPLETED)
        assert len(target.requests) == 1


async def test_work_outlasts_a_database_that_is_away(cluster: Cluster, postgres: LocalPostgres) -> None:
    api, worker = await cluster.start("api"), await cluster.start("worker")
    worker.transcriber.finishing.hold()
    job = await api.submit(owner="a")
    waiting = await api.submit(synchronous=True)
    outcome = asyncio.create_task(api.jobs.runner.outcome(waiting.id))
    await worker.transcriber.finishing.reached(2)
    await asyncio.to_thread(postgres.kill)
    try:
        worker.transcriber.finishing.release()
        with pytest.raises(StorageUnavailable):
            await api.jobs.store.find(job.id, owner="a")

        def is_noticed() -> bool:
            try:
                return api.jobs.store.queued_count < 0
            except StorageUnavailable:
                return True

        await eventually(is_noticed)
        with pytest.raises(StorageUnavailable):
            await api.submit()
    finally:
        await asyncio.to_thread(postgres.start)
    await api.until(job, COMPLETED)
    assert await outcome is None
    assert worker.transcriber.most_active == 2
    assert len(worker.transcriber.calls) == 2
    later = await api.submit()
    await api.until(later, COMPLETED)


async def test_sessions_of_a_server_that_takes_no_changes_are_replaced(
    cluster: Cluster, postgres: LocalPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database_module, "_CHECK_SECONDS", 0.5)
    node = await cluster.start("all")

    async def sessions() -> set[str]:
        statement = "SELECT pid FROM pg_stat_activity WHERE application_name = 'transcription-service'"
        condition = f" AND datname = '{cluster.url.rpartition('/')[2]}'"
        return set((await asyncio.to_thread(postgres.execute, statement + condition)).split())

    async def are_replaced() -> bool:
        return not before & await sessions()

    before = await sessions()
    await asyncio.to_thread(postgres.execute, "ALTER SYSTEM SET default_transaction_read_only = on")
    try:
        await asyncio.to_thread(postgres.execute, "SELECT pg_reload_conf()")
        await eventually(are_replaced)
        with pytest.raises(StorageUnavailable):
            await node.submit()
    finally:
        await asyncio.to_thread(postgres.execute, "ALTER SYSTEM RESET default_transaction_read_only")
        await asyncio.to_thread(postgres.execute, "SELECT pg_reload_conf()")
    job = await node.submit()
    await node.until(job, COMPLETED)


async def test_node_stops_while_the_database_is_away(cluster: Cluster, postgres: LocalPostgres) -> None:
    node = await cluster.start("all")
    await asyncio.to_thread(postgres.kill)
    try:
        async with asyncio.timeout(60):
            await node.jobs.drain(0.0)
    finally:
        await asyncio.to_thread(postgres.start)


async def test_outcome_is_learnt_although_notices_are_lost(cluster: Cluster) -> None:
    api, worker = await cluster.start("api"), await cluster.start("worker")
    worker.transcriber.on_model.hold()
    job = await api.submit(synchronous=True)
    outcome = asyncio.create_task(api.jobs.runner.outcome(job.id))
    await worker.transcriber.on_model.reached()
    await execute(api, TERMINATE)
    worker.transcriber.on_model.release()
    assert await outcome is None


async def test_stream_has_all_segments_although_those_in_the_database_are_lost(cluster: Cluster) -> None:
    api, worker = await cluster.start("api"), await cluster.start("worker")
    worker.transcriber.finishing.hold()
    job = await api.submit(synchronous=True, streamed=True)
    await worker.transcriber.finishing.reached()

    async def is_written() -> bool:
        return await execute(api, "SELECT count(*) FROM segments") == [(len(GREETING.segments),)]

    await eventually(is_written)
    await execute(api, "TRUNCATE segments, progress")  # as after the promotion of a standby
    with api.jobs.segments.subscribe(job.id) as segments:
        worker.transcriber.finishing.release()
        assert await api.jobs.runner.outcome(job.id) is None
        received = [segment for _ in GREETING.segments for segment in await segments.get() or ()]
        assert received == list(GREETING.segments)


async def test_lost_connection_has_running_work_shown_again_and_jobs_listed_again(cluster: Cluster) -> None:
    api, worker = await cluster.start("api"), await cluster.start("worker")
    worker.transcriber.finishing.hold()
    job = await api.submit(owner="a")
    await worker.transcriber.finishing.reached()

    async def is_shown() -> bool:
        return (await api.read(job)).status is JobStatus.PROCESSING and list(
            await api.jobs.segments.read_so_far(job.id)
        ) == list(GREETING.segments)

    await eventually(is_shown)
    await execute(api, "DELETE FROM progress")
    await execute(api, "DELETE FROM segments WHERE number = 0")
    assert await api.jobs.segments.read_so_far(job.id) == []
    seen = api.jobs.changes.latest
    assert api.jobs.changes.since(seen, owner="a") == []
    await execute(api, TERMINATE)
    await eventually(is_shown)
    await eventually(lambda: api.jobs.changes.since(seen, owner="a") is None)
    worker.transcriber.finishing.release()
    await api.until(job, COMPLETED)


async def test_request_ends_with_the_node_of_its_client(cluster: Cluster) -> None:
    gone, api = await cluster.start("api"), await cluster.start("api")
    job = await gone.submit(synchronous=True)
    await execute(api, "DELETE FROM nodes WHERE id = %s", gone.jobs.node)
    await api.jobs._upkeep.keep_up()
    with pytest.raises(UnknownJob):
        await api.read(job)
    assert await execute(api, "SELECT count(*) FROM procrastinate_jobs") == [(0,)]


async def test_tasks_of_a_dead_worker_go_back_to_the_queue(cluster: Cluster) -> None:
    api, worker = await cluster.start("api"), await cluster.start("worker")
    worker.transcriber.on_model.hold()
    job = await api.submit()
    await worker.transcriber.on_model.reached()
    await execute(api, "UPDATE procrastinate_workers SET last_heartbeat = now() - interval '1 hour'")
    await api.jobs._upkeep.keep_up()
    await eventually(lambda: len(worker.transcriber.calls) == 1)
    worker.transcriber.on_model.release()
    ended = await api.until(job, COMPLETED)
    assert ended.job.has_result


async def test_job_is_forgotten_after_its_retention(cluster: Cluster) -> None:
    cluster.retention_seconds = 0.0
    node = await cluster.start("all")
    job = await node.submit()

    async def is_forgotten() -> bool:
        await node.jobs._upkeep.keep_up()
        try:
            await node.read(job)
        except UnknownJob:
            return True
        return False

    async def has_no_files() -> bool:
        return not await asyncio.to_thread(results, cluster.folder)

    await eventually(is_forgotten)
    await eventually(has_no_files)


async def test_drained_worker_gives_its_jobs_to_another(cluster: Cluster) -> None:
    api, drained = await cluster.start("api"), await cluster.start("worker")
    drained.transcriber.on_model.hold()
    job = await api.submit()
    request = await api.submit(synchronous=True)
    outcome = asyncio.create_task(api.jobs.runner.outcome(request.id))
    await drained.transcriber.on_model.reached(2)
    await drained.jobs.drain(0.1)
    await cluster.start("worker")
    ended = await api.until(job, COMPLETED)
    assert ended.job.starts == 1
    assert await outcome is None


async def test_nothing_of_a_url_can_be_read_in_the_database(cluster: Cluster) -> None:
    api = await cluster.start("api")
    url = "http://127.0.0.1:9/secret-path?X-Amz-Signature=swordfish"
    await api.submit(**upload_to(url))
    for table in ("jobs", "procrastinate_jobs", "progress"):
        for (row,) in await execute(api, f"SELECT row_to_json(r)::text FROM {table} r"):  # noqa: S608
            assert "swordfish" not in row
            assert "secret-path" not in row


async def test_node_that_stands_still_in_a_transaction_loses_its_locks(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database_module, "_IDLE_SECONDS", 1)
    still, other = await cluster.start("api"), await cluster.start("api")
    job = await other.submit()

    async def stand_still() -> None:
        async with still.jobs._database.transaction() as connection:
            await connection.execute("SELECT FROM jobs FOR UPDATE")
            await cluster.start("worker")
            await other.until(job, COMPLETED)
            await connection.execute("SELECT")

    with pytest.raises(StorageUnavailable):
        await stand_still()
