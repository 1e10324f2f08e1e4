"""A job: one request to transcribe, from its acceptance to its end. It changes by becoming another value."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Self

from app.domain.errors import IllegalTransition

if TYPE_CHECKING:
    from collections.abc import Mapping

    from app.domain.formats import Rendering
    from app.domain.transcript import TranscriptionOptions


class JobStatus(StrEnum):
    QUEUED = "queued"
    PROCESSING = "processing"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        return not TRANSITIONS[self]


#: What may follow what. A job may fail or be cancelled while it waits.
TRANSITIONS: Final[Mapping[JobStatus, frozenset[JobStatus]]] = MappingProxyType(
    {
        JobStatus.QUEUED: frozenset({JobStatus.PROCESSING, JobStatus.FAILED, JobStatus.CANCELLED}),
        JobStatus.PROCESSING: frozenset({JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELLED}),
        JobStatus.COMPLETED: frozenset(),
        JobStatus.FAILED: frozenset(),
        JobStatus.CANCELLED: frozenset(),
    }
)


class Progress(StrEnum):
    """The phrases that a job shows."""

    WAITING = "Waiting for GPU availability"
    DOWNLOADING = "Downloading audio"
    TRANSCRIBING = "Transcribing audio"
    UPLOADING = "Uploading results"
    DONE = "Done"
    FAILED = "Failed"
    CANCELLED = "Cancelled"


_LAST_PHRASE: Final = MappingProxyType(
    {
        JobStatus.COMPLETED: Progress.DONE,
        JobStatus.FAILED: Progress.FAILED,
        JobStatus.CANCELLED: Progress.CANCELLED,
    }
)


class DeliveryStatus(StrEnum):
    PENDING = "pending"
    DELIVERED = "delivered"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    """Where the result is to be PUT. ``url`` is a secret; ``headers`` are those that were signed into it."""

    url: str = field(repr=False)
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    rendering: Rendering
    expires_at: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """How far the delivery has come. Times are Unix seconds."""

    status: DeliveryStatus = DeliveryStatus.PENDING
    attempts: int = 0
    last_error: str | None = None
    expires_at: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One request to transcribe.

    ``owner`` is the fingerprint of the API key that made it, empty where none is needed. ``source_url`` is None
    when the audio came in the request. ``synchronous`` jobs belong to a client that waits; they are in no list.
    ``streamed`` ones tell it what is said as it is transcribed. ``form_digest`` is the same for equal requests, and
    ``idempotency_key`` the one that the client gave, if any. ``revision`` counts the changes.
    Times are Unix seconds; ``progress_percent`` is 0 to 100; ``audio_duration`` is in seconds.
    """

    id: str
    accepted_at: float
    model: str
    options: TranscriptionOptions
    rendering: Rendering
    owner: str = ""
    synchronous: bool = False
    streamed: bool = False
    source_url: str | None = field(default=None, repr=False)
    upload: Upload | None = None
    metadata: Mapping[str, str] | None = None
    warnings: tuple[str, ...] = ()
    form_digest: str = ""
    idempotency_key: str | None = None
    revision: int = field(default=0, compare=False)

    status: JobStatus = JobStatus.QUEUED
    progress: Progress = Progress.WAITING
    progress_percent: float = 0.0
    started_at: float | None = None
    ended_at: float | None = None
    audio_duration: float | None = None
    language: str | None = None
    delivery: Delivery | None = None
    has_result: bool = False
    error: str | None = None
    error_type: str | None = None

    @property
    def is_active(self) -> bool:
        return not self.status.is_final

    @property
    def upload_has_begun(self) -> bool:
        """Whether a further upload URL would come too late."""
        tried = self.delivery is not None and self.delivery.attempts > 0
        return tried or self.progress is Progress.UPLOADING or self.status.is_final

    def with_fresh_upload(self, upload: Upload | None) -> Self:
        """The job with a URL that was signed anew, unless its upload has begun."""
        if upload is None or self.upload is None or self.upload_has_begun:
            return self
        return replace(self, upload=upload, delivery=Delivery(expires_at=upload.expires_at))

    def changed(self, **changes: Any) -> Self:
        """The same job with other values, its status excepted."""
        if "status" in changes:
            raise IllegalTransition("A job changes its status with moved_to().")
        return replace(self, **changes)

    def moved_to(self, status: JobStatus, *, at: float, **changes: Any) -> Self:
        """The job in its next status.

        Raises:
            IllegalTransition: ``status`` can't follow the present one.
        """
        if status not in TRANSITIONS[self.status]:
            raise IllegalTransition(f"Job {self.id} can't go from {self.status} to {status}.")
        if status is JobStatus.PROCESSING:
            changes.setdefault("started_at", at)
        if status.is_final:
            changes.setdefault("ended_at", at)
            changes.setdefault("progress", _LAST_PHRASE[status])
        if status is JobStatus.COMPLETED:
            changes.setdefault("progress_percent", 100.0)
        return replace(self, status=status, **changes)
