"""Small disks, and disks that are full while a test wants it."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_BLOCK_BYTES = 4096


@contextmanager
def small_disk(folder: Path, *, size: str) -> Iterator[Path]:
    """Mount a file system of ``size`` (in mount's notation) at ``folder``, or skip the test if that is not allowed."""
    folder.mkdir(exist_ok=True)
    mount, umount = shutil.which("mount"), shutil.which("umount")
    if mount is None or umount is None or os.geteuid() != 0:
        pytest.skip("only root can mount a small file system")
    options = ["-t", "tmpfs", "-o", f"size={size}", "tmpfs"]
    if subprocess.run([mount, *options, str(folder)], check=False, capture_output=True).returncode != 0:
        pytest.skip("this machine does not allow mounting a small file system")
    try:
        yield folder
    finally:
        subprocess.run([umount, "-l", str(folder)], check=True)


@contextmanager
def filled(folder: Path, *, leaving: int = 0) -> Iterator[None]:
    """Use all space except about ``leaving`` bytes, also what is freed meanwhile, while the context lasts."""
    over = threading.Event()
    full = threading.Event()
    taking = threading.Thread(target=_take, args=(folder, leaving, full, over))
    taking.start()
    try:
        assert full.wait(60)
        yield
    finally:
        over.set()
        taking.join()


def _take(folder: Path, leaving: int, full: threading.Event, over: threading.Event) -> None:
    ballast = folder / "ballast"
    taken = 0
    with ballast.open("wb") as file:
        while not over.wait(0.001 if full.is_set() else 0):
            disk = os.statvfs(folder)
            more = max(0, disk.f_bavail * disk.f_frsize - leaving) // _BLOCK_BYTES * _BLOCK_BYTES
            # After the first time, the ``leaving`` bytes are left for others.
            if more and (leaving == 0 or not full.is_set()):
                with suppress(OSError):  # another writer was faster
                    os.posix_fallocate(file.fileno(), taken, more)
                    taken += more
            full.set()
    ballast.unlink()
