"""Signed webhook events, sent to the URLs that clients name.

Source: Standard Webhooks 1.0 (symmetric signatures, ``v1``), which OpenAI's SDKs verify as well.
"""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING

import httpx

from app.delivery.attempts import OnAttempt, RoundOptions, Transfer, ignore_attempt, run_attempts
from app.delivery.failures import rejection, translated_failures
from app.delivery.url_rules import sent_exactly
from app.domain.errors import DeliveryFailed

if TYPE_CHECKING:
    from app.domain.access import WebhookSecret


class WebhookSender:
    """POSTs webhook events, with one round of attempts each.

    The total timeout of ``options`` also limits each read and write.
    """

    def __init__(self, client: httpx.AsyncClient, secret: WebhookSecret, options: RoundOptions) -> None:
        self._client = client
        self._secret = secret
        self._options = options
        self._timeout = httpx.Timeout(
            options.total_timeout_seconds, connect=client.timeout.connect, pool=client.timeout.pool
        )

    async def post(self, url: str, body: bytes, *, event_id: str, on_attempt: OnAttempt = ignore_attempt) -> None:
        """POST ``body``, a JSON document. It and ``event_id`` are the same for every attempt.

        Raises:
            DeliveryFailed: its message names the last cause, and the URL without its query.
        """
        await run_attempts(
            partial(self._post_once, url, body, event_id=event_id),
            transfer=Transfer(name="webhook", preposition="to", url=url, failure=DeliveryFailed),
            options=self._options,
            on_attempt=on_attempt,
        )

    async def _post_once(self, url: str, body: bytes, *, event_id: str) -> None:
        headers = self._headers(body, event_id)
        with translated_failures(self._timeout):
            async with self._client.stream(
                "POST", url, content=body, headers=headers, timeout=self._timeout, extensions=sent_exactly(url)
            ) as response:
                if not response.is_success:  # the body of a successful response is not read
                    raise await rejection(response, now=self._options.clock.now())

    def _headers(self, body: bytes, event_id: str) -> dict[str, str]:
        timestamp = math.floor(self._options.clock.now())
        return {
            "Content-Type": "application/json",
            "webhook-id": event_id,
            "webhook-timestamp": str(timestamp),
            "webhook-signature": self._secret.signature(event_id, timestamp, body),
        }
