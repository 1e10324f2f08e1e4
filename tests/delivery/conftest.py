"""Fixtures of the delivery tests: clients and uploaders for servers on this machine."""

from __future__ import annotations

import ssl
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from app.delivery.attempts import RoundOptions
from app.delivery.client import open_client
from app.delivery.retry import RetryPolicy
from app.delivery.upload import PresignedUploader
from app.domain.access import AllowedHosts

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from contextlib import AbstractAsyncContextManager

    import httpx

    from app.delivery.attempts import Clock

    OpenClient = Callable[..., AbstractAsyncContextManager[httpx.AsyncClient]]
    OpenUploader = Callable[..., AbstractAsyncContextManager[PresignedUploader]]


@pytest.fixture
def client_for_loopback() -> OpenClient:
    """Return a function that opens a client for servers on this machine."""

    @asynccontextmanager
    async def opened(
        *, connect: float = 60.0, max_connections: int = 10, ssl_context: ssl.SSLContext | None = None
    ) -> AsyncIterator[httpx.AsyncClient]:
        client = open_client(
            allowed=AllowedHosts.parse("127.0.0.1, localhost"),
            connect_timeout_seconds=connect,
            read_write_timeout_seconds=60.0,
            max_connections=max_connections,
            pool_timeout_seconds=0.3,
            ssl_context=ssl_context or ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
        )
        async with client:
            yield client

    return opened


@pytest.fixture
def uploader_for_loopback(client_for_loopback: OpenClient, clock: Clock) -> OpenUploader:
    """Return a function that opens an uploader which doesn't wait between its attempts."""

    @asynccontextmanager
    async def opened(
        *,
        total: float = 60.0,
        attempts: int = 3,
        connect: float = 60.0,
        max_connections: int = 10,
        ssl_context: ssl.SSLContext | None = None,
    ) -> AsyncIterator[PresignedUploader]:
        async with client_for_loopback(
            connect=connect, max_connections=max_connections, ssl_context=ssl_context
        ) as client:
            options = RoundOptions(total_timeout_seconds=total, policy=RetryPolicy(attempts=attempts), clock=clock)
            yield PresignedUploader(client, options)

    return opened
