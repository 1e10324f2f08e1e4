"""What comes before the models, shared by all of them: decoders, the door, and threads that search for speech."""

from __future__ import annotations

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final, TypeVar

from app.transcription.front_door import FrontDoor

if TYPE_CHECKING:
    from collections.abc import Callable

    from app.transcription.decoding import Decoder

T = TypeVar("T")

#: Threads that look for speech and compute features, for all requests together.
_THREADS: Final = 4


class Front:
    """The way from a file to windows. ``permits`` is how many requests are on the models at once."""

    def __init__(self, decoder: Decoder, *, permits: int) -> None:
        self.decoder = decoder
        self.door = FrontDoor(permits=permits)
        threads = min(_THREADS, max(1, len(os.sched_getaffinity(0))))
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="front")

    def run(self, work: Callable[..., T], *arguments: Any) -> asyncio.Future[T]:
        """What ``work`` gives, computed in a thread."""
        return asyncio.get_running_loop().run_in_executor(self._executor, work, *arguments)

    def close(self) -> None:
        self._executor.shutdown(wait=False, cancel_futures=True)
