"""Servers in processes of their own, started as an operator starts them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import httpx

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.target import Target

ROOT = Path(__file__).parent.parent
SAMPLES = ROOT / "samples"


@contextmanager
def service(*, path: str = "/health/ready", **settings: str) -> Iterator[httpx.Client]:
    """Start the service, with the bundled model by default, and yield a client once ``path`` responds with 200."""
    with service_with_pid(path=path, **settings) as (client, _):
        yield client


@contextmanager
def service_with_pid(*, path: str = "/health/ready", **settings: str) -> Iterator[tuple[httpx.Client, int]]:
    """Start the service like :func:`service` and yield the client and the process id."""
    environment = {"WHISPER_MODEL": "demo", "WHISPER_DEVICE": "cpu", "SHUTDOWN_GRACE_SECONDS": "0.1", **settings}
    with _serving(["-m", "app"], path, environment) as running:
        yield running


@contextmanager
def forgetful_service(**settings: str) -> Iterator[httpx.Client]:
    """Start the service without durability and yield a client."""
    environment = {"WHISPER_MODEL": "demo", "WHISPER_DEVICE": "cpu", "SHUTDOWN_GRACE_SECONDS": "0.1", **settings}
    with _serving(["-m", "benchmarks.forgetful_server"], "/health/ready", environment) as (client, _):
        yield client


@contextmanager
def unprotected_service(**settings: str) -> Iterator[httpx.Client]:
    """Start the service without protection and yield a client."""
    environment = {"WHISPER_MODEL": "demo", "WHISPER_DEVICE": "cpu", "SHUTDOWN_GRACE_SECONDS": "0.1", **settings}
    with _serving(["-m", "benchmarks.unprotected_server"], "/health/ready", environment) as (client, _):
        yield client


@contextmanager
def node(role: str, *, module: str = "app", **settings: str) -> Iterator[tuple[httpx.Client, int]]:
    """Start a node of a cluster, run by ``module``, and yield a client and the process id."""
    environment = {
        "ROLE": role,
        "WHISPER_MODEL": "demo",
        "WHISPER_DEVICE": "cpu",
        "SHUTDOWN_GRACE_SECONDS": "0.1",
        **settings,
    }
    with _serving(["-m", module], "/health/ready", environment) as running:
        yield running


@contextmanager
def plain_service(model: str, target: Target) -> Iterator[httpx.Client]:
    """Start the plain server that the service is compared with and yield a client."""
    with _serving(
        ["-m", "benchmarks.plain_server", model, target.device, target.compute_type, "{port}"], "/health/ready", {}
    ) as (client, _):
        yield client


@contextmanager
def _serving(command: list[str], path: str, environment: dict[str, str]) -> Iterator[tuple[httpx.Client, int]]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder, Path(folder, "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, *(part.format(port=port) for part in command)],
            cwd=folder,
            env={**os.environ, "PORT": str(port), "PYTHONPATH": str(ROOT), **environment},
            stdout=log,
            stderr=log,
        )
        try:
            limits = httpx.Limits(max_connections=None)
            with httpx.Client(
                base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=60, limits=limits
            ) as client:
                _wait(client, path, process, Path(folder, "log"))
                yield client, process.pid
        finally:
            process.terminate()
            process.wait(30)


def submit(client: httpx.Client, file: Path) -> str:
    """Submit a job whose result the service keeps, and return its id."""
    with file.open("rb") as audio:
        response = client.post(
            "/v1/audio/transcriptions", files={"file": audio}, data={"stored_output": "true"}, timeout=600
        )
    return str(response.raise_for_status().json()["job_id"])


def until_ended(client: httpx.Client, count: int) -> None:
    """Wait until this many jobs are completed."""
    deadline = time.monotonic() + 300
    while client.get("/health").json()["concurrency"]["completed"] < count:
        if time.monotonic() > deadline:
            raise RuntimeError(f"Fewer than {count} jobs were completed within 300 s.")
        time.sleep(0.02)


def _wait(client: httpx.Client, path: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        try:
            if client.get(path).status_code == httpx.codes.OK:
                return
        except httpx.TransportError:
            time.sleep(0.005)
    raise RuntimeError(f"The service did not start: {log.read_text()}")
