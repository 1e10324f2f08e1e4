"""Edits of transcripts: corrections are stored beside the original, which stays as it is."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from app.domain.concurrency import shielded
from app.domain.corrections import Corrections, checked, corrected_segments
from app.domain.errors import EditConflict
from app.jobs import transitions

if TYPE_CHECKING:
    from collections.abc import Collection

    from app.domain.transcript import Segment, Transcript
    from app.jobs.spool import Spool
    from app.jobs.store import JobStore


@dataclass(frozen=True, slots=True)
class Edit:
    """The corrections of a transcript, and the segments with corrected texts, as they are now."""

    corrections: Corrections
    segments: tuple[Segment, ...]


class Edits:
    """Reads and replaces the corrections of transcripts, those of a job one at a time.

    They are durable in the spool before the job shows them, and a crash in between is made up for at the next start.
    Other nodes of a cluster may edit the same transcript: the first edit to be committed replaces the corrections, and
    the others begin again with these.
    """

    def __init__(self, *, store: JobStore, spool: Spool) -> None:
        self._store = store
        self._spool = spool
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def read(self, job_id: str) -> Edit:
        """Return the present corrections of a job that has a result."""
        return await asyncio.to_thread(self._read, job_id)

    async def replace(self, job_id: str, corrections: Corrections, *, expected: Collection[str] | None) -> Edit:
        """Replace all corrections of a job that has a result, and return them with the time of the edit.

        Raises:
            EditConflict: the version of the present corrections is none of ``expected``.
            InvalidRequest: there is no such segment or speaker, or a text or name is not allowed.
            UnknownJob: the job was forgotten meanwhile.
            DiskFull, JournalFailed: the edit may not be there: send it again.
        """
        return await shielded(self._replace(job_id, corrections, expected))

    async def _replace(self, job_id: str, corrections: Corrections, expected: Collection[str] | None) -> Edit:
        lock = self._locks.setdefault(job_id, asyncio.Lock())
        async with lock:
            while True:
                job = self._store.get(job_id).job
                job = (await self._store.find(job_id, owner=job.owner)).job  # it may have been forgotten or edited
                edit, name = await asyncio.to_thread(self._write, job_id, corrections, expected)
                with suppress(EditConflict):
                    await self._store.commit(
                        job_id,
                        transitions.edited,
                        at=edit.corrections.edited_at,
                        name=job.corrections_name if name is None else name,
                        instead_of=job.corrections_name,
                    )
                    return edit

    def _write(
        self, job_id: str, corrections: Corrections, expected: Collection[str] | None
    ) -> tuple[Edit, str | None]:
        """Write the corrections, and return them with their name, which is None if they are the present ones."""
        present = self._spool.corrections(job_id)
        if expected is not None and present.version not in expected:
            raise EditConflict(
                f"The transcript of job {job_id} was edited meanwhile: get /v1/jobs/{job_id}/transcript, and send the "
                "edit again with the ETag of that."
            )
        original, _ = self._spool.result(job_id, original=True)
        changed = replace(checked(corrections, original), edited_at=present.edited_at)
        if changed == present:
            return _edit(original, present), None
        changed = replace(changed, edited_at=None if changed.is_empty else time.time())
        return _edit(original, changed), self._spool.store_corrections(job_id, changed)

    def _read(self, job_id: str) -> Edit:
        original, _ = self._spool.result(job_id, original=True)
        return _edit(original, self._spool.corrections(job_id))


def _edit(original: Transcript, corrections: Corrections) -> Edit:
    return Edit(corrections, corrected_segments(original, corrections))
