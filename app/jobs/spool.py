"""Audio and results on disk, a folder for each job.

Folders are named by job ids, never by what a client calls its file. Every method that touches the disk blocks.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, BinaryIO, Final

from app.domain.errors import DiskFull, ServiceError
from app.domain.transcript import Transcript

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

#: How soon a client may hope for disk space, in seconds.
_RETRY_FULL_DISK_SECONDS: Final = 60


class SpoolInUse(ServiceError):
    """Another process works in the same folder."""


class Spool:
    """The folder ``DATA_DIR``. Not usable before :meth:`open`."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._jobs = root / "jobs"
        self._lock: int | None = None

    def open(self) -> None:
        """Makes the folder if need be, locks it, and removes what an earlier process left.

        Raises:
            SpoolInUse: another process holds the lock.
            ServiceError: the folder can't be made or written.
        """
        try:
            self._jobs.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = os.open(self._root / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as exc:
            raise ServiceError(
                f"DATA_DIR={self._root} can't be used ({exc.strerror}): name a folder that may be written."
            ) from exc
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            self.close()
            raise SpoolInUse(
                f"DATA_DIR={self._root} is in use by another process: stop that one, or name another folder."
            ) from exc
        for leftover in self._jobs.iterdir():
            shutil.rmtree(leftover, ignore_errors=True)

    def close(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def audio(self, job_id: str) -> Path:
        """Where the audio lies as it was received."""
        return self._folder(job_id) / "audio"

    def make_room(self, job_id: str) -> None:
        """The job's folder."""
        with full_disk_told():
            self._folder(job_id).mkdir(mode=0o700, exist_ok=True)

    def create_audio(self, job_id: str) -> BinaryIO:
        """A new file for the audio, open for writing."""
        self.make_room(job_id)
        with full_disk_told():
            return self.audio(job_id).open("xb", buffering=0)

    def write(self, file: BinaryIO, data: bytes) -> None:
        with full_disk_told():
            view = memoryview(data)
            while view:
                view = view[file.write(view) :]

    def store_result(self, job_id: str, transcript: Transcript, *, processing_time: float) -> None:
        """Keeps the result, whole or not at all. ``processing_time`` is in seconds."""
        stored = {"transcript": transcript.to_dict(), "processing_time": processing_time}
        final = self._result(job_id)
        partial = final.with_suffix(".partial")
        with full_disk_told():
            partial.write_text(json.dumps(stored, ensure_ascii=False), encoding="utf-8")
            partial.replace(final)

    def result(self, job_id: str) -> tuple[Transcript, float]:
        """The transcript and its processing time in seconds."""
        stored: dict[str, Any] = json.loads(self._result(job_id).read_text(encoding="utf-8"))
        return Transcript.from_dict(stored["transcript"]), stored["processing_time"]

    def discard_audio(self, job_id: str) -> None:
        """Removes all but the result."""
        with suppress(FileNotFoundError):
            for path in self._folder(job_id).iterdir():
                if path != self._result(job_id):
                    path.unlink(missing_ok=True)

    def discard(self, job_id: str) -> None:
        """Removes all that the job has here."""
        shutil.rmtree(self._folder(job_id), ignore_errors=True)

    def _folder(self, job_id: str) -> Path:
        return self._jobs / job_id

    def _result(self, job_id: str) -> Path:
        return self._folder(job_id) / "result.json"


@contextmanager
def full_disk_told() -> Iterator[None]:
    """Makes DiskFull of the operating system's word for it."""
    try:
        yield
    except OSError as exc:
        if exc.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise DiskFull(
            "The server has no disk space left for this request: try again later, or have its operator free some.",
            retry_after_seconds=_RETRY_FULL_DISK_SECONDS,
        ) from exc
