"""Decoder processes that a test looks at or replaces."""

from __future__ import annotations

import asyncio
import os
import shutil
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from app.transcription import decoder_launcher
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from app.transcription.decoding import Decoded, Decoder

_PROGRAMS = Path(decoder_launcher.__file__).parent


def decoders_of(service: int) -> list[int]:
    """Return the decoder processes of a service: the children of its decoder servers."""
    return [pid for server in servers_of(service) for pid in children_of(server)]


def servers_of(service: int) -> list[int]:
    return [pid for pid in children_of(service) if b"decoder_server.py" in _command(pid)]


def children_of(parent: int) -> list[int]:
    pids = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            stat = (folder / "stat").read_text(encoding="utf-8")
        except OSError:
            continue
        if int(stat.rpartition(")")[2].split()[1]) == parent:
            pids.append(int(folder.name))
    return pids


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


@dataclass
class Blocked:
    """A decoding that waits for its source, a named pipe without data. ``pid`` is its process."""

    task: asyncio.Task[Decoded]
    pid: int
    destination: Path


@asynccontextmanager
async def blocked_decoding(decoder: Decoder, folder: Path) -> AsyncIterator[Blocked]:
    """Start a decoding that has limited itself and then waits, until the block ends."""
    source, destination = folder / "source", folder / "pcm"
    os.mkfifo(source)
    task = asyncio.create_task(decoder.decode(source, destination), name="blocked")
    writer = await asyncio.to_thread(os.open, source, os.O_WRONLY)
    try:
        await eventually(lambda: task.done() or any(map(_is_limited, decoders_of(os.getpid()))))
        if task.done():
            task.result()
        (pid,) = decoders_of(os.getpid())
        yield Blocked(task, pid, destination)
    finally:
        os.close(writer)
        await asyncio.gather(task, return_exceptions=True)


def _is_limited(pid: int) -> bool:
    """Return True once a process has limited its resources; it lowers its priority last."""
    return os.getpriority(os.PRIO_PROCESS, pid) >= os.getpriority(os.PRIO_PROCESS, 0) + 5


def replaced_program(folder: Path, run: str) -> Path:
    """Write a decoder server whose processes run other code, and return its path.

    ``run`` is the body of a function with the parameter ``connection``, which leads to the service.
    """
    for name in ("decoder_server.py", "media_source.py", "mixing.py", "sandbox.py"):
        shutil.copy(_PROGRAMS / name, folder)
    body = "\n".join(f"    {line}" for line in run.splitlines())
    (folder / "decoder_process.py").write_text(
        f"import os, time\n\ndef load_decoders():\n    pass\n\ndef run(connection, _parent):\n{body}\n"
    )
    return folder / "decoder_server.py"
