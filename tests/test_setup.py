"""``scripts/setup.sh``: packages that are required, and those that are not, with a package index and without one."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import venv
import zipfile
from pathlib import Path
from typing import Final

import pytest

pytestmark = pytest.mark.full(reason="creates a Python environment")

SETUP: Final = Path(__file__).parents[1] / "scripts" / "setup.sh"
NO_INDEX: Final = "http://127.0.0.1:9/simple"


class Checkout:
    """A folder with a lock file and a Python environment, and another with the only package that can be installed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.marker = folder / ".venv" / ".installed-example"
        self.wheel = folder / "wheels" / "example-1.0-py3-none-any.whl"
        self.wheel.parent.mkdir()
        with zipfile.ZipFile(self.wheel, "w") as wheel:
            wheel.writestr("example.py", "")
            wheel.writestr("example-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: example\nVersion: 1.0\n")
            wheel.writestr(
                "example-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
            )
            wheel.writestr("example-1.0.dist-info/RECORD", "example.py,,\nexample-1.0.dist-info/RECORD,,\n")
        (folder / "requirements").mkdir()
        self.lock(hashlib.sha256(self.wheel.read_bytes()).hexdigest())

    def lock(self, digest: str) -> None:
        (self.folder / "requirements" / "example.lock").write_text(f"example==1.0 --hash=sha256:{digest}\n")

    def run(self, command: str, *, offline: bool) -> subprocess.CompletedProcess[str]:
        """Run a command after sourcing ``setup.sh``, and print ``went on`` after it."""
        without_index = {"PIP_INDEX_URL": NO_INDEX, "UV_DEFAULT_INDEX": NO_INDEX}
        wheels = str(self.wheel.parent)
        from_folder = {"PIP_NO_INDEX": "1", "UV_NO_INDEX": "1", "PIP_FIND_LINKS": wheels, "UV_FIND_LINKS": wheels}
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "UV_", "TRANSCRIPTION_"))
        }
        return subprocess.run(
            ["bash", "-c", f"set -euo pipefail; here=$1; source $2; {command}; echo went on", "-", self.folder, SETUP],  # noqa: S607  # bash is where its PATH says
            env={**environment, "PIP_CONFIG_FILE": os.devnull, **(without_index if offline else from_folder)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python environment, which takes several seconds to create."""
    folder = tmp_path_factory.mktemp("environment") / ".venv"
    venv.create(folder, with_pip=True, symlinks=True)
    return folder


@pytest.fixture
def prepared(checkout: Checkout, environment: Path) -> Checkout:
    """A checkout with an environment in which nothing is installed yet."""
    shutil.copytree(environment, checkout.folder / ".venv", symlinks=True)
    return checkout


def test_missing_index_leaves_optional_packages_out(prepared: Checkout) -> None:
    ran = prepared.run("set_up_if_available example", offline=True)
    assert (ran.returncode, ran.stdout) == (0, "went on\n")
    heading, reason = ran.stderr.splitlines()
    assert heading.startswith("Installing the example packages")
    assert "error" in reason.lower()
    assert not prepared.marker.exists()


def test_optional_package_with_another_hash_is_refused(prepared: Checkout) -> None:
    prepared.lock("0" * 64)
    ran = prepared.run("set_up_if_available example", offline=False)
    assert (ran.returncode, ran.stdout) == (0, "went on\n")
    assert not prepared.marker.exists()
    assert not list(prepared.folder.glob(".venv/lib/*/site-packages/example*"))


def test_optional_packages_are_installed_once(checkout: Checkout) -> None:
    first = checkout.run("set_up_if_available example", offline=False)
    assert first.stderr.endswith(" s.\n"), first.stderr
    assert list(checkout.folder.glob(".venv/lib/*/site-packages/example.py"))
    second = checkout.run("set_up_if_available example", offline=True)
    assert (second.stdout, second.stderr) == ("went on\n", "")


def test_missing_required_packages_end_the_start(prepared: Checkout) -> None:
    prepared.lock("0" * 64)
    ran = prepared.run("set_up example", offline=False)
    assert (ran.returncode, ran.stdout) == (1, "")
    assert ran.stderr.splitlines()[-1] == "The installation failed for the reason above. Fix it and try again."
