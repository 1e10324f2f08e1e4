"""The parts that work on jobs in a cluster, wired: those of one node."""

from __future__ import annotations

import asyncio
import logging
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from uuid import uuid4

from app.cluster import schema
from app.cluster.counts import ClusterCounts
from app.cluster.database import Database
from app.cluster.nodes import LivingNodes, NodeState, Presence, SharedEstimate
from app.cluster.notices import Notices
from app.cluster.objects import ObjectSpool
from app.cluster.queue import DELIVER, FETCH, STALE_SECONDS, Lane, Loop, TaskQueue, queue_of
from app.cluster.records import Records
from app.cluster.runner import ClusterRunner, Downloads, QueuedDeliveries, TaskRunner
from app.cluster.soft_state import SharedSegments, SoftState
from app.cluster.store import TRANSCRIBE, ClusterStore, Shared
from app.cluster.tasks import Tasks
from app.cluster.upkeep import Upkeep
from app.domain.errors import StorageUnavailable
from app.domain.job import LiveJob
from app.jobs.audio import ReceivedAudio
from app.jobs.pipeline import DOWNLOADS
from app.jobs.recovery import Recovered
from app.jobs.registry import Registry
from app.jobs.system import DELIVERIES, JobSystem

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine, Iterator
    from pathlib import Path
    from uuid import UUID

    from app.domain.job import DeliveryKind, Job
    from app.jobs.estimate import Capacity
    from app.jobs.system import Surroundings
    from app.transcription.models import ModelRegistry

logger = logging.getLogger(__name__)

#: The tasks that a worker takes beyond its slots, so that there are windows to fill its batches: of the queues for
#: waiting clients and short files, and of the queue for long ones.
_SHORT_AHEAD: Final = 8
_LONG_AHEAD: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterOptions:
    """The settings of a node: ``role`` is ``all``, ``api`` or ``worker``; the first of ``secrets`` encrypts jobs."""

    role: str
    database_url: str
    spool_url: str
    secrets: tuple[str, ...]
    grace_seconds: float
    stale_seconds: float = STALE_SECONDS

    @property
    def serves_clients(self) -> bool:
        return self.role != "worker"

    @property
    def transcribes(self) -> bool:
        return self.role != "api"


class _NothingRecovered:
    """The start of a node, which continues nothing of its own: the queue has the jobs of all."""

    def __init__(self) -> None:
        self.recovered = Recovered()


class ClusterJobSystem(JobSystem):
    """The parts of one node, with the scratch folder ``scratch``."""

    estimate: SharedEstimate
    segments: SharedSegments
    store: ClusterStore
    spool: ObjectSpool

    def __init__(self, scratch: Path, options: ClusterOptions, surroundings: Surroundings) -> None:
        super().__init__(surroundings)
        self.node: UUID = uuid4()
        self._nodes = LivingNodes(self.node, state=self._state, stale_seconds=options.stale_seconds)
        self.estimate = SharedEstimate(slots=self._limits.slots, nodes=self._nodes)
        self.recovery = _NothingRecovered()
        self._options = options
        self._models: ModelRegistry | None = None
        self._model_is_loaded = asyncio.Event()
        registry = Registry()

        self._database = Database(options.database_url)
        self._queue = TaskQueue(
            self._database, stale_seconds=options.stale_seconds, grace_seconds=options.grace_seconds
        )
        self._counts = ClusterCounts(self._database, self._nodes)
        self._soft_state = SoftState(self._database, registry)
        self.segments = SharedSegments(self._database, registry, self._soft_state)
        records = Records(options.secrets, retention=self._limits.retention)
        self.store = ClusterStore(
            Shared(
                database=self._database,
                records=records,
                queue=self._queue,
                counts=self._counts,
                soft_state=self._soft_state,
                segments=self.segments,
                node=self.node,
                seconds_until=self._seconds_until,
            ),
            registry=registry,
            subscriptions=self.subscriptions,
            changes=self.changes,
            emit=surroundings.emit,
        )
        self.spool = ObjectSpool(
            options.spool_url,
            scratch,
            space=self._space_in(scratch),
            received_audio=lambda job_id: _received(self.store.get(job_id).job),
            result_name=lambda job_id: self.store.get(job_id).job.result_name,
            corrections_name=lambda job_id: self.store.get(job_id).job.corrections_name,
        )
        self.deliveries = QueuedDeliveries(
            store=self.store,
            rounds=self.rounds,
            service_clock=self._service_clock,
            slots=DELIVERIES,
            on_death=surroundings.on_death,
        )
        transcriptions, downloads = (
            TaskRunner(
                store=self.store,
                spool=self.spool,
                pipeline=steps,
                deliveries=self.deliveries,
                retention=self._limits.retention,
                service_clock=self._service_clock,
                on_death=surroundings.on_death,
            )
            for steps in (self.pipeline, Downloads(self.pipeline))
        )
        self.runner = ClusterRunner(
            store=self.store,
            database=self._database,
            queue=self._queue,
            runners=(transcriptions, downloads),
            subscriptions=self.subscriptions,
            segments=self.segments,
            spool=self.spool,
            pipeline=self.pipeline,
            deliveries=self.deliveries,
            retention=self._limits.retention,
            service_clock=self._service_clock,
            on_death=surroundings.on_death,
        )
        self._tasks = Tasks(
            self.store,
            transcriptions=transcriptions,
            downloads=downloads,
            rounds=self.rounds,
            service_clock=self._service_clock,
        )
        self._upkeep = Upkeep(
            self._database,
            queue=self._queue,
            records=records,
            store=self.store,
            intake=self.intake,
            spool=self.spool,
            service_clock=self._service_clock,
            stale_seconds=options.stale_seconds,
        )
        self._presence = Presence(
            self._database, self.node, state=self._state, interval_seconds=options.stale_seconds / 3
        )
        self._notices = Notices(self._database, handle=self.store.refresh, catch_up=self.store.catch_up)

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        """Connect to the database and the object store during the block.

        Raises:
            ServiceError: they can't be used.
        """
        async with AsyncExitStack() as stack:
            await asyncio.to_thread(self.spool.open)
            stack.push_async_callback(asyncio.to_thread, self.spool.close)
            await self._database.open()
            stack.push_async_callback(self._database.close)
            await schema.check(self._database)
            await self._upkeep.set_clock()
            await self._counts.refresh()
            await self._presence.show()
            stack.push_async_callback(self._leave)
            await self._queue.open()
            stack.push_async_callback(self._queue.close)
            self._queue.register(TRANSCRIBE, self._tasks.transcribe)
            self._queue.register(FETCH, self._tasks.download)
            self._queue.register(DELIVER, self._tasks.deliver)
            yield

    def background(self) -> Iterator[tuple[str, Coroutine[None, None, None]]]:
        yield "notices", self._notices.run()
        yield "counts", self._counts.run()
        yield "progress", self._soft_state.run()
        yield "presence", self._presence.run()
        yield "upkeep", self._upkeep.run()
        yield "tasks", self._work()

    async def resume(self, models: ModelRegistry) -> None:
        if self._options.transcribes:
            self._models = models
        else:
            self._nodes.show_in(models)
        self._model_is_loaded.set()

    def capacity(self) -> Capacity:
        return self._nodes.capacity()

    async def drain(self, grace_seconds: float) -> None:
        await super().drain(grace_seconds)
        await self._queue.drained()

    async def _work(self) -> None:
        """Run the worker loops of this node's role; those that need no model don't wait for it."""
        async with asyncio.TaskGroup() as group:
            if self._options.serves_clients:
                self._start(group, Loop(name=FETCH, queues=[FETCH], tasks=DOWNLOADS))
                self._start(group, Loop(name=DELIVER, queues=[DELIVER], tasks=DELIVERIES))
            await self._model_is_loaded.wait()
            if self._models is not None:
                slots, names = self._limits.slots, [state.name for state in self._models.states]
                short = [queue_of(lane, name) for name in names for lane in (Lane.NOW, Lane.SHORT)]
                long = [queue_of(Lane.LONG, name) for name in names]
                self._start(group, Loop(name="short", queues=short, tasks=slots + _SHORT_AHEAD))
                self._start(group, Loop(name="long", queues=long, tasks=slots + _LONG_AHEAD))

    def _start(self, group: asyncio.TaskGroup, loop: Loop) -> None:
        group.create_task(self._queue.run(loop), name=f"worker loop {loop.name}")

    def _state(self) -> NodeState:
        return NodeState(
            role=self._options.role,
            models=() if self._models is None else self._models.states,
            active=self._surroundings.transcriber.active,
            pace=self.estimate.measured if self._options.transcribes else None,
        )

    def _seconds_until(self, job: Job, kind: DeliveryKind) -> float:
        """Return the seconds until the next round of a delivery that is due begins."""
        begins_at = self.rounds.begins_at(LiveJob(job), kind)
        return 0.0 if begins_at is None else max(0.0, begins_at - self._service_clock.seconds)

    async def _leave(self) -> None:
        with suppress(StorageUnavailable):  # then the others notice it by its silence
            await self._counts.refresh()  # with usage that is not written yet
            await self._presence.end()


def _received(job: Job) -> ReceivedAudio | None:
    """Return what a job's audio is to be checked against, or None if it has not arrived."""
    return ReceivedAudio(job.audio_bytes, job.audio_digest) if job.audio_digest else None
