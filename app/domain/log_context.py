"""Which job the present task works for, so that every log line can name it."""

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
def speaking_of(job: CurrentJob) -> Iterator[None]:
    """What is logged inside is about ``job``, whichever task does it."""
    token = current_job.set(job)
    try:
        yield
    finally:
        current_job.reset(token)
