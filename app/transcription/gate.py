"""The semaphore before the model. A permit follows the work, not whoever waits for it.

``async with semaphore: await to_thread(work)`` gives the permit back as soon as the waiter is cancelled, while
its thread still runs: two threads on one permit. Here the end of the work itself gives it back.
"""

from __future__ import annotations

import asyncio
import contextvars
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from threading import Event
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

T = TypeVar("T")


class Gate:
    """``permits`` pieces of work at once, each in a thread; the others wait in the order of their arrival."""

    def __init__(self, permits: int) -> None:
        self.permits = permits
        self._semaphore = asyncio.Semaphore(permits)
        self._executor = ThreadPoolExecutor(permits, thread_name_prefix="transcription")
        self._held = 0

    @property
    def held(self) -> int:
        return self._held

    @asynccontextmanager
    async def permit(self) -> AsyncIterator[Permit]:
        """A turn. It ends with the block, or with the work started in it, whichever is later."""
        await self._semaphore.acquire()
        self._held += 1
        permit = Permit(self._executor, release=self._release)
        try:
            yield permit
        finally:
            permit.leave()

    def _release(self) -> None:
        self._held -= 1
        self._semaphore.release()

    def close(self) -> None:
        """Takes no more work; what runs is not waited for."""
        self._executor.shutdown(wait=False, cancel_futures=True)


class Permit:
    """The right to work in one thread of the gate."""

    def __init__(self, executor: ThreadPoolExecutor, *, release: Callable[[], None]) -> None:
        self._executor = executor
        self._release = release
        self._running = False
        self._left = False

    async def run(self, work: Callable[[Event], T]) -> T:
        """The outcome of ``work``, called in a thread with an event that asks it to stop.

        When the caller is cancelled the event is set; the permit is kept until the work has really ended.
        """
        stop = Event()
        context = contextvars.copy_context()
        future = asyncio.get_running_loop().run_in_executor(self._executor, context.run, work, stop)
        self._running = True
        future.add_done_callback(self._ended)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            stop.set()
            raise

    def leave(self) -> None:
        self._left = True
        if not self._running:
            self._release()

    def _ended(self, future: asyncio.Future[T]) -> None:
        if not future.cancelled():
            future.exception()  # looked at, so that asyncio does not report it as lost
        self._running = False
        if self._left:
            self._release()
