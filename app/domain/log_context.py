"""The request and the job that the current task works for, which every log line names."""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from uuid import uuid4

if TYPE_CHECKING:
    from collections.abc import Iterator


def _new_request_id() -> str:
    return f"req_{uuid4().hex}"


@dataclass(frozen=True, slots=True)
class CurrentRequest:
    """An HTTP request. ``client_id`` is the id that the client gave it, if any."""

    id: str = field(default_factory=_new_request_id)
    client_id: str | None = None


current_request: ContextVar[CurrentRequest | None] = ContextVar("current_request", default=None)


@dataclass(frozen=True, slots=True)
class CurrentJob:
    """``accepted_at`` is in Unix seconds. ``request`` is by default the current one, which the job came with."""

    id: str
    accepted_at: float
    request: CurrentRequest | None = field(default_factory=lambda: current_request.get())


current_job: ContextVar[CurrentJob | None] = ContextVar("current_job", default=None)


@contextmanager
def logging_for(job: CurrentJob) -> Iterator[None]:
    """Log everything inside the block as part of ``job``, in any task."""
    token = current_job.set(job)
    try:
        yield
    finally:
        current_job.reset(token)
