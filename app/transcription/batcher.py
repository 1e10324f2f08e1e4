"""The loops that take batches from the scheduler to the devices and settle what comes back.

Loops and bookkeeping run on the event loop; each device computes in a thread of its own. A window comes back encoded,
needing a fallback, partly transcribed, or finished. A batch that fails is retried in smaller parts before any
transcription fails. If a loop itself dies, all transcriptions fail, so that none waits for ever.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final, Protocol

from app.domain.errors import EngineFailed, TranscriptionFailed
from app.domain.events import BatchDecoded, DeviceState, DeviceTime, ModelFailed, ModelFailure, discard_event
from app.transcription.accepted_decoding import AcceptedDecoding
from app.transcription.scheduler import Scheduler
from app.transcription.whisper import FallbackNeeded, OutOfMemory

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from app.domain.events import EventSink
    from app.transcription.scheduler import Batch
    from app.transcription.slots import Slots
    from app.transcription.transcription import Transcription
    from app.transcription.window import Window

logger = logging.getLogger(__name__)

#: The time after which a client may retry, while a supervisor restarts the process.
_RETRY_SECONDS: Final = 10
#: If more windows are expected, a batch that is not full waits for them for this share of the time that it takes.
_LINGER_SHARE: Final = 0.05
#: Windows of one transcription that are prepared beyond those of its batches.
_SPARE_WINDOWS: Final = 2
#: The time over which the shares of a device's states are reported.
SHARES_SECONDS: Final = 60.0
#: After this many batches without lack of memory, a batch size that was halved grows by one.
_RECOVERY_BATCHES: Final = 20


class Replica(Protocol):
    """A model on one device; its methods block. See :class:`app.transcription.whisper.WhisperModel`."""

    def encode(self, windows: Sequence[Window]) -> None:
        """Set ``encoded`` and ``language`` of the windows."""

    def decode(self, windows: Sequence[Window]) -> list[AcceptedDecoding | FallbackNeeded]:
        """Decode windows that share a key and return one outcome for each."""


class DeviceMeter:
    """Measures how long a device is in each state, and reports each time as it ends."""

    def __init__(self, index: int, emit: EventSink) -> None:
        self._index = index
        self._emit = emit
        self._state = DeviceState.IDLE
        self._since = time.monotonic()
        self._times: deque[tuple[float, DeviceState, float]] = deque()

    def enter(self, state: DeviceState) -> None:
        """Begin a state, which ends the one before."""
        now = time.monotonic()
        seconds = now - self._since
        self._emit(DeviceTime(self._index, self._state, seconds))
        self._times.append((now, self._state, seconds))
        while self._times[0][0] < now - SHARES_SECONDS:
            self._times.popleft()
        self._state, self._since = state, now

    def shares(self) -> dict[DeviceState, float]:
        """Return the shares of the states, which add up to 1, in about the last minute."""
        seconds = dict.fromkeys(DeviceState, 0.0)
        seconds[self._state] = time.monotonic() - self._since
        for _, state, lasted in self._times:
            seconds[state] += lasted
        total = sum(seconds.values()) or 1.0
        return {state: lasted / total for state, lasted in seconds.items()}


class _Device:
    """A replica and the thread in which it computes."""

    def __init__(self, replica: Replica, *, index: int, emit: EventSink) -> None:
        self.index = index
        self.meter = DeviceMeter(index, emit)
        self._replica = replica
        self._executor = ThreadPoolExecutor(1, thread_name_prefix=f"model-{index}")

    async def run(
        self, windows: Sequence[Window], *, decode: bool
    ) -> Sequence[AcceptedDecoding | FallbackNeeded | None]:
        """Decode the windows and return the outcomes, or encode them and return None for each."""
        loop = asyncio.get_running_loop()
        self.meter.enter(DeviceState.BUSY)
        try:
            if decode:
                return await loop.run_in_executor(self._executor, self._replica.decode, windows)
            await loop.run_in_executor(self._executor, self._replica.encode, windows)
            return [None] * len(windows)
        finally:
            self.meter.enter(DeviceState.WAITING)

    def stop(self) -> None:
        """Accept no more batches; the present one goes on."""
        self._executor.shutdown(wait=False, cancel_futures=True)

    async def wait_until_idle(self) -> None:
        """Wait for the end of the present batch, after :meth:`stop`."""
        await asyncio.to_thread(self._executor.shutdown)


class Batcher:
    """The windows of all transcriptions, batch after batch, on the replicas of one model.

    Create it on a running event loop. ``on_death`` is called if a loop dies, which is a bug in this service or a
    fault of the machine.
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
        self.scheduler = Scheduler(slots=slots, batch_size=batch_size, encodes_apart=encodes_apart)
        self._max_batch_size = batch_size
        self._encodes_apart = encodes_apart
        self._batches_without_trouble = 0
        self._on_death = on_death
        self._emit = emit
        self._death: BaseException | None = None
        self._changed = asyncio.Event()
        self.scheduler.share.wake = self._changed.set
        self._devices = [_Device(replica, index=index, emit=emit) for index, replica in enumerate(replicas)]
        self._loops = [self._start_loop(device) for device in self._devices]

    @property
    def max_outstanding(self) -> int:
        """The number of windows that a transcription submits ahead, so that the model need not wait for it."""
        size = self.scheduler.batch_size
        ahead = size // 2 if self._encodes_apart else size  # encoding one by one leaves time to prepare more
        return size + ahead + _SPARE_WINDOWS

    @property
    def device_shares(self) -> list[dict[DeviceState, float]]:
        """The shares of each device's states in the last minute (see :meth:`DeviceMeter.shares`)."""
        return [device.meter.shares() for device in self._devices]

    def open(self, transcription: Transcription) -> None:
        """Take a transcription, whose windows follow."""
        if self._death is not None:
            transcription.fail(engine_failed(self._death))
        self.scheduler.add(transcription)

    def submit(self, transcription: Transcription, window: Window) -> None:
        """Queue a window for the model."""
        self.scheduler.submit(transcription, window)
        self._changed.set()

    def complete(self, transcription: Transcription) -> None:
        """Record that no more windows of a transcription will be submitted."""
        transcription.complete = True
        transcription.end_if_done()
        self._changed.set()

    def drop(self, transcription: Transcription) -> None:
        """Remove a transcription that has ended, failed or been cancelled."""
        self.scheduler.remove(transcription)
        self._changed.set()

    async def close(self) -> None:
        """End the loops without waiting for the batches that are on the devices."""
        for loop in self._loops:
            loop.remove_done_callback(self._on_loop_death)
            loop.cancel()
        await asyncio.gather(*self._loops, return_exceptions=True)
        self.scheduler.share.leave()
        for device in self._devices:
            device.stop()

    async def wait_until_idle(self) -> None:
        """Wait until nothing is on the devices, after :meth:`close`."""
        for device in self._devices:
            await device.wait_until_idle()

    def _start_loop(self, device: _Device) -> asyncio.Task[None]:
        task = asyncio.create_task(self._serve(device), name=f"batches of device {device.index}")
        task.add_done_callback(self._on_loop_death)
        return task

    def _on_loop_death(self, loop: asyncio.Task[None]) -> None:
        """Fail all transcriptions. A loop never ends by itself."""
        self._death = asyncio.CancelledError() if loop.cancelled() else loop.exception() or RuntimeError("it ended")
        logger.critical("The loop %r died", loop.get_name(), exc_info=self._death)
        self._emit(ModelFailed(ModelFailure.ENGINE_DIED))
        for transcription in list(self.scheduler.transcriptions):
            transcription.fail(engine_failed(self._death))
        self._on_death(self._death)

    async def _serve(self, device: _Device) -> None:
        while True:
            batch = await self._next_batch(device)
            await self._run(batch.windows, device, decode=batch.decode)
            self._changed.set()  # another device may be waiting for these windows or their slots
            self.scheduler.share.batch_ended()

    async def _next_batch(self, device: _Device) -> Batch:
        while True:
            self._changed.clear()
            await self._linger(device)
            batch = self.scheduler.next_batch()
            if batch is not None:
                return batch
            device.meter.enter(DeviceState.STARVED if self.scheduler.transcriptions else DeviceState.IDLE)
            await self._changed.wait()

    async def _linger(self, device: _Device) -> None:
        """Wait a moment for expected windows while there are too few to fill a batch."""
        deadline = time.monotonic() + _LINGER_SHARE * (self.scheduler.pace.predict(self._ready_windows) or 0.0)
        while (left := deadline - time.monotonic()) > 0 and self._is_fuller_batch_expected():
            self._changed.clear()
            device.meter.enter(DeviceState.STARVED)
            try:
                await asyncio.wait_for(self._changed.wait(), left)
            except TimeoutError:
                return

    def _is_fuller_batch_expected(self) -> bool:
        return 0 < self._ready_windows < self.scheduler.batch_size and self.scheduler.expects_windows

    @property
    def _ready_windows(self) -> int:
        return sum(len(transcription.ready) for transcription in self.scheduler.transcriptions)

    async def _run(self, windows: Sequence[Window], device: _Device, *, decode: bool, is_retry: bool = False) -> None:
        """Encode or decode windows on a device and settle them; on errors, retry in smaller parts."""
        started = time.monotonic()
        try:
            outcomes = await device.run(windows, decode=decode)
        except OutOfMemory as exc:
            self._emit(ModelFailed(ModelFailure.OUT_OF_MEMORY))
            if len(windows) == 1:
                self._give_up(windows[0], TranscriptionFailed(_out_of_memory_message(exc)))
                return
            half = (len(windows) + 1) // 2
            self._shrink_batches(half)
            for part in (windows[:half], windows[half:]):
                await self._run(part, device, decode=decode, is_retry=is_retry)
        except Exception as exc:  # noqa: BLE001  # any error of the model fails its transcriptions, not the others
            self._emit(ModelFailed(ModelFailure.ERROR))
            if is_retry:
                self._give_up(windows[0], exc)
                return
            logger.warning("⚠️ A batch of %d windows failed (%s), retrying each window alone", len(windows), exc)
            for window in windows:
                await self._run([window], device, decode=decode, is_retry=True)
        else:
            if decode:
                self._record_batch(len(windows), time.monotonic() - started)
            for window, outcome in zip(windows, outcomes, strict=True):
                self._settle(window, outcome)

    def _shrink_batches(self, size: int) -> None:
        self._batches_without_trouble = 0
        self.scheduler.batch_size = max(1, min(self.scheduler.batch_size, size))
        logger.warning("⚠️ The device is out of memory, continuing with batches of %d", self.scheduler.batch_size)

    def _record_batch(self, windows: int, seconds: float) -> None:
        self._emit(BatchDecoded(windows, self.scheduler.batch_size))
        self.scheduler.pace.record(windows, seconds)
        self._batches_without_trouble += 1
        if self._batches_without_trouble >= _RECOVERY_BATCHES and self.scheduler.batch_size < self._max_batch_size:
            self.scheduler.batch_size += 1
            self._batches_without_trouble = 0

    def _settle(self, window: Window, outcome: AcceptedDecoding | FallbackNeeded | None) -> None:
        """Put a window back if it has to go onto the model again, or hand it to its transcription."""
        match outcome:
            case None if window.is_heard:
                self._finish(window)
            case None:
                self.scheduler.put_back(window)
            case FallbackNeeded():
                window.fall_back(outcome.decoding, outcome.temperatures, outcome.encoded)
                self.scheduler.put_back(window)
            case AcceptedDecoding():
                if window.accept(outcome):
                    self.scheduler.put_back(window)
                else:
                    self._finish(window)

    def _finish(self, window: Window) -> None:
        transcription = self.scheduler.owner(window)
        self.scheduler.finish(window)
        if not transcription.dropped:
            transcription.on_window(window)
            transcription.end_if_done()

    def _give_up(self, window: Window, error: Exception) -> None:
        """Fail the transcription of a window that cannot be transcribed even alone."""
        transcription = self.scheduler.owner(window)
        self.scheduler.finish(window)
        transcription.fail(error)


def engine_failed(cause: BaseException) -> EngineFailed:
    """Return the error for transcriptions that end because the engine, or a part of it, has died."""
    return EngineFailed(
        f"The transcription engine failed ({type(cause).__name__}) and the server is restarting: send the file again.",
        retry_after_seconds=_RETRY_SECONDS,
    )


def _out_of_memory_message(exc: Exception) -> str:
    return (
        f"The GPU's memory is exhausted ({exc}): set WHISPER_COMPUTE_TYPE=int8_float16, or choose a smaller "
        "WHISPER_MODEL or WHISPER_BEAM_SIZE."
    )
