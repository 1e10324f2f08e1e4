"""The time from the last byte of an asynchronous submission to its response, with the model busy on all cores.

The body is sent as a whole over one raw connection; the clock starts when its last byte has been handed to the kernel.
``GET /health`` is timed in between. Both are repeated with an idle model, to separate the cost of busy cores from
that of the service.
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
#: The pause between submissions, so that the model is busy but not the decoders of earlier submissions.
_PAUSE_SECONDS: Final = 0.2
BOUNDARY: Final = b"benchmark-boundary"
HEAD: Final = (
    b'--%(b)s\r\nContent-Disposition: form-data; name="stored_output"\r\n\r\ntrue\r\n'
    b'--%(b)s\r\nContent-Disposition: form-data; name="file"; filename="a.bin"\r\n'
    b"Content-Type: application/octet-stream\r\n\r\n"
) % {b"b": BOUNDARY}
TAIL: Final = b"\r\n--" + BOUNDARY + b"--\r\n"


def measure(*, runs: int, submissions: int) -> str:
    """Return a section with the median and 99th percentile in milliseconds over all submissions of all runs."""
    rows = []
    for busy in (True, False):
        times: dict[int, list[float]] = {size: [] for size in SIZES}
        health: list[float] = []
        for _ in range(runs):
            _one_run(times, health, busy=busy, submissions=submissions)
        model = "busy" if busy else "idle"
        rows += [row(model, _named(size), values) for size, values in times.items()]
        rows.append(row(model, "`GET /health`", health))
    table = "\n".join(["| model | request | median | p99 | count |", "|---|---|---|---|---|", *rows])
    return f"## Time to answer\n\nMilliseconds from the last byte sent to the response read.\n\n{table}"


def _one_run(times: dict[int, list[float]], health: list[float], *, busy: bool, submissions: int) -> None:
    with TemporaryDirectory() as folder, service(MAX_CONCURRENT_REQUESTS=str(os.cpu_count() or 1)) as client:
        if busy:
            keep_the_model_busy(client, Path(folder))
        port = client.base_url.port or 0
        for size in SIZES:
            body = os.urandom(size)  # not audio, so that little happens after the response
            for _ in range(submissions if size < 100 * MEGABYTE else max(1, submissions // 8)):
                time.sleep(_PAUSE_SECONDS)
                times[size].append(_submit(port, body))
                health.append(timed_health(port))


def keep_the_model_busy(client: httpx.Client, folder: Path) -> None:
    """Start a job for every core that lasts longer than the run."""
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
    """Return the milliseconds from the last byte to the response."""
    connection = HTTPConnection("127.0.0.1", port, timeout=60)
    connection.putrequest("POST", "/v1/audio/transcriptions")
    connection.putheader("Content-Type", f"multipart/form-data; boundary={BOUNDARY.decode()}")
    connection.putheader("Content-Length", str(len(HEAD) + len(body) + len(TAIL)))
    connection.endheaders()
    connection.send(HEAD + body)
    connection.send(TAIL)
    sent = time.perf_counter()
    response = connection.getresponse()
    response.read()
    elapsed = (time.perf_counter() - sent) * 1000
    connection.close()
    if response.status != 200:
        raise RuntimeError(f"The response to a submission was {response.status}.")
    return elapsed


def timed_health(port: int) -> float:
    connection = HTTPConnection("127.0.0.1", port, timeout=60)
    sent = time.perf_counter()
    connection.request("GET", "/health")
    connection.getresponse().read()
    elapsed = (time.perf_counter() - sent) * 1000
    connection.close()
    return elapsed


def _named(size: int) -> str:
    return f"{size / MEGABYTE:g} MB"


def row(model: str, request: str, times: list[float]) -> str:
    p99 = statistics.quantiles(times, n=100, method="inclusive")[98] if len(times) > 1 else times[0]
    return f"| {model} | {request} | {statistics.median(times):.1f} | {p99:.1f} | {len(times)} |"
