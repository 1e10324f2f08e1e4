"""What is found of the service when nothing is left to do: its jobs, and the files in its folder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from tests.support.program import Program

    Jobs = dict[str, dict[str, Any]]


def settled(running: Program, *, seconds: float = 60) -> Jobs:
    """All jobs, once there is nothing left to do for any of them."""
    running.eventually(lambda: all(map(is_settled, running.jobs().values())), seconds=seconds, pause=0.05)
    return running.jobs()


def is_settled(job: dict[str, Any]) -> bool:
    deliveries = (job.get("delivery"), job.get("webhook"))
    is_due = any(one is not None and one["status"] == "pending" for one in deliveries)
    return job["status"] in ("completed", "failed", "cancelled") and not is_due


def leftovers(data: Path, jobs: Collection[str]) -> list[str]:
    """What ``jobs``, which have ended, need no more, and folders of no job."""
    found = [path.relative_to(data / "jobs") for path in sorted((data / "jobs").rglob("*"))]
    return [str(path) for path in found if path.parts[0] not in jobs or path.name not in (path.parts[0], "result.json")]


def files_with(text: str, data: Path) -> list[str]:
    """The files in which ``text`` can be read."""
    files = (path for path in sorted(data.rglob("*")) if path.is_file())
    return [str(path.relative_to(data)) for path in files if text.encode() in path.read_bytes()]
