"""Starting decoder processes: the service's side of the decoder server (see ``decoder_server.py``)."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import logging
import os
import socket
import subprocess
import sys
import threading
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Final

from app.domain.errors import DecoderUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

logger = logging.getLogger(__name__)

_PROGRAM: Final = Path(__file__).with_name("decoder_server.py")
#: Importing FFmpeg takes 0.15 s of a core, and longer from a cold disk.
_START_SECONDS: Final = 120.0
_MAX_LINE_BYTES: Final = 4096
_REMEDY: Final = "install the packages again with start_server.sh, or see the log for what is missing."
#: A Python that was moved finds its own libraries by these. The server inherits nothing else of the environment.
_INHERITED: Final = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
#: Without HOME, Python would look for the user in the system's list at its start.
_HOME: Final = {"HOME": "/"}


class DecoderLauncher:
    """Starts decoder processes. The server that forks them is started for the first one, and again if it has ended."""

    def __init__(self) -> None:
        self._server: asyncio.Task[socket.socket] | None = None
        self._end: Callable[[], object] | None = None

    async def launch(self, order: bytes, files: Sequence[int]) -> socket.socket:
        """Start a decoder process with these open files and return the connection to it.

        Raises:
            DecoderUnavailable: the server can't be started.
        """
        ours, theirs = socket.socketpair()
        ours.setblocking(False)  # noqa: FBT003  # its only parameter
        try:
            with theirs:
                socket.send_fds(ours, [order], files)
                await self._send(theirs)
        except BaseException:
            ours.close()
            raise
        return ours

    def close(self) -> None:
        """End the server, and with it all decoder processes."""
        if self._end is not None:
            self._end()
        self._server = self._end = None

    async def _send(self, connection: socket.socket) -> None:
        server = self._server or self._start_soon()
        try:
            socket.send_fds(await asyncio.shield(server), [b"f"], [connection.fileno()])
        except OSError:
            logger.warning("⚠️ The decoder server has ended and is started again")
            if server is self._server:
                self.close()
            socket.send_fds(await asyncio.shield(self._server or self._start_soon()), [b"f"], [connection.fileno()])

    def _start_soon(self) -> asyncio.Task[socket.socket]:
        self._server = asyncio.create_task(self._start(), name="start of the decoder server")
        self._server.add_done_callback(self._started)
        return self._server

    def _started(self, server: asyncio.Task[socket.socket]) -> None:
        """Have the next decoding try again if the server could not be started."""
        if (server.cancelled() or server.exception() is not None) and server is self._server:
            self.close()

    async def _start(self) -> socket.socket:
        """Start the server and return the connection to it once it is ready."""
        av = importlib.util.find_spec("av")
        if av is None or av.origin is None:
            raise DecoderUnavailable(f"The package av is not installed: {_REMEDY}")
        control, theirs = socket.socketpair()
        self._end = weakref.finalize(self, control.close)  # the server ends with its connection
        threading.Thread(
            target=_run_server, args=(theirs, Path(av.origin).parent.parent), name="decoder-server", daemon=True
        ).start()
        control.setblocking(False)  # noqa: FBT003  # likewise
        try:
            async with asyncio.timeout(_START_SECONDS):
                line = await asyncio.get_running_loop().sock_recv(control, _MAX_LINE_BYTES)
        except TimeoutError:
            raise DecoderUnavailable(
                f"Decoder processes can't be started (nothing happened for {_START_SECONDS:g} s): {_REMEDY}"
            ) from None
        answer = json.loads(line or b'{"error": "it ended"}')
        if "error" in answer:
            raise DecoderUnavailable(f"Decoder processes can't be started ({answer['error']}): {_REMEDY}")
        return control


def _run_server(connection: socket.socket, packages: Path) -> None:
    """Run the server in a thread of its own, because the kernel kills it when the thread that started it ends."""
    with connection:
        try:
            process = subprocess.Popen(  # noqa: S603  # our own program
                (sys.executable, "-I", str(_PROGRAM), str(os.getpid()), str(packages)),
                stdin=connection.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=_HOME | {name: os.environ[name] for name in _INHERITED if name in os.environ},
                start_new_session=True,  # Ctrl-C in the terminal is for the service, which drains
            )
        except OSError as exc:
            connection.sendall(json.dumps({"error": str(exc)}).encode())
            return
    process.wait()
