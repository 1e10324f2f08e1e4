"""The PUT of a result to the URL that its user signed."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

import httpx

from app.delivery.attempts import Clock, Transfer, ignore_attempt, run_attempts
from app.delivery.failures import rejection, renamed_failures
from app.delivery.presigned_urls import put_headers
from app.delivery.retry import RetryPolicy
from app.domain.errors import DeliveryFailed
from app.domain.events import discard_event

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from app.domain.events import EventSink

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """A delivery that the store accepted: its HTTP status, the attempts it took, and the bytes sent."""

    status: int
    attempts: int
    size: int


class PresignedUploader:
    """PUTs bodies, one round of attempts each. Reads, writes and a whole attempt share one limit in seconds.

    The other limits, to connect and to wait for a free connection, are those of ``client``.
    """

    def __init__(
        self,
        client: httpx.AsyncClient,
        *,
        policy: RetryPolicy | None = None,
        total_timeout_seconds: float,
        clock: Clock | None = None,
        emit: EventSink = discard_event,
    ) -> None:
        self._emit = emit
        self._client = client
        self._policy = policy or RetryPolicy()
        self._total_timeout_seconds = total_timeout_seconds
        self._timeout = httpx.Timeout(total_timeout_seconds, connect=client.timeout.connect, pool=client.timeout.pool)
        self._clock = clock or Clock()

    async def put(
        self,
        url: str,
        body: bytes,
        *,
        headers: Mapping[str, str],
        media_type: str,
        on_attempt: Callable[[int, str | None], None] = ignore_attempt,
    ) -> Receipt:
        """PUT ``body``; ``headers`` are those that the user signed, ``media_type`` is the body's own.

        Raises:
            DeliveryFailed: its sentence names the last cause and the URL without its query.
        """
        all_headers = put_headers(url, headers=headers, media_type=media_type)

        async def attempt(number: int) -> Receipt:
            status = await self._put_once(url, body, headers=all_headers)
            return Receipt(status=status, attempts=number, size=len(body))

        receipt = await run_attempts(
            attempt,
            transfer=Transfer(name="upload", preposition="to", url=url, failure=DeliveryFailed),
            policy=self._policy,
            total_timeout_seconds=self._total_timeout_seconds,
            on_attempt=on_attempt,
            clock=self._clock,
            emit=self._emit,
        )
        log.info("✅ Successfully uploaded result to user-provided URL (%d bytes)", len(body))
        return receipt

    async def _put_once(self, url: str, body: bytes, *, headers: Mapping[str, str]) -> int:
        with renamed_failures(self._timeout):
            async with self._client.stream(
                "PUT", url, content=body, headers=headers, timeout=self._timeout
            ) as response:
                if response.is_success:  # the status line is enough: the rest of the answer is not waited for
                    return response.status_code
                failure = await rejection(response, now=self._clock.now())
        raise failure
