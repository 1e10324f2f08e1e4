"""Other people's programs, run with nothing of this machine's settings but the search path."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import anyio

if TYPE_CHECKING:
    from pathlib import Path


async def output_of(*command: str | Path, cwd: Path, seconds: float = 60) -> tuple[str, str]:
    """What a program prints, and what it says on the side; fails with both where it fails or takes too long."""
    with anyio.fail_after(seconds):
        ended = await anyio.run_process(
            [str(word) for word in command], cwd=cwd, env={"PATH": os.environ["PATH"], "HOME": str(cwd)}, check=False
        )
    printed, aside = ended.stdout.decode(), ended.stderr.decode()
    assert ended.returncode == 0, f"{command[0]} ended with {ended.returncode}:\n{printed}{aside}"
    return printed, aside
