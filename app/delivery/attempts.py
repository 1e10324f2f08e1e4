"""One round: an upload or a download, tried until it succeeds, fails for good, or has had its attempts."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from random import random
from typing import TYPE_CHECKING, Final, TypeVar

import anyio

from app.delivery.failures import AttemptError, seconds_text
from app.delivery.url_rules import redacted
from app.domain.events import AttemptEnded, AttemptOutcome, discard_event

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from app.delivery.retry import RetryPolicy
    from app.domain.errors import TransferFailed
    from app.domain.events import EventSink

T = TypeVar("T")

log = logging.getLogger(__name__)

#: A silent receiver's read timeout comes this long before the attempt's deadline, to be the one named.
_PRECEDENCE_SECONDS: Final = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Clock:
    """Time and chance as attempts see them: ``now`` gives Unix seconds, ``random`` numbers from 0 to 1."""

    sleep: Callable[[float], Awaitable[None]] = anyio.sleep
    now: Callable[[], float] = time.time
    random: Callable[[], float] = random


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    """What is tried. ``name`` is ``upload`` or ``download``, ``preposition`` stands before its URL."""

    name: str
    preposition: str
    url: str
    failure: type[TransferFailed]


def ignore_attempt(_number: int, _error: str | None) -> None:
    """An ``on_attempt`` for callers that don't watch."""


async def run_attempts(
    attempt: Callable[[int], Awaitable[T]],
    *,
    transfer: Transfer,
    policy: RetryPolicy,
    total_timeout_seconds: float,
    on_attempt: Callable[[int, str | None], None] = ignore_attempt,
    clock: Clock,
    emit: EventSink = discard_event,
) -> T:
    """Await ``attempt(number)``, which raises AttemptError, until it returns; number 1 is the first.

    ``on_attempt`` hears each attempt's number and its failure's sentence, or None for success. Other
    exceptions and cancellation pass through at once.

    Raises:
        TransferFailed: of the type ``transfer.failure``; its ``__cause__`` is the last AttemptError.
    """
    for number in range(1, policy.attempts + 1):
        try:
            result = await _within(total_timeout_seconds, attempt(number))
        except AttemptError as exc:
            failed = exc
        else:
            emit(AttemptEnded(transfer.name, AttemptOutcome.SUCCESS))
            on_attempt(number, None)
            return result
        emit(
            AttemptEnded(
                transfer.name, AttemptOutcome.PASSING_FAILURE if failed.retryable else AttemptOutcome.FINAL_FAILURE
            )
        )
        on_attempt(number, str(failed))
        log.warning("⚠️ Attempt %d/%d: %s", number, policy.attempts, failed)
        if not failed.retryable:
            break
        if number == policy.attempts or _asks_for_more(failed, policy):
            log.error("❌ All %d %s attempts failed", policy.attempts, transfer.name)
            break
        await _wait_before(number + 1, failed, policy=policy, clock=clock)
    raise transfer.failure(
        f"{failed} (attempt {number}/{policy.attempts}) {transfer.preposition} {redacted(transfer.url)}",
        attempts=number,
        retryable=failed.retryable,
        retry_after_seconds=failed.retry_after_seconds if _asks_for_more(failed, policy) else None,
    ) from failed


async def _within(seconds: float, awaitable: Awaitable[T]) -> T:
    with anyio.move_on_after(seconds + _PRECEDENCE_SECONDS):
        return await awaitable
    raise AttemptError(f"Total timeout after {seconds_text(seconds)}s", retryable=True)


def _asks_for_more(failed: AttemptError, policy: RetryPolicy) -> bool:
    return (failed.retry_after_seconds or 0.0) > policy.longest_retry_after


async def _wait_before(number: int, failed: AttemptError, *, policy: RetryPolicy, clock: Clock) -> None:
    asked_for = failed.retry_after_seconds or 0.0
    # The log names the wait without its jitter: people know these lines by their text.
    named = max(policy.backoff_before(number), asked_for)
    log.info("🔄 Retry attempt %d/%d after %.0fs delay...", number, policy.attempts, named)
    await clock.sleep(max(policy.wait_before(number, random=clock.random), asked_for))
