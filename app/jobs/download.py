"""The GET of the audio behind a URL, into a file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import anyio
import httpx

from app.delivery.attempts import Clock, Transfer, ignore_attempt, run_attempts
from app.delivery.failures import rejection, renamed_failures
from app.delivery.retry import RetryPolicy
from app.domain.errors import BodyTooLarge, DownloadFailed

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_CHUNK_BYTES: Final = 1 << 20


class AudioDownloader:
    """Fetches files of at most ``max_bytes``, one round of attempts each.

    Times are in seconds: at most ``read_timeout_seconds`` without a byte, ``total_timeout_seconds`` for an
    attempt. The limits to connect and to wait for a free connection are those of ``client``.
    """

    def __init__(
        self,
        client: httpx.AsyncClient,
        *,
        policy: RetryPolicy | None = None,
        read_timeout_seconds: float = 60.0,
        total_timeout_seconds: float,
        max_bytes: int,
        clock: Clock | None = None,
    ) -> None:
        self._client = client
        self._policy = policy or RetryPolicy()
        self._total_timeout_seconds = total_timeout_seconds
        self._timeout = httpx.Timeout(read_timeout_seconds, connect=client.timeout.connect, pool=client.timeout.pool)
        self._max_bytes = max_bytes
        self._clock = clock or Clock()

    async def fetch(
        self,
        url: str,
        destination: Path,
        *,
        on_attempt: Callable[[int, str | None], None] = ignore_attempt,
    ) -> int:
        """Write the bytes behind ``url``, as they are stored there, to ``destination``; the number written.

        After a failure the file may be there in part.

        Raises:
            DownloadFailed: its sentence names the last cause and the URL without its query.
            BodyTooLarge: there are more than ``max_bytes``.
            OSError: the file can't be written.
        """

        async def attempt(_number: int) -> int:
            return await self._fetch_once(url, destination)

        return await run_attempts(
            attempt,
            transfer=Transfer(name="download", preposition="from", url=url, failure=DownloadFailed),
            policy=self._policy,
            total_timeout_seconds=self._total_timeout_seconds,
            on_attempt=on_attempt,
            clock=self._clock,
        )

    async def _fetch_once(self, url: str, destination: Path) -> int:
        with renamed_failures(self._timeout):
            async with self._client.stream("GET", url, timeout=self._timeout) as response:
                if response.is_success:
                    return await self._save(response, destination)
                failure = await rejection(response, now=self._clock.now())
        raise failure

    async def _save(self, response: httpx.Response, destination: Path) -> int:
        announced = response.headers.get("Content-Length", "")
        self._check_size(int(announced) if announced.isdecimal() else 0)
        written = 0
        async with await anyio.open_file(destination, "wb") as file:
            with renamed_failures(self._timeout, while_reading="Connection closed before the end of the file"):
                async for chunk in response.aiter_raw(_CHUNK_BYTES):
                    written += len(chunk)
                    self._check_size(written)
                    await file.write(chunk)
        return written

    def _check_size(self, size: int) -> None:
        if size > self._max_bytes:
            raise BodyTooLarge(
                f"The audio behind the URL is larger than the {self._max_bytes} bytes that are allowed:"
                " send a shorter or more compressed file.",
                param="s3_presigned_url",
            )
