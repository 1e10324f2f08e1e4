"""The service and the samples as both demos use them."""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

import httpx

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from local_s3 import LocalS3

ROOT: Final = Path(__file__).resolve().parent.parent
SAMPLES: Final = ROOT / "samples"
BUCKET: Final = "transcripts"
JOB_SECONDS: Final = 120.0
_START_SECONDS: Final = 90.0
_STOP_SECONDS: Final = 40.0
_LOG_CHARACTERS: Final = 4000
#: Settings in the environment that would break a demo, and the beginning of others.
_IGNORED_SETTINGS: Final = (
    *("API_KEYS", "WEB_PAGE", "LOG_FORMAT", "LOG_LEVEL", "HOST", "MAX_UPLOAD_BYTES", "MAX_AUDIO_SECONDS"),
    *("SPOOL_MAX_BYTES", "SPOOL_MIN_FREE_BYTES", "ROLE", "DATABASE_URL", "SPOOL_URL", "CLUSTER_SECRET"),
    "CLUSTER_STALE_SECONDS",
)


class DemoFailed(Exception):
    """The demo could not be completed."""


def run(demo: Callable[[bool], bool], description: str) -> int:
    """Run a demo as a program, and return its exit status.

    ``demo`` is called with whether to keep running after what it shows, and returns whether that was right.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--exit", action="store_true", help="exit in the end, with status 0 if everything was right")
    keep_running = not parser.parse_args().exit
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    os.environ["NO_PROXY"] = os.environ["no_proxy"] = "127.0.0.1"  # everything runs on this machine
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        del os.environ[name]  # they are about another S3
    try:
        return 0 if demo(keep_running) else 1
    except DemoFailed as exc:
        sys.stderr.write(f"{exc}\n")
        return 1
    except KeyboardInterrupt:
        return 0


class Service:
    """``python -m app`` with ``settings``, as an operator would run it, during its ``with`` block.

    Its log is ``NAME.log`` in ``folder``; the end of it is printed if the block raises DemoFailed.
    """

    def __init__(self, folder: Path, settings: dict[str, str], *, port: int, name: str = "server") -> None:
        self.name = name
        self.address = f"http://127.0.0.1:{port}"
        self._folder = folder
        self._log = folder / f"{name}.log"
        self._settings = {"PORT": str(port), "DATA_DIR": str(folder / f"{name}-data"), **settings}
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        with self._log.open("wb") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "app"],
                cwd=self._folder,  # has no .env
                env=environment(self._settings),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                process_group=0,  # at Ctrl-C, the demo ends it
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(exc, DemoFailed):
            sys.stderr.write(f"{self.name}:\n{self._log.read_text(errors='replace')[-_LOG_CHARACTERS:]}\n")
        self.terminate()
        if self._process is not None:
            try:
                self._process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.kill()

    def terminate(self) -> None:
        """Ask the service to end, without waiting for it."""
        if self._process is not None:
            self._process.terminate()

    def kill(self) -> None:
        """End the service as a crash does (``kill -9``)."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def wait_until_ready(self) -> None:
        """Return when the service accepts work, or raise DemoFailed."""
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline:
            if self._process is not None and self._process.poll() is not None:
                raise DemoFailed(f"The {self.name} exited with status {self._process.returncode}: see its log above.")
            try:
                if httpx.get(f"{self.address}/health/ready").status_code == httpx.codes.OK:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.05)
        raise DemoFailed(f"The {self.name} was not ready within {_START_SECONDS:.0f} s: see its log above.")


def environment(settings: dict[str, str]) -> dict[str, str]:
    """Return the environment of this process with ``settings``, and without what would break a demo."""
    inherited = {name: value for name, value in os.environ.items() if name.upper() not in _IGNORED_SETTINGS}
    return {**inherited, "PYTHONPATH": str(ROOT), **settings}


def submit(address: str, sample: Path, store: LocalS3, key: str) -> httpx.Response:
    """Submit a recording as a job whose result goes to ``key`` in the bucket, and return the response.

    Raises:
        DemoFailed: the service refused it.
    """
    with sample.open("rb") as audio:
        response = httpx.post(
            f"{address}/v1/audio/transcriptions",
            files={"file": audio},
            data={"upload_presigned_url": store.presign_put(BUCKET, key)},
        )
    if response.status_code != httpx.codes.OK:
        raise DemoFailed(f"The service refused the audio with status {response.status_code}: {response.text}")
    return response


def has_ended(job: dict[str, Any]) -> bool:
    return job["status"] in ("completed", "failed", "cancelled")


def uploaded_text(store: LocalS3, key: str) -> str:
    """Return the text of a transcript in the bucket."""
    document = json.load(store.client().get_object(Bucket=BUCKET, Key=key)["Body"])
    return str(document["text"])


def expected_text(sample: Path) -> str:
    """Return what is said in a sample."""
    references = json.loads((SAMPLES / "references.json").read_text())
    return next(str(entry["text"]) for entry in references if entry["file"] == sample.name)


def is_same_text(text: str, expected: str) -> bool:
    """Return whether two texts have the same words. The demo model writes neither capitals nor punctuation."""
    return _words(text) == _words(expected)


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z']+", text.lower())


def say(text: str) -> None:
    print(text, flush=True)
