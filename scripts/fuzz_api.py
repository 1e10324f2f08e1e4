"""Send thousands of generated requests to a running service and check the responses against its OpenAPI description.

python scripts/fuzz_api.py http://127.0.0.1:8000 [--examples 150] [--seed 1]

The first run sends forms of all kinds, most of them invalid. The second sends real audio, and reads and deletes the
jobs. The exit code is 1 if there was a server error or a response that does not match the description. Start the
service with WHISPER_MODEL=demo.
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
#: A form that matches the schema can still be refused, for example if two fields contradict each other. A cancelled job
#: can still be read after its DELETE.
EXCLUDED_CHECKS: Final = "positive_data_acceptance,use_after_free"
#: A form that was generated to be invalid can become valid when audio is added.
EXCLUDED_CHECKS_WITH_AUDIO: Final = f"{EXCLUDED_CHECKS},negative_data_rejection,ensure_resource_availability"
#: A stream that only ends with the service.
ENDLESS: Final = "/v1/events"
_GENERATED: Final = re.compile(r"(\d+) generated")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("address", help="address of the service, such as http://127.0.0.1:8000")
    parser.add_argument("--examples", type=int, default=150, help="generated requests for each operation")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    began = time.monotonic()
    generated = failed = 0
    for name, audio in (("Forms of all kinds", False), ("Forms with audio", True)):
        sys.stdout.write(f"== {name}\n")
        examples = max(1, arguments.examples // 5) if audio else arguments.examples
        code, cases = run(arguments.address, audio=audio, examples=examples, seed=arguments.seed)
        generated += cases
        failed += code != 0
    sys.stdout.write(f"{generated} requests in {time.monotonic() - began:.0f} s, {failed} of 2 runs failed\n")
    return 1 if failed or not generated else 0


def run(address: str, *, audio: bool, examples: int, seed: int) -> tuple[int, int]:
    """Run schemathesis once, and return its exit code and the number of generated requests."""
    command = [
        *(str(Path(sys.executable).with_name("schemathesis")), "run", f"{address}/openapi.json"),
        *("--exclude-path", ENDLESS),
        *("--exclude-checks", EXCLUDED_CHECKS_WITH_AUDIO if audio else EXCLUDED_CHECKS),
        *("--phases", "fuzzing,stateful" if audio else "examples,coverage,fuzzing"),
        *("--max-examples", str(examples), "--seed", str(seed)),
        *("--continue-on-failure", "--no-shrink", "--request-timeout", "120", "--no-color", "--warnings", "off"),
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "NO_PROXY": "127.0.0.1"}
    if audio:
        environment["SCHEMATHESIS_HOOKS"] = "scripts.fuzz_api_hooks"
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        completed = subprocess.run(command, env=environment, cwd=folder, capture_output=True, check=False)
    output = completed.stdout.decode(errors="replace")
    sys.stdout.write("".join(f"{line[:300]}\n" for line in output.splitlines()[-400:]))
    match = _GENERATED.search(output)
    return completed.returncode, int(match[1]) if match else 0


if __name__ == "__main__":
    sys.exit(main())
