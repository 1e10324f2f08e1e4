"""A wheel of the project, installed into an environment of its own, serves the page."""

from __future__ import annotations

import re
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path
from typing import Final

import pytest

from tests.support.program import program

pytestmark = pytest.mark.full(reason="builds a wheel and creates a Python environment")

ROOT: Final = Path(__file__).parents[2]
_SUFFIXES: Final = frozenset({".css", ".html", ".js", ".png", ".svg", ".webmanifest"})


def pip(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    if (backend := pip("download", "--no-deps", "--dest", folder / "backend", "hatchling>=1.27")).returncode:
        pytest.skip(f"hatchling, which builds the wheel, is not available: {backend.stderr.splitlines()[-1]}")
    built = pip("wheel", "--no-deps", "--wheel-dir", folder, ROOT)
    assert built.returncode == 0, built.stderr
    (path,) = folder.glob("transcription_service-*.whl")
    return path


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment with the wheel and, by reference, the packages of this one that it depends on."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False)
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(folder)}))
    installed = pip("install", "--no-deps", "--target", packages, wheel)
    assert installed.returncode == 0, installed.stderr
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    return folder / "bin" / "python"


def test_wheel_has_every_asset_of_the_page(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        packed = {name: archive.read(name) for name in archive.namelist() if name.startswith("app/web/assets/")}
    assets = (path for path in (ROOT / "app" / "web" / "assets").rglob("*") if path.suffix in _SUFFIXES)
    assert packed == {path.relative_to(ROOT).as_posix(): path.read_bytes() for path in assets}


def test_installed_wheel_serves_the_page(python: Path, tmp_path: Path) -> None:
    with program(tmp_path, (str(python), "-m", "app"), PYTHONPATH="") as running:
        running.until_ready()
        page = running.client.get("/")
        assert page.status_code == 200
        urls = re.findall(r'(?:href|src)="(ui/[^"]+)"', page.text)
        assert urls
        for url in urls:
            assert running.client.get(f"/{url}").status_code == 200, url
