"""A PostgreSQL server of the tests' own, from the machine's installation."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Final

from tests.support.program import free_port
from tests.support.waiting import wait_until

#: PostgreSQL refuses to run as root, so it runs as this user then.
_USER: Final = "nobody"
_FOLDERS: Final = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
_OPTIONS: Final = {
    "listen_addresses": "127.0.0.1",
    "max_connections": "300",
    "log_min_messages": "fatal",
}


def find_program(name: str) -> str | None:
    """Return the path of one of PostgreSQL's programs, or None if it is not installed."""
    return shutil.which(name) or next((str(folder / name) for folder in _FOLDERS if (folder / name).exists()), None)


class Postgres:
    """A server on a port of the loopback, which a test can kill and start again.

    Tests kill processes and not the machine, so it syncs nothing to the disk unless ``fsync``.
    """

    def __init__(self, *, fsync: bool = False) -> None:
        self._options = {**_OPTIONS, "fsync": "on" if fsync else "off"}
        self.port = free_port()
        self._user = _USER if os.geteuid() == 0 else None
        self._folder = Path(tempfile.mkdtemp(prefix="postgres-"))
        if self._user is not None:
            shutil.chown(self._folder, self._user)
        self._process: subprocess.Popen[bytes] | None = None
        self._run("initdb", "-D", str(self._data), "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync")

    @property
    def _data(self) -> Path:
        return self._folder / "data"

    def url(self, database: str) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

    def start(self) -> None:
        """Start the server, and return when it takes connections."""
        program = find_program("postgres")
        assert program is not None
        options = {**self._options, "port": self.port, "unix_socket_directories": str(self._folder)}
        self._process = subprocess.Popen(
            [program, "-D", str(self._data), *(f"--{name}={value}" for name, value in options.items())],
            user=self._user,
            cwd=self._folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        wait_until(self._is_ready, seconds=60, pause=0.1)

    def kill(self) -> None:
        """End the server as a crash does, with all connections."""
        assert self._process is not None
        self._process.send_signal(signal.SIGQUIT)
        self._process.wait()

    def create_database(self, name: str, *, template: str = "template0") -> str:
        """Create a database like another one, and return its URL."""
        self.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
        return self.url(name)

    def execute(self, statement: str, *, database: str = "postgres") -> str:
        """Run a statement as an operator does, and return what psql prints."""
        return self._run("psql", "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-c", statement, self.url(database))

    def close(self) -> None:
        with suppress(AssertionError):
            self.kill()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _is_ready(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, "PostgreSQL has ended."
        try:
            self.execute("SELECT 1")
        except subprocess.CalledProcessError:
            return False
        return True

    def _run(self, name: str, *arguments: str) -> str:
        program = find_program(name)
        assert program is not None
        return subprocess.run(
            [program, *arguments], user=self._user, cwd=self._folder, check=True, capture_output=True, text=True
        ).stdout
