"""External programs, run with no environment variable except PATH and HOME."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import anyio

from tests.support.waiting import LIMIT_SECONDS

if TYPE_CHECKING:
    from pathlib import Path


async def output_of(*command: str | Path, cwd: Path, seconds: float = 2 * LIMIT_SECONDS) -> tuple[str, str]:
    """Return the standard output and error of a program. Raise ``AssertionError`` with both if it fails."""
    with anyio.fail_after(seconds):
        process = await anyio.run_process(
            [str(word) for word in command], cwd=cwd, env={"PATH": os.environ["PATH"], "HOME": str(cwd)}, check=False
        )
    output, errors = process.stdout.decode(), process.stderr.decode()
    assert process.returncode == 0, f"{command[0]} ended with {process.returncode}:\n{output}{errors}"
    return output, errors
