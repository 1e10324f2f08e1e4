"""The spool of many machines: audio and results in an object store, and copies of audio in a scratch folder."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, closing, suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from app.cluster.object_names import (
    NAMES,
    audio_object,
    is_of_result,
    is_orphan,
    job_of_result,
    new_result_name,
    reference_folder,
    reference_object,
    result_folder,
    result_object,
)
from app.cluster.object_store import RETRY_SECONDS, ObjectStore
from app.cluster.scratch import CheckedCopy
from app.domain.concurrency import shielded
from app.domain.errors import AudioLost, SpoolUnavailable
from app.jobs.results import CORRECTIONS, corrections_file, result_files
from app.jobs.spool import Spool, deleted_meanwhile

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
    from pathlib import Path

    from app.cluster.object_names import KeptObjects
    from app.cluster.object_store import ArrivingObject
    from app.domain.corrections import Corrections
    from app.domain.transcript import Transcript
    from app.domain.waveform import Waveform
    from app.jobs.audio import ArrivingAudio, ReceivedAudio, StoredAudio
    from app.jobs.space import Space

#: An object of an unknown job is kept for this long, because its job may still be arriving.
_ARRIVAL_SECONDS: Final = 24 * 3600
_GONE: Final = "The audio of this job is no longer in the object store: submit it again."


class ObjectSpool(Spool):
    """The objects of jobs below ``url``, and a ``scratch`` folder of this process; usable after `open`.

    ``received_audio`` returns the size and digest of a job's audio, or None if none has been recorded;
    ``result_name`` and ``corrections_name`` return the names of a job's result and of its corrections, empty if it has
    none. All are called in any thread, and raise UnknownJob for jobs that this process doesn't know. Requests to the
    store that fail are repeated for ``retry_seconds``.

    Arriving audio goes to the object store while it arrives, and takes no disk. `audio` and `references` copy what
    they return to the scratch folder, whose space is what ``space`` counts.

    Files that are written are durable, whatever is asked for. All methods raise SpoolUnavailable if the store is away,
    except those that discard: what they leave behind is removed by `remove_orphans`.
    """

    def __init__(
        self,
        url: str,
        scratch: Path,
        *,
        space: Space | None = None,
        received_audio: Callable[[str], ReceivedAudio | None],
        result_name: Callable[[str], str],
        corrections_name: Callable[[str], str],
        retry_seconds: float = RETRY_SECONDS,
    ) -> None:
        super().__init__(scratch, space)
        self._scratch = Spool(scratch, self.space)
        self._store = ObjectStore(url, retry_seconds=retry_seconds)
        self._received_audio = received_audio
        self._result_name = result_name
        self._corrections_name = corrections_name
        self._arriving: dict[str, dict[str, ArrivingObject]] = {}

    def open(self) -> None:
        """Open the scratch folder, remove what an earlier process left there, and check the object store.

        Raises:
            SpoolInUse: another process uses the scratch folder.
            ServiceError: the folder or the object store can't be used.
        """
        self._scratch.open()
        self._scratch.sweep(())
        self._store.open(list(NAMES))

    def close(self) -> None:
        for job_id in list(self._arriving):
            self._abort(job_id)
        self._scratch.close()

    def sweep(self, known: Collection[str]) -> int:
        """Remove the copies of jobs that are not ``known`` from the scratch folder, and return their number."""
        return self._scratch.sweep(known)

    # Audio that arrives.

    def announce(self, job_id: str, size: int) -> None:
        """Do nothing: arriving audio takes no disk."""

    def create_audio(
        self,
        job_id: str,
        *,
        durably: bool = True,  # noqa: ARG002  # always durable
        hashed: bool = False,  # noqa: ARG002  # always hashed
    ) -> ArrivingAudio:
        """Begin the object of arriving audio, always durable and hashed; it replaces one that is incomplete."""
        return self._create(job_id, audio_object(job_id))

    def create_reference(self, job_id: str, number: int) -> ArrivingAudio:
        """Begin the object of an arriving reference, counted from 1."""
        return self._create(job_id, reference_object(job_id, number))

    def complete_audio(self, job_id: str, *, durably: bool = True) -> ReceivedAudio:  # noqa: ARG002  # always durable
        """Keep audio that has arrived completely, and return what it is to be checked against when it is read."""
        name = audio_object(job_id)
        received = self._arriving[job_id][name].complete()
        self._arrived(job_id, name)
        return received

    def complete_references(self, job_id: str, *, durably: bool = True) -> None:  # noqa: ARG002  # always durable
        """Keep references that have arrived completely."""
        for name, reference in self._arriving_references(job_id).items():
            reference.complete()
            self._arrived(job_id, name)

    # Audio that is read.

    def has_audio(self, job_id: str) -> bool:
        """Return whether the audio is there and can be checked; else it must be downloaded again."""
        return self._received_audio(job_id) is not None and self._store.has(audio_object(job_id))

    def open_audio(self, job_id: str) -> StoredAudio:
        """Open the audio as it was received. It can't be read on once the job is forgotten.

        Raises:
            FileNotFoundError: there is none.
        """
        return self._store.open_object(audio_object(job_id))

    @asynccontextmanager
    async def audio(self, job_id: str) -> AsyncIterator[Path]:
        """Yield a copy of the audio as it was received, in the scratch folder, which is emptied at the end.

        Raises:
            AudioLost: the audio is no longer there, or is not what was received.
            DiskFull: there is no space for the copy.
        """
        try:
            await self._copy(job_id)
            yield self.audio_path(job_id)
        finally:
            await shielded(asyncio.to_thread(self._scratch.discard, job_id))

    def references(self, job_id: str) -> tuple[Path, ...]:
        """Copy a job's references to the scratch folder; return their paths, in the order of its known speakers.

        Raises:
            DiskFull: there is no space for them.
        """
        for number, name in enumerate(self._store.names(reference_folder(job_id)), start=1):
            file = self._scratch.create_reference(job_id, number)
            try:
                file.write(self._store.get(name))
            finally:
                file.close()
        return self._scratch.references(job_id)

    # Results.

    def has_result(self, job_id: str) -> bool:
        return bool(self._result_name(job_id))

    def store_result(
        self,
        job_id: str,
        transcript: Transcript,
        *,
        processing_time: float,
        waveform: Waveform | None = None,
        durably: bool = True,  # noqa: ARG002  # always durable
    ) -> str:
        """Store a result under a name of its own and return the name; the job has it once it knows the name.

        ``processing_time`` is in seconds. Other results of the job stay.
        """
        name = new_result_name(job_id)
        for file, content in result_files(transcript, processing_time=processing_time, waveform=waveform):
            self._store.put(result_object(name, file), content)
        return name

    def store_corrections(self, job_id: str, corrections: Corrections) -> str:
        """Store corrections of a job's result, also empty ones, under a name of their own and return the name.

        The job has them once it knows the name. Other corrections stay until `remove_orphans`, because another node may
        be about to read them.
        """
        if not self.has_result(job_id):
            raise deleted_meanwhile(job_id)
        name = new_result_name(job_id)
        self._store.put(result_object(name, CORRECTIONS), corrections_file(corrections))
        return name

    # What is no longer needed.

    def discard_result(self, name: str) -> None:
        """Remove the result of this name, which its job doesn't use because another one was stored before."""
        folder = result_folder(job_of_result(name))
        self._discard(lambda: [each for each in self._store.names(folder) if is_of_result(each, name)])

    def discard_audio(self, job_id: str, *, keep_recording: bool = False) -> None:
        """Remove the audio of a job from scratch and, unless ``keep_recording``, from the object store."""
        self._scratch.discard(job_id)
        if not keep_recording:
            self._abort(job_id)
            self._discard(lambda: [audio_object(job_id), *self._store.names(reference_folder(job_id))])

    def discard_partial_audio(self, job_id: str) -> None:
        """Give up audio that has not arrived completely."""
        self._abort(job_id, [audio_object(job_id)])

    def discard_references(self, job_id: str) -> None:
        """Give up the references of a job that has no use for them, while the job arrives."""
        self._abort(job_id, self._arriving_references(job_id))

    def discard(self, job_id: str) -> None:
        """Remove all objects of a job, and everything that still arrives."""
        self._scratch.discard(job_id)
        if self._abort(job_id):
            self._discard(
                lambda: [
                    audio_object(job_id),
                    *self._store.names(reference_folder(job_id)),
                    *self._store.names(result_folder(job_id)),
                ]
            )

    async def remove_orphans(self, known: Callable[[Sequence[str]], Awaitable[Mapping[str, KeptObjects]]]) -> int:
        """Remove objects that no job needs, and return their number.

        ``known`` returns what is still needed by those of the jobs that exist. Objects of other jobs are removed once
        they are a day old, before which their jobs may still arrive, and corrections that are not those of their job
        likewise; a result once its job has another one.
        """
        before = datetime.now(UTC) - timedelta(seconds=_ARRIVAL_SECONDS)
        removed = await asyncio.to_thread(self._store.sweep, before=before)
        for folder, names in NAMES.items():
            pages = self._store.pages(folder)
            while page := await asyncio.to_thread(next, pages, None):
                objects = [(info, match[1]) for info in page if (match := names.fullmatch(info.name))]
                jobs = await known(sorted({job_id for _, job_id in objects}))
                orphans = [info.name for info, job_id in objects if is_orphan(info, jobs.get(job_id), before=before)]
                await asyncio.to_thread(self._store.delete, orphans)
                removed += len(orphans)
        return removed

    # Implementation.

    def _create(self, job_id: str, name: str) -> ArrivingAudio:
        self._abort(job_id, [name])
        arriving = self._store.create(name)
        self._arriving.setdefault(job_id, {})[name] = arriving
        return arriving

    def _arriving_references(self, job_id: str) -> dict[str, ArrivingObject]:
        arriving = self._arriving.get(job_id, {})
        return {name: each for name, each in arriving.items() if name != audio_object(job_id)}

    def _arrived(self, job_id: str, name: str) -> None:
        arriving = self._arriving[job_id]
        del arriving[name]
        if not arriving:
            del self._arriving[job_id]

    def _abort(self, job_id: str, names: Collection[str] | None = None) -> bool:
        """Give up what arrives of a job, all of it or these objects; return False if the store is away."""
        aborted = True
        for name, arriving in list(self._arriving.get(job_id, {}).items()):
            if names is None or name in names:
                self._arrived(job_id, name)
                try:
                    arriving.abort()
                except SpoolUnavailable:
                    aborted = False
        return aborted

    def _discard(self, names: Callable[[], Sequence[str]]) -> None:
        """Remove objects; if the store is away, they are left to `remove_orphans`."""
        with suppress(SpoolUnavailable):
            self._store.delete(names())

    async def _copy(self, job_id: str) -> None:
        """Copy the audio to the scratch folder, and check it."""
        received = self._received_audio(job_id)
        if received is None:
            raise AudioLost(_GONE)
        try:
            audio = await asyncio.to_thread(self.open_audio, job_id)
            with closing(CheckedCopy(audio, received, scratch=self._scratch, job_id=job_id)) as copy:
                while await shielded(asyncio.to_thread(copy.extend)):
                    pass
        except FileNotFoundError as exc:
            raise AudioLost(_GONE) from exc

    def _read(self, job_id: str, name: str) -> bytes:
        kept_as = self._corrections_name(job_id) if name == CORRECTIONS else self._result_name(job_id)
        if not kept_as:
            raise FileNotFoundError(f"Job {job_id} has no {name}.")
        return self._store.get(result_object(kept_as, name))
