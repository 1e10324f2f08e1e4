"""The time of ``GET /health`` while large files are uploaded at a steady rate and the model is busy on all cores."""

from __future__ import annotations

import multiprocessing
import os
import time
from http.client import HTTPConnection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from benchmarks.answer_time import BOUNDARY, HEAD, TAIL, keep_the_model_busy, row, timed_health
from benchmarks.serving import service

MEBIBYTE: Final = 1024 * 1024
RATE: Final = 64 * MEBIBYTE
_CONNECTIONS: Final = 4
_FILE_BYTES: Final = 128 * MEBIBYTE
_PAUSE_SECONDS: Final = 0.05


def measure(*, runs: int, seconds: float = 20.0) -> str:
    """Return a section with the median and 99th percentile of ``/health`` in milliseconds, without and with uploads."""
    rows = []
    for rate in (0, RATE):
        times: list[float] = []
        for _ in range(runs):
            times += _one_run(rate, seconds)
        rows.append(row("busy", f"`GET /health` beside {rate // MEBIBYTE} MiB/s", times))
    return "\n".join(
        [
            "## Uploads",
            "",
            f"Milliseconds; {_CONNECTIONS} connections send files of {_FILE_BYTES // MEBIBYTE} MiB.",
            "",
            "| model | request | median | p99 | count |",
            "|---|---|---|---|---|",
            *rows,
        ]
    )


def _one_run(rate: int, seconds: float) -> list[float]:
    with TemporaryDirectory() as folder, service(MAX_CONCURRENT_REQUESTS=str(os.cpu_count() or 1)) as client:
        keep_the_model_busy(client, Path(folder))
        port = client.base_url.port or 0
        senders = [
            multiprocessing.get_context("spawn").Process(target=_send, args=(port, rate / _CONNECTIONS, seconds))
            for _ in range(_CONNECTIONS if rate else 0)
        ]
        for sender in senders:
            sender.start()
        times = []
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            time.sleep(_PAUSE_SECONDS)
            times.append(timed_health(port))
        for sender in senders:
            sender.join()
            if sender.exitcode:
                raise RuntimeError("An upload failed, or was slower than intended.")
        return times


def _send(port: int, rate: float, seconds: float) -> None:
    """Send files at this rate, in bytes per second. They are not audio, so their jobs end soon."""
    part = os.urandom(MEBIBYTE)
    began = time.monotonic()
    sent = 0
    while time.monotonic() < began + seconds:
        connection = HTTPConnection("127.0.0.1", port, timeout=60)
        connection.putrequest("POST", "/v1/audio/transcriptions")
        connection.putheader("Content-Type", f"multipart/form-data; boundary={BOUNDARY.decode()}")
        connection.putheader("Content-Length", str(len(HEAD) + _FILE_BYTES + len(TAIL)))
        connection.endheaders()
        connection.send(HEAD)
        for _ in range(_FILE_BYTES // len(part)):
            time.sleep(max(0.0, began + sent / rate - time.monotonic()))
            connection.send(part)
            sent += len(part)
        connection.send(TAIL)
        if connection.getresponse().status != 200:
            raise RuntimeError("An upload was refused.")
        connection.close()
    if sent < 0.9 * rate * (time.monotonic() - began):
        raise RuntimeError(f"Only {sent / (time.monotonic() - began) / MEBIBYTE:.1f} MiB/s were sent.")
