"""Measure the service and write ``benchmarks/RESULTS.md``.

    python -m benchmarks [SECTION ...] [--device cuda] [--runs 5] [--submissions 40] [--rounds 3] [--clips 12]

Without a section all of them are measured, which takes about 45 minutes; otherwise only those named are replaced in the
file. Every figure is a median over runs, and programs that are compared run in turns. Run it on an idle machine; the
file names the machine and the versions. With ``--device cuda`` the sections whose speed is the model's are measured on
the GPU, with a larger model, and named after it.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import (
    answer_time,
    beside_voices,
    durability,
    fairness,
    machine,
    memory,
    page,
    protection,
    recovery_time,
    registry_memory,
    scaling,
    simulated_device,
    start_time,
    throughput,
    uploads,
)
from benchmarks.target import CUDA, TARGETS, gpu_name

if TYPE_CHECKING:
    from collections.abc import Callable

RESULTS = Path(__file__).with_name("RESULTS.md")
SECTIONS: dict[str, Callable[[argparse.Namespace], str]] = {
    "throughput": lambda arguments: throughput.measure(arguments.target, rounds=arguments.rounds),
    "scaling": lambda arguments: scaling.measure(arguments.target, rounds=arguments.rounds),
    "device": lambda arguments: simulated_device.measure(rounds=arguments.rounds),
    "fairness": lambda arguments: fairness.measure(arguments.target, clips=arguments.clips),
    "voices": lambda arguments: beside_voices.measure(arguments.target, rounds=arguments.rounds),
    "memory": lambda _: memory.measure(),
    "durability": lambda arguments: durability.measure(rounds=arguments.rounds),
    "protection": lambda arguments: protection.measure(rounds=arguments.rounds),
    "answer": lambda arguments: answer_time.measure(runs=arguments.runs, submissions=arguments.submissions),
    "uploads": lambda arguments: uploads.measure(runs=arguments.runs),
    "registry": lambda _: registry_memory.measure(),
    "recovery": lambda arguments: recovery_time.measure(runs=arguments.runs),
    "start": lambda arguments: start_time.measure(runs=arguments.runs),
    "page": lambda arguments: page.measure(runs=arguments.runs),
}
#: The sections that depend on the device.
ON_CUDA = ("throughput", "scaling", "fairness")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=f"any of {', '.join(SECTIONS)} (default: all)")
    parser.add_argument("--device", choices=TARGETS, default="cpu", help="the device of the model (default cpu)")
    parser.add_argument("--runs", type=int, default=5, help="runs of answer, recovery, start and page (default 5)")
    parser.add_argument(
        "--submissions", type=int, default=40, help="submissions of each size in a run of answer (default 40)"
    )
    parser.add_argument(
        "--rounds", type=int, default=3, help="rounds in which compared programs take turns (default 3)"
    )
    parser.add_argument("--clips", type=int, default=12, help="clips of each kind in fairness (default 12)")
    arguments = parser.parse_args()
    if unknown := set(arguments.sections) - set(SECTIONS):
        parser.error(f"unknown section {', '.join(sorted(unknown))}: choose from {', '.join(SECTIONS)}")
    arguments.target = TARGETS[arguments.device]
    on_cuda = arguments.target is CUDA
    if on_cuda and (others := set(arguments.sections) - set(ON_CUDA)):
        parser.error(f"{', '.join(sorted(others))} can't be measured on CUDA: choose from {', '.join(ON_CUDA)}")
    description = machine.describe()
    for name in arguments.sections or (ON_CUDA if on_cuda else SECTIONS):
        try:
            section = SECTIONS[name](arguments)
        except page.Skipped as exc:
            print(f"{name} is skipped: {exc}.\n", flush=True)
            continue
        if on_cuda:
            heading, _, rest = section.partition("\n")
            write(f"{heading} on one {gpu_name()}\n\n{description}\n{rest}")
        else:
            write(section, description)
        print(f"{section}\n", flush=True)
    return 0


def write(section: str, description: str | None = None) -> None:
    """Add a section to the results, or replace the one of the same title, and describe the machine again."""
    before = RESULTS.read_text() if RESULTS.exists() else ""
    kept = {title(part): part.strip() for part in re.split(r"^(?=## )", before, flags=re.MULTILINE)[1:]}
    kept[title(section)] = section
    head = "# Results\n\nWritten by `python -m benchmarks`; `benchmarks/README.md` explains the figures."
    described = before.split("\n## ")[0].partition(head)[2].strip()
    RESULTS.write_text("\n\n".join([head, description or described, *kept.values()]) + "\n")


def title(section: str) -> str:
    return section.partition("\n")[0]


if __name__ == "__main__":
    sys.exit(main())
