"""Nodes of a cluster in the test's own event loop, with fake transcribers and a real database."""

from __future__ import annotations

import asyncio
import ssl
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from app.cluster.system import ClusterJobSystem, ClusterOptions
from app.delivery.attempts import Clock
from app.delivery.client import open_client
from app.delivery.retry import RetryPolicy, RoundSchedule
from app.domain.access import AllowedHosts
from app.jobs import transitions
from app.jobs.retention import Retention
from app.jobs.service_clock import ServiceClock
from app.jobs.system import JobLimits, Surroundings
from app.service import create_transfers
from app.transcription.models import ModelRegistry
from tests.jobs.rig import AUDIO, SECRET, a_job
from tests.support.fake_transcriber import FakeTranscriber
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

    from app.domain.job import Job, LiveJob

CLUSTER_SECRET: Final = "0123456789abcdef0123456789abcdef"
MODEL: Final = "small"


@dataclass(kw_only=True)
class Node:
    """One node: its parts, and the jobs as it sees them. ``deaths`` are the errors that would end its process."""

    jobs: ClusterJobSystem
    transcriber: FakeTranscriber
    models: ModelRegistry
    deaths: list[BaseException] = field(default_factory=list)
    tasks: list[asyncio.Task[None]] = field(default_factory=list)

    async def submit(self, *, audio: bytes = AUDIO, **changes: Any) -> Job:
        """Submit a job with its audio, as the API does."""
        job = a_job(**{"model": MODEL, **changes})
        if job.source_url is None:
            job = await asyncio.to_thread(self._with_audio, job, audio)
        return await self.jobs.intake.submit(job)

    def _with_audio(self, job: Job, audio: bytes) -> Job:
        file = self.jobs.spool.create_audio(job.id)
        file.write(audio)
        file.close()
        return transitions.with_audio(job, self.jobs.spool.complete_audio(job.id))

    async def read(self, job: Job) -> LiveJob:
        """Return a job as any node would."""
        return await self.jobs.store.read(job.id)

    async def until(self, job: Job, *statuses: str) -> LiveJob:
        """Wait until the job is in one of ``statuses``, and return it."""

        async def has_status() -> bool:
            return (await self.read(job)).status in statuses

        await eventually(has_status)
        return await self.read(job)

    async def end(self) -> None:
        """End all tasks at once, as a crash does; what the database has of them stays."""
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


@dataclass(kw_only=True)
class Cluster:
    """A database and a shared folder for nodes."""

    url: str
    folder: Path
    stack: AsyncExitStack
    stale_seconds: float = 3.0
    retention_seconds: float = 3600.0
    max_age_seconds: float = 0.0
    started: int = 0

    async def start(self, role: str = "all", *, slots: int = 3, **options: Any) -> Node:
        """Start a node, which ends with the test."""
        self.started += 1
        return await self.stack.enter_async_context(
            open_node(self, role, slots=slots, scratch=self.folder / f"scratch-{self.started}", **options)
        )


@asynccontextmanager
async def open_node(
    cluster: Cluster, role: str, *, slots: int, scratch: Path, queued: int = 1000, models: Sequence[str] = (MODEL,)
) -> AsyncIterator[Node]:
    """Run a node until the block ends."""
    transcriber = FakeTranscriber(slots=slots)
    deaths: list[BaseException] = []

    async def sleep(_: float) -> None:
        await asyncio.sleep(0)

    clock = Clock(sleep=sleep, random=lambda: 0.0)
    limits = JobLimits(
        slots=slots,
        queued=queued,
        file_bytes=1_000_000,
        attempts=RetryPolicy(attempts=1),
        rounds=RoundSchedule(max_age_seconds=cluster.max_age_seconds),
        upload_seconds=60.0,
        download_seconds=60.0,
        retention=Retention(finished_seconds=cluster.retention_seconds, undelivered_seconds=604_800.0),
    )
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(
            open_client(
                allowed=AllowedHosts.parse("127.0.0.1"),
                connect_timeout_seconds=60.0,
                read_write_timeout_seconds=60.0,
                pool_timeout_seconds=60.0,
                max_connections=100,
                ssl_context=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
            )
        )
        jobs = ClusterJobSystem(
            scratch,
            ClusterOptions(
                role=role,
                database_url=cluster.url,
                spool_url=f"file://{cluster.folder}/objects",
                secrets=(CLUSTER_SECRET,),
                grace_seconds=0.0,
                stale_seconds=cluster.stale_seconds,
            ),
            Surroundings(
                transcriber=transcriber,
                transfers=create_transfers(client, limits, SECRET, clock=clock),
                limits=limits,
                service_clock=ServiceClock(),
                clock=clock,
                on_death=deaths.append,
            ),
        )
        registry = ModelRegistry(models[0], models[1:])
        node = Node(jobs=jobs, transcriber=transcriber, models=registry, deaths=deaths)
        await stack.enter_async_context(jobs.opened())
        node.tasks = [asyncio.create_task(work, name=name) for name, work in jobs.background()]
        await jobs.resume(node.models)
        try:
            yield node
        finally:
            for checkpoint in (transcriber.decoding, transcriber.on_model, transcriber.finishing, transcriber.leaving):
                checkpoint.release()
            await jobs.drain(0.0)
            await node.end()
        assert not deaths
