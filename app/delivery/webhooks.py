"""The POST of an event to the URL that a client named, signed so that it can tell that it comes from here.

Source: Standard Webhooks 1.0 (symmetric signatures, ``v1``), which OpenAI's SDKs verify as well.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import httpx

from app.delivery.attempts import Clock, Transfer, ignore_attempt, run_attempts
from app.delivery.failures import rejection, renamed_failures
from app.delivery.retry import RetryPolicy
from app.domain.errors import DeliveryFailed
from app.domain.events import discard_event

if TYPE_CHECKING:
    from collections.abc import Callable

    from app.domain.access import WebhookSecret
    from app.domain.events import EventSink


class WebhookSender:
    """POSTs events, one round of attempts each. Reads, writes and a whole attempt share one limit in seconds."""

    def __init__(
        self,
        client: httpx.AsyncClient,
        secret: WebhookSecret,
        *,
        policy: RetryPolicy | None = None,
        total_timeout_seconds: float,
        clock: Clock | None = None,
        emit: EventSink = discard_event,
    ) -> None:
        self._emit = emit
        self._client = client
        self._secret = secret
        self._policy = policy or RetryPolicy()
        self._total_timeout_seconds = total_timeout_seconds
        self._timeout = httpx.Timeout(total_timeout_seconds, connect=client.timeout.connect, pool=client.timeout.pool)
        self._clock = clock or Clock()

    async def post(
        self,
        url: str,
        body: bytes,
        *,
        event_id: str,
        on_attempt: Callable[[int, str | None], None] = ignore_attempt,
    ) -> None:
        """POST ``body``, JSON, which is the same for every attempt, as ``event_id`` is.

        Raises:
            DeliveryFailed: its sentence names the last cause and the URL without its query.
        """

        async def attempt(_number: int) -> None:
            await self._post_once(url, body, event_id)

        await run_attempts(
            attempt,
            transfer=Transfer(name="webhook", preposition="to", url=url, failure=DeliveryFailed),
            policy=self._policy,
            total_timeout_seconds=self._total_timeout_seconds,
            on_attempt=on_attempt,
            clock=self._clock,
            emit=self._emit,
        )

    async def _post_once(self, url: str, body: bytes, event_id: str) -> None:
        timestamp = math.floor(self._clock.now())
        headers = {
            "Content-Type": "application/json",
            "webhook-id": event_id,
            "webhook-timestamp": str(timestamp),
            "webhook-signature": self._secret.signature(event_id, timestamp, body),
        }
        with renamed_failures(self._timeout):
            async with self._client.stream(
                "POST", url, content=body, headers=headers, timeout=self._timeout
            ) as response:
                if response.is_success:
                    return
                failure = await rejection(response, now=self._clock.now())
        raise failure
