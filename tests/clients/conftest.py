"""A running service with an API key, and the npm packages of its clients."""

from __future__ import annotations

import fcntl
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.service import serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from app.transcription.whisper import WhisperModel
    from tests.support.service import Running

NODE = Path(__file__).parent / "node"
#: The first version with the global ``File``. The client asks for 22 when it is installed, but works with this one.
OLDEST_NODE = 20
INSTALL_SECONDS = 240  # less than the time limit of the test that installs them


@pytest.fixture(scope="session")
def key() -> str:
    """The service's API key."""
    return "sk-test"


@pytest.fixture(scope="module")
async def running(tmp_path_factory: pytest.TempPathFactory, model: WhisperModel, key: str) -> AsyncIterator[Running]:
    """A service for all tests of a module."""
    async with serving(tmp_path_factory.mktemp("data"), lambda: model, api_keys=key) as service:
        service.client.headers["Authorization"] = f"Bearer {key}"
        yield service


@pytest.fixture(scope="session")
def node_packages() -> Path:
    """The folder with the packages of ``node/package-lock.json``, which are installed if they are missing."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        pytest.skip("node and npm are not installed")
    version = subprocess.run([node, "--version"], capture_output=True, text=True, timeout=60, check=True).stdout
    if int(version.removeprefix("v").split(".")[0]) < OLDEST_NODE:
        pytest.skip(f"node is {version.strip()}: the client needs {OLDEST_NODE} or newer")
    with (NODE / ".install.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another worker of pytest-xdist may be installing them
        if not _is_installed():
            _install(npm)
    return NODE / "node_modules"


def _is_installed() -> bool:
    installed = NODE / "node_modules" / ".package-lock.json"  # npm writes this file last
    return installed.exists() and installed.stat().st_mtime >= (NODE / "package-lock.json").stat().st_mtime


def _install(npm: str) -> None:
    command = [npm, "ci", "--no-audit", "--no-fund", "--ignore-scripts", "--fetch-retries=1"]
    try:
        subprocess.run(command, cwd=NODE, capture_output=True, text=True, timeout=INSTALL_SECONDS, check=True)
    except subprocess.TimeoutExpired:
        pytest.skip(f"npm ci did not finish within {INSTALL_SECONDS} s")
    except subprocess.CalledProcessError as exc:
        pytest.skip(f"npm ci failed: {exc.stderr.strip()[-500:]}")
