"""The one place where any exception of a job is caught: it becomes a failure of the job and a line in the log."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from app.domain.errors import ServiceError, TranscriptionFailed

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from app.domain.job import Job

logger = logging.getLogger(__name__)


async def caught(step: Awaitable[None]) -> Exception | None:
    """Await ``step`` and return the exception that it raised, or None."""
    try:
        await step
    except Exception as exc:  # noqa: BLE001  # the one place, see above
        return exc
    return None


def log_failure(job: Job, error: Exception, message: str) -> None:
    """Log one line, followed by the traceback: at ERROR if the exception was not expected, else at DEBUG."""
    log_end(job, type(error).__name__, message)
    log_cause(error)


def log_end(job: Job, error_type: str | None, message: str | None) -> None:
    """Log that a job failed, whose causes have been logged."""
    logger.error("❌ %s %s failed: %s: %s", kind_of(job), job.id, error_type, message)


def log_cause(error: Exception) -> None:
    expected = isinstance(error, ServiceError) and not isinstance(error, TranscriptionFailed)
    logger.log(logging.DEBUG if expected else logging.ERROR, "The cause:", exc_info=error)


def kind_of(job: Job) -> str:
    return "Request" if job.synchronous else "Background job"


def forget_frames(error: Exception) -> None:
    """Drop the traceback and the causes, which keep the memory that the job has used."""
    error.__traceback__ = error.__cause__ = error.__context__ = None
