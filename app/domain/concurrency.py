"""Protection from cancellation."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable

T = TypeVar("T")


async def shielded(work: Awaitable[T]) -> T:
    """Await ``work`` and let it finish even if the caller is cancelled; the cancellation is raised after its end.

    ``await shielded(asyncio.to_thread(...))`` runs blocking work that must not be left half done.
    """
    running = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait([running])
        raise
