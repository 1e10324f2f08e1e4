"""The decoder server: a program that starts a decoder process for each file by forking itself.

A new Python takes 0.15 s of a core to import FFmpeg; a fork of one that has imported it takes 2 ms. The server reads no
file, and nothing of a file ever reaches it: it only counts its children.

Usage: ``python -I decoder_server.py PARENT FOLDER`` with a Unix socket as standard input. PARENT is the process id of
the service and FOLDER holds the package ``av``. Once everything is imported the server writes a line of JSON, ``{}`` or
``{"error": …}``. For each file the service then sends one byte with a socket, over which the new process gets its order
(see ``decoder_process.py``). The process is killed when the service shuts down its side of that socket. When it has
ended, the server writes ``{"exit": …}`` with its status, negative for a signal, and closes the socket.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import select
import signal
import socket
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from types import ModuleType

#: Raised when the service shuts down its side. Outside Linux there is only the end of the input.
_SHUT_DOWN: Final = getattr(select, "POLLRDHUP", select.POLLIN)


def load(name: str) -> ModuleType:
    """Import a module beside this one. Python's isolated mode does not find it by its name."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None  # noqa: S101  # the file name ends in .py
    assert spec.loader is not None  # noqa: S101  # likewise
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


class DecoderServer:
    """Forks on request, and waits for the children. ``control`` is the socket to the service."""

    def __init__(self, control: socket.socket, sandbox: ModuleType, decoder_process: ModuleType) -> None:
        self._control = control
        self._sandbox = sandbox
        self._decoder_process = decoder_process
        self._children: dict[int, socket.socket] = {}  # by process id
        self._pids: dict[int, int] = {}  # by descriptor of the socket
        self._ended, self._on_child = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(self._on_child, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self._poll = select.poll()
        for descriptor in (control.fileno(), self._ended):
            self._poll.register(descriptor, select.POLLIN)

    def serve(self) -> None:
        """Fork and reap until the service is gone."""
        while True:
            for descriptor, _ in self._poll.poll():
                if descriptor == self._ended:
                    os.read(self._ended, 4096)
                elif descriptor in self._pids:
                    self._poll.unregister(descriptor)
                    os.kill(self._pids[descriptor], signal.SIGKILL)  # not reaped yet, so the id is still its own
                elif not self._accept():
                    return
            self._reap()

    def _accept(self) -> bool:
        """Fork for the socket that the service sends. Return False if the service has closed the connection."""
        message, descriptors, _, _ = socket.recv_fds(self._control, 1, 1)
        if not message:
            return False
        connection = socket.socket(fileno=descriptors[0])
        parent = os.getpid()
        try:
            pid = os.fork()
        except OSError:  # no memory, or too many processes
            connection.close()
            return True
        if pid == 0:
            self._become_decoder(connection, parent)
        self._children[pid] = connection
        self._pids[connection.fileno()] = pid
        self._poll.register(connection, _SHUT_DOWN)
        return True

    def _become_decoder(self, connection: socket.socket, parent: int) -> None:
        """Decode one file in this process, which ends here."""
        status = 1
        try:
            self._sandbox.die_with(parent)
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for other in (self._control, *self._children.values()):
                other.close()
            os.close(self._ended)
            os.close(self._on_child)
            self._decoder_process.run(connection, parent)
            status = 0
        except BaseException:  # noqa: BLE001  # nothing of this server may run in the child
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)

    def _reap(self) -> None:
        while self._children:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            with self._children.pop(pid) as connection:
                del self._pids[connection.fileno()]
                with contextlib.suppress(KeyError):  # it was killed on request
                    self._poll.unregister(connection)
                with contextlib.suppress(OSError):  # the service no longer listens
                    connection.sendall(json.dumps({"exit": os.waitstatus_to_exitcode(status)}).encode() + b"\n")


def main() -> None:
    parent, folder = int(sys.argv[1]), sys.argv[2]
    # The decoder processes inherit the standard files: none of them leads anywhere.
    control = socket.socket(fileno=os.dup(0))
    with open(os.devnull, "r+b") as nothing:  # noqa: PTH123  # a device
        for standard in (0, 1, 2):
            os.dup2(nothing.fileno(), standard)
    try:
        sandbox = load("sandbox")
        sandbox.die_with(parent)
        sys.path.append(folder)
        for name in ("media_source", "mixing"):
            load(name)
        decoder_process = load("decoder_process")
        decoder_process.load_decoders()
    except Exception as exc:  # noqa: BLE001  # the service reports it
        control.sendall(json.dumps({"error": f"{type(exc).__name__}: {exc}"}).encode() + b"\n")
        os._exit(1)
    control.sendall(b"{}\n")
    DecoderServer(control, sandbox, decoder_process).serve()
    os._exit(0)


if __name__ == "__main__":
    main()
