"""One round of attempts: a transfer is repeated until it succeeds, fails for good, or runs out of attempts."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from random import random
from typing import TYPE_CHECKING, Final, TypeVar

import anyio

from app.delivery.failures import AttemptError, seconds_text
from app.delivery.retry import RetryPolicy
from app.delivery.url_rules import redacted
from app.domain.events import AttemptEnded, AttemptOutcome, discard_event

if TYPE_CHECKING:
    from app.domain.errors import TransferFailed
    from app.domain.events import EventSink

T = TypeVar("T")

#: Receives the number of an attempt, starting at 1, and the message of its error, or None if it succeeded.
OnAttempt = Callable[[int, str | None], None]

log = logging.getLogger(__name__)

#: The attempt's deadline is this much later than the read timeout, so that a silent receiver is reported as a read
#: timeout.
_DEADLINE_MARGIN_SECONDS: Final = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Clock:
    """Time and randomness, replaceable in tests. ``now`` returns Unix seconds, ``random`` a number from 0 to 1."""

    sleep: Callable[[float], Awaitable[None]] = anyio.sleep
    now: Callable[[], float] = time.time
    random: Callable[[], float] = random


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundOptions:
    """Options of a round. ``total_timeout_seconds`` limits each attempt."""

    total_timeout_seconds: float
    policy: RetryPolicy = field(default_factory=RetryPolicy)
    clock: Clock = field(default_factory=Clock)
    emit: EventSink = discard_event


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    """The subject of a round.

    ``name`` is ``upload``, ``download`` or ``webhook``. ``preposition`` precedes the URL in error messages. ``failure``
    is the exception raised at the end.
    """

    name: str
    preposition: str
    url: str = field(repr=False)
    failure: type[TransferFailed]


def ignore_attempt(_number: int, _error: str | None) -> None:
    """Ignore the result of an attempt."""


async def run_attempts(
    attempt: Callable[[], Awaitable[T]],
    *,
    transfer: Transfer,
    options: RoundOptions,
    on_attempt: OnAttempt = ignore_attempt,
) -> T:
    """Await ``attempt()`` until it returns, and return its result. It raises AttemptError if it fails.

    Cancellation and other exceptions end the round at once.

    Raises:
        TransferFailed: an instance of ``transfer.failure``; its ``__cause__`` is the last AttemptError.
    """
    policy = options.policy
    for number in range(1, policy.attempts + 1):
        try:
            result = await _with_deadline(attempt(), seconds=options.total_timeout_seconds)
        except AttemptError as exc:
            error = exc
        else:
            options.emit(AttemptEnded(transfer.name, AttemptOutcome.SUCCESS))
            on_attempt(number, None)
            return result
        options.emit(AttemptEnded(transfer.name, _outcome(error)))
        on_attempt(number, str(error))
        log.warning("⚠️ Attempt %d/%d: %s", number, policy.attempts, error)
        if not error.retryable:
            break
        if number == policy.attempts or _long_retry_after(error, policy) is not None:
            log.error("❌ All %d %s attempts failed", policy.attempts, transfer.name)
            break
        await _wait_before(number + 1, error, policy=policy, clock=options.clock)
    raise transfer.failure(
        f"{error} (attempt {number}/{policy.attempts}) {transfer.preposition} {redacted(transfer.url)}",
        attempts=number,
        retryable=error.retryable,
        retry_after_seconds=_long_retry_after(error, policy),
    ) from error


async def _with_deadline(awaitable: Awaitable[T], *, seconds: float) -> T:
    with anyio.move_on_after(seconds + _DEADLINE_MARGIN_SECONDS):
        return await awaitable
    raise AttemptError(f"Total timeout after {seconds_text(seconds)}s", retryable=True)


def _outcome(error: AttemptError) -> AttemptOutcome:
    return AttemptOutcome.PASSING_FAILURE if error.retryable else AttemptOutcome.FINAL_FAILURE


def _long_retry_after(error: AttemptError, policy: RetryPolicy) -> float | None:
    """Return the Retry-After of ``error`` in seconds if it is too long to wait within a round."""
    seconds = error.retry_after_seconds
    return seconds if seconds is not None and seconds > policy.longest_retry_after else None


async def _wait_before(number: int, error: AttemptError, *, policy: RetryPolicy, clock: Clock) -> None:
    retry_after = error.retry_after_seconds or 0.0
    # The log line, which people search for, states the delay without its jitter.
    log.info(
        "🔄 Retry attempt %d/%d after %.0fs delay...",
        number,
        policy.attempts,
        max(policy.backoff_before(number), retry_after),
    )
    await clock.sleep(max(policy.wait_before(number, random=clock.random), retry_after))
