"""Retries: backoff within a round, waits between rounds, retryable statuses, and Retry-After."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

#: Longer values of Retry-After are reduced to this one, so that the result is always finite.
MAX_RETRY_AFTER_SECONDS: Final = 366 * 86400.0

_RETRYABLE_STATUSES: Final = frozenset({307, 408, 425, 429})


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """The attempts of one round. Waits are in seconds; ``jitter`` is the share by which they vary either way.

    A Retry-After of more than ``longest_retry_after`` seconds ends the round.
    """

    attempts: int = 3
    wait_initial: float = 2.0
    wait_max: float = 10.0
    jitter: float = 0.2
    longest_retry_after: float = 60.0

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise ValueError("A round must have at least one attempt.")

    def backoff_before(self, attempt: int) -> float:
        """Return the seconds to wait before ``attempt``, without jitter. The first wait is before attempt 2."""
        exponent = min(max(attempt - 2, 0), 1023)  # 2.0 ** 1024 overflows
        return min(self.wait_initial * 2.0**exponent, self.wait_max)

    def wait_before(self, attempt: int, *, random: Callable[[], float]) -> float:
        """Return the seconds to wait before ``attempt``, with jitter. ``random`` returns a number from 0 to 1."""
        return self.backoff_before(attempt) * (1 + self.jitter * (2 * random() - 1))


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundSchedule:
    """The waits between the rounds of a delivery.

    ``waits`` are the seconds after the first, second, … round; the last one applies to all later rounds. ``jitter`` is
    the share by which they vary either way. No round starts ``max_age_seconds`` after the delivery became due; 0 allows
    one round only.
    """

    waits: tuple[float, ...] = (30.0, 120.0, 600.0, 1800.0, 3600.0)
    jitter: float = 0.2
    max_age_seconds: float = 86400.0

    def wait_after(self, rounds: int, *, random: Callable[[], float]) -> float:
        """Return the seconds from the end of round number ``rounds`` to the next one.

        ``random`` returns a number from 0 to 1.
        """
        return self.waits[min(rounds, len(self.waits)) - 1] * (1 + self.jitter * (2 * random() - 1))


def is_retryable_status(status: int, code: str | None) -> bool:
    """Return whether a later attempt can succeed after an HTTP status; ``code`` is the store's own error code.

    S3 sends 307 while the name of a new bucket is not known everywhere yet.
    """
    if status == 400:
        return code == "RequestTimeout"
    return status in _RETRYABLE_STATUSES or 500 <= status <= 599


def parse_retry_after(value: str | None, *, now: float) -> float | None:
    """Return the seconds from ``now`` (Unix seconds) in a Retry-After header, at least 0, or None if there are none.

    Source: RFC 9110, section 10.2.3: whole seconds, or an HTTP date.
    """
    text = (value or "").strip()
    if re.fullmatch(r"[0-9]+", text):
        return min(float(text), MAX_RETRY_AFTER_SECONDS)
    until = _http_date(text)
    return None if until is None else min(max(until - now, 0.0), MAX_RETRY_AFTER_SECONDS)


def _http_date(text: str) -> float | None:
    try:
        date = parsedate_to_datetime(text)
        return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
