"""Decode thousands of hostile files with the service's decoder, and check that none escapes, crashes or delays it.

python scripts/fuzz_media.py [--files 20000] [--seed 1] [--jobs 2]
python scripts/fuzz_media.py --seed 1 --only 4711 --keep /tmp/mutant

The handwritten files come first (lists of other files, decompression bombs, false headers), then mutants of every
supported format. The exit code is 1 if a decoder crashed, used more than 5 s of processor time, read another file,
opened a connection or left a file behind, or if this process grew by 20 MiB. ``--only`` generates and decodes one
mutant again, and ``--keep`` writes it to a file.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.support.fuzzing import Findings, Fuzzer, fuzz  # noqa: E402  # found by the line above
from tests.support.honeypot import honeypot  # noqa: E402
from tests.support.hostile_files import mutant_series, mutants  # noqa: E402
from tests.support.memory import keep_no_memory, resident_mib  # noqa: E402
from tests.support.originals import originals  # noqa: E402

#: More than the handwritten files, some of which need much memory when they are generated.
_WARM_FILES: Final = 1_000
_GROWTH_MIB: Final = 20.0


class Memory:
    """The growth of this process after it has warmed up, in MiB."""

    def __init__(self) -> None:
        self.first = resident_mib()
        self.warm = 0.0

    def note(self, files: int) -> None:
        if files == _WARM_FILES:
            self.warm = resident_mib()

    @property
    def growth(self) -> float:
        return resident_mib() - self.warm


def run(folder: Path, *, files: int, seed: int, jobs: int, memory: Memory) -> Findings:
    began = time.monotonic()

    def done(number: int) -> None:
        memory.note(number)
        if number % 500 == 0:
            print(f"{number} files, {time.monotonic() - began:.0f} s", flush=True)

    return asyncio.run(fuzz(folder, files=files, seed=seed, jobs=jobs, on_done=done))


async def run_one(folder: Path, *, number: int, seed: int, keep: Path | None) -> Findings:
    base_files = await asyncio.to_thread(originals, folder)
    async with honeypot(folder) as trap:
        (mutant,) = mutants(mutant_series(base_files, seed=seed), range(number, number + 1))
        if keep:
            written = await asyncio.to_thread(trap.write, "kept", mutant.parts())
            await asyncio.to_thread(shutil.move, written, keep)
        return await Fuzzer(trap, jobs=1).run(iter([mutant]))


def report(findings: Findings, *, seed: int, seconds: float, memory: Memory) -> list[str]:
    """Return the lines that are printed at the end."""
    return [
        f"{findings.files} files with seed {seed} in {seconds:.0f} s",
        *(f"  {count:6} {outcome}" for outcome, count in findings.outcomes.most_common()),
        "Refusals:",
        *(f"  {count:6} {message}" for message, count in findings.messages.most_common(20)),
        f"Crashes: {len(findings.crashes)}",
        f"Stopped by a limit: {len(findings.stopped)}",
        *(f"  {sentence}" for sentence in findings.stopped[:20]),
        f"Other files decoded: {len(findings.leaks)}, opened: {findings.opened}, connections: {findings.connections}, "
        f"files left behind: {len(findings.remains)}",
        "Slowest:",
        *(f"  {taken:.2f} s {name}" for taken, name in findings.slowest),
        f"Memory of this process: {memory.first:.0f} MiB at the start"
        + (f", {memory.warm:.0f} MiB after {_WARM_FILES} files, {memory.growth:+.1f} MiB since" if memory.warm else ""),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=2, help="files decoded at the same time")
    parser.add_argument("--only", type=int, metavar="NUMBER", help="decode only the mutant with this number")
    parser.add_argument("--keep", type=Path, metavar="FILE", help="file to write that mutant to")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # also removes the folder
    keep_no_memory()
    memory, began = Memory(), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="fuzz-media-") as name:
        if arguments.only is None:
            findings = run(Path(name), files=arguments.files, seed=arguments.seed, jobs=arguments.jobs, memory=memory)
        else:
            findings = asyncio.run(run_one(Path(name), number=arguments.only, seed=arguments.seed, keep=arguments.keep))
    print("\n".join(report(findings, seed=arguments.seed, seconds=time.monotonic() - began, memory=memory)))
    failures = findings.violations()
    if memory.warm and memory.growth > _GROWTH_MIB:
        failures.append(f"this process grew by {memory.growth:.0f} MiB")
    print("\n".join(["Failures:", *failures]) if failures else "No failures.")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
