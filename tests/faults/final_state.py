"""The jobs and files of a service that has nothing left to do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.program import Program

    Jobs = dict[str, dict[str, Any]]

#: Many jobs may have to be transcribed first.
_SECONDS: Final = 300.0


def settled(running: Program) -> Jobs:
    """Wait until every job and its deliveries have ended, and return all jobs."""
    running.eventually(lambda: all(map(is_settled, running.jobs().values())), seconds=_SECONDS, pause=0.05)
    return running.jobs()


def is_settled(job: dict[str, Any]) -> bool:
    """Return whether the job and its deliveries have ended."""
    deliveries = (job.get("delivery"), job.get("webhook"))
    is_due = any(one is not None and one["status"] == "pending" for one in deliveries)
    return job["status"] in ("completed", "failed", "cancelled") and not is_due


def leftovers(data: Path, jobs: Jobs) -> list[str]:
    """Return the paths below ``jobs/`` that should be gone, now that ``jobs`` have ended."""
    paths = [path.relative_to(data / "jobs") for path in sorted((data / "jobs").rglob("*"))]
    return [
        str(path)
        for path in paths
        if path.parts[0] not in jobs or path.name not in (path.parts[0], *_files(jobs[path.parts[0]]))
    ]


def _files(job: dict[str, Any]) -> list[str]:
    """Return the files that an ended job keeps."""
    recording = ["audio", "waveform.json"] if job.get("audio_available") else []
    return ["result.json", *recording, *(["corrections.json"] if "edited_at" in job else [])]


def files_with(text: str, data: Path) -> list[str]:
    """Return the files that contain ``text``."""
    files = (path for path in sorted(data.rglob("*")) if path.is_file())
    return [str(path.relative_to(data)) for path in files if text.encode() in path.read_bytes()]
