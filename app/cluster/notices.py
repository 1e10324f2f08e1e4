"""Notices between nodes: which jobs have changed, through PostgreSQL's LISTEN and NOTIFY.

Notices that are sent while a node isn't connected are lost, so a node that connects again reads everything that
somebody there waits for.
"""

from __future__ import annotations

import asyncio
import json
import logging
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from app.domain.errors import StorageUnavailable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Iterator, Sequence

    from app.cluster.database import Connection, Database
    from app.domain.job import Job

logger = logging.getLogger(__name__)

_CHANNEL: Final = "transcription_jobs"
#: The most notices in one payload, which has less than 8,000 bytes.
_MOST: Final = 50
#: Notices that come within this time are handled together.
_PAUSE_SECONDS: Final = 0.02
_RECONNECT_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True)
class Notice:
    """A job that has changed, was forgotten, or has further segments. ``owner`` is empty for synchronous jobs."""

    job_id: str
    owner: str = ""
    is_background: bool = False
    is_removal: bool = False
    has_segments: bool = False

    @classmethod
    def of(cls, job: Job, *, is_removal: bool = False) -> Notice:
        return cls(job.id, job.owner, not job.synchronous, is_removal)


async def notify(connection: Connection, notices: Sequence[Notice]) -> None:
    """Send notices when the transaction is committed."""
    for start in range(0, len(notices), _MOST):
        payload = json.dumps(
            [
                [each.job_id, each.owner, each.is_background, each.is_removal, each.has_segments]
                for each in notices[start : start + _MOST]
            ],
            separators=(",", ":"),
        )
        await connection.execute("SELECT pg_notify(%s, %s)", (_CHANNEL, payload))


class Notices:
    """Listens for notices and passes them on: ``handle`` gets those that came together, ``catch_up`` a new start."""

    def __init__(
        self,
        database: Database,
        *,
        handle: Callable[[Collection[Notice]], Awaitable[None]],
        catch_up: Callable[[], Awaitable[None]],
    ) -> None:
        self._database = database
        self._handle = handle
        self._catch_up = catch_up
        self._pending: dict[Notice, None] = {}
        self._arrived = asyncio.Event()

    async def run(self) -> None:
        """Listen until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._listen(), name="notices")
            group.create_task(self._pass_on(), name="handling notices")

    async def _listen(self) -> None:
        is_connected = False
        while True:
            with suppress(StorageUnavailable):
                async with self._database.listening(_CHANNEL) as notifications:
                    await self._catch_up()
                    is_connected = True
                    async for notification in notifications:
                        self._pending.update(dict.fromkeys(_parsed(notification.payload)))
                        self._arrived.set()
            if is_connected:
                logger.warning("⚠️ The connection for notices was lost: connecting again")
            is_connected = False
            await asyncio.sleep(_RECONNECT_SECONDS)

    async def _pass_on(self) -> None:
        while True:
            await self._arrived.wait()
            await asyncio.sleep(_PAUSE_SECONDS)
            self._arrived.clear()
            notices, self._pending = self._pending, {}
            try:
                await self._handle(notices)
            except StorageUnavailable:
                self._pending = notices | self._pending
                self._arrived.set()
                await asyncio.sleep(_RECONNECT_SECONDS)


def _parsed(payload: str) -> Iterator[Notice]:
    for values in json.loads(payload):
        yield Notice(*values)
