"""The time and memory that a start takes with many jobs in ``DATA_DIR``."""

from __future__ import annotations

import asyncio
import statistics
import time
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from app.domain.job import Job, JobStatus
from app.domain.transcript import Segment, Task, Transcript
from app.jobs.journal import Journal
from app.jobs.service_clock import ServiceClock
from app.jobs.spool import Spool
from benchmarks.registry_memory import made_job
from benchmarks.serving import service_with_pid

JOBS: Final = 10_000
_WORDS: Final = " a phrase of a transcript, as long as they often are"
_TRANSCRIPT: Final = Transcript(
    task=Task.TRANSCRIBE,
    language="english",
    duration=60.0,
    segments=tuple(
        Segment(
            id=number,
            seek=0,
            start=5.0 * number,
            end=5.0 * number + 4.0,
            text=_WORDS,
            tokens=tuple(range(50_000, 50_012)),
            temperature=0.0,
            avg_logprob=-0.3,
            compression_ratio=1.2,
            no_speech_prob=0.01,
        )
        for number in range(12)
    ),
)


def measure(*, runs: int) -> str:
    """Return a section with the seconds to the first ``/health``, with and without earlier jobs, in turns."""
    empty: list[float] = []
    filled: list[float] = []
    memory: list[float] = []
    with TemporaryDirectory(prefix="benchmark-") as folder:
        data = Path(folder, "data")
        asyncio.run(_fill(data))
        for _ in range(runs):
            with TemporaryDirectory(prefix="benchmark-") as nothing:
                seconds, bare = _start(Path(nothing))
            empty.append(seconds)
            seconds, full = _start(data)
            filled.append(seconds)
            memory.append((full - bare) / 1e6)
    return (
        "## Recovery\n\n"
        f"With {JOBS:,} ended jobs in `DATA_DIR`, each with its result, `/health` responds after "
        f"{statistics.median(filled):.2f} s, without any after {statistics.median(empty):.2f} s, and the process is "
        f"{statistics.median(memory):.0f} MB larger; medians of {runs} starts each."
    )


def _start(data: Path) -> tuple[float, int]:
    """Return the seconds to the first response, and the resident memory in bytes at that time."""
    began = time.perf_counter()
    with service_with_pid(path="/health", DATA_DIR=str(data)) as (client, pid):
        seconds = time.perf_counter() - began
        recovered = client.get("/health").json()["recovered"]["jobs"]
        assert recovered in (0, JOBS), recovered
        (line,) = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS")]
        return seconds, int(line.split()[1]) * 1024


async def _fill(data: Path) -> None:
    spool = Spool(data)
    spool.open()
    journal = Journal(data / "journal.sqlite3", ServiceClock())
    journal.open()
    jobs = [_ended(made_job(number, with_url=True)) for number in range(JOBS)]
    await asyncio.gather(*(journal.write(job) for job in jobs))
    for job in jobs:
        spool.create_audio(job.id).close()
        spool.store_result(job.id, _TRANSCRIPT, processing_time=1.0, durably=False)
        spool.discard_audio(job.id)
    journal.close()
    spool.close()


def _ended(job: Job) -> Job:
    begun = replace(job.moved_to(JobStatus.PROCESSING, at=job.accepted_at), has_result=True)
    return begun.moved_to(JobStatus.COMPLETED, at=job.accepted_at + 1.0)
