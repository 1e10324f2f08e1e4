"""The space that audio may take: a budget for all jobs, and what must stay free on the disk."""

from __future__ import annotations

import errno
import math
import os
from contextlib import contextmanager
from threading import Lock
from typing import TYPE_CHECKING, Final

from app.domain.errors import DiskFull

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

#: The Retry-After of a full disk if there is no estimate, in seconds.
_RETRY_SECONDS: Final = 60
#: The space that is reserved for a body before its first byte.
_BEGINNING_BYTES: Final = 1024 * 1024

NO_SPACE: Final = (
    "The server has no disk space left for this request: try again later, or ask its operator to free some."
)


def disk_full(message: str = NO_SPACE, *, retry_after_seconds: float = _RETRY_SECONDS) -> DiskFull:
    return DiskFull(message, retry_after_seconds=math.ceil(retry_after_seconds))


@contextmanager
def translated_full_disk() -> Iterator[None]:
    """Translate ENOSPC and EDQUOT into DiskFull."""
    try:
        yield
    except OSError as exc:
        if exc.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise disk_full() from exc


class Space:
    """The space that is reserved for the audio of each job, in bytes.

    ``max_bytes`` is the budget for all jobs, 0 for no budget; ``min_free_bytes`` must stay free on the disk, beyond
    what is still to be written. ``next_free_seconds`` estimates when a job will be done. All methods are safe to call
    from any thread.
    """

    def __init__(
        self,
        folder: Path,
        *,
        max_bytes: int = 0,
        min_free_bytes: int = 0,
        next_free_seconds: Callable[[], float] | None = None,
    ) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        self._min_free_bytes = min_free_bytes
        self._next_free_seconds = next_free_seconds
        self._claimed: dict[str, int] = {}
        self._written: dict[str, int] = {}
        self._lock = Lock()

    @property
    def claimed(self) -> int:
        """The bytes reserved for all jobs."""
        with self._lock:
            return sum(self._claimed.values())

    @property
    def free(self) -> int:
        """The bytes free on the disk. Blocks."""
        return _free_bytes(self._folder)

    def announce(self, job_id: str, size: int) -> None:
        """Check that there is room for ``size`` bytes of the job, and reserve a part of it. Blocks.

        The rest is reserved as it arrives: an announced body may never come, and must not keep others out.

        Raises:
            DiskFull: there is no room for it.
        """
        with self._lock:
            self._require_room(size - self._claimed.get(job_id, 0))
            self._claimed[job_id] = max(self._claimed.get(job_id, 0), min(size, _BEGINNING_BYTES))

    def claim(self, job_id: str, size: int) -> None:
        """Reserve ``size`` bytes in all for the job, before they are written. Blocks.

        Raises:
            DiskFull: there is no room for them.
        """
        with self._lock:
            if size <= self._claimed.get(job_id, -1):
                return
            self._require_room(size - self._claimed.get(job_id, 0))
            self._claimed[job_id] = size

    def _require_room(self, more: int) -> None:
        if self._max_bytes and sum(self._claimed.values()) + more > self._max_bytes:
            raise self._no_room(
                f"The server holds as much audio as SPOOL_MAX_BYTES={self._max_bytes} allows: try again later."
            )
        outstanding = sum(self._claimed.values()) - sum(self._written.values())
        if _free_bytes(self._folder) - outstanding - more < self._min_free_bytes:
            raise self._no_room(NO_SPACE)

    def written(self, job_id: str, size: int) -> None:
        """Record that ``size`` bytes of the job have been written."""
        with self._lock:
            self._written[job_id] = size
            self._claimed[job_id] = max(size, self._claimed.get(job_id, 0))

    def settle(self, job_id: str, size: int) -> None:
        """Record that the audio of the job is complete, with ``size`` bytes."""
        with self._lock:
            self._claimed[job_id] = self._written[job_id] = size

    def release(self, job_id: str) -> None:
        """Release everything that is reserved for the job."""
        with self._lock:
            self._claimed.pop(job_id, None)
            self._written.pop(job_id, None)

    def _no_room(self, message: str) -> DiskFull:
        if self._next_free_seconds is None or not any(self._claimed.values()):
            return disk_full(message)
        return disk_full(message, retry_after_seconds=self._next_free_seconds())


def _free_bytes(folder: Path) -> int:
    status = os.statvfs(folder)
    return status.f_bavail * status.f_frsize
