"""The sessions of a service: how many there are, and their end with it."""

from __future__ import annotations

import asyncio
import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from app.domain.errors import Draining, TooManySessions
from app.domain.events import SessionEnd
from app.realtime.session import Session, checked_model

if TYPE_CHECKING:
    from collections.abc import Iterator

    from app.domain.events import EventSink
    from app.realtime.config import SessionConfig
    from app.realtime.session import Account, Channel, SessionLimits
    from app.realtime.transcribing import LiveModels

logger = logging.getLogger(__name__)

_RETRY_SECONDS: Final = 30
_RETRY_SHUTDOWN_SECONDS: Final = 10


class Sessions:
    """At most ``max_sessions`` sessions at once, 0 of them if live transcription is switched off."""

    def __init__(self, models: LiveModels, *, max_sessions: int, limits: SessionLimits, emit: EventSink) -> None:
        self._models = models
        self._max_sessions = max_sessions
        self._limits = limits
        self._emit = emit
        self._is_draining = False
        self._reserved = 0
        self._running: dict[Session, asyncio.Event] = {}

    def __len__(self) -> int:
        return self._reserved

    def check(self, config: SessionConfig) -> None:
        """Raise InvalidRequest if a configuration can't be served."""
        checked_model(self._models.model_registry, config)

    @contextmanager
    def reserved(self) -> Iterator[None]:
        """Reserve a session while the context lasts.

        Raises:
            Draining: The service is shutting down.
            TooManySessions: There are as many as allowed.
        """
        if self._is_draining:
            raise Draining(
                "The server is shutting down: connect again in a moment.", retry_after_seconds=_RETRY_SHUTDOWN_SECONDS
            )
        if self._reserved >= self._max_sessions:
            raise TooManySessions(
                f"This server has {self._max_sessions} realtime sessions, the most allowed (REALTIME_MAX_SESSIONS): "
                "close one, or retry later.",
                retry_after_seconds=_RETRY_SECONDS,
            )

        self._reserved += 1
        try:
            yield
        finally:
            self._reserved -= 1

    async def serve(self, channel: Channel, config: SessionConfig, *, account: Account, key_name: str) -> None:
        """Serve a client in a reserved session until that ends."""
        session = Session(channel, self._models, config, account=account, limits=self._limits, emit=self._emit)
        self._running[session] = ended = asyncio.Event()
        if self._is_draining:
            session.end(SessionEnd.DRAINED)
        logger.info("🎙️ Realtime session %s began%s", session.id, f" (key {key_name})" if key_name else "")
        try:
            reason = await session.run()
            logger.info("🎙️ Realtime session %s ended: %s", session.id, reason)
        finally:
            del self._running[session]
            ended.set()

    async def drain(self) -> None:
        """Begin no more sessions, and end those that run once what was said is transcribed."""
        self._is_draining = True
        running = list(self._running.items())
        for session, _ in running:
            session.end(SessionEnd.DRAINED)
        for _, ended in running:
            await ended.wait()
