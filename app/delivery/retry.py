"""When to try again: backoff, the outcomes that may pass, and Retry-After."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

#: A longer Retry-After is taken for this long, so that every answer is a finite number of seconds.
LONGEST_RETRY_AFTER_SECONDS: Final = 366 * 86400.0

_PASSING_STATUSES: Final = frozenset({307, 408, 425, 429})


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """One round of attempts. Waits are in seconds; ``jitter`` is the share by which they vary either way.

    A Retry-After of more than ``longest_retry_after`` seconds ends the round.
    """

    attempts: int = 3
    wait_initial: float = 2.0
    wait_max: float = 10.0
    jitter: float = 0.2
    longest_retry_after: float = 60.0

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise ValueError("A round has at least one attempt.")

    def backoff_before(self, attempt: int) -> float:
        """Seconds to wait before ``attempt`` (2 is the first that is waited for), without jitter."""
        exponent = min(max(attempt - 2, 0), 1023)  # 2.0 ** 1024 overflows
        return min(self.wait_initial * 2.0**exponent, self.wait_max)

    def wait_before(self, attempt: int, *, random: Callable[[], float]) -> float:
        """Seconds to wait before ``attempt``, with jitter; ``random`` gives numbers from 0 to 1."""
        return self.backoff_before(attempt) * (1 + self.jitter * (2 * random() - 1))


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundSchedule:
    """Further rounds of a delivery whose last one failed for a passing reason.

    ``waits`` are the seconds after the first, the second, … round, the last of them after all further ones;
    ``jitter`` is the share by which they vary either way. Nothing is tried ``max_age_seconds`` after the delivery
    became due; 0 is one round.
    """

    waits: tuple[float, ...] = (30.0, 120.0, 600.0, 1800.0, 3600.0)
    jitter: float = 0.2
    max_age_seconds: float = 86400.0

    @property
    def longest_wait(self) -> float:
        return max(self.waits) * (1 + self.jitter)

    def wait_after(self, rounds: int, *, random: Callable[[], float]) -> float:
        """Seconds from the end of round number ``rounds`` to the next; ``random`` gives numbers from 0 to 1."""
        return self.waits[min(rounds, len(self.waits)) - 1] * (1 + self.jitter * (2 * random() - 1))


def is_retryable_status(status: int, code: str | None) -> bool:
    """Whether an HTTP status may be another one next time; ``code`` is the store's own error code.

    307 is how S3 says that a new bucket's name is not known everywhere yet.
    """
    if status == 400:
        return code == "RequestTimeout"
    return status in _PASSING_STATUSES or 500 <= status <= 599


def parse_retry_after(value: str | None, *, now: float) -> float | None:
    """Seconds from ``now`` (Unix seconds) that a Retry-After header asks for, at least 0; None without.

    Source: RFC 9110, section 10.2.3: whole seconds, or an HTTP date.
    """
    text = (value or "").strip()
    if re.fullmatch(r"[0-9]+", text):
        return min(float(text), LONGEST_RETRY_AFTER_SECONDS)
    until = _http_date(text)
    return None if until is None else min(max(until - now, 0.0), LONGEST_RETRY_AFTER_SECONDS)


def _http_date(text: str) -> float | None:
    try:
        date = parsedate_to_datetime(text)
        return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
