"""The GET of the audio behind a URL, into a file."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, Protocol

import httpx

from app.delivery.attempts import Clock, Transfer, ignore_attempt, run_attempts
from app.delivery.failures import AttemptError, rejection, renamed_failures
from app.delivery.redirects import FOLLOWED_STATUSES, MOST_REDIRECTS, redirect_target, too_many_redirects
from app.delivery.retry import RetryPolicy
from app.domain.errors import BodyTooLarge, DownloadFailed
from app.domain.telemetry import untold
from app.jobs.threads import to_its_end

if TYPE_CHECKING:
    from collections.abc import Callable

    from app.domain.telemetry import Tell

_CHUNK_BYTES: Final = 1 << 20


class Sink(Protocol):
    """A file that blocks."""

    def write(self, data: bytes) -> None: ...

    def close(self) -> None: ...


class AudioDownloader:
    """Fetches files of at most ``max_bytes``, one round of attempts each.

    Times are in seconds: at most ``read_timeout_seconds`` without a byte, ``total_timeout_seconds`` for an
    attempt, its redirects included. The limits to connect and to wait for a free connection are those of
    ``client``, and so are the rules that each URL is held to, that of a redirect too.
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
        tell: Tell = untold,
    ) -> None:
        self._tell = tell
        self._client = client
        self._policy = policy or RetryPolicy()
        self._total_timeout_seconds = total_timeout_seconds
        self._timeout = httpx.Timeout(read_timeout_seconds, connect=client.timeout.connect, pool=client.timeout.pool)
        self._max_bytes = max_bytes
        self._clock = clock or Clock()

    async def fetch(
        self,
        url: str,
        create: Callable[[], Sink],
        *,
        on_attempt: Callable[[int, str | None], None] = ignore_attempt,
    ) -> int:
        """Write the bytes behind ``url``, as they are stored there, to a file; the number written.

        ``create``, which blocks, gives a new file for each attempt. After a failure it may be there in part.

        Raises:
            DownloadFailed: its sentence names the last cause and the URL without its query.
            BodyTooLarge: there are more than ``max_bytes``.
            OSError, DiskFull: the file can't be written.
        """

        async def attempt(_number: int) -> int:
            return await self._fetch_once(url, create)

        return await run_attempts(
            attempt,
            transfer=Transfer(name="download", preposition="from", url=url, failure=DownloadFailed),
            policy=self._policy,
            total_timeout_seconds=self._total_timeout_seconds,
            on_attempt=on_attempt,
            clock=self._clock,
            tell=self._tell,
        )

    async def _fetch_once(self, url: str, create: Callable[[], Sink]) -> int:
        refused = "refused"
        for _ in range(MOST_REDIRECTS + 1):
            with renamed_failures(self._timeout, refused=refused):
                async with self._client.stream("GET", url, timeout=self._timeout) as response:
                    if response.is_success:
                        return await self._save(response, create)
                    failure = await self._failure(response)
            if failure is not None:
                raise failure
            url = redirect_target(response)
            refused = f"HTTP {response.status_code} to a refused target"
        raise too_many_redirects(response.status_code)

    async def _failure(self, response: httpx.Response) -> AttemptError | None:
        # The body of a redirect is left unread, and its connection closed.
        if response.status_code in FOLLOWED_STATUSES:
            return None
        return await rejection(response, now=self._clock.now())

    async def _save(self, response: httpx.Response, create: Callable[[], Sink]) -> int:
        announced = response.headers.get("Content-Length", "")
        self._check_size(int(announced) if announced.isdecimal() else 0)
        written = 0
        file = await asyncio.to_thread(create)
        try:
            with renamed_failures(self._timeout, while_reading="Connection closed before the end of the file"):
                async for chunk in response.aiter_raw(_CHUNK_BYTES):
                    written += len(chunk)
                    self._check_size(written)
                    await to_its_end(file.write, chunk)
        finally:
            file.close()
        return written

    def _check_size(self, size: int) -> None:
        if size > self._max_bytes:
            raise BodyTooLarge(
                f"The audio behind the URL is larger than the {self._max_bytes} bytes that are allowed:"
                " send a shorter or more compressed file.",
                param="s3_presigned_url",
            )
