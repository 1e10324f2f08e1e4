"""The time that a clip of 5 s takes while long files are transcribed, compared with alone."""

from __future__ import annotations

import random
import statistics
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Final

from benchmarks.recordings import recording
from benchmarks.serving import service, submit

if TYPE_CHECKING:
    from collections.abc import Callable

    import httpx

    from benchmarks.target import Target

LONG_SECONDS: Final = 3600
_URL: Final = "/v1/audio/transcriptions"
#: The longest random pause between clips, so that they arrive at any point of a batch.
_MAX_PAUSE_SECONDS: Final = 4.0


def measure(target: Target, *, clips: int) -> str:
    """Return a section with the median and 95th percentile in seconds, and their ratios to a clip alone."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        model = target.make_model(folder / "model")
        clip = recording(folder / "clip.wav", seconds=5)
        long = recording(folder / "long.wav", seconds=LONG_SECONDS)
        times: dict[str, list[float]] = {}
        health: list[float] = []
        with service(WHISPER_MODEL=model, WHISPER_DEVICE=target.device) as client:
            for kind, send in (("synchronous", _wait_for), ("as a job", _poll_for)):
                times[f"alone, {kind}"] = _times(client, clip, send, clips, health)
        for count in (1, 3):
            with service(WHISPER_MODEL=model, WHISPER_DEVICE=target.device) as client:
                for _ in range(count):
                    submit(client, long)
                _until_running(client, count)
                for kind, send in (("synchronous", _wait_for), ("as a job", _poll_for)):
                    times[f"beside {count} of an hour, {kind}"] = _times(client, clip, send, clips, health)
    return _section(target, times, health)


def _times(
    client: httpx.Client, clip: Path, send: Callable[[httpx.Client, Path], None], count: int, health: list[float]
) -> list[float]:
    generator = random.Random(1)  # noqa: S311  # no secret
    seconds = []
    for _ in range(count):
        deadline = time.perf_counter() + generator.uniform(0, _MAX_PAUSE_SECONDS)
        while time.perf_counter() < deadline:
            started = time.perf_counter()
            client.get("/health").raise_for_status()
            health.append(time.perf_counter() - started)
            time.sleep(0.1)
        started = time.perf_counter()
        send(client, clip)
        seconds.append(time.perf_counter() - started)
    return seconds


def _wait_for(client: httpx.Client, clip: Path) -> None:
    with clip.open("rb") as audio:
        client.post(_URL, files={"file": audio}, timeout=600).raise_for_status()


def _poll_for(client: httpx.Client, clip: Path) -> None:
    job = submit(client, clip)
    while client.get(f"/v1/jobs/{job}").json()["status"] != "completed":
        time.sleep(0.02)


def _until_running(client: httpx.Client, count: int) -> None:
    while client.get("/health").json()["concurrency"]["active_transcriptions"] < count:
        time.sleep(0.05)


def _section(target: Target, times: dict[str, list[float]], health: list[float]) -> str:
    rows = []
    for name, seconds in times.items():
        alone = statistics.median(times[f"alone, {name.rpartition(', ')[2]}"])
        middle, worst = statistics.median(seconds), _percentile(seconds, 95)
        rows.append(f"| {name} | {middle:.2f} | {worst:.2f} | {middle / alone:.2f} | {worst / alone:.2f} |")
    return "\n".join(
        [
            "## Fairness",
            "",
            f"A clip of 5 s, {target.description}, 3 slots; seconds, and the ratio to the median alone.",
            "",
            "| clip | median | p95 | median, alone = 1 | p95, alone = 1 |",
            "|---|---|---|---|---|",
            *rows,
            "",
            f"`GET /health` in between: median {1000 * statistics.median(health):.1f} ms, "
            f"p99 {1000 * _percentile(health, 99):.1f} ms ({len(health)} requests).",
        ]
    )


def _percentile(values: list[float], percent: int) -> float:
    return sorted(values)[min(len(values) - 1, round(len(values) * percent / 100))]
