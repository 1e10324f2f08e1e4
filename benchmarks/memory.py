"""Resident memory over that of the idle service, while long recordings are transcribed to their end."""

from __future__ import annotations

import os
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Final

from benchmarks import random_model
from benchmarks.recordings import recording
from benchmarks.serving import SAMPLES, service_with_pid, submit

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import httpx

#: Hours of audio, and how many such files at once.
CASES: Final = ((5 / 3600, 1), (1 / 6, 1), (1.0, 1), (10.0, 1), (10.0, 3))
#: Several are watched for so long, in which all is decoded that will be, and then cancelled.
_SEVERAL_SECONDS: Final = 240
#: Windows of so few words make the model quick: what is measured here is what surrounds it.
_TOKENS: Final = 4
_MEGABYTE: Final = 1_000_000


@dataclass(slots=True)
class Peak:
    """The most bytes that were seen."""

    service: int = 0
    decoders: int = 0


def measure(cases: Sequence[tuple[float, int]] = CASES) -> str:
    """A section with a table: megabytes over idle, the decoders' besides, and how long it took."""
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
            "Resident memory of the service over idle, tiny dimensions, few words a window, batches of 8; peaks in MB.",
            "",
            "| audio | over idle | the decoders besides | watched for |",
            "|---|---|---|---|",
            *rows,
        ]
    )


def _row(model: str, file: Path, hours: float, count: int) -> str:
    with service_with_pid(WHISPER_MODEL=model, MAX_UPLOAD_BYTES="4000000000") as (client, pid):
        _transcribe(client, SAMPLES / "hello.wav", 1)  # what is loaded on first use is not the audio's
        time.sleep(1)
        idle = resident_bytes(pid)
        started = time.perf_counter()
        with watching(pid) as peak:
            _transcribe(client, file, count, limit=_SEVERAL_SECONDS if count > 1 else None)
        seconds = time.perf_counter() - started
    over = (peak.service - idle) / _MEGABYTE
    return f"| {count} x {hours:.3g} h | {over:.0f} | {peak.decoders / _MEGABYTE:.0f} | {seconds:.0f} s |"


def _transcribe(client: httpx.Client, file: Path, count: int, *, limit: float | None = None) -> None:
    """To the end, or for ``limit`` seconds."""
    started = time.monotonic()
    jobs = [submit(client, file) for _ in range(count)]
    while jobs:
        time.sleep(0.1)
        states = {job: client.get(f"/v1/jobs/{job}").json()["status"] for job in jobs}
        if "failed" in states.values():
            raise RuntimeError(f"a job failed: {states}")
        jobs = [job for job in jobs if states[job] != "completed"]
        if limit is not None and time.monotonic() - started > limit:
            for job in jobs:
                client.delete(f"/v1/jobs/{job}").raise_for_status()
            return


@contextmanager
def watching(pid: int) -> Iterator[Peak]:
    """Looks twenty times a second for as long as the block lasts."""
    peak = Peak()
    ended = threading.Event()

    def look() -> None:
        while not ended.wait(0.05):
            peak.service = max(peak.service, resident_bytes(pid))
            peak.decoders = max(peak.decoders, sum(map(resident_bytes, children(pid))))

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        yield peak
    finally:
        ended.set()
        watcher.join()


def resident_bytes(pid: int) -> int:
    with suppress(OSError):  # it may be gone
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")
    return 0


def children(pid: int) -> list[int]:
    with suppress(OSError):
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []
