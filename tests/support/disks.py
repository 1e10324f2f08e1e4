"""A disk that is full when the test says so."""

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
    """A file system of ``size`` (as mount writes it) in ``folder``, where this machine lets us make one."""
    folder.mkdir(exist_ok=True)
    mount, umount = shutil.which("mount"), shutil.which("umount")
    if mount is None or umount is None or os.geteuid() != 0:
        pytest.skip("only root can mount a small file system")
    options = ["-t", "tmpfs", "-o", f"size={size}", "tmpfs"]
    if subprocess.run([mount, *options, str(folder)], check=False, capture_output=True).returncode != 0:
        pytest.skip("this machine lets nobody mount a small file system")
    try:
        yield folder
    finally:
        subprocess.run([umount, "-l", str(folder)], check=True)


@contextmanager
def filled(folder: Path, *, leaving: int = 0) -> Iterator[None]:
    """Takes all the space but about ``leaving`` bytes, also what is freed meanwhile, until the block ends."""
    over = threading.Event()
    full = threading.Event()
    taking = threading.Thread(target=_take, args=(folder, leaving, full, over))
    taking.start()
    try:
        full.wait(10)
        yield
    finally:
        over.set()
        taking.join()


def _take(folder: Path, leaving: int, full: threading.Event, over: threading.Event) -> None:
    ballast = folder / "ballast"
    taken = 0
    with ballast.open("wb") as file:
        while not over.wait(0.001 if full.is_set() else 0):
            found = os.statvfs(folder)
            more = max(0, found.f_bavail * found.f_frsize - leaving) // _BLOCK_BYTES * _BLOCK_BYTES
            # After the first time ``leaving`` is for others to use.
            if more and (leaving == 0 or not full.is_set()):
                with suppress(OSError):  # somebody else was faster
                    os.posix_fallocate(file.fileno(), taken, more)
                    taken += more
            full.set()
    ballast.unlink()
