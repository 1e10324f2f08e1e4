"""``python -m app``: settings → logging → server."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from typing import TYPE_CHECKING

import uvicorn

from app import logs
from app.main import create_app
from app.settings import Settings, WrongSettings

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from types import FrameType

#: How long answers that are being sent may take once all work has ended.
_CLOSE_SECONDS = 3


class Server(uvicorn.Server):
    """uvicorn, but the first signal drains while requests are still answered, and the second ends all at once."""

    exit_code = 0

    def __init__(self, config: uvicorn.Config, drain: Callable[[], Awaitable[None]]) -> None:
        super().__init__(config)
        self._drain = drain
        self._signals = 0
        self._draining: asyncio.Future[None] | None = None

    def stop(self, code: int) -> None:
        """Ends the process with ``code``, without waiting for work."""
        self.exit_code = code
        self.should_exit = True

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002  # uvicorn's signature
        """Called by the signal. uvicorn's own method would have the process end by that signal, not with 0."""
        self._signals += 1

    async def on_tick(self, counter: int) -> bool:
        """Called by uvicorn ten times a second."""
        if self._signals and self._draining is None:
            self._draining = asyncio.ensure_future(self._drain())
        if self._signals > 1:
            self.force_exit = self.should_exit = True
        if self._draining is not None and self._draining.done():
            self._draining.result()
            self.should_exit = True
        return await super().on_tick(counter)


def main() -> int:
    """Serves until it is told to stop; gives the exit code."""
    try:
        settings = Settings.load()
    except WrongSettings as exc:
        sys.stderr.write(f"{exc}\n")
        return 1
    logs.configure(level=settings.log_level, style=settings.log_format)
    app = create_app(settings, stop=lambda code: server.stop(code))
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        http="h11",  # httptools takes header blocks of any size into memory
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=_CLOSE_SECONDS,
    )
    server = Server(config, drain=app.state.service.drain)
    server.run()
    return server.exit_code


if __name__ == "__main__":
    code = main()
    logging.shutdown()
    sys.stdout.flush()
    # A window may still be on the model: the interpreter would wait for its thread, which nobody needs any more.
    os._exit(code)
