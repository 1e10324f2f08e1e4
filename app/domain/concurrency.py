"""Work that is carried to its end though its job is cancelled: a file half made would be left behind."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

P = ParamSpec("P")
T = TypeVar("T")


async def to_its_end(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """What ``work``, which blocks, gives. When the caller is cancelled, that goes on after the work's end."""
    return await carried_through(asyncio.to_thread(work, *args, **kwargs))


async def carried_through(work: Coroutine[Any, Any, T]) -> T:
    """What ``work`` gives. When the caller is cancelled, that goes on after the work's end."""
    running = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait([running])
        raise
