"""From the last byte of an asynchronous submission to its answer, with the model busy on all cores.

The body is sent whole over one raw connection; the clock starts when its last byte has been handed to the kernel.
``GET /health`` is timed in between, and both once more with an idle model, so that what the busy cores cost can be
told from what the service costs.
"""

from __future__ import annotations

import os
import statistics
import time
import wave
from http.client import HTTPConnection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Final

from benchmarks.serving import SAMPLES, service

if TYPE_CHECKING:
    import httpx

MEGABYTE: Final = 1_000_000
SIZES: Final = (20_000, MEGABYTE, 10 * MEGABYTE, 100 * MEGABYTE)
#: Between submissions: the model is to be busy, not the decoders of the submissions before.
_PAUSE_SECONDS: Final = 0.2
_BOUNDARY: Final = b"benchmark-boundary"
_HEAD: Final = (
    b'--%(b)s\r\nContent-Disposition: form-data; name="stored_output"\r\n\r\ntrue\r\n'
    b'--%(b)s\r\nContent-Disposition: form-data; name="file"; filename="a.bin"\r\n'
    b"Content-Type: application/octet-stream\r\n\r\n"
) % {b"b": _BOUNDARY}
_TAIL: Final = b"\r\n--" + _BOUNDARY + b"--\r\n"


def measure(*, runs: int, submissions: int) -> str:
    """A section with a table: milliseconds, median and 99th percentile over all submissions of all runs."""
    rows = []
    for busy in (True, False):
        answers: dict[int, list[float]] = {size: [] for size in SIZES}
        health: list[float] = []
        for _ in range(runs):
            _one_run(answers, health, busy=busy, submissions=submissions)
        model = "busy" if busy else "idle"
        rows += [_row(model, _named(size), times) for size, times in answers.items()]
        rows.append(_row(model, "`GET /health`", health))
    table = "\n".join(["| model | request | median | p99 | count |", "|---|---|---|---|---|", *rows])
    return f"## Time to answer\n\nMilliseconds from the last byte sent to the answer read.\n\n{table}"


def _one_run(answers: dict[int, list[float]], health: list[float], *, busy: bool, submissions: int) -> None:
    with TemporaryDirectory() as folder, service(MAX_CONCURRENT_REQUESTS=str(os.cpu_count() or 1)) as client:
        if busy:
            _keep_the_model_busy(client, Path(folder))
        port = client.base_url.port or 0
        for size in SIZES:
            body = os.urandom(size)  # no audio: what comes after the answer costs little
            for _ in range(submissions if size < 100 * MEGABYTE else max(1, submissions // 8)):
                time.sleep(_PAUSE_SECONDS)
                answers[size].append(_submit(port, body))
                health.append(_timed_health(port))


def _keep_the_model_busy(client: httpx.Client, folder: Path) -> None:
    """Long jobs on every slot, which last longer than the run."""
    long = folder / "long.wav"
    with wave.open(str(SAMPLES / "hello.wav"), "rb") as source, wave.open(str(long), "wb") as target:
        target.setparams(source.getparams())
        frames = source.readframes(source.getnframes())
        for _ in range(3000):
            target.writeframes(frames)
    for _ in range(os.cpu_count() or 1):
        with long.open("rb") as audio:
            fields = {"stored_output": "true"}
            client.post("/v1/audio/transcriptions", files={"file": audio}, data=fields).raise_for_status()
    deadline = time.monotonic() + 120
    while client.get("/health").json()["concurrency"]["available_slots"]:
        if time.monotonic() > deadline:
            raise RuntimeError("The model did not become busy.")
        time.sleep(0.05)


def _submit(port: int, body: bytes) -> float:
    """Milliseconds from the last byte to the answer."""
    connection = HTTPConnection("127.0.0.1", port, timeout=60)
    connection.putrequest("POST", "/v1/audio/transcriptions")
    connection.putheader("Content-Type", f"multipart/form-data; boundary={_BOUNDARY.decode()}")
    connection.putheader("Content-Length", str(len(_HEAD) + len(body) + len(_TAIL)))
    connection.endheaders()
    connection.send(_HEAD + body)
    connection.send(_TAIL)
    sent = time.perf_counter()
    answer = connection.getresponse()
    answer.read()
    elapsed = (time.perf_counter() - sent) * 1000
    connection.close()
    if answer.status != 200:
        raise RuntimeError(f"A submission was answered {answer.status}.")
    return elapsed


def _timed_health(port: int) -> float:
    connection = HTTPConnection("127.0.0.1", port, timeout=60)
    sent = time.perf_counter()
    connection.request("GET", "/health")
    connection.getresponse().read()
    elapsed = (time.perf_counter() - sent) * 1000
    connection.close()
    return elapsed


def _named(size: int) -> str:
    return f"{size / MEGABYTE:g} MB"


def _row(model: str, request: str, times: list[float]) -> str:
    p99 = statistics.quantiles(times, n=100, method="inclusive")[98] if len(times) > 1 else times[0]
    return f"| {model} | {request} | {statistics.median(times):.1f} | {p99:.1f} | {len(times)} |"
