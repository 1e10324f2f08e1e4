"""How much audio may lie in the spool: a budget, and what must stay free on the disk for everything else."""

from __future__ import annotations

import errno
import fcntl
import json
import math
import os
import re
import shutil
from contextlib import contextmanager, suppress
from threading import Lock
from typing import TYPE_CHECKING, Any, BinaryIO, Final

from app.domain.errors import DiskFull, ServiceError
from app.domain.transcript import Transcript

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator
    from pathlib import Path


#: How soon a client may hope for disk space where nothing tells, in seconds.
_RETRY_SECONDS: Final = 60
#: What is kept for a body of which nothing has come yet.
_BEGINNING_BYTES: Final = 1024 * 1024

NO_SPACE: Final = "The server has no disk space left for this request: try again later, or have its operator free some."


def disk_full(message: str = NO_SPACE, *, retry_after_seconds: float = _RETRY_SECONDS) -> DiskFull:
    return DiskFull(message, retry_after_seconds=math.ceil(retry_after_seconds))


@contextmanager
def full_disk_told() -> Iterator[None]:
    """Makes DiskFull of the operating system's word for it."""
    try:
        yield
    except OSError as exc:
        if exc.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise disk_full() from exc


class Space:
    """What is claimed for the audio of each job, in bytes, and whether there is room for more.

    ``max_bytes`` is the budget for all of them, 0 for none; ``min_free_bytes`` must stay free on the disk beyond what
    is still to be written. ``next_free_seconds`` says how soon a job may be done. Safe to call from any thread.
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
        with self._lock:
            return sum(self._claimed.values())

    @property
    def free(self) -> int:
        """Bytes free on the disk. Blocks."""
        return _free_bytes(self._folder)

    def announce(self, job_id: str, size: int) -> None:
        """Says that the job may come to ``size`` bytes, for which there must be room now. Blocks.

        Only a beginning is claimed: what is announced may never come, and keeps nobody out.

        Raises:
            DiskFull: there is none.
        """
        with self._lock:
            self._require_room(size - self._claimed.get(job_id, 0))
            self._claimed[job_id] = max(self._claimed.get(job_id, 0), min(size, _BEGINNING_BYTES))

    def claim(self, job_id: str, size: int) -> None:
        """Room for ``size`` bytes of the job in all, before they come. Blocks.

        Raises:
            DiskFull: there is none.
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
        """So many bytes of the job lie on the disk by now."""
        with self._lock:
            self._written[job_id] = size
            self._claimed[job_id] = max(size, self._claimed.get(job_id, 0))

    def settle(self, job_id: str, size: int) -> None:
        """The job has that many bytes, and no more will come."""
        with self._lock:
            self._claimed[job_id] = self._written[job_id] = size

    def release(self, job_id: str) -> None:
        """Nothing of the job's audio is left."""
        with self._lock:
            self._claimed.pop(job_id, None)
            self._written.pop(job_id, None)

    def _no_room(self, message: str) -> DiskFull:
        if self._next_free_seconds is None or not any(self._claimed.values()):
            return disk_full(message)
        return disk_full(message, retry_after_seconds=self._next_free_seconds())


def _free_bytes(folder: Path) -> int:
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize


#: What is received is synced each time so much has come, so that little is left to sync before the answer.
_SYNC_BYTES: Final = 8 * 1024 * 1024
_JOB_ID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class SpoolInUse(ServiceError):
    """Another process works in the same folder."""


class AudioFile:
    """Audio that arrives; it has its name once :meth:`Spool.keep_audio` has been called. Every method blocks."""

    def __init__(self, file: BinaryIO, job_id: str, space: Space) -> None:
        self._file = file
        self._job_id = job_id
        self._space = space
        self._unsynced = 0
        self.size = 0

    def write(self, data: bytes | bytearray) -> None:
        """Appends to the file.

        Raises:
            DiskFull: there is no room for it.
        """
        self._space.claim(self._job_id, self.size + len(data))
        with full_disk_told():
            view = memoryview(data)
            while view:
                view = view[self._file.write(view) :]
            self._unsynced += len(data)
            if self._unsynced >= _SYNC_BYTES:
                os.fdatasync(self._file.fileno())
                self._unsynced = 0
        self.size += len(data)
        self._space.written(self._job_id, self.size)

    def close(self) -> None:
        self._file.close()


class Spool:
    """The folder ``DATA_DIR``. Not usable before :meth:`open`."""

    def __init__(self, root: Path, space: Space | None = None) -> None:
        self._root = root
        self._jobs = root / "jobs"
        self._lock: int | None = None
        self.space = space or Space(root)

    def open(self) -> None:
        """Makes the folder if need be, and locks it.

        Raises:
            SpoolInUse: another process holds the lock.
            ServiceError: the folder can't be made or written.
        """
        try:
            new = [folder for folder in self._root.parents if not folder.exists()]
            self._root.parent.mkdir(parents=True, exist_ok=True)
            self._root.mkdir(mode=0o700, exist_ok=True)
            self._jobs.mkdir(mode=0o700, exist_ok=True)
            self._jobs.chmod(0o700)  # the journal is private by itself, and ``root`` may be a volume of others
            for folder in (self._root, self._root.parent, *(one.parent for one in new)):
                sync_folder(folder)
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

    def close(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def sweep(self, known: Collection[str]) -> int:
        """Removes what an earlier process left: folders of no ``known`` job, whose number it gives, and files that were
        not finished. What is not named like a job is nobody's of ours, and stays."""
        removed = 0
        for folder in self._jobs.iterdir():
            if folder.name not in known:
                if _JOB_ID.fullmatch(folder.name):
                    shutil.rmtree(folder, ignore_errors=True)
                    removed += 1
                continue
            for path in folder.iterdir():
                if path not in (self.audio(folder.name), self._result(folder.name)):
                    path.unlink(missing_ok=True)
            with suppress(FileNotFoundError):
                self.space.settle(folder.name, self.audio(folder.name).stat().st_size)
        return removed

    def audio(self, job_id: str) -> Path:
        """Where the audio lies as it was received, once it is whole."""
        return self._folder(job_id) / "audio"

    def has_audio(self, job_id: str) -> bool:
        return self.audio(job_id).exists()

    def has_result(self, job_id: str) -> bool:
        return self._result(job_id).exists()

    def create_audio(self, job_id: str) -> AudioFile:
        """A file for audio that arrives, in the place of one that did not arrive whole."""
        with full_disk_told():
            self._folder(job_id).mkdir(mode=0o700, exist_ok=True)
            return AudioFile(_create(self._partial_audio(job_id), buffering=0), job_id, self.space)

    def keep_audio(self, job_id: str, *, durably: bool = True) -> None:
        """All of the audio has arrived; ``durably``, it survives a loss of power from here on."""
        partial, final = self._partial_audio(job_id), self.audio(job_id)
        with full_disk_told():
            if durably:
                _sync(partial)
            partial.rename(final)
            if durably:
                sync_folder(final.parent)
                sync_folder(self._jobs)
        self.space.settle(job_id, final.stat().st_size)

    def store_result(
        self, job_id: str, transcript: Transcript, *, processing_time: float, durably: bool = True
    ) -> None:
        """Keeps the result, whole or not at all. ``processing_time`` is in seconds."""
        stored = {"transcript": transcript.to_dict(), "processing_time": processing_time}
        final = self._result(job_id)
        partial = final.with_suffix(".partial")
        with full_disk_told():
            with _create(partial) as file:
                file.write(json.dumps(stored, ensure_ascii=False).encode())
                file.flush()
                if durably:
                    os.fsync(file.fileno())
            partial.replace(final)
            if durably:
                sync_folder(final.parent)

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
        self.space.release(job_id)

    def discard(self, job_id: str) -> None:
        """Removes all that the job has here."""
        shutil.rmtree(self._folder(job_id), ignore_errors=True)
        self.space.release(job_id)

    def _folder(self, job_id: str) -> Path:
        return self._jobs / job_id

    def _partial_audio(self, job_id: str) -> Path:
        return self._folder(job_id) / "audio.partial"

    def _result(self, job_id: str) -> Path:
        return self._folder(job_id) / "result.json"


def _create(path: Path, *, buffering: int = -1) -> BinaryIO:
    """A new file, or an emptied one, that its owner only may read."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    return os.fdopen(descriptor, "wb", buffering)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Has the names in ``folder`` survive a loss of power. Blocks."""
    _sync(folder)
