"""Thousands of made-up requests to a running service, judged by its own OpenAPI description.

python scripts/fuzz_api.py http://127.0.0.1:8000 [--examples 150] [--seed 1]

First forms of all kinds, most of them wrong, then forms with real audio whose jobs are followed, read and deleted.
Exits with 1 where a server error, or an answer that is not as described, was found. Start the service for it with
WHISPER_MODEL=demo.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
#: What is right in a schema may still be refused, as when two fields contradict each other; a job that was cancelled
#: can be looked at after its DELETE.
NOT_JUDGED: Final = "positive_data_acceptance,use_after_free"
#: With audio put in, a form is not the wrong one any more that was meant.
NOT_JUDGED_WITH_AUDIO: Final = f"{NOT_JUDGED},negative_data_rejection,ensure_resource_availability"
_GENERATED: Final = re.compile(r"(\d+) generated")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("address", help="where the service is, such as http://127.0.0.1:8000")
    parser.add_argument("--examples", type=int, default=150, help="made-up requests for each operation")
    parser.add_argument("--seed", type=int, default=1)
    chosen = parser.parse_args()
    began = time.monotonic()
    generated = failed = 0
    for name, audio in (("Forms of all kinds", False), ("Forms with audio", True)):
        sys.stdout.write(f"== {name}\n")
        examples = max(1, chosen.examples // 5) if audio else chosen.examples
        code, cases = run(chosen.address, audio=audio, examples=examples, seed=chosen.seed)
        generated += cases
        failed += code != 0
    sys.stdout.write(f"{generated} requests in {time.monotonic() - began:.0f} s, {failed} of 2 runs failed\n")
    return 1 if failed or not generated else 0


def run(address: str, *, audio: bool, examples: int, seed: int) -> tuple[int, int]:
    """The exit code of one run and how many requests it made up."""
    command = [
        *(str(Path(sys.executable).with_name("schemathesis")), "run", f"{address}/openapi.json"),
        *("--exclude-checks", NOT_JUDGED_WITH_AUDIO if audio else NOT_JUDGED),
        *("--phases", "fuzzing,stateful" if audio else "examples,coverage,fuzzing"),
        *("--max-examples", str(examples), "--seed", str(seed)),
        *("--continue-on-failure", "--no-shrink", "--request-timeout", "120", "--no-color", "--warnings", "off"),
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "NO_PROXY": "127.0.0.1"}
    if audio:
        environment["SCHEMATHESIS_HOOKS"] = "scripts.fuzz_api_hooks"
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, check=False)
    said = done.stdout.decode(errors="replace")
    sys.stdout.write("".join(f"{line[:300]}\n" for line in said.splitlines()[-400:]))
    counted = _GENERATED.search(said)
    return done.returncode, int(counted[1]) if counted else 0


if __name__ == "__main__":
    sys.exit(main())
