"""Fuzzing of the decoder: hostile files are decoded as in the service, and everything forbidden is looked for."""

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
from tests.support.canaries import SECRET, contains_canary
from tests.support.honeypot import honeypot
from tests.support.hostile_files import fuzzed_files
from tests.support.originals import originals

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.support.honeypot import Honeypot
    from tests.support.hostile_files import HostileFile

#: Decoding an hour of the slowest audio among the files takes less.
_SLOW_SECONDS: Final = 5.0
#: The signals of the decoder's own limits: processor time, processor time of one that ignores SIGXCPU, and file size.
_LIMITS: Final = {"SIGXCPU", "SIGXFSZ", "SIGKILL"}
_KILLED: Final = re.compile(r"was killed by (\w+)")


@dataclass(slots=True)
class Findings:
    """The results of fuzzing. ``crashes`` and the other lists name the files."""

    outcomes: Counter[str] = field(default_factory=Counter)
    messages: Counter[str] = field(default_factory=Counter)
    crashes: list[str] = field(default_factory=list)
    stopped: list[str] = field(default_factory=list)
    leaks: list[str] = field(default_factory=list)
    remains: list[str] = field(default_factory=list)
    slowest: list[tuple[float, str]] = field(default_factory=list)
    slow: list[str] = field(default_factory=list)
    connections: int = 0
    opened: int = 0

    @property
    def files(self) -> int:
        """The number of files that were decoded or refused."""
        return self.outcomes.total()

    def note_time(self, seconds: float, name: str) -> None:
        """Keep the ten slowest files."""
        self.slowest = sorted([*self.slowest, (seconds, name)], reverse=True)[:10]

    def violations(self) -> list[str]:
        """Return everything that must not happen and has."""
        return [
            *(f"crashed: {name}" for name in self.crashes),
            *(f"read another file: {name}" for name in self.leaks),
            *(f"file left behind: {name}" for name in self.remains),
            *(f"slow: {sentence}" for sentence in self.slow),
            *([f"{self.connections} connections were made"] if self.connections else []),
            *([f"canary files were opened {self.opened} times"] if self.opened else []),
        ]


class Fuzzer:
    """Decodes files, ``jobs`` at a time, as the service does."""

    def __init__(self, honeypot: Honeypot, *, jobs: int) -> None:
        self._honeypot = honeypot
        self._jobs = jobs
        self._decoder = Decoder(max_seconds=3600)
        self._numbers = itertools.count()
        self._to_time_again: list[HostileFile] = []
        self.findings = Findings()

    async def run(self, files: Iterator[HostileFile], *, on_done: Callable[[int], None] | None = None) -> Findings:
        """Decode all files. After each, ``on_done`` is called with how many have been decoded so far."""
        async with asyncio.TaskGroup() as group:
            for _ in range(self._jobs):
                group.create_task(self._decode_all(files, on_done))
        for file in self._to_time_again:
            await self._time(file)
        findings, honeypot = self.findings, self._honeypot
        present = await asyncio.to_thread(lambda: {path.name for path in honeypot.folder.iterdir()})
        findings.remains += sorted(present - honeypot.own_files)
        findings.connections = honeypot.connections
        findings.opened = honeypot.watch.opened if honeypot.watch else 0
        return findings

    async def _decode_all(self, files: Iterator[HostileFile], on_done: Callable[[int], None] | None) -> None:
        for file in files:
            await self._decode(file)
            if on_done is not None:
                on_done(self.findings.files)

    async def _decode(self, file: HostileFile) -> None:
        number = next(self._numbers)
        source = await asyncio.to_thread(self._honeypot.write, f"source-{number}", file.parts())
        pcm = self._honeypot.folder / f"pcm-{number}"
        began = time.monotonic()
        try:
            outcome = await self._outcome(file, source, pcm)
        finally:
            await asyncio.to_thread(source.unlink)
        seconds = time.monotonic() - began
        self.findings.note_time(seconds, file.name)
        self.findings.outcomes[outcome] += 1
        if seconds > _SLOW_SECONDS:
            self._to_time_again.append(file)

    async def _time(self, file: HostileFile) -> None:
        """Decode a file again, alone, and measure processor time, which does not depend on the load of the machine."""
        source = await asyncio.to_thread(self._honeypot.write, "again", file.parts())
        pcm = source.with_name("again.pcm")
        before = _processor_seconds_of_children()
        with suppress(UnusableAudio):
            await self._decoder.decode(source, pcm)
        seconds = _processor_seconds_of_children() - before
        for path in (source, pcm):
            await asyncio.to_thread(path.unlink, missing_ok=True)
        if seconds > _SLOW_SECONDS:
            self.findings.slow.append(f"{file.name}: {seconds:.1f} s of a processor")

    async def _outcome(self, file: HostileFile, source: Path, pcm: Path) -> str:
        try:
            decoded = await self._decoder.decode(source, pcm)
        except AudioTooLong:
            return "too long"
        except UndecodableAudio as refusal:
            return self._refused(file, str(refusal))
        except Exception as bug:  # noqa: BLE001  # every bug is a finding
            self.findings.crashes.append(f"{file.name}: {bug!r}")
            return "crashed"
        await asyncio.to_thread(self._check_samples, file, pcm, decoded.samples)
        return "decoded"

    def _refused(self, file: HostileFile, message: str) -> str:
        findings = self.findings
        if SECRET[:20] in message:
            findings.leaks.append(file.name)
        findings.messages[message.partition(":")[0]] += 1
        killed = _KILLED.search(message)
        if "the decoder failed" in message or (killed and killed[1] not in _LIMITS):
            findings.crashes.append(f"{file.name}: {message}")
            return "crashed"
        if killed or "no progress" in message or "more memory" in message:
            findings.stopped.append(f"{file.name}: {message.partition(':')[0]}")
            return "stopped by a limit"
        return "refused"

    def _check_samples(self, file: HostileFile, pcm: Path, samples: int) -> None:
        """Check the decoded samples and delete them."""
        if pcm.stat().st_size != 2 * samples or not samples:
            self.findings.crashes.append(f"{file.name}: {pcm.stat().st_size} bytes for {samples} samples")
        if file.is_list or contains_canary(pcm):
            self.findings.leaks.append(file.name)
        pcm.unlink()


def _processor_seconds_of_children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


async def fuzz(
    folder: Path,
    *,
    files: int,
    seed: int,
    jobs: int,
    large: bool = True,
    on_done: Callable[[int], None] | None = None,
) -> Findings:
    """Decode this many hostile files in ``folder``, which must be empty; some with a GiB of data if ``large``."""
    base_files = await asyncio.to_thread(originals, folder)
    async with honeypot(folder) as trap:
        chosen = fuzzed_files(trap, base_files, files=files, seed=seed, large=large)
        return await Fuzzer(trap, jobs=jobs).run(chosen, on_done=on_done)
