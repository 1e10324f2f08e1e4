"""Copies of audio in a scratch folder, checked against what was received."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from app.domain.errors import AudioLost

if TYPE_CHECKING:
    from app.jobs.audio import ArrivingAudio, ReceivedAudio, StoredAudio
    from app.jobs.spool import Spool

#: The bytes that are copied by one call. A cancellation waits for the end of it.
_STEP_BYTES: Final = 8 * 1024 * 1024
_CHUNK_BYTES: Final = 1024 * 1024


class CheckedCopy:
    """A growing copy of a job's ``audio`` in the spool ``scratch``. All methods block.

    Once all of it is right it is the job's audio there, to be discarded by its reader. `close` is always to be called.
    """

    def __init__(self, audio: StoredAudio, received: ReceivedAudio, *, scratch: Spool, job_id: str) -> None:
        self._audio = audio
        self._received = received
        self._scratch = scratch
        self._job_id = job_id
        self._copy: ArrivingAudio | None = None

    def extend(self) -> bool:
        """Copy the next bytes; return False if the copy is complete.

        Raises:
            AudioLost: the audio is not what was received.
            DiskFull: there is no space for the copy.
            SpoolUnavailable: the audio can't be read now.
        """
        if self._copy is None:
            self._check(self._audio.size == self._received.size)
            self._scratch.space.claim(self._job_id, self._received.size)
            self._copy = self._scratch.create_audio(self._job_id, durably=False, hashed=True)
        if self._copy_some(self._copy):
            return True
        self._check(self._copy.digest == self._received.digest)
        self._scratch.complete_audio(self._job_id, durably=False)
        return False

    def close(self) -> None:
        self._audio.close()
        if self._copy is not None:
            self._copy.close()

    def _copy_some(self, copy: ArrivingAudio) -> bool:
        copied = 0
        while copied < _STEP_BYTES and (piece := self._audio.read(_CHUNK_BYTES)):
            copy.write(piece)
            copied += len(piece)
        return copied > 0

    def _check(self, is_right: bool) -> None:  # noqa: FBT001  # reads as a sentence
        if not is_right:
            raise AudioLost("The audio of this job was damaged in the object store: submit it again.")
