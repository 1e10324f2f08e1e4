"""Downloads from misbehaving senders and from a real store."""

from __future__ import annotations

import gzip
import logging
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import anyio
import httpx
import pytest

from app.delivery.attempts import RoundOptions
from app.delivery.download import AudioDownloader
from app.domain.errors import BodyTooLarge, DiskFull, DownloadFailed
from app.jobs.space import Space
from app.jobs.spool import AudioFile, Spool
from tests.support.fault_server import (
    answer,
    close_before_status,
    drip_body,
    endless_body,
    fault_server,
    never_answer,
    truncated_body,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from local_s3 import LocalS3

    from app.delivery.attempts import Clock
    from tests.delivery.conftest import OpenClient

    OpenDownloader = Callable[..., AbstractAsyncContextManager[AudioDownloader]]

pytestmark = pytest.mark.anyio

JOB = "4f0c"


@pytest.fixture
def downloader_for_loopback(client_for_loopback: OpenClient, clock: Clock) -> OpenDownloader:
    @asynccontextmanager
    async def opened(
        *, read: float = 5.0, total: float = 5.0, max_bytes: int = 1 << 30
    ) -> AsyncIterator[AudioDownloader]:
        async with client_for_loopback() as client:
            options = RoundOptions(total_timeout_seconds=total, clock=clock)
            yield AudioDownloader(client, options, max_bytes=max_bytes, read_timeout_seconds=read)

    return opened


class Target:
    """A job's audio in a spool. ``files`` has one file for each attempt."""

    def __init__(self, spool: Spool) -> None:
        self.path = anyio.Path(spool.audio_path(JOB).with_name("audio.partial"))
        self.files: list[AudioFile] = []
        self._spool = spool

    def create(self) -> AudioFile:
        file = self._spool.create_audio(JOB)
        assert isinstance(file, AudioFile)
        self.files.append(file)
        return file


@pytest.fixture
def target(tmp_path: Path) -> Iterator[Target]:
    spool = Spool(tmp_path, Space(tmp_path, max_bytes=10_000_000))
    spool.open()
    made = Target(spool)
    yield made
    spool.close()
    for file in made.files:
        assert file._file.closed


async def failure_of(downloader: AudioDownloader, url: str, target: Target) -> DownloadFailed:
    with pytest.raises(DownloadFailed) as caught:
        await downloader.fetch(url, target.create)
    return caught.value


async def test_signed_path_is_sent_byte_for_byte(downloader_for_loopback: OpenDownloader, target: Target) -> None:
    async with fault_server(answer(200, body=b"audio")) as server, downloader_for_loopback() as downloader:
        await downloader.fetch(server.url("/bucket/a/./b/../c.mp3?X-Amz-Signature=1"), target.create)
    assert server.requests[0].target == "/bucket/a/./b/../c.mp3?X-Amz-Signature=1"


async def test_file_is_not_decoded(downloader_for_loopback: OpenDownloader, target: Target) -> None:
    packed = gzip.compress(b"x" * 100_000)
    async with (
        fault_server(answer(200, packed, Content_Encoding="gzip")) as server,
        downloader_for_loopback() as downloader,
    ):
        assert await downloader.fetch(server.url(), target.create) == len(packed)
    assert await target.path.read_bytes() == packed
    assert server.requests[0].method == "GET"
    assert server.requests[0].headers["accept-encoding"] == "identity"


@pytest.mark.parametrize("size", [0, 1, 1 << 20, (1 << 20) + 1, 5_000_000])
async def test_files_of_every_size_are_complete(
    size: int, downloader_for_loopback: OpenDownloader, target: Target
) -> None:
    async with fault_server(answer(200, bytes(size))) as server, downloader_for_loopback() as downloader:
        assert await downloader.fetch(server.url(), target.create) == size
    assert (await target.path.stat()).st_size == size


@pytest.mark.parametrize("end", ["close", "reset"])
async def test_truncated_download_starts_again(
    end: str, downloader_for_loopback: OpenDownloader, target: Target
) -> None:
    cut = truncated_body(b"a" * 3_000_000, announced=4_000_000, reset=end == "reset")
    async with fault_server(cut, answer(200, b"whole")) as server, downloader_for_loopback() as downloader:
        assert await downloader.fetch(server.url(), target.create) == 5
    assert await target.path.read_bytes() == b"whole"
    assert [file.size for file in target.files][1:] == [5]


async def test_download_that_is_always_truncated_fails(
    downloader_for_loopback: OpenDownloader, target: Target, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "app")
    cut = truncated_body(b"abc", announced=10, reset=False)
    async with fault_server(cut) as server, downloader_for_loopback() as downloader:
        failure = await failure_of(downloader, server.url(), target)
    assert str(failure) == (
        f"Connection closed before the end of the file (attempt 3/3) from http://127.0.0.1:{server.port}/bucket/key"
    )
    assert failure.retryable
    assert caplog.messages[-1] == "❌ All 3 download attempts failed"


async def test_missing_file_is_a_final_failure_with_the_stores_code(
    downloader_for_loopback: OpenDownloader, target: Target
) -> None:
    missing = answer(404, b"<Error><Code>NoSuchKey</Code></Error>")
    async with fault_server(missing) as server, downloader_for_loopback() as downloader:
        failure = await failure_of(downloader, server.url(), target)
    assert str(failure).startswith("HTTP 404 NoSuchKey (attempt 1/3) from http://")
    assert not failure.retryable
    assert not await target.path.exists()


async def test_download_is_retried_after_passing_failures(
    downloader_for_loopback: OpenDownloader, target: Target
) -> None:
    script = answer(503), close_before_status(), answer(200, b"audio")
    async with fault_server(*script) as server, downloader_for_loopback() as downloader:
        assert await downloader.fetch(server.url(), target.create) == 5


@pytest.mark.parametrize("behaviour", [answer(200, bytes(101)), endless_body()])
async def test_file_over_the_limit_is_not_retried(
    behaviour: Callable[..., object], downloader_for_loopback: OpenDownloader, target: Target
) -> None:
    async with fault_server(behaviour) as server, downloader_for_loopback(max_bytes=100) as downloader:  # type: ignore[arg-type]  # parametrized
        with pytest.raises(BodyTooLarge, match="100 bytes"):
            await downloader.fetch(server.url(), target.create)
    assert server.connections == 1
    assert not await target.path.exists() or (await target.path.stat()).st_size <= 100


async def test_file_of_exactly_the_limit_is_accepted(downloader_for_loopback: OpenDownloader, target: Target) -> None:
    async with fault_server(answer(200, bytes(100))) as server, downloader_for_loopback(max_bytes=100) as downloader:
        assert await downloader.fetch(server.url(), target.create) == 100


async def test_silent_sender_is_a_read_timeout(downloader_for_loopback: OpenDownloader, target: Target) -> None:
    stalling = truncated_body(b"abc", announced=10, reset=False)

    async def stall(connection: object) -> None:
        await anyio.sleep(0.3)
        await stalling(connection)  # type: ignore[arg-type]

    for behaviour in (never_answer(), stall):
        async with fault_server(behaviour) as server, downloader_for_loopback(read=0.2) as downloader:
            failure = await failure_of(downloader, server.url(), target)
        assert str(failure).startswith("Read timeout after 0.2s (attempt 3/3)")


@pytest.mark.full(reason="takes more than a second")
async def test_slow_sender_is_stopped_by_the_total_timeout(
    downloader_for_loopback: OpenDownloader, target: Target
) -> None:
    dripping = drip_body(200, seconds_between=0.02)
    async with fault_server(dripping, answer(200, b"a")) as server, downloader_for_loopback(total=1) as downloader:
        assert await downloader.fetch(server.url(), target.create) == 1
    assert server.connections == 2


async def test_missing_folder_is_raised_without_a_retry(
    downloader_for_loopback: OpenDownloader, tmp_path: Path
) -> None:
    nowhere = Target(Spool(tmp_path / "missing"))
    async with fault_server(answer(200, b"a")) as server, downloader_for_loopback() as downloader:
        with pytest.raises(FileNotFoundError):
            await downloader.fetch(server.url(), nowhere.create)
    assert server.connections == 1


async def test_full_disk_is_raised_without_a_retry(downloader_for_loopback: OpenDownloader, target: Target) -> None:
    async with fault_server(answer(200, bytes(10_000_001))) as server, downloader_for_loopback() as downloader:
        with pytest.raises(DiskFull):
            await downloader.fetch(server.url(), target.create)
    assert server.connections == 1


async def test_cancelled_download_stops(downloader_for_loopback: OpenDownloader, target: Target) -> None:
    async with (
        fault_server(drip_body(200, seconds_between=0.01)) as server,
        downloader_for_loopback(total=600) as downloader,
    ):
        with anyio.fail_after(30):
            async with anyio.create_task_group() as group:
                group.start_soon(downloader.fetch, server.url(), target.create)
                await server.came.wait()
                group.cancel_scope.cancel()
    assert server.connections == 1


async def test_file_is_downloaded_from_a_real_store(
    store: LocalS3, downloader_for_loopback: OpenDownloader, target: Target
) -> None:
    audio = bytes(range(256)) * 10_000
    async with httpx.AsyncClient() as plain:
        assert (await plain.put(store.presign_put("results", "audio.wav"), content=audio)).status_code == 200
    async with downloader_for_loopback() as downloader:
        assert await downloader.fetch(store.presign_get("results", "audio.wav"), target.create) == len(audio)
        assert await target.path.read_bytes() == audio
        failure = await failure_of(downloader, store.presign_get("results", "missing.wav"), target)
        assert str(failure).startswith("HTTP 404 NoSuchKey")
        tampered = store.presign_get("results", "audio.wav").replace("Signature=", "Signature=0")
        assert str(await failure_of(downloader, tampered, target)).startswith("HTTP 403")
