"""Waiting for conditions that only polling can see."""

from __future__ import annotations

import asyncio
import inspect
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

#: Far more than any wait takes, so that no test fails only because the machine is busy.
LIMIT_SECONDS: Final = 300.0

_PAUSE_SECONDS: Final = 0.01


async def eventually(condition: Callable[[], bool | Awaitable[bool]], *, seconds: float = LIMIT_SECONDS) -> None:
    """Return once ``condition()`` is true. Raise ``AssertionError`` after this many seconds."""
    deadline = time.monotonic() + seconds
    while True:
        result = condition()
        if await result if inspect.isawaitable(result) else result:
            return
        assert time.monotonic() < deadline, f"The condition was still false after {seconds:.0f} s."
        await asyncio.sleep(_PAUSE_SECONDS)


def wait_until(condition: Callable[[], bool], *, seconds: float = LIMIT_SECONDS, pause: float = _PAUSE_SECONDS) -> None:
    """Block until ``condition()`` is true. Raise ``AssertionError`` after this many seconds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"The condition was still false after {seconds:.0f} s."
        time.sleep(pause)
