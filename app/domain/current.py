"""Which job the present task works for, so that every log line can name it."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CurrentJob:
    """``accepted_at`` is in Unix seconds."""

    id: str
    accepted_at: float


current_job: ContextVar[CurrentJob | None] = ContextVar("current_job", default=None)
