"""One loop for each device: the windows of all requests, batch after batch, onto the model.

The loops and the bookkeeping live on the event loop, the model computes in a thread of its device. A window comes back
transcribed, or doubtful and is decoded again hotter, or with a rest that the model left out. What fails is tried again
in smaller parts before its request fails; a loop that itself dies takes all requests with it, so that none waits for
ever.
"""

from __future__ import annotations

import asyncio
import logging
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat
from typing import TYPE_CHECKING, Any, Final, Protocol

from app.domain.errors import EngineFailed, TranscriptionFailed
from app.domain.events import BatchDecoded, ModelFailed, ModelFailure, discard_event
from app.transcription.scheduler import Scheduler, Step, Work
from app.transcription.whisper import AcceptedDecoding, FallbackNeeded, OutOfMemory

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from app.domain.events import EventSink
    from app.transcription.slots import Slots
    from app.transcription.window import Window

logger = logging.getLogger(__name__)

#: When a client may hope for a server that was started again.
_RETRY_SECONDS: Final = 10
#: While more windows are on their way, a batch that is not full waits for them this share of what one window takes.
_LINGER_SHARE: Final = 0.05
_MAX_LINGER_SECONDS: Final = 0.1
#: Windows of one request that are ready beyond those of a batch.
_READY_BESIDES: Final = 2
#: After so many batches without lack of memory, a batch size that had to be halved grows by one again.
_RECOVERY_BATCHES: Final = 20


class Replica(Protocol):
    """A model on one device; its methods block."""

    def encode(self, windows: Sequence[Window]) -> None:
        """Fills in what the encoder makes of them."""

    def decode(self, windows: Sequence[Window]) -> list[AcceptedDecoding | FallbackNeeded]:
        """What is said in windows of one key."""


class Request(Work):
    """One request and what its transcription waits for. ``on_window`` is told of each window that is finished."""

    __slots__ = ("failure", "on_window", "room")

    def __init__(self, *, on_window: Callable[[Window], None], **properties: Any) -> None:
        super().__init__(**properties)
        self.on_window = on_window
        self.room = asyncio.Event()
        self.failure: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def fail(self, error: Exception) -> None:
        """Ends it, once."""
        if not self.failure.done():
            self.failure.set_exception(error)
            self.failure.exception()  # looked at: who was cancelled meanwhile does not ask

    def succeed_if_done(self) -> None:
        if self.complete and not self.outstanding and not self.failure.done():
            self.failure.set_result(None)


class Batcher:
    """Runs the windows of all requests on the replicas of one model.

    ``on_death`` is told when a loop has died, which is a bug of ours or of the machine.
    """

    def __init__(
        self,
        replicas: Sequence[Replica],
        *,
        slots: Slots,
        batch_size: int,
        encodes_apart: bool,
        on_death: Callable[[BaseException], None],
        emit: EventSink = discard_event,
    ) -> None:
        self._emit = emit
        self.scheduler = Scheduler(slots=slots, batch_size=batch_size, encodes_apart=encodes_apart)
        self._batch_size = batch_size
        self._encodes_apart = encodes_apart
        self._fine_batches = 0
        self._on_death = on_death
        self._death: BaseException | None = None
        self._changed = asyncio.Event()
        self.scheduler.share.wake = self._changed.set
        self._executors = [ThreadPoolExecutor(1, thread_name_prefix=f"model-{index}") for index in range(len(replicas))]
        self._loops = [
            self._start(index, replica, executor)
            for index, (replica, executor) in enumerate(zip(replicas, self._executors, strict=True))
        ]

    @property
    def most_outstanding(self) -> int:
        """Windows that a request may have under way so that the model need not wait for it."""
        size = self.scheduler.batch_size
        ahead = size // 2 if self._encodes_apart else size  # encoding one by one leaves time to prepare more
        return size + ahead + _READY_BESIDES

    def open(self, request: Request) -> None:
        """Takes a request whose windows will follow."""
        if self._death is not None:
            request.fail(engine_failed(self._death))
        self.scheduler.add(request)

    def submit(self, request: Request, window: Window) -> None:
        self.scheduler.submit(request, window)
        self._changed.set()

    def completed(self, request: Request) -> None:
        """Says that no further windows will come."""
        request.complete = True
        request.succeed_if_done()
        self._changed.set()

    def drop(self, request: Request) -> None:
        """Wants nothing more of a request, however it ended."""
        self.scheduler.remove(request)
        self._changed.set()

    async def close(self) -> None:
        """Ends the loops; a batch on a model is not waited for."""
        for loop in self._loops:
            loop.remove_done_callback(self._died)
            loop.cancel()
        await asyncio.gather(*self._loops, return_exceptions=True)
        self.scheduler.share.leave()
        for executor in self._executors:
            executor.shutdown(wait=False, cancel_futures=True)

    async def idle(self) -> None:
        """Returns when nothing is on the models any more, after :meth:`close`."""
        for executor in self._executors:
            await asyncio.to_thread(executor.shutdown)

    def _start(self, index: int, replica: Replica, executor: ThreadPoolExecutor) -> asyncio.Task[None]:
        task = asyncio.create_task(self._serve(replica, executor), name=f"batches of device {index}")
        task.add_done_callback(self._died)
        return task

    def _died(self, loop: asyncio.Task[None]) -> None:
        """Fails whoever waits. The loops never end by themselves."""
        self._death = asyncio.CancelledError() if loop.cancelled() else loop.exception() or RuntimeError("it ended")
        logger.critical("The loop %r died", loop.get_name(), exc_info=self._death)
        self._emit(ModelFailed(ModelFailure.ENGINE_DIED))
        for work in list(self.scheduler.works):
            _request(work).fail(engine_failed(self._death))
        self._on_death(self._death)

    async def _serve(self, replica: Replica, executor: ThreadPoolExecutor) -> None:
        while True:
            step = await self._next_step()
            await self._perform(step.windows, replica, executor, decode=step.decode, retried=False)
            self._changed.set()  # another device may be waiting for what this one gave back
            self.scheduler.share.batch_ended()

    async def _next_step(self) -> Step:
        while True:
            self._changed.clear()
            await self._linger()
            step = self.scheduler.next_step()
            if step is not None:
                return step
            await self._changed.wait()

    async def _linger(self) -> None:
        """Waits a moment for windows that are on their way, while the line is thin."""
        seconds = min(_MAX_LINGER_SECONDS, _LINGER_SHARE * (self.scheduler.pace.predicted(1) or 0.0))
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0 and self._is_thin():
            self._changed.clear()
            try:
                await asyncio.wait_for(self._changed.wait(), left)
            except TimeoutError:
                return

    def _is_thin(self) -> bool:
        ready = sum(len(work.ready) for work in self.scheduler.works)
        return 0 < ready < self.scheduler.batch_size and self.scheduler.someone_is_coming

    async def _perform(
        self,
        windows: Sequence[Window],
        replica: Replica,
        executor: ThreadPoolExecutor,
        *,
        decode: bool,
        retried: bool,
    ) -> None:
        """Has windows encoded or decoded; where that fails, in smaller parts, down to each window once more alone."""
        started = time.monotonic()
        work = replica.decode if decode else replica.encode
        try:
            outcomes = await asyncio.get_running_loop().run_in_executor(executor, work, windows)
        except OutOfMemory as exc:
            self._emit(ModelFailed(ModelFailure.OUT_OF_MEMORY))
            if len(windows) == 1:
                self._give_up(windows[0], TranscriptionFailed(_exhausted(exc)))
                return
            half = (len(windows) + 1) // 2
            self._shrink(half)
            for part in (windows[:half], windows[half:]):
                await self._perform(part, replica, executor, decode=decode, retried=retried)
        except Exception as exc:  # noqa: BLE001  # whatever the model raises must reach its requests, and no others
            self._emit(ModelFailed(ModelFailure.ERROR))
            if retried:
                self._give_up(windows[0], exc)
                return
            logger.warning("⚠️ A batch of %d windows failed (%s): trying each alone", len(windows), exc)
            for window in windows:
                await self._perform([window], replica, executor, decode=decode, retried=True)
        else:
            if decode:
                self._measured(len(windows), time.monotonic() - started)
            for window, outcome in zip(windows, outcomes or repeat(None), strict=False):
                self._settle(window, outcome)

    def _shrink(self, size: int) -> None:
        self._fine_batches = 0
        self.scheduler.batch_size = max(1, min(self.scheduler.batch_size, size))
        logger.warning("⚠️ The device's memory is exhausted: going on in batches of %d", self.scheduler.batch_size)

    def _measured(self, windows: int, seconds: float) -> None:
        self._emit(BatchDecoded(windows, self.scheduler.batch_size))
        self.scheduler.pace.measured(windows, seconds)
        self._fine_batches += 1
        if self._fine_batches >= _RECOVERY_BATCHES and self.scheduler.batch_size < self._batch_size:
            self.scheduler.batch_size += 1
            self._fine_batches = 0

    def _settle(self, window: Window, outcome: AcceptedDecoding | FallbackNeeded | None) -> None:
        request = _request(self.scheduler.owner(window))
        match outcome:
            case None:
                self.scheduler.put_back(window)
            case FallbackNeeded():
                window.fall_back(outcome.decoding, outcome.encoded)
                self.scheduler.put_back(window)
            case AcceptedDecoding():
                window.segments += outcome.segments
                if window.advance(outcome.frames_done):
                    self.scheduler.put_back(window)
                    return
                self.scheduler.finish(window)
                if not request.dropped:
                    request.on_window(window)
                    request.room.set()
                    request.succeed_if_done()

    def _give_up(self, window: Window, error: Exception) -> None:
        """Fails the request whose window can't be transcribed even alone."""
        request = _request(self.scheduler.owner(window))
        self.scheduler.finish(window)
        request.fail(error)


def _request(work: Work) -> Request:
    assert isinstance(work, Request)  # noqa: S101  # no others are opened
    return work


def engine_failed(cause: BaseException) -> EngineFailed:
    """What requests are told when the engine, or a part of it, has died."""
    return EngineFailed(
        f"The transcription engine has failed ({type(cause).__name__}) and the server restarts: send the file again.",
        retry_after_seconds=_RETRY_SECONDS,
    )


def _exhausted(exc: Exception) -> str:
    return (
        f"The GPU's memory is exhausted ({exc}): set WHISPER_COMPUTE_TYPE=int8_float16, or choose a smaller "
        "WHISPER_MODEL or WHISPER_BEAM_SIZE."
    )
