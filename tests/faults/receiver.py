"""A server on the loopback that accepts all results and webhook events, and serves the samples."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Final

from tests.support.fault_server import fault_server_in_thread, response_head

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from tests.support.fault_server import Behaviour, Connection, FaultServer, SeenRequest

#: The secret in the query of every URL. The service must erase it when it no longer needs the URL.
SIGNATURE: Final = "secret-signature"


class Receiver:
    """The requests received so far, by the path of their URL and in order of arrival."""

    def __init__(self, server: FaultServer) -> None:
        self._server = server

    def url(self, path: str) -> str:
        return self._server.url(f"{path}?X-Amz-Signature={SIGNATURE}")

    def results(self, path: str) -> list[bytes]:
        """Return the bodies of all PUT requests to ``path``."""
        return [request.body for request in self._received("PUT", path)]

    def paths(self) -> set[str]:
        """Return the paths of all PUT requests."""
        return {request.target.partition("?")[0] for request in list(self._server.requests) if request.method == "PUT"}

    def events(self, path: str) -> list[SeenRequest]:
        """Return all POST requests to ``path``."""
        return self._received("POST", path)

    def _received(self, method: str, path: str) -> list[SeenRequest]:
        return [
            request
            for request in list(self._server.requests)
            if request.method == method and request.target.partition("?")[0] == path
        ]


@contextmanager
def receiver(samples: Path, *, seconds: float = 0.0) -> Iterator[Receiver]:
    """Answer every request with 200 after this many seconds, and GET requests with the sample of that name."""
    files = {path.name: path.read_bytes() for path in samples.iterdir()}
    with fault_server_in_thread(_accepting(files, seconds)) as server:
        yield Receiver(server)


def _accepting(files: Mapping[str, bytes], seconds: float) -> Behaviour:
    async def behave(connection: Connection) -> None:
        request = await connection.read_request()
        await asyncio.sleep(seconds)
        name = PurePosixPath(request.target.partition("?")[0]).name
        body = files[name] if request.method == "GET" else b""
        head = response_head(200, {"Content-Length": str(len(body)), "Connection": "close"})
        await connection.send(head + body)

    return behave
