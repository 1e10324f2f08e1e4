"""A real PostgreSQL on this machine for tests and the demo: the installed programs with a folder of their own."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from ports import free_port

if TYPE_CHECKING:
    from types import TracebackType

_VERSIONS: Final = Path("/usr/lib/postgresql")
_START_SECONDS: Final = 60.0
_STOP_SECONDS: Final = 30.0
#: PostgreSQL refuses to run as root. A process of root starts it as this user.
_USER: Final = "nobody"
_OPTIONS: Final = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "300",
    "fsync": "off",  # processes are killed, not the machine
    "log_min_messages": "fatal",
}


class PostgresMissing(Exception):
    """PostgreSQL is not installed."""


class LocalPostgres:
    """A server with a random password on a free local port, which runs during its ``with`` block.

    Its folder is a temporary one, which is removed at the end. Its programs are those in PATH, or of the newest version
    in ``versions``, where Debian has them. ``options`` are PostgreSQL's own. With ``primary``, it is a standby of that
    server.

    Raises:
        PostgresMissing: the programs are not installed.
    """

    def __init__(
        self,
        versions: Path = _VERSIONS,
        *,
        port: int = 0,
        primary: LocalPostgres | None = None,
        **options: str,
    ) -> None:
        names = ("initdb", "postgres", "psql") if primary is None else ("pg_basebackup", "postgres", "psql")
        self.programs = {name: _program(name, versions) for name in names}
        self.port = port or free_port()
        self._options = {**_OPTIONS, "port": str(self.port), **options}
        self._primary = primary
        self.password: str = secrets.token_hex(20) if primary is None else primary.password
        self._folder: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def url(self, database: str = "postgres", *, host: str = "127.0.0.1") -> str:
        """Return the address of a database, with the password."""
        return f"postgresql://postgres:{self.password}@{host}:{self.port}/{database}"

    def __enter__(self) -> Self:
        self._folder = Path(tempfile.mkdtemp(prefix="local-postgres-"))
        try:
            self._initialize(self._folder)
            self.start()
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._remove()

    def start(self) -> None:
        """Start the server, and return when it accepts connections."""
        self._process = subprocess.Popen(
            [
                *(self.programs["postgres"], "-D", str(self._data)),
                *(f"--{name}={value}" for name, value in self._options.items()),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            process_group=0,  # at Ctrl-C, those who use it end first
            **self._unprivileged(),
        )
        deadline = time.monotonic() + _START_SECONDS
        while not self._is_ready():
            if self._process.poll() is not None:
                raise RuntimeError("PostgreSQL exited at once: is the port in use?")
            if time.monotonic() > deadline:
                raise RuntimeError(f"PostgreSQL did not respond within {_START_SECONDS:.0f} s.")
            time.sleep(0.1)

    def kill(self) -> None:
        """End the server as a crash does, with all its connections."""
        self._end(signal.SIGQUIT)

    def destroy(self) -> None:
        """End all processes of the server as ``kill -9`` does, at once. It can't be started again."""
        lines = (self._data / "postmaster.pid").read_text().splitlines()
        (_, shared_memory), first = lines[6].split(), lines[0]
        others = Path(f"/proc/{first}/task/{first}/children").read_text().split()
        self._end(signal.SIGKILL)
        for process in others:  # they would end what they are about to do, such as a commit
            with suppress(ProcessLookupError):
                os.kill(int(process), signal.SIGKILL)
        subprocess.run([shutil.which("ipcrm") or "ipcrm", "-m", shared_memory], check=True)  # nobody else removes it

    def promote(self) -> None:
        """Make a standby the primary, and return when it takes changes."""
        self.execute("SELECT pg_promote()")

    def create_database(self, name: str, *, template: str = "template0") -> str:
        """Create a database as a copy of another one, and return its address."""
        self.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
        return self.url(name)

    def execute(self, statement: str, *, database: str = "postgres") -> str:
        """Run a statement as an operator does, and return what psql prints."""
        options = ("-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1")
        address = ("-h", "127.0.0.1", "-p", str(self.port), "-U", "postgres", "-d", database)
        return self._run("psql", *options, *address, "-c", statement)

    @property
    def _data(self) -> Path:
        if self._folder is None:
            raise RuntimeError("The server is used outside of its with block.")
        return self._folder / "data"

    def _initialize(self, folder: Path) -> None:
        if os.geteuid() == 0:
            shutil.chown(folder, _USER)
        if self._primary is not None:
            source = ("-h", "127.0.0.1", "-p", str(self._primary.port), "-U", "postgres")
            options = ("--write-recovery-conf", "--checkpoint", "fast", "--no-sync")
            self._run("pg_basebackup", "-D", str(self._data), *source, *options)
            return
        password = folder / "password"
        password.touch(mode=0o600)
        password.write_text(self.password)
        if os.geteuid() == 0:
            shutil.chown(password, _USER)
        self._run(
            *("initdb", "-D", str(self._data), "-U", "postgres", "--pwfile", str(password), "-A", "scram-sha-256"),
            *("-E", "UTF8", "--locale", "C", "--no-sync"),
        )
        password.unlink()
        with (self._data / "pg_hba.conf").open("a") as rules:
            rules.write("host all all samenet scram-sha-256\n")  # besides the loopback, if it listens elsewhere

    def _is_ready(self) -> bool:
        try:
            self.execute("SELECT 1")
        except subprocess.CalledProcessError:
            return False
        return True

    def _run(self, name: str, *arguments: str) -> str:
        process: subprocess.CompletedProcess[str] = subprocess.run(
            [self.programs[name], *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PGPASSWORD": self.password},
            **self._unprivileged(),
        )
        return process.stdout

    def _unprivileged(self) -> dict[str, Any]:
        """Return the options of a process that has no rights of root."""
        options: dict[str, Any] = {"cwd": self._folder}
        if os.geteuid() == 0:
            user = pwd.getpwnam(_USER)
            options |= {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": ()}
        return options

    def _end(self, number: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(number)
            try:
                process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _remove(self) -> None:
        self._end(signal.SIGINT)  # closes connections
        folder, self._folder = self._folder, None
        if folder is not None:
            with suppress(OSError):
                shutil.rmtree(folder)


def _program(name: str, versions: Path) -> str:
    """Return the path of one of PostgreSQL's programs."""
    found = [path for path in versions.glob(f"*/bin/{name}") if path.parent.parent.name.isdecimal()]
    newest = max(found, key=lambda path: int(path.parent.parent.name), default=None)
    path = shutil.which(name) or newest
    if path is None:
        raise PostgresMissing(
            "PostgreSQL is not installed: install it (Debian, Ubuntu: apt-get install postgresql) and try again. Its "
            "service need not run."
        )
    return str(path)
