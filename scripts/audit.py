"""Looks whether known vulnerabilities are in what the locks install, where the source of advisories answers.

Exit code 0: none is known, or nobody could be asked (which is said); 1: there are some.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

REQUIREMENTS: Final = Path(__file__).parents[1] / "requirements"
#: With CUDA there is everything that serves; traces are the one set beside it.
LOCKS: Final = ("cuda", "otel")
_SECONDS: Final = 120


def main() -> int:
    return max(audit(REQUIREMENTS / f"{name}.lock") for name in LOCKS)


def audit(lock: Path) -> int:
    """Prints what is known about one lock; gives the exit code."""
    command = [sys.executable, "-m", "pip_audit", "--requirement", str(lock), "--require-hashes", "--disable-pip"]
    command += ["--format", "json", "--progress-spinner", "off", "--timeout", "15"]
    try:
        ran = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
        found: list[dict[str, Any]] = json.loads(ran.stdout)["dependencies"]
    except (subprocess.TimeoutExpired, ValueError, KeyError):
        print(f"{lock.name}: skipped, the source of advisories does not answer.")
        return 0
    asked = [one for one in found if "skip_reason" not in one]
    if not asked:
        print(f"{lock.name}: skipped, the source of advisories knows none of the {len(found)} packages.")
        return 0
    vulnerable = [one for one in asked if one["vulns"]]
    print(f"{lock.name}: {len(asked)} of {len(found)} packages looked up, known vulnerabilities in {len(vulnerable)}.")
    for one in vulnerable:
        for advisory in one["vulns"]:
            fixed = ", ".join(advisory["fix_versions"]) or "none yet"
            print(f"  {one['name']} {one['version']}: {advisory['id']}, mended in {fixed}")
    return 1 if vulnerable else 0


if __name__ == "__main__":
    sys.exit(main())
