"""The batch size of a model, measured on its GPU when it is loaded.

Larger batches use a GPU better up to a point, need more memory, and make other transcriptions wait longer. On an H200
with large-v3-turbo's dimensions, batches of 8, 16, 32 and 64 windows reach 338, 354, 368 and 369 times real time.
"""

from __future__ import annotations

import logging
import subprocess
import threading
from typing import TYPE_CHECKING, Final

from app.transcription.whisper import OutOfMemory

if TYPE_CHECKING:
    from collections.abc import Callable

    from app.transcription.whisper import WhisperModel

logger = logging.getLogger(__name__)

#: Larger batches make decoding hardly cheaper on a CPU, and each window of them takes memory. With base, beam 5, int8
#: and two cores, decoding a window of speech takes 1.71 s of a core alone, and 1.08, 1.0 and 0.96 s in a batch of 4, 6
#: and 8. With tiny, each window of a batch takes 26 MB.
CPU_BATCH_SIZE: Final = 6
#: Every GPU that has the memory uses batches of this size; larger ones have to be worth it.
_USUAL_BATCH_SIZE: Final = 16
_MAX_BATCH_SIZE: Final = 64
#: A batch of twice the size must take less than this share of the time for each window.
_WORTHWHILE: Final = 0.95
#: If a batch takes longer than this, the GPU is busy enough, and twice the time would be too long for others.
_LONG_SECONDS: Final = 1.0
#: Used when the memory is unknown.
_CAREFUL_BATCH_SIZE: Final = 8
#: The share of the free memory that batches may use.
_MEMORY_SHARE: Final = 0.8
#: The memory of a window with the longest text over that in a rehearsal: the decoder's caches grow with every token.
#: Computed from the dimensions of large-v3, whose share of caches is the largest.
_LONGEST_TEXT: Final = 2.0
_QUERY_SECONDS: Final = 10


def auto_batch_size(model: WhisperModel) -> int:
    """Return the batch size for a model that has been loaded. Blocks, on a GPU for a few seconds."""
    if model.device.kind == "cpu":
        return CPU_BATCH_SIZE
    size = measured_batch_size(model.rehearse, free_cuda_bytes)
    logger.info("🧠 Batches have up to %d windows", size)
    return size


def measured_batch_size(rehearse: Callable[[int], float], free_bytes: Callable[[], int | None]) -> int:
    """Return the batch size for a GPU: the usual one, a smaller one that fits, or a larger one that is worth it.

    ``rehearse`` runs a batch of this many windows and returns its seconds, or raises OutOfMemory. ``free_bytes``
    returns the memory that is free now, or None if it is unknown.
    """
    size, largest = _largest_that_fits(rehearse, free_bytes)
    if size < _USUAL_BATCH_SIZE or size >= largest:
        return min(size, largest)
    seconds = rehearse(size)  # the first one also allocated memory
    while 2 * size <= largest and seconds < _LONG_SECONDS:
        try:
            rehearse(2 * size)
            longer = rehearse(2 * size)
        except OutOfMemory:
            break
        if longer > 2 * seconds * _WORTHWHILE:
            break
        size, seconds = 2 * size, longer
    return size


def _largest_that_fits(rehearse: Callable[[int], float], free_bytes: Callable[[], int | None]) -> tuple[int, int]:
    """Return the usual size or a smaller one that could be rehearsed, and the largest that has enough memory."""
    size = _USUAL_BATCH_SIZE
    while True:
        meter = _MemoryMeter(free_bytes)
        try:
            with meter:
                rehearse(size)
        except OutOfMemory:
            if size == 1:
                return 1, 1
            size //= 2
        else:
            break
    if meter.free is None:
        return size, _CAREFUL_BATCH_SIZE
    used = max(meter.free - meter.least, 1)
    largest = int(meter.free * _MEMORY_SHARE * size / (used * _LONGEST_TEXT))
    return size, max(1, min(largest, _MAX_BATCH_SIZE))


class _MemoryMeter:
    """Watches the free memory: ``free`` bytes before a block and the ``least`` in it, or None if it is unknown."""

    def __init__(self, free_bytes: Callable[[], int | None]) -> None:
        self._free_bytes = free_bytes
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.free = free_bytes()
        self.least = self.free or 0

    def __enter__(self) -> None:
        if self.free is not None:
            self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self.free is not None:
            self._thread.join()

    def _watch(self) -> None:
        is_over = False
        while not is_over:
            is_over = self._stop.is_set()
            now = self._free_bytes()
            if now is not None:
                self.least = min(self.least, now)


def free_cuda_bytes() -> int | None:
    """Return the free memory of the GPU with the least, or None if the driver's tool does not report it."""
    try:
        output = subprocess.run(
            ["nvidia-smi", "--query-gpu=memory.free", "--format=csv,noheader,nounits"],  # noqa: S607  # its path differs
            capture_output=True,
            text=True,
            timeout=_QUERY_SECONDS,
            check=True,
        ).stdout
        return min(int(line) for line in output.split()) * 1024 * 1024
    except (OSError, subprocess.SubprocessError, ValueError):
        logger.debug("The free memory of the GPU is unknown", exc_info=True)
        return None
