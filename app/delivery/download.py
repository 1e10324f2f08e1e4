"""Downloads of audio from the URLs that clients name, into files."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol
from urllib.parse import urldefrag, urljoin

import httpx

from app.delivery.attempts import OnAttempt, RoundOptions, Transfer, ignore_attempt, run_attempts
from app.delivery.failures import AttemptError, rejection, translated_failures
from app.delivery.url_rules import form_problem, has_forbidden_character, sent_exactly
from app.domain.concurrency import shielded
from app.domain.errors import BodyTooLarge, DownloadFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_CHUNK_BYTES: Final = 1 << 20
#: 307 is not followed: stores send it if a request must be repeated later (see :mod:`app.delivery.retry`).
_REDIRECT_STATUSES: Final = frozenset({301, 302, 303, 308})
_MAX_REDIRECTS: Final = 5


class AudioFile(Protocol):
    """A file to write audio to. Its methods block."""

    def write(self, data: bytes) -> None: ...

    def close(self) -> None: ...


class AudioDownloader:
    """Downloads files of at most ``max_bytes``, with one round of attempts each.

    An attempt includes its redirects. It fails after ``read_timeout_seconds`` without a byte. The connect and pool
    timeouts are those of ``client``, as are the rules for URLs, which also apply to the target of a redirect.
    """

    def __init__(
        self,
        client: httpx.AsyncClient,
        options: RoundOptions,
        *,
        max_bytes: int,
        read_timeout_seconds: float = 60.0,
    ) -> None:
        self._client = client
        self._options = options
        self._max_bytes = max_bytes
        self._timeout = httpx.Timeout(read_timeout_seconds, connect=client.timeout.connect, pool=client.timeout.pool)

    async def fetch(
        self, url: str, create_file: Callable[[], AudioFile], *, on_attempt: OnAttempt = ignore_attempt
    ) -> int:
        """Write the bytes behind ``url`` to a file, without decoding them, and return their number.

        ``create_file`` blocks and returns a new file for each attempt. After a failure the file can be incomplete.

        Raises:
            DownloadFailed: its message names the last cause, and the URL without its query.
            BodyTooLarge: there are more than ``max_bytes``.
            OSError, DiskFull: the file can't be written.
        """
        return await run_attempts(
            partial(self._fetch_once, url, create_file),
            transfer=Transfer(name="download", preposition="from", url=url, failure=DownloadFailed),
            options=self._options,
            on_attempt=on_attempt,
        )

    async def _fetch_once(self, url: str, create_file: Callable[[], AudioFile]) -> int:
        refusal = "refused"
        for _ in range(_MAX_REDIRECTS + 1):
            with translated_failures(self._timeout, refusal=refusal):
                async with self._client.stream(
                    "GET", url, timeout=self._timeout, extensions=sent_exactly(url)
                ) as response:
                    if response.is_success:
                        return await self._save(response, create_file)
                    if response.status_code not in _REDIRECT_STATUSES:  # the body of a redirect is not read
                        raise await rejection(response, now=self._options.clock.now())
            url = _redirect_target(response)
            refusal = f"HTTP {response.status_code} to a refused target"
        raise AttemptError(
            f"HTTP {response.status_code} after {_MAX_REDIRECTS} redirects, which is the limit: use the URL of the"
            " audio itself",
            retryable=False,
        )

    async def _save(self, response: httpx.Response, create_file: Callable[[], AudioFile]) -> int:
        content_length = response.headers.get("Content-Length", "")
        self._check_size(int(content_length) if content_length.isdecimal() else 0)
        written = 0
        file = await asyncio.to_thread(create_file)
        try:
            with translated_failures(self._timeout, on_close="Connection closed before the end of the file"):
                async for chunk in response.aiter_raw(_CHUNK_BYTES):
                    written += len(chunk)
                    self._check_size(written)
                    await shielded(asyncio.to_thread(file.write, chunk))
        finally:
            file.close()
        return written

    def _check_size(self, size: int) -> None:
        if size > self._max_bytes:
            raise BodyTooLarge(
                f"The audio behind the URL is larger than {self._max_bytes} bytes, which is the limit: send a shorter"
                " or more compressed file.",
                param="s3_presigned_url",
            )


def _redirect_target(response: httpx.Response) -> str:
    """Return the URL that a redirect leads to, without its fragment.

    ``response`` comes from GuardedTransport, which moves the ``Location`` headers to an extension.

    Raises:
        AttemptError: there is no usable target. The message quotes no part of it except a forbidden scheme.
    """
    locations: Sequence[str] = response.extensions.get("location", [])
    status = response.status_code
    if not any(locations):
        raise AttemptError(f"HTTP {status} without a Location header", retryable=False)
    target = _resolve(str(response.url), locations[0])
    problem = "is given twice" if len(locations) > 1 else form_problem(target)
    if problem is not None:
        raise AttemptError(
            f"HTTP {status} to a refused target: its Location {problem.removesuffix('.')}", retryable=False
        )
    return target


def _resolve(url: str, location: str) -> str:
    # urljoin removes some of the forbidden characters, and raises ValueError for some texts.
    if not has_forbidden_character(location):
        with suppress(ValueError):
            return urldefrag(urljoin(url, location)).url
    return location
