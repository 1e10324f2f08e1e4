"""A description of the machine and the versions that were measured."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from pathlib import Path

PACKAGES = ("fastapi", "uvicorn", "python-multipart", "faster-whisper", "ctranslate2", "onnxruntime", "av", "numpy")


def describe() -> str:
    """Return a description of the processor, the load and the versions of the main libraries."""
    versions = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    return (
        f"Machine: {_processor()}, {os.cpu_count()} cores; {platform.system()} {platform.release()}; "
        f"Python {platform.python_version()}. Load before: {load}.\n\nVersions: {versions}."
    )


def _processor() -> str:
    """Return the name of the processor, from ``/proc/cpuinfo`` if possible."""
    info = Path("/proc/cpuinfo")
    names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    return names[0] if names else platform.processor()
