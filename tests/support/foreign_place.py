"""A folder in which hostile files are decoded: foreign files lie in it, and somebody listens on the loopback."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from tests.support.foreign import watching, write_foreign
from tests.support.hostile_lists import placed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.support.foreign import Watch
    from tests.support.hostile_boxes import Parts


class Place:
    """Where files are written and decoded: foreign ones lie beside them, and somebody listens on the loopback."""

    def __init__(self, folder: Path, *, tcp: int, udp: int, watch: Watch | None) -> None:
        self.folder = folder
        self.tcp = tcp
        self.udp = udp
        self.watch = watch
        self.connections = 0
        self.foreign = {path.name for path in folder.iterdir()}

    def write(self, name: str, parts: Parts) -> Path:
        """A file of these parts, with holes where there are."""
        path = self.folder / name
        with path.open("wb") as file:
            for part in parts:
                if isinstance(part, int):
                    file.seek(part, 1)
                else:
                    file.write(placed(part, folder=self.folder, tcp=self.tcp, udp=self.udp))
            file.truncate(file.tell())
        return path


@asynccontextmanager
async def place(folder: Path) -> AsyncIterator[Place]:
    foreign = await asyncio.to_thread(write_foreign, folder)
    loop = asyncio.get_running_loop()

    class Counting(asyncio.DatagramProtocol):
        def datagram_received(self, *_: object) -> None:
            here.connections += 1

    def connected(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        here.connections += 1
        writer.close()

    with watching(foreign) as watch:
        async with await asyncio.start_server(connected, "127.0.0.1", 0) as server:
            datagrams, _ = await loop.create_datagram_endpoint(Counting, local_addr=("127.0.0.1", 0))
            tcp, udp = server.sockets[0].getsockname()[1], datagrams.get_extra_info("sockname")[1]
            here = await asyncio.to_thread(lambda: Place(folder, tcp=tcp, udp=udp, watch=watch))
            try:
                yield here
            finally:
                datagrams.close()
