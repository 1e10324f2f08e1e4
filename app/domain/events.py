"""What happens in the service that somebody may want to count or to trace.

Those to whom it happens tell it, and know nobody who listens.
"""

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
    """How an attempt to move bytes ended: a passing failure may be another one next time."""

    SUCCESS = "success"
    PASSING_FAILURE = "passing_failure"
    FINAL_FAILURE = "final_failure"


class DeliveryOutcome(StrEnum):
    """What became of a round of deliveries."""

    DELIVERED = "delivered"
    POSTPONED = "put_off"
    GIVEN_UP = "given_up"


class CutReason(StrEnum):
    """Why a connection was closed from this side."""

    SLOW_HEAD = "slow_head"
    SLOW_BODY = "slow_body"
    SLOW_READER = "slow_reader"
    TOO_MANY = "too_many"
    MADE_ROOM = "made_room"


class ModelFailure(StrEnum):
    OUT_OF_MEMORY = "out_of_memory"
    ERROR = "error"
    ENGINE_DIED = "engine_died"


@dataclass(frozen=True, slots=True)
class JobAccepted:
    """A job was taken in. ``context`` is what the request said about the trace that it is part of."""

    job: Job
    context: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class JobStarted:
    """A job has its first slot."""

    job: Job


@dataclass(frozen=True, slots=True)
class Transcribed:
    """The work on the model is done; both in seconds, ``processing_seconds`` since the first slot."""

    job_id: str
    audio_seconds: float
    processing_seconds: float


@dataclass(frozen=True, slots=True)
class JobEnded:
    """A job has a final status."""

    job: Job


@dataclass(frozen=True, slots=True)
class JobForgotten:
    """A job is known no more."""

    job_id: str


@dataclass(frozen=True, slots=True)
class StepEnded:
    """Part of a job's way. ``started_at`` is in Unix seconds; ``error`` names the class of what ended it."""

    job_id: str
    name: str
    started_at: float
    seconds: float
    error: str | None = None


@dataclass(frozen=True, slots=True)
class AttemptEnded:
    """An ``upload``, a ``webhook`` or a ``download`` was tried."""

    transfer: str
    outcome: AttemptOutcome


@dataclass(frozen=True, slots=True)
class RoundEnded:
    """``destination`` is ``upload`` or ``webhook``."""

    destination: str
    outcome: DeliveryOutcome


@dataclass(frozen=True, slots=True)
class AudioReceived:
    """So many bytes of audio came with a request."""

    size: int


@dataclass(frozen=True, slots=True)
class AudioDownloaded:
    """So many bytes of audio were fetched."""

    size: int


@dataclass(frozen=True, slots=True)
class ResultUploaded:
    """So many bytes of a result, or of the document of a failure, were PUT."""

    size: int


@dataclass(frozen=True, slots=True)
class BatchDecoded:
    """The model has decoded ``windows`` together, of ``capacity`` that might have been."""

    windows: int
    capacity: int


@dataclass(frozen=True, slots=True)
class ModelFailed:
    kind: ModelFailure


@dataclass(frozen=True, slots=True)
class ResponseSent:
    """A request has its answer. ``route`` is the template of its path, empty where there is none."""

    route: str
    status: int


@dataclass(frozen=True, slots=True)
class ConnectionCut:
    """A connection was closed from this side."""

    reason: str


@dataclass(frozen=True, slots=True)
class LoopLagged:
    """So many seconds later than it should have been the event loop took its turn."""

    seconds: float


Event = (
    JobAccepted
    | JobStarted
    | Transcribed
    | JobEnded
    | JobForgotten
    | StepEnded
    | AttemptEnded
    | RoundEnded
    | AudioReceived
    | AudioDownloaded
    | ResultUploaded
    | BatchDecoded
    | ModelFailed
    | ResponseSent
    | ConnectionCut
    | LoopLagged
)
EventSink = Callable[[Event], None]


def discard_event(_: Event) -> None:
    """For those who need no listener."""


@contextmanager
def timed_step(emit: EventSink, job_id: str, name: str) -> Iterator[None]:
    """Tells of what is done inside, however it ends."""
    started_at, started = time.time(), time.monotonic()
    error: str | None = None
    try:
        yield
    except BaseException as exc:
        error = type(exc).__name__
        raise
    finally:
        emit(StepEnded(job_id, name, started_at, time.monotonic() - started, error))
