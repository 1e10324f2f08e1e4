"""The processes that the service starts, and what they use, from ``/proc``."""

from __future__ import annotations

import os
import resource
from contextlib import suppress
from pathlib import Path


def resident_bytes(pid: int) -> int:
    with suppress(OSError):  # it may have ended
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")
    return 0


def descendants(pid: int) -> list[int]:
    """Return the processes that a process has started with any of its threads, and those that these have started."""
    found: list[int] = []
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            with suppress(OSError):  # the thread has ended
                found += map(int, (task / "children").read_text().split())
    return found + [further for child in found for further in descendants(child)]


def core_seconds() -> float:
    """Return the processor time of this process, of those that it has started, and of those of them that have ended."""
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in usage) + sum(map(_used, descendants(os.getpid())))


def _used(pid: int) -> float:
    """Return the processor seconds of a process and of its children that have been reaped."""
    with suppress(OSError):  # it has ended
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
    return 0.0
