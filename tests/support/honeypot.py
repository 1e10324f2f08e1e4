"""A folder with canary files beside the hostile ones, and ports of the loopback interface that count connections."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from tests.support.canaries import watch_opens, write_canaries
from tests.support.hostile_lists import fill_in

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.support.canaries import Watch
    from tests.support.hostile_boxes import Parts


class Honeypot:
    """The ``folder`` of canaries, in which hostile files are decoded, and the ports ``tcp`` and ``udp``."""

    def __init__(self, folder: Path, *, watch: Watch | None) -> None:
        self.folder = folder
        self.watch = watch
        self.own_files = {path.name for path in folder.iterdir()}
        self.connections = 0
        self.tcp = 0
        self.udp = 0

    def write(self, name: str, parts: Parts) -> Path:
        """Write a file of these parts, with holes for the numbers, and return its path."""
        path = self.folder / name
        with path.open("wb") as file:
            for part in parts:
                if isinstance(part, int):
                    file.seek(part, 1)
                else:
                    file.write(fill_in(part, folder=self.folder, tcp=self.tcp, udp=self.udp))
            file.truncate(file.tell())
        return path

    def count_connection(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Count a TCP connection and close it."""
        self.connections += 1
        writer.close()


class _DatagramCounter(asyncio.DatagramProtocol):
    def __init__(self, honeypot: Honeypot) -> None:
        self._honeypot = honeypot

    def datagram_received(self, *_: object) -> None:
        self._honeypot.connections += 1


@asynccontextmanager
async def honeypot(folder: Path) -> AsyncIterator[Honeypot]:
    """Write canaries to ``folder`` and listen for connections while the context lasts."""
    canaries = await asyncio.to_thread(write_canaries, folder)
    loop = asyncio.get_running_loop()
    with watch_opens(canaries) as watch:
        trap = await asyncio.to_thread(Honeypot, folder, watch=watch)
        async with await asyncio.start_server(trap.count_connection, "127.0.0.1", 0) as server:
            datagrams, _ = await loop.create_datagram_endpoint(
                lambda: _DatagramCounter(trap), local_addr=("127.0.0.1", 0)
            )
            trap.tcp, trap.udp = server.sockets[0].getsockname()[1], datagrams.get_extra_info("sockname")[1]
            try:
                yield trap
            finally:
                datagrams.close()
