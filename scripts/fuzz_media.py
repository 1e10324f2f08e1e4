"""Thousands of hostile files through the service's own decoder: none may reach anything, crash it or hold it up.

python scripts/fuzz_media.py [--files 20000] [--seed 1] [--jobs 2]
python scripts/fuzz_media.py --seed 1 --only 4711 --keep /tmp/mutant

First the files that were thought of (lists of other files, bombs, lies), then mutants of every supported format. Each
is decoded as the service decodes it. Exits with 1 where a decoder crashed, took over 5 s of a processor, read a
foreign file, made a connection or left a file, or where this process grew by 20 MiB. ``--only`` makes and decodes the
mutant of that number again, and ``--keep`` writes it to a file.
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

from tests.support.foreign_place import place  # noqa: E402 - found by the line above
from tests.support.gauntlet import Findings, Gauntlet, run_gauntlet  # noqa: E402
from tests.support.hostile_files import mutants, series  # noqa: E402
from tests.support.memory import keep_no_memory, resident_mib  # noqa: E402
from tests.support.originals import originals  # noqa: E402

#: More than those that were thought of, some of which are large when they are made.
_WARM_FILES: Final = 1_000
_GROWTH_MIB: Final = 20.0


class Memory:
    """How this process grew after it was warm, in MiB."""

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

    return asyncio.run(run_gauntlet(folder, files=files, seed=seed, jobs=jobs, on_done=done))


async def run_one(folder: Path, *, number: int, seed: int, keep: Path | None) -> Findings:
    whole = await asyncio.to_thread(originals, folder)
    async with place(folder) as here:
        made = list(mutants(series(whole, seed=seed), range(number, number + 1)))
        if keep:
            written = await asyncio.to_thread(here.write, "kept", made[0].parts())
            await asyncio.to_thread(shutil.move, written, keep)
        return await Gauntlet(here, jobs=1).run(iter(made))


def report(found: Findings, *, seed: int, seconds: float, memory: Memory) -> list[str]:
    """What is printed at the end."""
    return [
        f"{found.files} files with seed {seed} in {seconds:.0f} s",
        *(f"  {count:6} {outcome}" for outcome, count in found.outcomes.most_common()),
        "How they were refused:",
        *(f"  {count:6} {message}" for message, count in found.messages.most_common(20)),
        f"Crashes: {len(found.crashes)}",
        f"Stopped by a limit: {len(found.bounded)}",
        *(f"  {sentence}" for sentence in found.bounded[:20]),
        f"Foreign files heard: {len(found.heard)}, opened: {found.opened}, connections: {found.connections}, "
        f"files left: {len(found.left)}",
        "Slowest:",
        *(f"  {taken:.2f} s {name}" for taken, name in found.slowest),
        f"Memory of this process: {memory.first:.0f} MiB at first"
        + (f", {memory.warm:.0f} MiB after {_WARM_FILES} files, {memory.growth:+.1f} MiB since" if memory.warm else ""),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=2, help="how many are decoded at once")
    parser.add_argument("--only", type=int, metavar="NUMBER", help="the mutant of this number and no other")
    parser.add_argument("--keep", type=Path, metavar="FILE", help="where to write that one")
    chosen = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the folder is removed then, too
    keep_no_memory()
    memory, began = Memory(), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="fuzz-media-") as name:
        if chosen.only is None:
            found = run(Path(name), files=chosen.files, seed=chosen.seed, jobs=chosen.jobs, memory=memory)
        else:
            found = asyncio.run(run_one(Path(name), number=chosen.only, seed=chosen.seed, keep=chosen.keep))
    print("\n".join(report(found, seed=chosen.seed, seconds=time.monotonic() - began, memory=memory)))
    breaches = found.breaches()
    if memory.warm and memory.growth > _GROWTH_MIB:
        breaches.append(f"this process grew by {memory.growth:.0f} MiB")
    print("\n".join(["What must not have happened:", *breaches]) if breaches else "All held.")
    return 1 if breaches else 0


if __name__ == "__main__":
    sys.exit(main())
