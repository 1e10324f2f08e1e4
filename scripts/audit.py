"""Check the packages in the lock files for known vulnerabilities.

The exit code is 1 if there are any. It is 0 if there are none, or if the advisory service does not respond, which is
printed.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

REQUIREMENTS: Final = Path(__file__).parents[1] / "requirements"
#: The cuda lock contains all packages of the service except those for traces.
LOCKS: Final = ("cuda", "otel")
_TIMEOUT_SECONDS: Final = 120


def main() -> int:
    return max(audit(REQUIREMENTS / f"{name}.lock") for name in LOCKS)


def audit(lock: Path) -> int:
    """Print the known vulnerabilities of one lock file and return the exit code."""
    command = [sys.executable, "-m", "pip_audit", "--requirement", str(lock), "--require-hashes", "--disable-pip"]
    command += ["--format", "json", "--progress-spinner", "off", "--timeout", "15"]
    try:
        completed = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_SECONDS, check=False)
        packages: list[dict[str, Any]] = json.loads(completed.stdout)["dependencies"]
    except (subprocess.TimeoutExpired, ValueError, KeyError):
        print(f"{lock.name}: skipped, the advisory service does not respond.")
        return 0
    checked = [package for package in packages if "skip_reason" not in package]
    if not checked:
        print(f"{lock.name}: skipped, the advisory service knows none of the {len(packages)} packages.")
        return 0
    vulnerable = [package for package in checked if package["vulns"]]
    print(f"{lock.name}: {len(checked)} of {len(packages)} packages checked, {len(vulnerable)} vulnerable.")
    for package in vulnerable:
        for advisory in package["vulns"]:
            fixed = ", ".join(advisory["fix_versions"]) or "no version yet"
            print(f"  {package['name']} {package['version']}: {advisory['id']}, fixed in {fixed}")
    return 1 if vulnerable else 0


if __name__ == "__main__":
    sys.exit(main())
