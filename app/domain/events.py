"""Events for metrics and traces. Code emits them to an event sink and doesn't know who is listening."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from app.domain.job import Job


class AttemptOutcome(StrEnum):
    """The outcome of an attempt to transfer bytes. After a passing failure, a later attempt can succeed."""

    SUCCESS = "success"
    PASSING_FAILURE = "passing_failure"
    FINAL_FAILURE = "final_failure"


class DeliveryOutcome(StrEnum):
    """The outcome of a round of attempts to deliver something."""

    DELIVERED = "delivered"
    POSTPONED = "put_off"
    GIVEN_UP = "given_up"


class CutReason(StrEnum):
    """The reason for which the service closed a connection."""

    SLOW_HEAD = "slow_head"
    SLOW_BODY = "slow_body"
    SLOW_READER = "slow_reader"
    TOO_MANY = "too_many"
    MADE_ROOM = "made_room"


class SessionEnd(StrEnum):
    """The reason for which a realtime session ended."""

    CLIENT_LEFT = "client_left"
    IDLE = "idle"
    EXPIRED = "expired"
    INVALID = "invalid"
    TOO_FAST = "too_fast"
    SLOW_READER = "slow_reader"
    QUOTA = "quota"
    DRAINED = "drained"
    FAILED = "failed"


class ModelFailure(StrEnum):
    """The kind of failure of a batch."""

    OUT_OF_MEMORY = "out_of_memory"
    ERROR = "error"
    ENGINE_DIED = "engine_died"


class UnloadReason(StrEnum):
    """The reason for which a model was unloaded: it was idle for too long, or another one needed its place."""

    IDLE = "idle"
    EVICTED = "evicted"


class DeviceState(StrEnum):
    """The states of a device of the model.

    It computes; it starves, because transcriptions are there and no window is ready; it waits for the host, which has
    windows for it; or there is nothing to do.
    """

    BUSY = "busy"
    STARVED = "starved"
    WAITING = "waiting"
    IDLE = "idle"


@dataclass(frozen=True, slots=True)
class JobAccepted:
    """A job was accepted. ``context`` holds the trace headers of its request."""

    job: Job
    context: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class JobStarted:
    """A job was granted its first slot, at ``at`` in Unix seconds."""

    job: Job
    at: float


@dataclass(frozen=True, slots=True)
class AudioTranscribed:
    """A transcription finished, ``processing_seconds`` after it was granted its first slot."""

    job_id: str
    audio_seconds: float
    processing_seconds: float


@dataclass(frozen=True, slots=True)
class UtteranceTranscribed:
    """The final text of live audio was there ``seconds`` after its end."""

    audio_seconds: float
    seconds: float


@dataclass(frozen=True, slots=True)
class SessionEnded:
    """A realtime session ended."""

    reason: SessionEnd


@dataclass(frozen=True, slots=True)
class JobEnded:
    """A job reached a final status."""

    job: Job


@dataclass(frozen=True, slots=True)
class JobForgotten:
    """A job was removed from the registry."""

    job_id: str


@dataclass(frozen=True, slots=True)
class StepEnded:
    """A step of a job ended. ``started_at`` is in Unix seconds; ``error`` is the name of the exception's class."""

    job_id: str
    name: str
    started_at: float
    seconds: float
    error: str | None = None


@dataclass(frozen=True, slots=True)
class AttemptEnded:
    """An attempt ended. ``transfer`` is ``upload``, ``webhook`` or ``download``."""

    transfer: str
    outcome: AttemptOutcome


@dataclass(frozen=True, slots=True)
class RoundEnded:
    """A round of attempts ended. ``destination`` is ``upload`` or ``webhook``."""

    destination: str
    outcome: DeliveryOutcome


@dataclass(frozen=True, slots=True)
class AudioReceived:
    """Audio was received in a request; ``size`` is in bytes."""

    size: int


@dataclass(frozen=True, slots=True)
class AudioDownloaded:
    """Audio was downloaded; ``size`` is in bytes."""

    size: int


@dataclass(frozen=True, slots=True)
class ResultUploaded:
    """A result or a failure document was uploaded; ``size`` is in bytes."""

    size: int


@dataclass(frozen=True, slots=True)
class BatchDecoded:
    """The model decoded a batch of ``windows``; a full batch has ``capacity`` windows."""

    windows: int
    capacity: int


@dataclass(frozen=True, slots=True)
class DeviceTime:
    """The device number ``device`` was in a state for this many seconds."""

    device: int
    state: DeviceState
    seconds: float


@dataclass(frozen=True, slots=True)
class ModelLoaded:
    """A model was loaded, which took this many seconds."""

    seconds: float


@dataclass(frozen=True, slots=True)
class ModelUnloaded:
    """A model was unloaded."""

    reason: UnloadReason


@dataclass(frozen=True, slots=True)
class ModelFailed:
    """The model failed to decode a batch."""

    kind: ModelFailure


@dataclass(frozen=True, slots=True)
class ResponseSent:
    """A response was sent. ``route`` is the path template of the request, or empty if no route matched."""

    route: str
    status: int


@dataclass(frozen=True, slots=True)
class ConnectionCut:
    """The service closed a connection."""

    reason: CutReason


@dataclass(frozen=True, slots=True)
class LoopLagged:
    """The event loop ran a timer this many seconds late."""

    seconds: float


Event = (
    JobAccepted
    | JobStarted
    | AudioTranscribed
    | UtteranceTranscribed
    | SessionEnded
    | JobEnded
    | JobForgotten
    | StepEnded
    | AttemptEnded
    | RoundEnded
    | AudioReceived
    | AudioDownloaded
    | ResultUploaded
    | BatchDecoded
    | DeviceTime
    | ModelLoaded
    | ModelUnloaded
    | ModelFailed
    | ResponseSent
    | ConnectionCut
    | LoopLagged
)
EventSink = Callable[[Event], None]


def discard_event(_: Event) -> None:
    """Discard the event."""


@contextmanager
def timed_step(emit: EventSink, job_id: str, name: str) -> Iterator[None]:
    """Emit StepEnded when the block ends, whether it succeeds or raises."""
    started_at, started = time.time(), time.monotonic()
    error: str | None = None
    try:
        yield
    except BaseException as exc:
        error = type(exc).__name__
        raise
    finally:
        emit(StepEnded(job_id, name, started_at, time.monotonic() - started, error))
