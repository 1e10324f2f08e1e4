"""The resident memory of a process, on Linux."""

from __future__ import annotations

import ctypes
import gc
import os
from pathlib import Path
from typing import Final

_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_M_ARENA_MAX: Final = -8


def resident_mib(pid: int | None = None) -> float:
    """Return the resident memory of a process in MiB, or 0 if the platform does not report it.

    Without ``pid`` it is that of this process, after unused memory was returned to the operating system.
    """
    status = Path(f"/proc/{pid or os.getpid()}/status")
    if not status.exists():
        return 0.0
    if pid is None:
        _release_unused()
    (line,) = (line for line in status.read_text(encoding="utf-8").splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


def keep_no_memory() -> None:
    """Make glibc return freed memory at once, so that resident memory is used memory."""
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is not None:
        for option, value in ((_M_ARENA_MAX, 1), (_M_MMAP_THRESHOLD, 1 << 16), (_M_TRIM_THRESHOLD, 1 << 16)):
            set_option(option, value)


def _release_unused() -> None:
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's
    if trim is not None:
        trim(0)
