"""The cost of telling speakers apart by their voices to the requests that don't ask for it."""

from __future__ import annotations

import statistics
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Final

from benchmarks.figures import row
from benchmarks.recordings import recording
from benchmarks.serving import service
from benchmarks.throughput import send_all

if TYPE_CHECKING:
    from collections.abc import Iterator

    import httpx

    from benchmarks.target import Target

CLIPS: Final = 8
_HEARD_SECONDS: Final = 1800
_HEALTH_PAUSE_SECONDS: Final = 0.05


def measure(target: Target, *, rounds: int) -> str:
    """Return a section with the time of clips alone, beside a long recording that is only heard, and beside a clip."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        model = target.make_model(folder / "model")
        clips = [recording(folder / f"{number}.wav", seconds=30, offset_seconds=4 * number) for number in range(CLIPS)]
        long = recording(folder / "long.wav", seconds=_HEARD_SECONDS)
        alone: list[float] = []
        beside: list[float] = []
        health: dict[str, list[float]] = {"alone": [], "beside": []}
        with service(WHISPER_MODEL=model, WHISPER_DEVICE=target.device) as client:
            send_all(client, clips[:1])
            for _ in range(rounds):
                with _health_answers(client, health["alone"]):
                    alone.append(send_all(client, clips))
                with _heard(client, long), _health_answers(client, health["beside"]):
                    beside.append(send_all(client, clips))
    return _section(target, beside, alone, health)


@contextmanager
def _heard(client: httpx.Client, file: Path) -> Iterator[None]:
    """Have a recording heard for its voices while the context lasts; its text is there at the beginning."""
    with file.open("rb") as audio:
        form = {"stored_output": "true", "diarize": "true"}
        response = client.post("/v1/audio/transcriptions", files={"file": audio}, data=form, timeout=600)
    job = f"/v1/jobs/{response.raise_for_status().json()['job_id']}"
    while (progress := client.get(job).json()["progress"]) != "Telling speakers apart":
        if progress == "Done":
            raise RuntimeError("Its speakers were told apart before its text was there: take a longer recording.")
        time.sleep(0.1)
    yield
    if client.get(job).json()["progress"] != "Telling speakers apart":
        raise RuntimeError("Its speakers were told apart before the clips were done: take a longer recording.")
    client.delete(job).raise_for_status()


@contextmanager
def _health_answers(client: httpx.Client, seconds: list[float]) -> Iterator[None]:
    """Ask for the health again and again while the context lasts, and note how long each answer takes."""
    over = threading.Event()

    def ask() -> None:
        while not over.wait(_HEALTH_PAUSE_SECONDS):
            started = time.perf_counter()
            client.get("/health").raise_for_status()
            seconds.append(time.perf_counter() - started)

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        yield
    finally:
        over.set()
        asking.join()


def _section(target: Target, beside: list[float], alone: list[float], health: dict[str, list[float]]) -> str:
    answers = [
        f"`GET /health` meanwhile, {name}: median {1000 * statistics.median(seconds):.1f} ms, "
        f"p99 {1000 * sorted(seconds)[round(0.99 * (len(seconds) - 1))]:.1f} ms ({len(seconds)} requests)."
        for name, seconds in health.items()
    ]
    return "\n".join(
        [
            "## Requests beside one that is heard for its voices",
            "",
            f"{CLIPS} clips of 30 s at once, {target.description}, 3 slots; seconds. Beside: a recording of "
            f"{_HEARD_SECONDS // 60} min has its text and is still being heard.",
            "",
            "| | beside | alone | ratio |",
            "|---|---|---|---|",
            row("8 clips", beside, alone),
            "",
            "  \n".join(answers),
        ]
    )
