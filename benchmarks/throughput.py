"""The throughput of the service, compared with the limit of the model and with a plain server."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Final

from benchmarks import random_model
from benchmarks.recordings import recording
from benchmarks.serving import ROOT, plain_service, service

if TYPE_CHECKING:
    from collections.abc import Sequence

    import httpx

CLIPS: Final = 16
#: The batch size at which the limit is fastest on two CPU cores.
RAW_BATCH: Final = 8


def measure(*, rounds: int) -> str:
    """Return a section with seconds and ratios, medians over rounds in which the programs take turns."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        model = str(random_model.make("base", folder / "model"))
        clips = [recording(folder / f"{number}.wav", seconds=30, offset_seconds=4 * number) for number in range(CLIPS)]
        seconds: dict[str, list[float]] = {}
        for _ in range(rounds):
            for program, value in _round(model, clips):
                seconds.setdefault(program, []).append(value)
        long = recording(folder / "long.wav", seconds=300)
        for _ in range(rounds):
            for program, value in _one_long(model, long):
                seconds.setdefault(program, []).append(value)
    return _section(seconds)


def _round(model: str, clips: Sequence[Path]) -> list[tuple[str, float]]:
    seconds = [
        ("limit", raw_seconds(model, RAW_BATCH, *clips)),
        ("limit, encoding one by one", raw_seconds(model, RAW_BATCH, *clips, "--apart")),
    ]
    for slots in (16, 3):
        with service(WHISPER_MODEL=model, MAX_CONCURRENT_REQUESTS=str(slots)) as client:
            seconds.append((f"service, {slots} slots", send_all(client, clips)))
    with plain_service(model) as client:
        seconds.append(("plain server", send_all(client, clips)))
    return seconds


def _one_long(model: str, long: Path) -> list[tuple[str, float]]:
    with service(WHISPER_MODEL=model) as client:
        seconds = send_all(client, [long])
    return [
        ("service, 5 min alone", seconds),
        ("BatchedInferencePipeline", raw_seconds(model, RAW_BATCH, long, "--pipeline")),
    ]


def send_all(client: httpx.Client, files: Sequence[Path]) -> float:
    """Send all files at once and return the seconds until the last response."""

    def send(file: Path) -> None:
        with file.open("rb") as audio:
            client.post("/v1/audio/transcriptions", files={"file": audio}, timeout=3600).raise_for_status()

    started = time.perf_counter()
    with ThreadPoolExecutor(len(files)) as pool:
        list(pool.map(send, files))
    return time.perf_counter() - started


def raw_seconds(model: str, size: int, *arguments: Path | str) -> float:
    command = [sys.executable, "-m", "benchmarks.raw", model, str(size), *map(str, arguments)]
    output = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return float(output.split()[0])


def _section(seconds: dict[str, list[float]]) -> str:
    medians = {program: statistics.median(values) for program, values in seconds.items()}
    rows = [
        f"| {program} | {medians[program]:.1f} | {min(values):.1f} to {max(values):.1f} "
        f"| {medians[_baseline(program)] / medians[program]:.2f} |"
        for program, values in seconds.items()
    ]
    plain = medians["plain server"]
    gains = ", ".join(f"{plain / medians[f'service, {slots} slots']:.2f} with {slots} slots" for slots in (16, 3))
    return "\n".join(
        [
            "## Throughput",
            "",
            f"{CLIPS} clips of 30 s at once, base dimensions, beam 5, int8, language detected; seconds, medians.",
            "",
            "| program | seconds | from, to | speed, limit or pipeline = 1 |",
            "|---|---|---|---|",
            *rows,
            "",
            f"Times as fast as the plain server: {gains}.",
        ]
    )


def _baseline(program: str) -> str:
    return "BatchedInferencePipeline" if program in ("service, 5 min alone", "BatchedInferencePipeline") else "limit"
