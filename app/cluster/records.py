"""Jobs as rows of the database: what statements need in columns of their own, everything else encrypted."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from psycopg.types.json import Jsonb
from pydantic import TypeAdapter

from app.domain.errors import ServiceError
from app.domain.job import DeliveryKind, Job, LiveJob, Progress
from app.jobs.journal import job_adapter, journal_entry

if TYPE_CHECKING:
    from collections.abc import Sequence

    from app.cluster.database import Connection
    from app.jobs.retention import Retention

PROGRESS: Final[TypeAdapter[Progress]] = TypeAdapter(Progress)
#: The tables that a job is read from. Progress of a job that has its result is on its way to be deleted.
JOBS_WITH_PROGRESS: Final = "jobs LEFT JOIN progress ON progress.job_id = jobs.id AND jobs.needs_transcription"
_LIVE: Final = f"SELECT job, jobs.revision, progress.revision, progress.progress FROM {JOBS_WITH_PROGRESS}"  # noqa: S608


def parsed_id(job_id: str) -> UUID | None:
    """Return a job's id as the database has it, or None if it can't be one."""
    try:
        return UUID(job_id)
    except ValueError:
        return None


class Records:
    """Writes jobs into rows and reads them.

    ``secrets`` are the texts of CLUSTER_SECRET: the first one encrypts, all of them decrypt, so that it can be replaced
    while nodes are running.
    """

    def __init__(self, secrets: Sequence[str], *, retention: Retention) -> None:
        self._cipher = MultiFernet([Fernet(_key(secret)) for secret in secrets])
        self._retention = retention
        self._jobs = job_adapter()

    def columns(self, job: Job) -> dict[str, Any]:
        """Return the values of the columns of a job that change with it."""
        return {
            "id": UUID(job.id),
            "status": job.status.value,
            "name": (job.name or "").casefold(),
            "needs_transcription": job.needs_transcription,
            "begun_on": UUID(job.begun_on) if job.begun_on and job.needs_transcription else None,
            "next_deliveries": Jsonb(
                {kind.value: state.next_round for kind in DeliveryKind if (state := job.due_delivery(kind)) is not None}
            ),
            "result_name": job.result_name,
            "revision": job.revision,
            "expires_at": self._retention.ends_at(job),
            "has_kept_urls": job.is_settled and any(upload.is_kept for upload in job.uploads),
            "job": self._cipher.encrypt(journal_entry(job)),
        }

    def job(self, written: bytes) -> Job:
        """Return a job as it was written.

        Raises:
            ServiceError: it was encrypted with another secret.
        """
        try:
            return self._jobs.validate_json(self._cipher.decrypt(written))
        except InvalidToken as exc:
            raise ServiceError(
                "A job in the database was encrypted with another CLUSTER_SECRET: all nodes need the same one, and a "
                "former one after a comma for as long as its jobs are kept."
            ) from exc

    async def read(self, connection: Connection, condition: str, *values: Any) -> list[LiveJob]:
        """Return jobs that fulfil a condition of SQL, which goes after the FROM clause, with their progress."""
        cursor = await connection.execute(f"{_LIVE} {condition}", values)
        return [self._live(*row) for row in await cursor.fetchall()]

    def _live(self, written: bytes, revision: int, progress_revision: int | None, progress: Any) -> LiveJob:
        job = replace(self.job(written), revision=revision)
        if progress_revision is None:
            return LiveJob(job, revision=revision)
        return LiveJob(job, PROGRESS.validate_python(progress), revision=max(revision, progress_revision))


def _key(secret: str) -> bytes:
    """Return the key that belongs to a secret, which has enough random characters itself."""
    return base64.urlsafe_b64encode(hashlib.sha256(secret.encode()).digest())
