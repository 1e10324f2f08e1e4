"""Everything a job needs, with a fake transcriber and real connections to this machine."""

from __future__ import annotations

import asyncio
import ssl
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Concatenate, Final, ParamSpec
from uuid import uuid4

from app.delivery.attempts import Clock
from app.delivery.client import open_client
from app.delivery.retry import RetryPolicy, RoundSchedule
from app.domain.access import AllowedHosts, WebhookSecret
from app.domain.formats import Rendering, ResponseFormat
from app.domain.job import Delivery, Job, JobStatus, Target, Upload
from app.domain.transcript import TranscriptionOptions
from app.jobs.registry import Registry
from app.jobs.retention import Retention
from app.jobs.system import JobLimits, LocalJobSystem, Surroundings
from app.service import create_transfers
from tests.support.fake_transcriber import FakeTranscriber
from tests.support.scripted_journal import ScriptedJournal
from tests.support.service_clock import FakeServiceClock
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from app.domain.job import LiveJob
    from app.jobs.delivery_schedule import DeliverySchedule
    from app.jobs.edits import Edits
    from app.jobs.estimate import Estimate
    from app.jobs.intake import Intake
    from app.jobs.journal import Journal
    from app.jobs.pipeline import Pipeline
    from app.jobs.recovery import Recovery
    from app.jobs.runner import Runner
    from app.jobs.spool import Spool
    from app.jobs.store import JobStore
    from app.jobs.subscriptions import SegmentSubscriptions
    from app.jobs.sweeper import Sweeper

P = ParamSpec("P")

AUDIO = b"RIFF and so on"


def a_job(**changes: Any) -> Job:
    """Return a background job with its audio in the request."""
    values: dict[str, Any] = {
        "id": str(uuid4()),
        "accepted_at": time.time(),
        "model": "small",
        "options": TranscriptionOptions(),
        "rendering": Rendering(),
    }
    return Job(**values | changes)


SECRET: Final = WebhookSecret.parse("whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYg==")


def upload_to(url: str, response_format: ResponseFormat = ResponseFormat.DOCUMENT) -> dict[str, Any]:
    """Return the fields of a job whose result is to be uploaded to ``url``."""
    return {"uploads": (Upload(url=url, format=response_format),), "delivery": Delivery()}


def one_target(*, rounds: int = 0, next_attempt_at: float | None = None, **target: Any) -> Delivery:
    """Return the state of a delivery to one URL, whose ``Target`` has the other values."""
    return Delivery(targets=(Target(**target),), rounds=rounds, next_attempt_at=next_attempt_at)


class RecordingRegistry(Registry):
    """Keeps every value that a job has had; ``removed`` is set once a job is forgotten."""

    def __init__(self) -> None:
        super().__init__()
        self.history: dict[str, list[LiveJob]] = {}
        self.removed = asyncio.Event()

    def add(self, job: Job) -> LiveJob:
        live = super().add(job)
        self.history[job.id] = [live]
        return live

    def update(
        self, job_id: str, change: Callable[Concatenate[LiveJob, P], LiveJob], *args: P.args, **kwargs: P.kwargs
    ) -> tuple[LiveJob, LiveJob]:
        before, after = super().update(job_id, change, *args, **kwargs)
        self.history[job_id].append(after)
        return before, after

    def remove(self, job_id: str) -> None:
        super().remove(job_id)
        self.removed.set()

    def statuses(self, job_id: str) -> list[JobStatus]:
        """Return the statuses that a job has had, without repetitions."""
        seen = [live.status for live in self.history[job_id]]
        return [status for before, status in zip([None, *seen], seen, strict=False) if status is not before]

    def phrases(self, job_id: str) -> list[str]:
        """Return the phrases that a job has shown, without repetitions."""
        seen = [live.phrase.value for live in self.history[job_id]]
        return [phrase for before, phrase in zip(["", *seen], seen, strict=False) if phrase != before]


@dataclass(kw_only=True)
class Rig:
    root: Path
    registry: RecordingRegistry
    store: JobStore
    spool: Spool
    edits: Edits
    transcriber: FakeTranscriber
    segments: SegmentSubscriptions
    estimate: Estimate
    pipeline: Pipeline
    deliveries: DeliverySchedule
    runner: Runner
    intake: Intake
    recovery: Recovery
    sweeper: Sweeper
    service_clock: FakeServiceClock
    waits: list[float] = field(default_factory=list)
    deaths: list[BaseException] = field(default_factory=list)

    async def submit(self, *, audio: bytes | None = AUDIO, references: tuple[bytes, ...] = (), **changes: Any) -> Job:
        """Submit a job, with its references and, unless it comes from a URL, its audio in the spool."""
        job = a_job(**changes)
        for number, reference in enumerate(references, start=1):
            await asyncio.to_thread(self.put_reference, job.id, number, reference)
        if audio is not None and job.source_url is None:
            await asyncio.to_thread(self.put_audio, job.id, audio)
        await self.intake.submit(job)
        return job

    def put_audio(self, job_id: str, audio: bytes) -> None:
        """Write audio to the spool as the API does. Blocks."""
        file = self.spool.create_audio(job_id)
        file.write(audio)
        file.close()
        self.spool.complete_audio(job_id)

    def put_reference(self, job_id: str, number: int, reference: bytes) -> None:
        """Write a reference to the spool as the API does. Blocks."""
        file = self.spool.create_reference(job_id, number)
        file.write(reference)
        file.close()

    async def ended(self, job: Job) -> Job:
        """Wait until nothing runs or is due for the job, and return it."""
        async with asyncio.timeout(60):
            await self.runner.outcome(job.id)
        await eventually(lambda: self.now(job).is_settled and not self.runner.is_running(job.id))
        return self.now(job)

    async def put_off(self, job: Job, *, rounds: int) -> Job:
        """Wait until this many rounds of a delivery have failed, and return the job."""

        def has_failed() -> bool:
            states = (self.now(job).delivery, self.now(job).webhook_delivery)
            return any(state is not None and state.rounds == rounds for state in states)

        await eventually(lambda: has_failed() and not self.runner.is_running(job.id))
        return self.now(job)

    def live(self, job: Job) -> LiveJob:
        return self.store.get(job.id)

    def now(self, job: Job) -> Job:
        """Return the durable value of a job as it is now."""
        return self.store.get(job.id).job

    def jobs(self) -> list[Job]:
        """Return the durable values of all jobs."""
        return [live.job for live in self.store.live_jobs()]

    def queued(self) -> list[str]:
        """Return the ids of the jobs that wait for their first slot, oldest first."""
        return [live.job.id for live in self.store.live_jobs() if live.status is JobStatus.QUEUED]

    async def drain(self, grace_seconds: float) -> None:
        await self.runner.drain(grace_seconds, arriving=self.intake.arriving_count)

    async def files(self, job: Job) -> list[str]:
        """Return the names of the files of the job."""
        return await asyncio.to_thread(self._names, job)

    def _names(self, job: Job) -> list[str]:
        return sorted(path.name for path in self.root.rglob("*") if path.parent.name == job.id)


@asynccontextmanager
async def open_rig(
    root: Path,
    *,
    slots: int = 3,
    max_queued: int = 1000,
    attempts: int = 3,
    max_age_seconds: float = 0.0,
    journal: Journal | None = None,
    service_clock: FakeServiceClock | None = None,
    now: Callable[[], float] = time.time,
    webhook_secret: WebhookSecret | None = SECRET,
    file_bytes: int = 1_000_000,
    spool_bytes: int = 0,
    forget: bool = True,
) -> AsyncIterator[Rig]:
    """Open a rig with one round of attempts, unless ``max_age_seconds`` allows more, and a journal in memory.

    Without ``forget`` everything stays as it is at the end, for another rig in the same folder.
    """
    journal, service_clock = journal or ScriptedJournal(), service_clock or FakeServiceClock()
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    registry, transcriber = RecordingRegistry(), FakeTranscriber(slots=slots)
    deaths: list[BaseException] = []
    async with open_client(
        allowed=AllowedHosts.parse("127.0.0.1"),
        connect_timeout_seconds=60.0,
        read_write_timeout_seconds=60.0,
        pool_timeout_seconds=60.0,
        max_connections=100,
        ssl_context=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
    ) as client:
        clock = Clock(sleep=sleep, now=now, random=lambda: 0.5)
        limits = JobLimits(
            slots=slots,
            queued=max_queued,
            file_bytes=file_bytes,
            spool_bytes=spool_bytes,
            attempts=RetryPolicy(attempts=attempts),
            rounds=RoundSchedule(max_age_seconds=max_age_seconds),
            upload_seconds=60.0,
            download_seconds=60.0,
            retention=Retention(finished_seconds=3600.0, undelivered_seconds=604_800.0),
        )
        surroundings = Surroundings(
            transcriber=transcriber,
            transfers=create_transfers(client, limits, webhook_secret, clock=clock),
            limits=limits,
            service_clock=service_clock,
            clock=clock,
            on_death=deaths.append,
        )
        jobs = LocalJobSystem(root, surroundings, journal=journal, registry=registry)
        await asyncio.to_thread(jobs.spool.open)
        rig = Rig(
            root=root,
            registry=registry,
            store=jobs.store,
            spool=jobs.spool,
            edits=jobs.edits,
            transcriber=transcriber,
            segments=jobs.segments,
            estimate=jobs.estimate,
            pipeline=jobs.pipeline,
            deliveries=jobs.deliveries,
            runner=jobs.runner,
            intake=jobs.intake,
            recovery=jobs.recovery,
            sweeper=jobs.sweeper,
            service_clock=service_clock,
            waits=waits,
            deaths=deaths,
        )
        running = asyncio.create_task(jobs.deliveries.run())
        try:
            await jobs.recovery.restore()
            yield rig
        finally:
            for job in rig.jobs():
                if forget:
                    await jobs.intake.forget(job.id)
                else:
                    await jobs.runner.stop(job.id)
            running.cancel()
            await asyncio.wait([running])
            await asyncio.to_thread(journal.close)
    await asyncio.to_thread(jobs.spool.close)
