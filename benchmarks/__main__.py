"""Measures the service and writes ``benchmarks/RESULTS.md``.

    python -m benchmarks [SECTION ...] [--runs 5] [--submissions 40] [--rounds 3] [--clips 12]

Without a section all are measured, which takes about 45 minutes; with some, only these are written anew. Every figure
is a median over runs. Run it on an idle machine; the file names the machine and the versions. What is compared is
compared within one run, in turns.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import (
    answer_time,
    durability,
    fairness,
    machine,
    memory,
    protection,
    recovery_time,
    registry_memory,
    scaling,
    start_time,
    throughput,
)

if TYPE_CHECKING:
    from collections.abc import Callable

RESULTS = Path(__file__).with_name("RESULTS.md")
SECTIONS: dict[str, Callable[[argparse.Namespace], str]] = {
    "throughput": lambda given: throughput.measure(rounds=given.rounds),
    "scaling": lambda given: scaling.measure(rounds=given.rounds),
    "fairness": lambda given: fairness.measure(clips=given.clips),
    "memory": lambda _: memory.measure(),
    "durability": lambda given: durability.measure(rounds=given.rounds),
    "protection": lambda given: protection.measure(rounds=given.rounds),
    "answer": lambda given: answer_time.measure(runs=given.runs, submissions=given.submissions),
    "registry": lambda _: registry_memory.measure(),
    "recovery": lambda given: recovery_time.measure(runs=given.runs),
    "start": lambda given: start_time.measure(runs=given.runs),
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=f"some of {', '.join(SECTIONS)} (default all)")
    parser.add_argument("--runs", type=int, default=5, help="runs of answer and start (default 5)")
    parser.add_argument("--submissions", type=int, default=40, help="submissions of each size and run (default 40)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of what is compared in turns (default 3)")
    parser.add_argument("--clips", type=int, default=12, help="clips of each kind for fairness (default 12)")
    arguments = parser.parse_args()
    if unknown := set(arguments.sections) - set(SECTIONS):
        parser.error(f"there is no section {', '.join(sorted(unknown))}: choose from {', '.join(SECTIONS)}")
    described = machine.describe()
    for name in arguments.sections or SECTIONS:
        section = SECTIONS[name](arguments)
        write(section, described)
        print(f"{section}\n", flush=True)
    return 0


def write(section: str, described: str) -> None:
    """Puts a section where it belongs, beside those that were measured before."""
    before = RESULTS.read_text() if RESULTS.exists() else ""
    kept = {title(part): part.strip() for part in re.split(r"^(?=## )", before, flags=re.MULTILINE)[1:]}
    kept[title(section)] = section
    head = "# Results\n\nWritten by `python -m benchmarks`; what each figure means stands in `benchmarks/README.md`."
    RESULTS.write_text("\n\n".join([head, described, *kept.values()]) + "\n")


def title(section: str) -> str:
    return section.partition("\n")[0]


if __name__ == "__main__":
    sys.exit(main())
