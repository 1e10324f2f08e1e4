"""The GET of the audio behind a URL, into a file."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Protocol
from urllib.parse import urldefrag, urljoin

import httpx

from app.delivery.attempts import Clock, Transfer, ignore_attempt, run_attempts
from app.delivery.failures import AttemptError, rejection, renamed_failures
from app.delivery.retry import RetryPolicy
from app.delivery.url_rules import form_problem, has_unfit_character
from app.domain.concurrency import to_its_end
from app.domain.errors import BodyTooLarge, DownloadFailed
from app.domain.events import discard_event

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from app.domain.events import EventSink


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
        emit: EventSink = discard_event,
    ) -> None:
        self._emit = emit
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
            emit=self._emit,
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


#: 307 is not among them: for stores it means "later" (see :mod:`app.delivery.retry`).
FOLLOWED_STATUSES: Final = frozenset({301, 302, 303, 308})
MOST_REDIRECTS: Final = 5


def redirect_target(response: httpx.Response) -> str:
    """The URL that ``response``, which came through the guarded transport, leads to; without its fragment.

    Raises:
        AttemptError: it leads nowhere, for good; the sentence quotes nothing but a wrong scheme.
    """
    locations: Sequence[str] = response.extensions.get("location", [])
    status = response.status_code
    if not any(locations):
        raise AttemptError(f"HTTP {status} without a Location to go to", retryable=False)
    target = _joined(str(response.url), locations[0])
    problem = "is given twice" if len(locations) > 1 else form_problem(target)
    if problem is not None:
        raise AttemptError(
            f"HTTP {status} to a refused target: its Location {problem.removesuffix('.')}", retryable=False
        )
    return target


def too_many_redirects(status: int) -> AttemptError:
    """The failure of a download that is sent on once more."""
    return AttemptError(
        f"HTTP {status} after {MOST_REDIRECTS} redirects, and no more are followed: give the URL of the audio itself",
        retryable=False,
    )


def _joined(url: str, location: str) -> str:
    # urljoin takes some characters away that must be seen, and fails on some texts that are no URLs.
    if not has_unfit_character(location):
        with suppress(ValueError):
            return urldefrag(urljoin(url, location)).url
    return location
