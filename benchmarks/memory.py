"""The resident memory of the service above its idle level, while long recordings are transcribed."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Final

from benchmarks import random_model
from benchmarks.processes import descendants, resident_bytes
from benchmarks.recordings import recording
from benchmarks.serving import SAMPLES, service_with_pid, submit

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import httpx

#: The hours of audio in a file, and the number of such files at once.
CASES: Final = ((5 / 3600, 1), (1 / 6, 1), (1.0, 1), (10.0, 1), (10.0, 3))
#: Several files are cancelled after this time, by when everything has been decoded that admission allows.
_SEVERAL_SECONDS: Final = 240
#: Few tokens in each window make the model fast: only the memory around it matters here.
_TOKENS: Final = 4
_MEGABYTE: Final = 1_000_000


@dataclass(slots=True)
class Peak:
    """The largest numbers of bytes that were observed."""

    service: int = 0
    decoders: int = 0


def measure(cases: Sequence[tuple[float, int]] = CASES) -> str:
    """Return a section with the peaks in megabytes above the idle level, and the time that it took."""
    rows = []
    with TemporaryDirectory() as name:
        folder = Path(name)
        model = str(random_model.make("tiny", folder / "model", tokens=_TOKENS))
        for hours, count in cases:
            file = recording(folder / "long.wav", seconds=hours * 3600)
            rows.append(_row(model, file, hours, count))
    return "\n".join(
        [
            "## Memory",
            "",
            "Peak resident memory of the service above idle, tiny dimensions, few words in a window, batches of 6; MB.",
            "",
            "| audio | above idle | decoder processes | duration |",
            "|---|---|---|---|",
            *rows,
        ]
    )


def _row(model: str, file: Path, hours: float, count: int) -> str:
    with service_with_pid(WHISPER_MODEL=model, MAX_UPLOAD_BYTES="4000000000") as (client, pid):
        _transcribe(client, SAMPLES / "hello.wav", 1)  # loads what is loaded on first use
        time.sleep(1)
        idle = resident_bytes(pid)
        started = time.perf_counter()
        with watching(pid) as peak:
            _transcribe(client, file, count, limit=_SEVERAL_SECONDS if count > 1 else None)
        seconds = time.perf_counter() - started
    above_idle = (peak.service - idle) / _MEGABYTE
    return f"| {count} x {hours:.3g} h | {above_idle:.0f} | {peak.decoders / _MEGABYTE:.0f} | {seconds:.0f} s |"


def _transcribe(client: httpx.Client, file: Path, count: int, *, limit: float | None = None) -> None:
    """Transcribe the file ``count`` times at once, or cancel the jobs after ``limit`` seconds."""
    started = time.monotonic()
    jobs = [submit(client, file) for _ in range(count)]
    while jobs:
        time.sleep(0.1)
        states = {job: client.get(f"/v1/jobs/{job}").json()["status"] for job in jobs}
        if "failed" in states.values():
            raise RuntimeError(f"A job failed: {states}")
        jobs = [job for job in jobs if states[job] != "completed"]
        if limit is not None and time.monotonic() - started > limit:
            for job in jobs:
                client.delete(f"/v1/jobs/{job}").raise_for_status()
            return


@contextmanager
def watching(pid: int) -> Iterator[Peak]:
    """Observe the memory of a process and its children 20 times a second until the end of the block."""
    peak = Peak()
    ended = threading.Event()

    def observe() -> None:
        while not ended.wait(0.05):
            peak.service = max(peak.service, resident_bytes(pid))
            peak.decoders = max(peak.decoders, sum(map(resident_bytes, descendants(pid))))

    observer = threading.Thread(target=observe)
    observer.start()
    try:
        yield peak
    finally:
        ended.set()
        observer.join()
