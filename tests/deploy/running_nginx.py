"""nginx as a process without the rights of root, with a configuration for Debian's ``conf.d``."""

from __future__ import annotations

import socket
import subprocess
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Final

from tests.deploy.deployment import output_of, tool
from tests.support.waiting import LIMIT_SECONDS, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

#: Debian's nginx.conf around the example.
_AROUND: Final = """
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 512; }}
http {{
    access_log off;
    client_body_temp_path {folder}/client_body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    include {folder}/transcription.conf;
}}
"""


def configuration_of(text: str, folder: Path) -> Path:
    """Write nginx's configuration with ``text`` in its http block to ``folder``, and return its path."""
    (folder / "transcription.conf").write_text(text)
    (folder / "nginx.conf").write_text(_AROUND.format(folder=folder))
    return folder / "nginx.conf"


def check(configuration: Path) -> None:
    """Raise AssertionError if nginx rejects the configuration or warns about it."""
    assert "[warn]" not in output_of(tool("nginx"), "-t", *_options(configuration))


@contextmanager
def running_nginx(configuration: Path, port: str) -> Iterator[None]:
    """Run nginx with a configuration in which it listens on ``port`` of the loopback."""
    log = configuration.parent / "nginx.log"
    with log.open("wb") as output:
        running = subprocess.Popen([tool("nginx"), *_options(configuration)], stdout=output, stderr=output)
    try:
        wait_until(partial(_listens, int(port), running, log))
        yield
    finally:
        running.terminate()
        try:
            running.wait(LIMIT_SECONDS)
        except subprocess.TimeoutExpired:
            running.kill()
            running.wait()


def _options(configuration: Path) -> tuple[str | Path, ...]:
    return "-p", configuration.parent, "-e", configuration.parent / "error.log", "-c", configuration


def _listens(port: int, running: subprocess.Popen[bytes], log: Path) -> bool:
    assert running.poll() is None, log.read_text()
    try:
        socket.create_connection(("127.0.0.1", port), timeout=LIMIT_SECONDS).close()
    except OSError:
        return False
    return True
