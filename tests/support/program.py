"""The service as an operator runs it: ``python -m app`` in its own process."""

from __future__ import annotations

import os
import signal
import socket
import ssl
import subprocess
import sys
from contextlib import contextmanager, suppress
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

import httpx

from tests.support.cluster_mode import cluster_mode
from tests.support.waiting import LIMIT_SECONDS, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

ROOT: Final = Path(__file__).parents[2]
PROGRAM: Final = (sys.executable, "-m", "app")
#: For clients of a service without TLS: reading the certificates of authorities takes longer than most requests.
NO_TLS: Final = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)

#: The first of this process's ports, below the range that Linux uses for outgoing connections. Workers of
#: pytest-xdist are a thousand apart.
_FIRST_PORT: Final = 20_000 + int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:]) % 10 * 1000 + os.getpid() % 1000
_ports: Final = cycle(range(_FIRST_PORT, _FIRST_PORT + 1000))


def free_port() -> str:
    """Return a free port of the loopback for ``PORT``, a different one for each call."""
    for port in _ports:
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return str(port)
    raise AssertionError("cycle() does not end")


class Process(Protocol):
    """The part of ``subprocess.Popen`` that ``Program`` uses."""

    @property
    def pid(self) -> int: ...

    def poll(self) -> int | None: ...

    def wait(self, timeout: float | None = None) -> int: ...

    def send_signal(self, number: int, /) -> None: ...

    def kill(self) -> None: ...


class Program:
    """A process that runs ``command`` in ``folder``, and a client for it. Its output is in the file ``log``."""

    def __init__(self, folder: Path, command: Sequence[str] = PROGRAM, **environment: str) -> None:
        environment.setdefault("PORT", free_port())
        inherited = {name: value for name, value in os.environ.items() if name.startswith(("PATH", "COVERAGE", "LD_"))}
        self._data_dir = folder / environment.get("DATA_DIR", "data")
        shared = cluster_mode.settings(self._data_dir)
        self.log = folder / "log"
        self.process = self._start(
            command,
            folder,
            {
                **inherited,
                "PYTHONPATH": str(ROOT),
                "HOME": str(folder),
                "WHISPER_MODEL": "demo",
                "WHISPER_CPU_THREADS": "1",  # several wait busily for each other on busy cores
                "URL_ALLOWED_HOSTS": "127.0.0.1",
                **{name.upper(): value for name, value in shared.items()},
                **environment,
            },
        )
        self.client = httpx.Client(
            base_url=f"http://127.0.0.1:{environment['PORT']}", verify=NO_TLS, trust_env=False, timeout=LIMIT_SECONDS
        )

    def _start(self, command: Sequence[str], folder: Path, environment: dict[str, str]) -> Process:
        with self.log.open("ab") as output:
            return subprocess.Popen(
                command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )

    @property
    def has_ended(self) -> bool:
        return self.process.poll() is not None

    def is_ready(self) -> bool:
        """Return whether ``/health/ready`` answers 200."""
        try:
            return self.client.get("/health/ready").status_code == 200
        except httpx.TransportError:
            return False

    def until_ready(self) -> None:
        """Wait until the service is ready. Raise ``AssertionError`` if the process ends before."""

        def is_ready() -> bool:
            assert not self.has_ended, self.log.read_text()
            return self.is_ready()

        self.eventually(is_ready)

    def submit(self, file: Path, *, references: Sequence[Path] = (), **fields: str) -> str:
        """Submit a job, perhaps with references of known speakers, and return its id."""
        parts = [("file", file.read_bytes())]
        parts += [("known_speaker_references[]", reference.read_bytes()) for reference in references]
        accepted = self.client.post("/v1/audio/transcriptions", files=parts, data=fields)
        assert accepted.status_code == 200, accepted.text
        return str(accepted.json()["job_id"])

    def job(self, job_id: str) -> dict[str, Any]:
        job: dict[str, Any] = self.client.get(f"/v1/jobs/{job_id}").json()
        return job

    def jobs(self) -> dict[str, dict[str, Any]]:
        """Return all jobs by their ids."""
        jobs: dict[str, dict[str, Any]] = {}
        position: dict[str, str] = {}
        while page := self.client.get("/v1/jobs", params={"limit": "1000", **position}).json()["jobs"]:
            jobs |= page
            position = {"after": list(page)[-1]}
        return jobs

    def until(self, job_id: str, status: str) -> dict[str, Any]:
        """Wait until the job has this status and return the job."""
        self.eventually(lambda: self.job(job_id)["status"] == status)
        return self.job(job_id)

    def eventually(
        self, condition: Callable[[], bool], *, seconds: float = LIMIT_SECONDS, pause: float | None = None
    ) -> None:
        """Return once ``condition()`` is true. Raise ``AssertionError`` with the log after this many seconds."""
        try:
            wait_until(condition, seconds=seconds, pause=pause)
        except AssertionError as exc:
            exc.add_note(self.log.read_text())
            raise

    def ends_with(self, seconds: float = 150) -> int:
        """Wait for the end of the process and return its exit code."""
        return self.process.wait(seconds)

    def stop(self) -> int:
        """Stop the service as an operator does and return its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.ends_with()

    def kill(self) -> None:
        """Kill the process as ``kill -9`` does."""
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        self.client.close()
        if not self.has_ended:
            self.process.kill()
        self.process.wait()
        cluster_mode.ended(self._data_dir)


@contextmanager
def program(folder: Path, command: Sequence[str] = PROGRAM, **environment: str) -> Iterator[Program]:
    """Run the service until the block ends."""
    running = Program(folder, command, **environment)
    try:
        yield running
    finally:
        running.close()
