"""The spool: audio and results on disk, by job."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, BinaryIO, Final

from app.domain.corrections import NO_CORRECTIONS, Corrections, corrected
from app.domain.errors import AudioLost, ServiceError, UnknownJob
from app.jobs.audio import StoredAudio, new_hash
from app.jobs.results import (
    CORRECTIONS,
    RESULT,
    WAVEFORM,
    corrections_file,
    read_corrections,
    read_result,
    read_waveform,
    result_files,
)
from app.jobs.space import Space, translated_full_disk

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection
    from pathlib import Path

    from app.domain.transcript import Transcript
    from app.domain.waveform import Waveform
    from app.jobs.audio import ArrivingAudio, ReceivedAudio

#: Audio is synced to the disk each time this much has arrived, so that little is left to sync before the response.
_SYNC_BYTES: Final = 8 * 1024 * 1024
#: The most references of a job, which are recordings of known speakers' voices.
MAX_REFERENCES: Final = 4
#: The file of a job with its audio as it was received, and those with its references.
_AUDIO: Final = "audio"
_REFERENCES: Final = tuple(f"reference-{number}" for number in range(1, MAX_REFERENCES + 1))
_RESULTS: Final = frozenset({RESULT, WAVEFORM, CORRECTIONS})
JOB_ID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class SpoolInUse(ServiceError):
    """Another process uses the same folder."""


class _AudioOnDisk(StoredAudio):
    """Audio in a file, which can be read to its end even if the file is removed."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb", buffering=0)
        status = os.fstat(self._file.fileno())
        self.size = status.st_size
        self.version = f"{status.st_mtime_ns:x}-{status.st_size:x}"  # audio never changes once it has its name

    def read(self, size: int = -1, /) -> bytes:
        return self._file.read(size)

    def read_range(self, start: int, end: int) -> bytes:
        return os.pread(self._file.fileno(), end - start, start)

    def close(self) -> None:
        self._file.close()


class AudioFile:
    """A file for arriving audio, which is temporary until `Spool.complete_audio` is called. All methods block.

    ``other_bytes`` is the size of the job's other files. There is a digest only if it is ``hashed``.
    """

    def __init__(
        self,
        file: BinaryIO,
        job_id: str,
        space: Space,
        *,
        other_bytes: int = 0,
        durably: bool = True,
        hashed: bool = False,
    ) -> None:
        self._file = file
        self._job_id = job_id
        self._space = space
        self._other_bytes = other_bytes
        self._durably = durably
        self._hash = new_hash() if hashed else None
        self._unsynced = 0
        self.size = 0

    @property
    def digest(self) -> str:
        return "" if self._hash is None else self._hash.hexdigest()

    def write(self, data: bytes | bytearray) -> None:
        """Append to the file.

        Raises:
            DiskFull: there is no room for it.
        """
        self._space.claim(self._job_id, self._other_bytes + self.size + len(data))
        with translated_full_disk():
            view = memoryview(data)
            while view:
                view = view[self._file.write(view) :]
            self._unsynced += len(data)
            if self._durably and self._unsynced >= _SYNC_BYTES:
                os.fdatasync(self._file.fileno())
                self._unsynced = 0
        if self._hash is not None:
            self._hash.update(data)
        self.size += len(data)
        self._space.written(self._job_id, self._other_bytes + self.size)

    def close(self) -> None:
        self._file.close()


class Spool:
    """The files of jobs in the folder ``DATA_DIR``, usable after `open`.

    Everything goes in and out by job; nothing else knows where the files are. All methods block, except `audio`.
    """

    def __init__(self, root: Path, space: Space | None = None) -> None:
        self._root = root
        self._jobs = root / "jobs"
        self._lock: int | None = None
        self.space = space or Space(root)

    def open(self) -> None:
        """Create the folder if there is none, and lock it.

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
                f"DATA_DIR={self._root} can't be used ({exc.strerror}): use a folder that can be written."
            ) from exc
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            self.close()
            raise SpoolInUse(
                f"DATA_DIR={self._root} is in use by another process: stop that process, or use another folder."
            ) from exc

    def close(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def sweep(self, known: Collection[str]) -> int:
        """Remove the folders of jobs that are not ``known`` and all unfinished files; return the number of folders.

        Folders that are not named like a job were not created by the service, and stay.
        """
        removed = 0
        for folder in self._jobs.iterdir():
            if folder.name not in known:
                if JOB_ID.fullmatch(folder.name):
                    shutil.rmtree(folder, ignore_errors=True)
                    removed += 1
                continue
            _remove_except(folder, {_AUDIO, *_REFERENCES, *_RESULTS})
            self._settle(folder.name)
        return removed

    def announce(self, job_id: str, size: int) -> None:
        """Check that there is room for a body of ``size`` bytes that is about to arrive.

        Raises:
            DiskFull: there is none.
        """
        self.space.announce(job_id, size)

    def open_audio(self, job_id: str) -> StoredAudio:
        """Open the audio as it was received. It can be read to its end even if the job is forgotten.

        Raises:
            FileNotFoundError: there is none.
        """
        return _AudioOnDisk(self.audio_path(job_id))

    @asynccontextmanager
    async def audio(self, job_id: str) -> AsyncIterator[Path]:
        """Yield a local path of the audio as it was received, beside which scratch files may be written.

        Raises:
            AudioLost: the audio is no longer there.
        """
        try:
            yield self.audio_path(job_id)
        except FileNotFoundError as exc:
            raise AudioLost("The audio of this job is no longer in DATA_DIR: submit it again.") from exc

    def audio_path(self, job_id: str) -> Path:
        return self._folder(job_id) / _AUDIO

    def has_audio(self, job_id: str) -> bool:
        return self.audio_path(job_id).exists()

    def has_result(self, job_id: str) -> bool:
        return (self._folder(job_id) / RESULT).exists()

    def create_audio(self, job_id: str, *, durably: bool = True, hashed: bool = False) -> ArrivingAudio:
        """Create a file for arriving audio, which replaces one that is incomplete.

        It is written ``durably`` if it is to be kept so, and ``hashed`` if its digest is asked for.

        Raises:
            DiskFull: there is no space for it.
        """
        with translated_full_disk():
            partial, references = self._partial_audio(job_id), self.references(job_id)
            return self._create_audio(job_id, partial, beside=references, durably=durably, hashed=hashed)

    def create_reference(self, job_id: str, number: int) -> ArrivingAudio:
        """Create a file for an arriving reference, counted from 1. Nothing of the job arrives at the same time.

        Raises:
            DiskFull: there is no space for it.
        """
        with translated_full_disk():
            path = self._folder(job_id) / _REFERENCES[number - 1]
            others = {self._partial_audio(job_id), self.audio_path(job_id), *self.references(job_id)} - {path}
            return self._create_audio(job_id, path, beside=others, hashed=True)

    def references(self, job_id: str) -> tuple[Path, ...]:
        """Return the paths of a job's references, in the order of its known speakers."""
        paths = (self._folder(job_id) / name for name in _REFERENCES)
        return tuple(path for path in paths if path.exists())

    def complete_audio(self, job_id: str, *, durably: bool = True) -> ReceivedAudio | None:
        """Keep audio that has arrived completely; if ``durably``, it survives a power failure from now on.

        Returns what the audio is to be checked against when it is read, or None if it needs no check.
        """
        partial, final = self._partial_audio(job_id), self.audio_path(job_id)
        with translated_full_disk():
            if durably:
                sync_file(partial)
            partial.rename(final)
            if durably:
                sync_folder(final.parent)
                sync_folder(self._jobs)
        self._settle(job_id)
        return None

    def complete_references(self, job_id: str, *, durably: bool = True) -> None:
        """Keep references that have arrived completely; if ``durably``, they survive a power failure from now on."""
        references = self.references(job_id)
        if not references or not durably:
            return
        with translated_full_disk():
            for path in references:
                sync_file(path)
            sync_folder(self._folder(job_id))
            sync_folder(self._jobs)

    def store_result(
        self,
        job_id: str,
        transcript: Transcript,
        *,
        processing_time: float,
        waveform: Waveform | None = None,
        durably: bool = True,
    ) -> str:
        """Store a result atomically and return its name. ``processing_time`` is in seconds.

        The name is empty if a job's result always has the same one.

        Raises:
            DiskFull: there is no space for it.
        """
        (self._folder(job_id) / CORRECTIONS).unlink(missing_ok=True)  # of an earlier result that was lost
        for name, content in result_files(transcript, processing_time=processing_time, waveform=waveform):
            self._write(job_id, name, content, durably=durably)
        return ""

    def result(self, job_id: str, *, original: bool = False) -> tuple[Transcript, float]:
        """Return the transcript, corrected unless the ``original`` is asked for, and its processing time in seconds."""
        stored = read_result(self._read(job_id, RESULT))
        transcript = stored.transcript if original else corrected(stored.transcript, self.corrections(job_id))
        return transcript, stored.processing_time

    def store_corrections(self, job_id: str, corrections: Corrections) -> str:
        """Replace the corrections of a job's result, durably and atomically, and return their name.

        The name is empty if a job's corrections always have the same one.

        Raises:
            UnknownJob: the job was forgotten.
            DiskFull: there is no space for them.
        """
        try:
            if corrections.is_empty:
                self._erase(job_id, CORRECTIONS)
            else:
                self._write(job_id, CORRECTIONS, corrections_file(corrections), durably=True)
        except FileNotFoundError as exc:
            raise deleted_meanwhile(job_id) from exc
        return ""

    def corrections(self, job_id: str) -> Corrections:
        """Return the corrections of a job's result."""
        try:
            stored = self._read(job_id, CORRECTIONS)
        except FileNotFoundError:
            return NO_CORRECTIONS
        return read_corrections(stored)

    def waveform(self, job_id: str) -> Waveform | None:
        """Return the waveform that was stored with the result, or None if there is none."""
        try:
            stored = self._read(job_id, WAVEFORM)
        except FileNotFoundError:
            return None
        return read_waveform(stored)

    def discard_result(self, name: str) -> None:
        """Remove the result of this name, which its job doesn't use because another one was stored before.

        Does nothing if a job's result always has the same name: the later one has replaced the other.
        """

    def discard_audio(self, job_id: str, *, keep_recording: bool = False) -> None:
        """Remove the audio of a job: everything except its result and, if ``keep_recording``, what was received."""
        with suppress(FileNotFoundError):
            _remove_except(self._folder(job_id), {_AUDIO, *_REFERENCES, *_RESULTS} if keep_recording else _RESULTS)
        if not keep_recording:
            self.space.release(job_id)

    def discard_partial_audio(self, job_id: str) -> None:
        """Remove audio that has not arrived completely, and release its space."""
        self._partial_audio(job_id).unlink(missing_ok=True)
        self._settle(job_id)

    def discard_references(self, job_id: str) -> None:
        """Remove the references of a job that has no use for them."""
        for path in self.references(job_id):
            path.unlink(missing_ok=True)
        self._settle(job_id)

    def discard(self, job_id: str) -> None:
        """Remove all files of a job."""
        shutil.rmtree(self._folder(job_id), ignore_errors=True)
        self.space.release(job_id)

    def _read(self, job_id: str, name: str) -> bytes:
        """Return one of the files that are the result of a job.

        Raises:
            FileNotFoundError: there is none.
        """
        return (self._folder(job_id) / name).read_bytes()

    def _erase(self, job_id: str, name: str) -> None:
        """Remove one of the files that are the result of a job, durably, if it is there."""
        (self._folder(job_id) / name).unlink(missing_ok=True)
        sync_folder(self._folder(job_id))

    def _write(self, job_id: str, name: str, content: bytes, *, durably: bool) -> None:
        """Write one of the files that are the result of a job atomically."""
        final = self._folder(job_id) / name
        partial = final.with_suffix(".partial")
        with translated_full_disk():
            with _create(partial) as file:
                file.write(content)
                file.flush()
                if durably:
                    os.fsync(file.fileno())
            partial.replace(final)
            if durably:
                sync_folder(final.parent)

    def _create_audio(
        self, job_id: str, path: Path, *, beside: Collection[Path], durably: bool = True, hashed: bool
    ) -> AudioFile:
        self._folder(job_id).mkdir(mode=0o700, exist_ok=True)
        file = _create(path, buffering=0)
        return AudioFile(file, job_id, self.space, other_bytes=_size(beside), durably=durably, hashed=hashed)

    def _settle(self, job_id: str) -> None:
        """Reserve exactly what the files take that were received for a job."""
        size = _size((self._partial_audio(job_id), self.audio_path(job_id), *self.references(job_id)))
        if size:
            self.space.settle(job_id, size)
        else:
            self.space.release(job_id)

    def _folder(self, job_id: str) -> Path:
        return self._jobs / job_id

    def _partial_audio(self, job_id: str) -> Path:
        return self._folder(job_id) / "audio.partial"


def deleted_meanwhile(job_id: str) -> UnknownJob:
    return UnknownJob(f"Job {job_id} was deleted meanwhile.", code="job_not_found")


def _size(paths: Collection[Path]) -> int:
    """Return the bytes in those of the files that exist."""
    size = 0
    for path in paths:
        with suppress(FileNotFoundError):
            size += path.stat().st_size
    return size


def _remove_except(folder: Path, names: Collection[str]) -> None:
    for path in folder.iterdir():
        if path.name not in names:
            path.unlink(missing_ok=True)


def _create(path: Path, *, buffering: int = -1) -> BinaryIO:
    """Create or truncate a file, readable by its owner only."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    return os.fdopen(descriptor, "wb", buffering)


def sync_file(path: Path) -> None:
    """Make the contents of ``path`` survive a power failure. Blocks."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Make the names in ``folder`` survive a power failure. Blocks."""
    sync_file(folder)
