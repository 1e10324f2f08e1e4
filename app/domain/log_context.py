"""The job that the current task works for, which every log line names."""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True, slots=True)
class CurrentJob:
    """``accepted_at`` is in Unix seconds."""

    id: str
    accepted_at: float


current_job: ContextVar[CurrentJob | None] = ContextVar("current_job", default=None)


@contextmanager
def logging_for(job: CurrentJob) -> Iterator[None]:
    """Log everything inside the block as part of ``job``, in any task."""
    token = current_job.set(job)
    try:
        yield
    finally:
        current_job.reset(token)
