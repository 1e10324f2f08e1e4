"""Hostile files are sent through the service's own decoder, and what must not happen is looked for."""

from __future__ import annotations

import asyncio
import itertools
import re
import resource
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from app.domain.errors import AudioTooLong, UndecodableAudio, UnusableAudio
from app.transcription.decoding import Decoder
from tests.support.foreign import SECRET, is_heard
from tests.support.foreign_place import place
from tests.support.hostile_files import everything
from tests.support.originals import originals

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.support.foreign_place import Place
    from tests.support.hostile_files import Hostile

#: An hour of the slowest sound that is among them takes less.
_SLOW_SECONDS: Final = 5.0
#: What stops a child by design: its processor time, then that of a child that doesn't listen, and the length of a file.
_LIMITS: Final = {"SIGXCPU", "SIGXFSZ", "SIGKILL"}
_KILLED: Final = re.compile(r"was killed by (\w+)")


@dataclass(slots=True)
class Findings:
    """What became of the files. ``crashes`` and the like name them."""

    outcomes: Counter[str] = field(default_factory=Counter)
    messages: Counter[str] = field(default_factory=Counter)
    crashes: list[str] = field(default_factory=list)
    bounded: list[str] = field(default_factory=list)
    heard: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    slowest: list[tuple[float, str]] = field(default_factory=list)
    slow: list[str] = field(default_factory=list)
    connections: int = 0
    opened: int = 0

    @property
    def files(self) -> int:
        return self.outcomes.total()

    def note_time(self, seconds: float, name: str) -> None:
        self.slowest = sorted([*self.slowest, (seconds, name)], reverse=True)[:10]

    def breaches(self) -> list[str]:
        """What must not have happened."""
        return [
            *(f"crashed: {name}" for name in self.crashes),
            *(f"heard in: {name}" for name in self.heard),
            *(f"left over: {name}" for name in self.left),
            *(f"slow: {sentence}" for sentence in self.slow),
            *([f"{self.connections} connections were made"] if self.connections else []),
            *([f"foreign files were opened {self.opened} times"] if self.opened else []),
        ]


class Gauntlet:
    """Decodes files one by one, ``jobs`` at once, as the service does."""

    def __init__(self, here: Place, *, jobs: int) -> None:
        self._here = here
        self._jobs = jobs
        self._decoder = Decoder(max_seconds=3600)
        self._numbers = itertools.count()
        self._doubted: list[Hostile] = []
        self.findings = Findings()

    async def run(self, files: Iterator[Hostile], *, on_done: Callable[[int], None] = lambda _: None) -> Findings:
        """Decodes them all; ``on_done`` is told how many it were so far."""

        async def work() -> None:
            for file in files:
                await self._try(file)
                on_done(self.findings.files)

        async with asyncio.TaskGroup() as group:
            for _ in range(self._jobs):
                group.create_task(work())
        for file in self._doubted:
            await self._time(file)
        found, here = self.findings, self._here
        there = await asyncio.to_thread(lambda: {path.name for path in here.folder.iterdir()})
        found.left += sorted(there - here.foreign)
        found.connections = here.connections
        found.opened = here.watch.opened if here.watch else 0
        return found

    async def _try(self, file: Hostile) -> None:
        number = next(self._numbers)
        source = await asyncio.to_thread(lambda: self._here.write(f"source-{number}", file.parts()))
        pcm = self._here.folder / f"pcm-{number}"
        began = time.monotonic()
        try:
            outcome = await self._outcome(file, source, pcm)
        finally:
            await asyncio.to_thread(source.unlink)
        taken = time.monotonic() - began
        self.findings.note_time(taken, file.name)
        self.findings.outcomes[outcome] += 1
        if taken > _SLOW_SECONDS:
            self._doubted.append(file)

    async def _time(self, file: Hostile) -> None:
        """Decodes it once more, alone: what it takes of a processor does not depend on who else is busy here."""
        source = await asyncio.to_thread(lambda: self._here.write("again", file.parts()))
        pcm = source.with_name("again.pcm")
        before = _processor_seconds()
        with suppress(UnusableAudio):
            await self._decoder.decode(source, pcm)
        taken = _processor_seconds() - before
        for path in (source, pcm):
            await asyncio.to_thread(path.unlink, missing_ok=True)
        if taken > _SLOW_SECONDS:
            self.findings.slow.append(f"{file.name}: {taken:.1f} s of a processor")

    async def _outcome(self, file: Hostile, source: Path, pcm: Path) -> str:
        try:
            decoded = await self._decoder.decode(source, pcm)
        except AudioTooLong:
            return "too long"
        except UndecodableAudio as refusal:
            return self._refused(file, str(refusal))
        except Exception as bug:  # noqa: BLE001 - whatever it is, it is a finding
            self.findings.crashes.append(f"{file.name}: {bug!r}")
            return "crashed"
        await asyncio.to_thread(self._listen, file, pcm, decoded.samples)
        return "decoded"

    def _refused(self, file: Hostile, message: str) -> str:
        found = self.findings
        if SECRET[:20] in message:
            found.heard.append(file.name)
        found.messages[message.partition(":")[0]] += 1
        killed = _KILLED.search(message)
        if "the decoder failed" in message or (killed and killed[1] not in _LIMITS):
            found.crashes.append(f"{file.name}: {message}")
            return "crashed"
        if killed or "nothing came out" in message or "more memory" in message:
            found.bounded.append(f"{file.name}: {message.partition(':')[0]}")
            return "stopped by a limit"
        return "refused"

    def _listen(self, file: Hostile, pcm: Path, samples: int) -> None:
        """Looks at what came out, and takes it away."""
        if pcm.stat().st_size != 2 * samples or not samples:
            self.findings.crashes.append(f"{file.name}: {pcm.stat().st_size} bytes for {samples} samples")
        if file.is_list or is_heard(pcm):
            self.findings.heard.append(file.name)
        pcm.unlink()


def _processor_seconds() -> float:
    """Of all children that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


async def run_gauntlet(
    folder: Path,
    *,
    files: int,
    seed: int,
    jobs: int,
    large: bool = True,
    on_done: Callable[[int], None] = lambda _: None,
) -> Findings:
    """All of it in ``folder``, which must be empty."""
    whole = await asyncio.to_thread(originals, folder)
    async with place(folder) as here:
        chosen = everything(here, whole, files=files, seed=seed, large=large)
        return await Gauntlet(here, jobs=jobs).run(chosen, on_done=on_done)
