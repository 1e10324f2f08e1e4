"""Uploads of results to presigned URLs."""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING

import httpx

from app.delivery.attempts import OnAttempt, RoundOptions, Transfer, ignore_attempt, run_attempts
from app.delivery.failures import rejection, translated_failures
from app.delivery.presigned_urls import PresignedUrl
from app.delivery.url_rules import sent_exactly
from app.domain.errors import DeliveryFailed

if TYPE_CHECKING:
    from collections.abc import Mapping

log = logging.getLogger(__name__)


class PresignedUploader:
    """PUTs results to presigned URLs, with one round of attempts each.

    The total timeout of ``options`` also limits each read and write. The connect and pool timeouts are those of
    ``client``.
    """

    def __init__(self, client: httpx.AsyncClient, options: RoundOptions) -> None:
        self._client = client
        self._options = options
        self._timeout = httpx.Timeout(
            options.total_timeout_seconds, connect=client.timeout.connect, pool=client.timeout.pool
        )

    async def put(
        self,
        url: str,
        body: bytes,
        *,
        headers: Mapping[str, str],
        media_type: str,
        on_attempt: OnAttempt = ignore_attempt,
    ) -> None:
        """PUT ``body``, whose type is ``media_type``, with the ``upload_headers`` of the client.

        Raises:
            DeliveryFailed: its message names the last cause, and the URL without its query.
        """
        all_headers = PresignedUrl.parse(url).put_headers(headers, media_type=media_type)
        await run_attempts(
            partial(self._put_once, url, body, headers=all_headers),
            transfer=Transfer(name="upload", preposition="to", url=url, failure=DeliveryFailed),
            options=self._options,
            on_attempt=on_attempt,
        )
        log.info("✅ Successfully uploaded result to user-provided URL (%d bytes)", len(body))

    async def _put_once(self, url: str, body: bytes, *, headers: Mapping[str, str]) -> None:
        with translated_failures(self._timeout):
            async with self._client.stream(
                "PUT", url, content=body, headers=headers, timeout=self._timeout, extensions=sent_exactly(url)
            ) as response:
                if not response.is_success:  # the body of a successful response is not read
                    raise await rejection(response, now=self._options.clock.now())
