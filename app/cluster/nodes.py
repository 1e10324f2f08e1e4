"""The presence of this node: a row with what it can do, and a sign of life as procrastinate's workers give one."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from app.domain.errors import StorageUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable
    from uuid import UUID

    from app.cluster.database import Connection, Database

logger = logging.getLogger(__name__)

#: The nodes whose last sign of life is older than some seconds, which is the parameter.
ALIVE: Final = """
    SELECT nodes.id FROM nodes JOIN procrastinate_workers worker ON worker.id = nodes.worker_id
    WHERE worker.last_heartbeat > now() - make_interval(secs => %s)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeState:
    """The description of a node for the others. ``speed`` is in seconds of audio per second, None at first."""

    role: str
    models: tuple[str, ...] = ()
    slots: int = 0
    active: int = 0
    speed: float | None = None


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
        state = self._state()
        async with self._database.transaction() as connection:
            await self._register(connection)
            await connection.execute(
                "INSERT INTO nodes VALUES (%s, %s, %s, %s, %s, %s, %s) ON CONFLICT (id) DO UPDATE SET"
                " worker_id = excluded.worker_id, models = excluded.models, active = excluded.active,"
                " speed = excluded.speed",
                (
                    self._node,
                    self._worker_id,
                    state.role,
                    list(state.models),
                    state.slots,
                    state.active,
                    state.speed,
                ),
            )

    async def run(self) -> None:
        """Show it again and again until cancelled."""
        while True:
            await asyncio.sleep(self._interval_seconds)
            try:
                await self.show()
            except StorageUnavailable as exc:
                logger.warning("⚠️ %s", exc)

    async def end(self) -> None:
        """Remove this node: it stops."""
        async with self._database.transaction() as connection:
            await connection.execute("DELETE FROM nodes WHERE id = %s", (self._node,))
            await connection.execute("DELETE FROM procrastinate_workers WHERE id = %s", (self._worker_id,))

    async def _register(self, connection: Connection) -> None:
        cursor = await connection.execute(
            "UPDATE procrastinate_workers SET last_heartbeat = now() WHERE id = %s RETURNING id", (self._worker_id,)
        )
        if await cursor.fetchone() is None:
            cursor = await connection.execute("SELECT worker_id FROM procrastinate_register_worker_v1()")
            row = await cursor.fetchone()
            self._worker_id = None if row is None else int(row[0])
