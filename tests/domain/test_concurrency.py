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
