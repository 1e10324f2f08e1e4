"""The parts of the service that routes use, as a FastAPI dependency.

The composition root puts one ``Parts`` into ``app.state``. The routes are plain functions of their modules, made once
for all applications.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from fastapi import Depends, Request

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from app.api.events import EventFeed
    from app.api.submission import SubmissionReader
    from app.domain.access import ApiKeys
    from app.domain.client_secrets import ClientSecrets
    from app.domain.events import EventSink
    from app.domain.tickets import Tickets
    from app.jobs.edits import Edits
    from app.jobs.estimate import Capacity, Estimate
    from app.jobs.intake import Intake
    from app.jobs.recovery import RecoversJobs
    from app.jobs.runner import Runner
    from app.jobs.serializers import JobViews
    from app.jobs.spool import Spool
    from app.jobs.store import JobStore
    from app.jobs.subscriptions import JobSubscriptions, SegmentSubscriptions
    from app.jobs.sync_requests import SyncRequests
    from app.jobs.usage import Quotas
    from app.realtime.sessions import Sessions
    from app.transcription.pool import ModelPool


@dataclass(frozen=True, slots=True, kw_only=True)
class JobParts:
    """The parts that handle jobs."""

    store: JobStore
    intake: Intake
    runner: Runner
    recovery: RecoversJobs
    spool: Spool
    edits: Edits
    estimate: Estimate
    views: JobViews
    subscriptions: JobSubscriptions
    segments: SegmentSubscriptions
    sync_requests: SyncRequests
    quotas: Quotas


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferTimeouts:
    """Timeouts in seconds, and the number of attempts."""

    upload: float
    connect: float
    pool: float
    attempts: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricsPage:
    """The page ``/metrics``; ``keys`` are those of METRICS_KEY."""

    render: Callable[[], Awaitable[bytes]]
    content_type: str
    keys: ApiKeys


@dataclass(frozen=True, slots=True, kw_only=True)
class RealtimeLimits:
    """The number of realtime sessions at once, the longest one, and how long its client can send nothing (0: ever)."""

    max_sessions: int
    session_seconds: float
    idle_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerLimits:
    """The limits of a server that its clients can read. Times are in seconds.

    ``key_names`` has the names of API keys by their fingerprints. ``realtime`` is None if there are no sessions.
    """

    requires_key: bool
    key_names: Mapping[str, str]
    max_upload_bytes: int
    max_audio_seconds: float
    retention_seconds: float
    max_retention_seconds: float
    has_webhooks: bool
    has_diarization: bool
    realtime: RealtimeLimits | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """Everything that routes use. ``started_at`` is in Unix seconds."""

    pool: ModelPool
    jobs: JobParts
    reader: SubmissionReader
    metrics: MetricsPage
    timeouts: TransferTimeouts
    tickets: Tickets
    client_secrets: ClientSecrets
    sessions: Sessions
    feed: EventFeed
    limits: ServerLimits
    capacity: Callable[[], Capacity]
    started_at: int
    emit: EventSink


async def _parts(request: Request) -> Parts:
    parts: Parts = request.app.state.parts
    return parts


#: The annotation of a route's parameter. FastAPI runs a dependency that is not a coroutine in a thread.
ServiceParts = Annotated[Parts, Depends(_parts)]
