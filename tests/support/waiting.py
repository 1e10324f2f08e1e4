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
_LONGEST_PAUSE_SECONDS: Final = 0.05


async def eventually(condition: Callable[[], bool | Awaitable[bool]], *, seconds: float = LIMIT_SECONDS) -> None:
    """Return once ``condition()`` is true. Raise ``AssertionError`` after this many seconds."""
    began = time.monotonic()
    while True:
        result = condition()
        if await result if inspect.isawaitable(result) else result:
            return
        waited = time.monotonic() - began
        assert waited < seconds, f"The condition was still false after {seconds:.0f} s."
        await asyncio.sleep(_pause(waited))


def wait_until(condition: Callable[[], bool], *, seconds: float = LIMIT_SECONDS, pause: float | None = None) -> None:
    """Block until ``condition()`` is true. Raise ``AssertionError`` after this many seconds."""
    began = time.monotonic()
    while not condition():
        waited = time.monotonic() - began
        assert waited < seconds, f"The condition was still false after {seconds:.0f} s."
        time.sleep(_pause(waited) if pause is None else pause)


def _pause(waited: float) -> float:
    """Return the seconds until the next look: more after a longer wait, because each look takes time of a core."""
    return min(max(_PAUSE_SECONDS, waited / 10), _LONGEST_PAUSE_SECONDS)
