"""The nodes of a cluster: what each of them can do, and its sign of life, as procrastinate's workers give one."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from psycopg.types.json import Jsonb
from pydantic import TypeAdapter

from app.cluster.queue import Lane, queue_of
from app.domain.errors import StorageUnavailable
from app.jobs.estimate import Capacity, Estimate, Pace
from app.transcription.models import ModelState  # noqa: TC001  # pydantic reads the annotation

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from uuid import UUID

    from app.cluster.database import Connection, Database
    from app.transcription.models import ModelRegistry

logger = logging.getLogger(__name__)

_PAUSE_SECONDS: Final = 1.0
#: The nodes whose last sign of life is no older than some seconds, which is the parameter.
ALIVE: Final = """
    SELECT nodes.id FROM nodes JOIN procrastinate_workers worker ON worker.id = nodes.worker_id
    WHERE worker.last_heartbeat > now() - make_interval(secs => %s)
"""
_OTHERS: Final = f"SELECT state FROM nodes WHERE id <> %s AND id IN ({ALIVE})"  # noqa: S608  # constants
_UNSERVED: Final = """
    SELECT queue_name, count(*) FROM procrastinate_jobs
    WHERE status = 'todo' AND task_name = 'transcribe' AND queue_name <> ALL(%s) GROUP BY queue_name
"""
#: Longer than any process lives, and short enough for an interval of PostgreSQL.
_EVER_SECONDS: Final = 1e9


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeState:
    """The state of a node for the others. It has a ``pace`` if it transcribes; ``active`` slots are in use."""

    role: str
    models: tuple[ModelState, ...] = ()
    active: int = 0
    pace: Pace | None = None


_STATES: Final[TypeAdapter[NodeState]] = TypeAdapter(NodeState)


class Presence:
    """Shows that this node is alive, and in which state."""

    def __init__(
        self, database: Database, node: UUID, *, state: Callable[[], NodeState], interval_seconds: float
    ) -> None:
        self._database = database
        self._node = node
        self._state = state
        self._interval_seconds = interval_seconds
        self._worker_id: int | None = None

    async def show(self) -> None:
        """Give a sign of life, with the state as it is now.

        Raises:
            StorageUnavailable: the database can't be reached.
        """
        await self._show(self._state())

    async def run(self) -> None:
        """Show it again and again until cancelled, and soon after the models or the slots in use have changed."""
        shown, due = None, time.monotonic() + self._interval_seconds
        while True:
            await asyncio.sleep(min(_PAUSE_SECONDS, self._interval_seconds))
            state = self._state()
            if (state.models, state.active) == shown and time.monotonic() < due:
                continue
            try:
                await self._show(state)
            except StorageUnavailable as exc:
                logger.warning("⚠️ %s", exc)
            shown, due = (state.models, state.active), time.monotonic() + self._interval_seconds

    async def end(self) -> None:
        """Remove this node: it stops."""
        async with self._database.transaction() as connection:
            await connection.execute("DELETE FROM nodes WHERE id = %s", (self._node,))
            await connection.execute("DELETE FROM procrastinate_workers WHERE id = %s", (self._worker_id,))

    async def _show(self, state: NodeState) -> None:
        async with self._database.transaction() as connection:
            await self._register(connection)
            await connection.execute(
                "INSERT INTO nodes VALUES (%s, %s, %s) ON CONFLICT (id) DO UPDATE SET"
                " worker_id = excluded.worker_id, state = excluded.state",
                (self._node, self._worker_id, Jsonb(_STATES.dump_python(state, mode="json"))),
            )

    async def _register(self, connection: Connection) -> None:
        cursor = await connection.execute(
            "UPDATE procrastinate_workers SET last_heartbeat = now() WHERE id = %s RETURNING id", (self._worker_id,)
        )
        if await cursor.fetchone() is None:
            cursor = await connection.execute("SELECT worker_id FROM procrastinate_register_worker_v1()")
            row = await cursor.fetchone()
            self._worker_id = None if row is None else int(row[0])


class LivingNodes:
    """The nodes that give signs of life: this one as it is now, the others as they were a second ago."""

    def __init__(self, node: UUID, *, state: Callable[[], NodeState], stale_seconds: float) -> None:
        self._node = node
        self._state = state
        self._stale_seconds = stale_seconds
        self._others: Sequence[NodeState] = ()
        self._registry: ModelRegistry | None = None
        self._back_at = -math.inf
        #: The numbers of jobs that wait for a model that no worker has, by its name.
        self.unserved: Mapping[str, int] = {}

    @property
    def workers(self) -> Sequence[NodeState]:
        """The nodes that transcribe."""
        return [state for state in (self._state(), *self._others) if state.pace is not None]

    def capacity(self) -> Capacity:
        """Return the slots of all nodes; those of this one if it serves no clients."""
        own = self._state()
        workers = [own] if own.role == "worker" else self.workers
        slots = sum(state.pace.slots for state in workers if state.pace is not None)
        active = sum(state.active for state in workers)
        if own.role == "worker":
            return Capacity(slots=slots, active=active)
        return Capacity(slots=slots, active=active, workers=len(workers), unserved=self.unserved)

    def show_in(self, registry: ModelRegistry) -> None:
        """Have a registry show the models as the workers have them, from now on."""
        self._registry = registry
        self._show_models()

    async def read(self, connection: Connection) -> None:
        """Read the states of the others, and which jobs wait for a model that no worker has."""
        # Nobody could give a sign of life while the database was away.
        just_back = time.monotonic() < self._back_at + self._stale_seconds
        cursor = await connection.execute(_OTHERS, (self._node, _EVER_SECONDS if just_back else self._stale_seconds))
        self._others = [_STATES.validate_python(state) for (state,) in await cursor.fetchall()]
        self._show_models()
        if self._state().role != "worker":
            served = {queue_of(lane, model.name) for node in self.workers for model in node.models for lane in Lane}
            cursor = await connection.execute(_UNSERVED, (list(served),))
            self._note_unserved(dict(await cursor.fetchall()))

    def database_is_away(self) -> None:
        """Keep what is known until the others could have given a sign of life again."""
        self._back_at = time.monotonic()

    def _show_models(self) -> None:
        """Show a model as loaded if a worker has loaded it, and with the abilities that a worker has found."""
        if self._registry is None:
            return
        for state in self._registry.states:
            models = [model for node in self.workers for model in node.models if model.name == state.name]
            best = max(models, key=lambda model: (model.loaded, model.is_known), default=replace(state, loaded=False))
            if best != state:
                self._registry.update(state.name, best)

    def _note_unserved(self, waiting: Mapping[str, int]) -> None:
        unserved: dict[str, int] = {}
        for queue, number in waiting.items():
            model = self._model_of(queue)
            unserved[model] = unserved.get(model, 0) + number
        for model in unserved.keys() - self.unserved.keys():
            logger.warning("⚠️ Jobs wait for the model %s, which no worker has now: start one that has it", model)
        for model in self.unserved.keys() - unserved.keys():
            logger.info("No job waits any longer for a worker with the model %s", model)
        self.unserved = unserved

    def _model_of(self, queue: str) -> str:
        names = [] if self._registry is None else [state.name for state in self._registry.states]
        known = {queue_of(lane, name): name for name in names for lane in Lane}
        return known.get(queue, queue.partition(":")[2])


class SharedEstimate(Estimate):
    """Measures the pace of this node, and estimates from that of all nodes that transcribe."""

    def __init__(self, *, slots: int, nodes: LivingNodes) -> None:
        super().__init__(slots=slots)
        self._nodes = nodes

    def paces(self) -> Sequence[Pace]:
        return [state.pace for state in self._nodes.workers if state.pace is not None]

    def serves(self, model: str) -> bool:
        return any(each.name == model for state in self._nodes.workers for each in state.models)
