"""A receiver on the loopback that takes every result and event, keeps them all, and lends recordings."""

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

#: What stands in the query of every URL, and is to be erased when the URL is needed no more.
SIGNATURE: Final = "secret-signature"


class Receiver:
    """What has arrived so far, by the path of its URL and in the order of arrival."""

    def __init__(self, server: FaultServer) -> None:
        self._server = server

    def url(self, path: str) -> str:
        return self._server.url(f"{path}?X-Amz-Signature={SIGNATURE}")

    def results(self, path: str) -> list[bytes]:
        """The body of every PUT."""
        return [request.body for request in self._arrived("PUT", path)]

    def events(self, path: str) -> list[SeenRequest]:
        """Every POST."""
        return self._arrived("POST", path)

    def _arrived(self, method: str, path: str) -> list[SeenRequest]:
        return [
            request
            for request in list(self._server.requests)
            if request.method == method and request.target.partition("?")[0] == path
        ]


@contextmanager
def receiver(samples: Path, *, seconds: float = 0.0) -> Iterator[Receiver]:
    """Answers 200 to whatever comes, after so many seconds, until the block ends; to a GET with the sample of that
    name."""
    files = {path.name: path.read_bytes() for path in samples.iterdir()}
    with fault_server_in_thread(_taking(files, seconds)) as server:
        yield Receiver(server)


def _taking(files: Mapping[str, bytes], seconds: float) -> Behaviour:
    async def behave(connection: Connection) -> None:
        request = await connection.read_request()
        await asyncio.sleep(seconds)
        name = PurePosixPath(request.target.partition("?")[0]).name
        body = files[name] if request.method == "GET" else b""
        head = response_head(200, {"Content-Length": str(len(body)), "Connection": "close"})
        await connection.send(head + body)

    return behave
