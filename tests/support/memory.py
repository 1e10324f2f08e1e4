"""How much of a process is in memory, as Linux counts it."""

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
    """Of this process, without what it merely has not given back yet, or of another; 0 where that can't be known."""
    status = Path(f"/proc/{pid or os.getpid()}/status")
    if not status.exists():
        return 0.0
    if pid is None:
        _give_back()
    (line,) = (line for line in status.read_text(encoding="utf-8").splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


def keep_no_memory() -> None:
    """Lets glibc give back at once what this process frees, so that what it still has is what it needs."""
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is not None:
        for option, value in ((_M_ARENA_MAX, 1), (_M_MMAP_THRESHOLD, 1 << 16), (_M_TRIM_THRESHOLD, 1 << 16)):
            set_option(option, value)


def _give_back() -> None:
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's
    if trim is not None:
        trim(0)
