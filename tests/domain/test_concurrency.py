"""Work that goes on although its caller was cancelled."""

from __future__ import annotations

import asyncio
import gc
import threading
from typing import Any

import pytest

from app.domain.concurrency import shielded


@pytest.mark.anyio
async def test_failure_after_a_cancellation_is_not_reported_as_lost() -> None:
    reported: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
    entered, released = threading.Event(), threading.Event()

    def fail() -> None:
        entered.set()
        released.wait(60)
        raise FileNotFoundError

    caller = asyncio.create_task(shielded(asyncio.to_thread(fail)))
    await asyncio.to_thread(entered.wait, 60)
    caller.cancel()
    released.set()
    await asyncio.wait([caller])
    assert caller.cancelled()
    del caller
    gc.collect()
    assert reported == []


@pytest.mark.anyio
async def test_work_is_awaited_although_the_caller_is_cancelled_twice() -> None:
    entered, released = threading.Event(), threading.Event()
    ended: list[bool] = []

    def work() -> None:
        entered.set()
        ended.append(released.wait(60))

    caller = asyncio.create_task(shielded(asyncio.to_thread(work)))
    await asyncio.to_thread(entered.wait, 60)
    for _ in range(2):
        caller.cancel()
        for _ in range(10):  # all steps that a cancellation takes
            await asyncio.sleep(0)
        assert not caller.done()
    released.set()
    await asyncio.wait([caller])
    assert caller.cancelled()
    assert ended == [True]
