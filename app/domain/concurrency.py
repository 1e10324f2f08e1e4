"""Work in threads, protection from cancellation, and the errors of task groups."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, ParamSpec, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from concurrent.futures import Executor

P = ParamSpec("P")
T = TypeVar("T")


def in_executor(executor: Executor, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> asyncio.Future[T]:
    """Run a blocking function in a thread of ``executor`` and return its future result."""
    return asyncio.get_running_loop().run_in_executor(executor, partial(function, *args, **kwargs))


async def shielded(work: Awaitable[T]) -> T:
    """Await ``work`` and let it finish even if the caller is cancelled, once or more; that is raised after its end.

    ``await shielded(asyncio.to_thread(...))`` runs blocking work that must not be left half done.
    """
    running = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        while not running.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait([running])
        if not running.cancelled():
            running.exception()  # marks it as retrieved: nobody is left whom it concerns
        raise


@contextmanager
def first_error_only() -> Iterator[None]:
    """Raise the first error of a task group instead of the group; the other tasks were cancelled because of it."""
    try:
        yield
    except BaseExceptionGroup as group:
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        raise error from error.__cause__
