"""A job, from its acceptance to its end: the state that must survive a crash (`Job`) and the rest (`Progress`).

Both are frozen: a change makes another value.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping  # noqa: TC003  # the journal evaluates the annotations
from dataclasses import dataclass, field, replace
from enum import StrEnum
from types import MappingProxyType
from typing import Concatenate, Final, ParamSpec, Self

from app.domain.errors import IllegalTransition
from app.domain.formats import Rendering, ResponseFormat  # noqa: TC001  # likewise
from app.domain.transcript import TranscriptionOptions  # noqa: TC001  # likewise

P = ParamSpec("P")


class JobStatus(StrEnum):
    QUEUED = "queued"
    PROCESSING = "processing"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        return self in (JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELLED)


#: The statuses of jobs that have not ended.
ACTIVE_STATUSES: Final = frozenset(status for status in JobStatus if not status.is_final)

#: The statuses that may follow each status. A job can fail or be cancelled while it is queued. The only way back from
#: an end is another delivery of the result.
TRANSITIONS: Final[Mapping[JobStatus, frozenset[JobStatus]]] = MappingProxyType(
    {
        JobStatus.QUEUED: frozenset({JobStatus.PROCESSING, JobStatus.FAILED, JobStatus.CANCELLED}),
        JobStatus.PROCESSING: frozenset({JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELLED}),
        JobStatus.COMPLETED: frozenset({JobStatus.PROCESSING}),
        JobStatus.FAILED: frozenset({JobStatus.PROCESSING}),
        JobStatus.CANCELLED: frozenset(),
    }
)


#: The number of deaths of the process after which a file is given up: those while it worked on this file alone, and
#: starts in all, for a file that never was alone.
MAX_LONE_DEATHS: Final = 3
MAX_STARTS: Final = 10
#: The number of starts after which a file is a suspect.
_SUSPICIOUS_STARTS: Final = 2


class Phrase(StrEnum):
    """The phrases that a job shows as its ``progress``."""

    WAITING = "Waiting for GPU availability"
    DOWNLOADING = "Downloading audio"
    TRANSCRIBING = "Transcribing audio"
    TELLING_SPEAKERS_APART = "Telling speakers apart"
    UPLOADING = "Uploading results"
    DONE = "Done"
    FAILED = "Failed"
    CANCELLED = "Cancelled"


#: The phrase of each status that alone determines it.
_STATUS_PHRASES: Final = MappingProxyType(
    {
        JobStatus.PROCESSING: Phrase.UPLOADING,
        JobStatus.COMPLETED: Phrase.DONE,
        JobStatus.FAILED: Phrase.FAILED,
        JobStatus.CANCELLED: Phrase.CANCELLED,
    }
)


class DeliveryKind(StrEnum):
    """The two things that are sent to a client: the result (or the report of its failure), and the webhook event."""

    UPLOAD = "upload"
    WEBHOOK = "webhook"


class DeliveryStatus(StrEnum):
    PENDING = "pending"
    DELIVERED = "delivered"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    """A presigned URL to PUT the result to, with the headers that were signed into it, and the format of the result.

    URL and headers are secrets, and empty once they have been erased. ``expires_at`` is in Unix seconds, None if the
    URL does not say.
    """

    url: str = field(repr=False)
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    format: ResponseFormat
    expires_at: float | None = None

    @property
    def is_kept(self) -> bool:
        return bool(self.url)

    def has_expired(self, *, now: float) -> bool:
        return self.expires_at is not None and self.expires_at <= now

    def erased(self) -> Self:
        return replace(self, url="", headers=())


@dataclass(frozen=True, slots=True, kw_only=True)
class Webhook:
    """The URL to notify of the job's end; a secret, and empty once it has been erased.

    ``event_id`` and ``body`` belong to the latest end and are the same for every attempt.
    """

    url: str = field(repr=False)
    event_id: str = ""
    body: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """The state of one of the URLs of a delivery; ``attempts`` counts those of all rounds."""

    status: DeliveryStatus = DeliveryStatus.PENDING
    attempts: int = 0
    last_error: str | None = None

    def attempted(self, *, attempts: int, error: str | None) -> Self:
        return replace(self, attempts=attempts, last_error=error)

    def delivered(self) -> Self:
        return replace(self, status=DeliveryStatus.DELIVERED, last_error=None)

    def given_up(self, reason: str) -> Self:
        return replace(self, status=DeliveryStatus.FAILED, last_error=reason)


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """The state of a delivery, whose ``targets`` share their rounds.

    An upload has a target for each of the job's uploads, in the same order, and a webhook has one. ``rounds`` counts
    the rounds after which a target was left for a passing reason. ``since`` is when the delivery became due and
    ``next_round`` when the next round is, both in seconds of the service clock; ``next_attempt_at`` is the latter as
    Unix time.
    """

    targets: tuple[Target, ...] = (Target(),)
    rounds: int = 0
    since: float = 0.0
    next_round: float = 0.0
    next_attempt_at: float | None = None

    @property
    def status(self) -> DeliveryStatus:
        """Pending while any target is; then failed if any has failed."""
        statuses = {target.status for target in self.targets}
        for status in (DeliveryStatus.PENDING, DeliveryStatus.FAILED):
            if status in statuses:
                return status
        return DeliveryStatus.DELIVERED

    @property
    def attempts(self) -> int:
        return sum(target.attempts for target in self.targets)

    @property
    def last_error(self) -> str | None:
        """The last error of each target that has one; once a round has ended, they name their URLs."""
        errors = (target.last_error for target in self.targets if target.last_error is not None)
        return "; ".join(dict.fromkeys(errors)) or None

    @property
    def pending(self) -> tuple[int, ...]:
        """The numbers of the targets that nothing has arrived at and that are not given up, from 0."""
        return tuple(number for number, target in enumerate(self.targets) if target.status is DeliveryStatus.PENDING)

    def with_target(self, number: int, target: Target) -> Self:
        """Return the state with another target ``number``; no next round is planned once none is pending."""
        state = replace(self, targets=(*self.targets[:number], target, *self.targets[number + 1 :]))
        return state if state.pending else replace(state, next_attempt_at=None)

    def given_up(self, reason: str) -> Self:
        """Return the state with all targets given up that are pending."""
        state = self
        for number in self.pending:
            state = state.with_target(number, self.targets[number].given_up(reason))
        return state


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """Everything about a job that must survive a crash; the journal keeps it.

    ``owner`` is the fingerprint of the API key that submitted it, empty if no key is needed. ``source_url`` is None
    if the audio came in the request, and empty once the audio has been downloaded. A client waits on the open
    connection for a ``synchronous`` job, which is in no list and not journalled; a ``streamed`` one sends the text as
    it is transcribed. ``form_digest`` is the same for requests that are equal except for the queries of their URLs,
    ``exact_digest`` for requests that are equal in everything; ``idempotency_key`` is the client's, if it sent one.

    With ``keep_audio`` the recording is kept as long as the result, for ``retention_seconds`` after the end if the
    client asked for that.

    ``status`` is queued until the result is stored: being on the model doesn't survive a crash. ``starts`` counts how
    often work on the audio was begun, ``begun_on`` is the node on which it was and has not ended, and ``lone_deaths``
    counts how often such a node died while it worked on no other job. In a single process, a node is a boot of the
    machine, or empty if the system has no ids of boots. ``delivery`` is the state of the uploads, of the result or of
    the failure document; ``webhook_delivery`` that of the webhook event. ``started_at``, ``progress_percent``,
    ``audio_duration`` and ``language`` become known for good with the result or the end; before that they are part of
    `Progress`. ``processing_time`` comes with the result, and so does ``result_name``, which tells results of several
    workers apart; a single process has one name for it, the empty one. ``corrections_name`` tells edits of several
    nodes apart in the same way; it is empty without corrections, too. ``revision`` is the number of the last change
    that was journalled. ``error_code`` and ``error_param`` are those of the response to a synchronous request.

    ``audio_bytes`` and ``audio_digest`` are the size of the audio in the object store of a cluster and its BLAKE2b
    hash, 0 and empty elsewhere.

    Times are Unix seconds, except ``ended_service_seconds``, the service clock at the end; ``progress_percent`` is 0
    to 100; ``audio_duration`` and ``processing_time`` are in seconds.
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
    uploads: tuple[Upload, ...] = ()
    webhook: Webhook | None = None
    name: str | None = None
    metadata: Mapping[str, str] | None = None
    keep_audio: bool = False
    retention_seconds: float | None = None
    warnings: tuple[str, ...] = ()
    form_digest: str = ""
    exact_digest: str = ""
    idempotency_key: str | None = None
    revision: int = field(default=0, compare=False)

    status: JobStatus = JobStatus.QUEUED
    started_at: float | None = None
    ended_at: float | None = None
    ended_service_seconds: float = 0.0
    starts: int = 0
    begun_on: str | None = None
    lone_deaths: int = 0
    progress_percent: float = 0.0
    audio_duration: float | None = None
    language: str | None = None
    processing_time: float | None = None
    delivery: Delivery | None = None
    webhook_delivery: Delivery | None = None
    has_result: bool = False
    result_name: str = ""
    edited_at: float | None = None
    corrections_name: str = ""
    error: str | None = None
    error_type: str | None = None
    error_code: str | None = None
    error_param: str | None = None
    audio_bytes: int = 0
    audio_digest: str = ""

    @property
    def is_active(self) -> bool:
        return not self.status.is_final

    @property
    def needs_transcription(self) -> bool:
        """True if the job has no result yet and may get one."""
        return self.is_active and not self.has_result

    @property
    def is_suspect(self) -> bool:
        """True if the process has died so often while it worked on the job that the file may be the cause."""
        return self.starts >= _SUSPICIOUS_STARTS

    @property
    def is_deadly(self) -> bool:
        """True if the process has died so often that work on the job is not to begin again."""
        return self.lone_deaths >= MAX_LONE_DEATHS or self.starts >= MAX_STARTS

    @property
    def has_recording(self) -> bool:
        """True if clients can fetch the recording, which is kept for them."""
        return self.keep_audio and not self.source_url and (self.is_active or self.has_result)

    @property
    def upload_has_begun(self) -> bool:
        """True if it is too late for another upload URL."""
        tried = self.delivery is not None and self.delivery.attempts > 0
        return tried or self.has_result or self.status.is_final

    @property
    def has_delivery_due(self) -> bool:
        return any(self.due_delivery(kind) is not None for kind in DeliveryKind)

    @property
    def is_settled(self) -> bool:
        """True if nothing is left to do for the job."""
        return self.status.is_final and not self.has_delivery_due

    def due_delivery(self, kind: DeliveryKind) -> Delivery | None:
        """Return the state of a delivery that has something to send and has not ended, or None."""
        state = self.delivery_of(kind)
        if state is None or state.status is not DeliveryStatus.PENDING:
            return None
        return state if self._has_content_for(kind) else None

    def delivery_of(self, kind: DeliveryKind) -> Delivery | None:
        return self.delivery if kind is DeliveryKind.UPLOAD else self.webhook_delivery

    def with_delivery(self, kind: DeliveryKind, state: Delivery) -> Self:
        if kind is DeliveryKind.UPLOAD:
            return replace(self, delivery=state)
        return replace(self, webhook_delivery=state)

    def _has_content_for(self, kind: DeliveryKind) -> bool:
        if kind is DeliveryKind.WEBHOOK:
            return self.status.is_final
        has_document = self.status is JobStatus.FAILED or (self.status is JobStatus.PROCESSING and self.has_result)
        return bool(self.uploads) and has_document

    @property
    def upload_expires_at(self) -> float | None:
        """The earliest end, in Unix seconds, of the upload URLs that are still to be used, or of all if none is."""
        pending = [self.uploads[number] for number in self.delivery.pending] if self.delivery and self.uploads else []
        return min(
            (upload.expires_at for upload in pending or self.uploads if upload.expires_at is not None), default=None
        )

    def rendering_of(self, upload: Upload) -> Rendering:
        return replace(self.rendering, format=upload.format)

    def without_upload_urls(self, numbers: Iterable[int] | None = None) -> Self:
        """Return the job without the URLs of some uploads, by their numbers, or of all."""
        erased = range(len(self.uploads)) if numbers is None else set(numbers)
        uploads = (upload.erased() if n in erased else upload for n, upload in enumerate(self.uploads))
        return replace(self, uploads=tuple(uploads)) if erased else self

    def without_source_url(self) -> Self:
        return self if self.source_url is None else replace(self, source_url="")

    def requeued(self) -> Self:
        """Return the job as it waits in the queue again after a restart, without a result."""
        return replace(
            self,
            status=JobStatus.QUEUED,
            progress_percent=0.0,
            started_at=None,
            ended_at=None,
            has_result=False,
            result_name="",
            edited_at=None,
            corrections_name="",
        )

    def moved_to(self, status: JobStatus, *, at: float) -> Self:
        """Return the job in its next status, entered at Unix time ``at``.

        Raises:
            IllegalTransition: ``status`` can't follow the present one.
        """
        if status not in TRANSITIONS[self.status]:
            raise IllegalTransition(f"Job {self.id} can't go from {self.status} to {status}.")
        if status is JobStatus.PROCESSING:
            started_at = at if self.started_at is None else self.started_at
            return replace(self, status=status, started_at=started_at, ended_at=None)
        if status is JobStatus.COMPLETED:
            return replace(self, status=status, ended_at=at, progress_percent=100.0, error=None, error_type=None)
        return replace(self, status=status, ended_at=at)


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """The state of a job that only this process knows, and that is lost in a crash.

    ``phrase`` is shown until the job has a result or has ended. ``started_at`` is when it first held a slot, in Unix
    seconds; ``percent``, ``audio_duration`` and ``language`` are those of the transcription so far, ``heard_percent``
    is the share of the audio that was heard for its voices, None if they are not told apart. ``upload_round`` and
    ``webhook_round`` are the states of deliveries with the attempts of the round under way.
    """

    phrase: Phrase = Phrase.WAITING
    percent: float = 0.0
    heard_percent: float | None = None
    audio_duration: float | None = None
    language: str | None = None
    started_at: float | None = None
    upload_round: Delivery | None = None
    webhook_round: Delivery | None = None

    def showing(self, phrase: Phrase) -> Self:
        return self if phrase is self.phrase else replace(self, phrase=phrase)

    def decoded(self, audio_duration: float) -> Self:
        return replace(self, audio_duration=audio_duration)

    def on_model(self, *, at: float) -> Self:
        started_at = at if self.started_at is None else self.started_at
        return replace(self, phrase=Phrase.TRANSCRIBING, started_at=started_at)

    def transcribed(self, *, language: str, percent: float | None) -> Self:
        return replace(self, language=language, percent=self.percent if percent is None else percent)

    def heard(self, *, percent: float) -> Self:
        return replace(self, heard_percent=percent)

    def of_deliveries(self) -> Progress:
        """Return what remains of it once the job has a result or has ended."""
        if self.upload_round is None and self.webhook_round is None:
            return NO_PROGRESS
        return Progress(upload_round=self.upload_round, webhook_round=self.webhook_round)

    def round_of(self, kind: DeliveryKind) -> Delivery | None:
        return self.upload_round if kind is DeliveryKind.UPLOAD else self.webhook_round

    def with_round(self, kind: DeliveryKind, state: Delivery | None) -> Self:
        if kind is DeliveryKind.UPLOAD:
            return replace(self, upload_round=state)
        return replace(self, webhook_round=state)


NO_PROGRESS: Final = Progress()


@dataclass(frozen=True, slots=True)
class LiveJob:
    """A job with its progress, as the registry holds it. ``revision`` counts the changes of either."""

    job: Job
    progress: Progress = NO_PROGRESS
    revision: int = field(default=0, compare=False)

    @property
    def status(self) -> JobStatus:
        """The status that clients see: processing from the moment the job first held a slot."""
        if self.job.status is JobStatus.QUEUED and self.progress.started_at is not None:
            return JobStatus.PROCESSING
        return self.job.status

    @property
    def phrase(self) -> Phrase:
        return _STATUS_PHRASES.get(self.job.status, self.progress.phrase)

    @property
    def started_at(self) -> float | None:
        return self.progress.started_at if self.job.started_at is None else self.job.started_at

    @property
    def percent(self) -> float:
        """The share of the audio for which everything is done."""
        if not self.job.needs_transcription:
            return self.job.progress_percent
        heard = self.progress.heard_percent
        return self.progress.percent if heard is None else min(self.progress.percent, heard)

    @property
    def audio_duration(self) -> float | None:
        return self.job.audio_duration if self.progress.audio_duration is None else self.progress.audio_duration

    @property
    def language(self) -> str | None:
        return self.job.language if self.progress.language is None else self.progress.language

    def delivery(self, kind: DeliveryKind) -> Delivery | None:
        """Return the state of a delivery, with the attempts of the round under way."""
        return self.progress.round_of(kind) or self.job.delivery_of(kind)

    def due_delivery(self, kind: DeliveryKind) -> Delivery | None:
        """Return the same if the delivery is still due, else None."""
        return None if self.job.due_delivery(kind) is None else self.delivery(kind)

    def with_job(self, job: Job) -> Self:
        """Return the value after ``job`` was committed; progress that it contains now is dropped."""
        progress = self.progress if job.needs_transcription else self.progress.of_deliveries()
        for kind in DeliveryKind:
            if job.delivery_of(kind) != self.job.delivery_of(kind) and progress.round_of(kind) is not None:
                progress = progress.with_round(kind, None)
        return replace(self, job=job, progress=progress, revision=max(self.revision + 1, job.revision))

    def progressed(
        self, change: Callable[Concatenate[Progress, P], Progress], /, *args: P.args, **kwargs: P.kwargs
    ) -> Self:
        """Return the value after progress of the transcription; unchanged once the job has a result or has ended."""
        if not self.job.needs_transcription:
            return self
        progress = change(self.progress, *args, **kwargs)
        return self if progress is self.progress else self._with_progress(progress)

    def attempted(self, kind: DeliveryKind, number: int, *, attempts: int, error: str | None) -> Self:
        """Return the value after an attempt at the target ``number``; unchanged if the delivery is no longer due."""
        state = self.due_delivery(kind)
        if state is None:
            return self
        target = state.targets[number].attempted(attempts=attempts, error=error)
        state = replace(state.with_target(number, target), next_attempt_at=None)
        return self._with_progress(self.progress.with_round(kind, state))

    def _with_progress(self, progress: Progress) -> Self:
        return replace(self, progress=progress, revision=self.revision + 1)
