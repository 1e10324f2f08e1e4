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

from benchmarks.recordings import recording
from benchmarks.serving import ROOT, plain_service, service

if TYPE_CHECKING:
    from collections.abc import Sequence

    import httpx

    from benchmarks.target import Target

CLIPS: Final = 16


def measure(target: Target, *, rounds: int) -> str:
    """Return a section with seconds and ratios, medians over rounds in which the programs take turns."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        model = target.make_model(folder / "model")
        clips = [recording(folder / f"{number}.wav", seconds=30, offset_seconds=4 * number) for number in range(CLIPS)]
        seconds: dict[str, list[float]] = {}
        for _ in range(rounds):
            for program, value in _round(target, model, clips):
                seconds.setdefault(program, []).append(value)
        long = recording(folder / "long.wav", seconds=300)
        for _ in range(rounds):
            for program, value in _one_long(target, model, long):
                seconds.setdefault(program, []).append(value)
    return _section(target, seconds)


def _round(target: Target, model: str, clips: Sequence[Path]) -> list[tuple[str, float]]:
    seconds = [
        ("limit", raw_seconds(target, model, *clips)),
        ("limit, encoding one by one", raw_seconds(target, model, *clips, "--apart")),
    ]
    for slots in (16, 3):
        with service(WHISPER_MODEL=model, WHISPER_DEVICE=target.device, MAX_CONCURRENT_REQUESTS=str(slots)) as client:
            seconds.append((f"service, {slots} slots", send_all(client, clips)))
    with plain_service(model, target) as client:
        seconds.append(("plain server", send_all(client, clips)))
    return seconds


def _one_long(target: Target, model: str, long: Path) -> list[tuple[str, float]]:
    with service(WHISPER_MODEL=model, WHISPER_DEVICE=target.device) as client:
        seconds = send_all(client, [long])
    return [
        ("service, 5 min alone", seconds),
        ("BatchedInferencePipeline", raw_seconds(target, model, long, "--pipeline")),
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


def raw_seconds(target: Target, model: str, *arguments: Path | str) -> float:
    options = [model, target.device, target.compute_type, str(target.raw_batch)]
    command = [sys.executable, "-m", "benchmarks.raw", *options, *map(str, arguments)]
    output = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return float(output.split()[0])


def _section(target: Target, seconds: dict[str, list[float]]) -> str:
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
            f"{CLIPS} clips of 30 s at once, {target.description}, language detected; seconds, medians.",
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
