"""Everything a job needs, with a fake transcriber and real connections to this machine."""

from __future__ import annotations

import asyncio
import ssl
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from app.delivery.attempts import Clock
from app.delivery.network import open_client
from app.delivery.presigned import PresignedUploader
from app.delivery.retry import RetryPolicy
from app.delivery.targets import AllowedHosts
from app.domain.formats import Rendering, ResponseFormat
from app.domain.job import Delivery, Job, JobStatus, Upload
from app.domain.transcript import TranscriptionOptions
from app.jobs.download import AudioDownloader
from app.jobs.estimate import Estimate
from app.jobs.pipeline import Pipeline
from app.jobs.registry import Registry
from app.jobs.runner import Runner
from app.jobs.spool import Spool
from app.jobs.watchers import Watchers
from tests.support.fake_transcriber import FakeTranscriber

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

AUDIO = b"RIFF and so on"


def a_job(**changes: Any) -> Job:
    """A background job with its audio in the request."""
    values: dict[str, Any] = {
        "id": str(uuid4()),
        "accepted_at": time.time(),
        "model": "small",
        "options": TranscriptionOptions(),
        "rendering": Rendering(),
    }
    return Job(**values | changes)


def upload_to(url: str, response_format: ResponseFormat = ResponseFormat.DOCUMENT) -> dict[str, Any]:
    """What makes a job one whose result is to be PUT to ``url``."""
    return {"upload": Upload(url=url, rendering=Rendering(format=response_format)), "delivery": Delivery()}


class RecordingRegistry(Registry):
    """Remembers every value that a job has had; ``removed`` is set once one is forgotten."""

    def __init__(self) -> None:
        super().__init__()
        self.history: dict[str, list[Job]] = {}
        self.removed = asyncio.Event()

    def add(self, job: Job) -> Job:
        registered = super().add(job)
        if registered is job:
            self.history[job.id] = [job]
        return registered

    def update(self, job_id: str, change: Callable[[Job], Job]) -> Job:
        job = super().update(job_id, change)
        self.history[job_id].append(job)
        return job

    def remove(self, job_id: str) -> None:
        super().remove(job_id)
        self.removed.set()

    def statuses(self, job_id: str) -> list[JobStatus]:
        """The statuses that a job has had, each named once where it stayed the same."""
        seen = [job.status for job in self.history[job_id]]
        return [status for before, status in zip([None, *seen], seen, strict=False) if status is not before]

    def phrases(self, job_id: str) -> list[str]:
        seen = [job.progress.value for job in self.history[job_id]]
        return [phrase for before, phrase in zip(["", *seen], seen, strict=False) if phrase != before]


@dataclass(kw_only=True)
class Rig:
    root: Path
    registry: RecordingRegistry
    spool: Spool
    transcriber: FakeTranscriber
    estimate: Estimate
    pipeline: Pipeline
    runner: Runner
    waits: list[float] = field(default_factory=list)

    async def submit(self, *, audio: bytes | None = AUDIO, **changes: Any) -> Job:
        """A job that runs, with its audio in the spool unless it comes from a URL."""
        job = a_job(**changes)
        if audio is not None and job.source_url is None:
            await asyncio.to_thread(self._store, job.id, audio)
        self.runner.submit(job)
        return job

    def _store(self, job_id: str, audio: bytes) -> None:
        with self.spool.create_audio(job_id) as file:
            self.spool.write(file, audio)

    async def ended(self, job: Job) -> Job:
        """The job once nothing of it runs any more."""
        async with asyncio.timeout(10):
            await self.runner.outcome(job.id)
        return self.registry.get(job.id)

    def now(self, job: Job) -> Job:
        return self.registry.get(job.id)

    async def files(self, job: Job) -> list[str]:
        """The names of all that the job has on disk."""
        return await asyncio.to_thread(self._names, job)

    def _names(self, job: Job) -> list[str]:
        return sorted(path.name for path in self.root.rglob("*") if path.parent.name == job.id)


@asynccontextmanager
async def open_rig(root: Path, *, permits: int = 3, max_queued: int = 1000, attempts: int = 3) -> AsyncIterator[Rig]:
    spool = Spool(root)
    await asyncio.to_thread(spool.open)
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    clock, policy = Clock(sleep=sleep, random=lambda: 0.5), RetryPolicy(attempts=attempts)
    registry, estimate, transcriber = RecordingRegistry(), Estimate(permits=permits), FakeTranscriber(permits=permits)
    async with open_client(
        allowed=AllowedHosts.parse("127.0.0.1"),
        connect_timeout_seconds=5.0,
        read_write_timeout_seconds=5.0,
        pool_timeout_seconds=5.0,
        max_connections=100,
        ssl_context=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
    ) as client:
        pipeline = Pipeline(
            registry=registry,
            spool=spool,
            transcriber=transcriber,
            downloader=AudioDownloader(
                client, policy=policy, total_timeout_seconds=60.0, max_bytes=1_000_000, clock=clock
            ),
            uploader=PresignedUploader(client, policy=policy, total_timeout_seconds=60.0, clock=clock),
            estimate=estimate,
            watchers=Watchers(),
        )
        runner = Runner(registry=registry, spool=spool, pipeline=pipeline, estimate=estimate, max_queued=max_queued)
        rig = Rig(
            root=root,
            registry=registry,
            spool=spool,
            transcriber=transcriber,
            estimate=estimate,
            pipeline=pipeline,
            runner=runner,
            waits=waits,
        )
        try:
            yield rig
        finally:
            for job in registry.everything():
                await runner.forget(job.id)
    await asyncio.to_thread(spool.close)
