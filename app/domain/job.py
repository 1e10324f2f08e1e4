"""A job: one request to transcribe, from its acceptance to its end. It changes by becoming another value."""

from __future__ import annotations

from collections.abc import Mapping  # noqa: TC003  # the journal evaluates the annotations
from dataclasses import dataclass, field, replace
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Final, Self

from app.domain.errors import IllegalTransition
from app.domain.formats import Rendering  # noqa: TC001  # likewise
from app.domain.transcript import TranscriptionOptions  # noqa: TC001  # likewise


class JobStatus(StrEnum):
    QUEUED = "queued"
    PROCESSING = "processing"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        return self in (JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELLED)


#: What may follow what. A job may fail or be cancelled while it waits. The one way back is a further delivery of its
#: result.
TRANSITIONS: Final[Mapping[JobStatus, frozenset[JobStatus]]] = MappingProxyType(
    {
        JobStatus.QUEUED: frozenset({JobStatus.PROCESSING, JobStatus.FAILED, JobStatus.CANCELLED}),
        JobStatus.PROCESSING: frozenset({JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELLED}),
        JobStatus.COMPLETED: frozenset({JobStatus.PROCESSING}),
        JobStatus.FAILED: frozenset({JobStatus.PROCESSING}),
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
    """Where the result is to be PUT. ``url`` is a secret, and empty once it has been erased; so are ``headers``, those
    that were signed into it."""

    url: str = field(repr=False)
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    rendering: Rendering
    expires_at: float | None = None

    @property
    def is_kept(self) -> bool:
        return bool(self.url)

    def erased(self) -> Self:
        return replace(self, url="", headers=())


@dataclass(frozen=True, slots=True, kw_only=True)
class Webhook:
    """Who is told of the job's end. ``url`` is a secret, and empty once it has been erased.

    ``event_id`` and ``body`` are those of the end that is to be told, the same for every attempt.
    """

    url: str = field(repr=False)
    event_id: str = ""
    body: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """How far a delivery has come.

    ``rounds`` counts those that failed for a passing reason. ``since`` is when it became due and ``next_round`` when
    the next one is, in seconds of the service clock; ``next_attempt_at`` is the latter as Unix time, as is
    ``expires_at``, the end of the URL.
    """

    status: DeliveryStatus = DeliveryStatus.PENDING
    attempts: int = 0
    rounds: int = 0
    since: float = 0.0
    next_round: float = 0.0
    next_attempt_at: float | None = None
    last_error: str | None = None
    expires_at: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One request to transcribe.

    ``owner`` is the fingerprint of the API key that made it, empty where none is needed. ``source_url`` is None
    when the audio came in the request, and empty once it has been fetched. ``synchronous`` jobs belong to a client
    that waits; they are in no list. ``streamed`` ones tell it what is said as it is transcribed. ``form_digest`` is
    the same for requests that are equal but for the queries of their URLs, ``exact_digest`` for those that are equal
    in all, and ``idempotency_key`` the one that the client gave, if any. ``revision`` counts the changes, ``attempts``
    how often work on the audio has begun. ``delivery`` is that of the result, or of the document of its failure, and
    ``notification`` that of the event.
    Times are Unix seconds but for ``ended_uptime``, the service clock at the end; ``progress_percent`` is 0 to 100;
    ``audio_duration`` is in seconds.
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
    webhook: Webhook | None = None
    metadata: Mapping[str, str] | None = None
    warnings: tuple[str, ...] = ()
    form_digest: str = ""
    exact_digest: str = ""
    idempotency_key: str | None = None
    revision: int = field(default=0, compare=False)

    status: JobStatus = JobStatus.QUEUED
    progress: Progress = Progress.WAITING
    progress_percent: float = 0.0
    started_at: float | None = None
    ended_at: float | None = None
    ended_uptime: float = 0.0
    attempts: int = 0
    audio_duration: float | None = None
    language: str | None = None
    delivery: Delivery | None = None
    notification: Delivery | None = None
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

    @property
    def upload_is_due(self) -> bool:
        """Whether there is a result, or a failure, that has not been PUT where it belongs."""
        if self.upload is None or self.delivery is None or self.delivery.status is not DeliveryStatus.PENDING:
            return False
        return self.status is JobStatus.FAILED or (self.status is JobStatus.PROCESSING and self.has_result)

    @property
    def event_is_due(self) -> bool:
        """Whether there is an end of which the webhook has not been told."""
        return (
            self.status.is_final
            and self.notification is not None
            and self.notification.status is DeliveryStatus.PENDING
        )

    @property
    def is_settled(self) -> bool:
        """Whether nothing of it is left to do."""
        return self.status.is_final and not self.upload_is_due and not self.event_is_due

    def requeued(self) -> Self:
        """The job as it waits in the line again after a restart."""
        return replace(self, status=JobStatus.QUEUED, progress=Progress.WAITING, progress_percent=0.0, started_at=None)

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
        if status is JobStatus.PROCESSING and self.started_at is None:
            changes.setdefault("started_at", at)
        if status.is_final:
            changes.setdefault("ended_at", at)
            changes.setdefault("progress", _LAST_PHRASE[status])
        if status is JobStatus.COMPLETED:
            changes = {"progress_percent": 100.0, "error": None, "error_type": None, **changes}
        return replace(self, status=status, **changes)
