"""Measures the service and writes ``benchmarks/RESULTS.md``.

    python -m benchmarks [--runs 5] [--submissions 40]

Every figure is a median over runs; each run starts the service anew. Run it on an idle machine; the file names the
machine and the versions. What is compared is compared within one run.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from benchmarks import answer_time, machine, registry_memory, start_time

RESULTS = Path(__file__).with_name("RESULTS.md")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--runs", type=int, default=5, help="runs of each measurement (default 5)")
    parser.add_argument("--submissions", type=int, default=40, help="submissions of each size and run (default 40)")
    arguments = parser.parse_args()
    sections = [
        "# Results\n\nWritten by `python -m benchmarks`; what each figure means stands in `benchmarks/README.md`.",
        machine.describe(),
        answer_time.measure(runs=arguments.runs, submissions=arguments.submissions),
        registry_memory.measure(),
        start_time.measure(runs=arguments.runs),
    ]
    RESULTS.write_text("\n\n".join(sections) + "\n")
    print(RESULTS.read_text())
    return 0


if __name__ == "__main__":
    sys.exit(main())
