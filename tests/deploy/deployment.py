"""The files of the deployment, and the programs that judge them."""

from __future__ import annotations

import shutil
import subprocess
import sysconfig
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

ROOT: Final = Path(__file__).parents[2]
DEPLOY: Final = ROOT / "deploy"
DOCKERFILE: Final = ROOT / "Dockerfile"
DOCKERIGNORE: Final = ROOT / ".dockerignore"
COMPOSE: Final = ROOT / "compose.yaml"
UNIT: Final = DEPLOY / "systemd" / "transcription.service"
KUBERNETES: Final = DEPLOY / "kubernetes" / "transcription.yaml"
NGINX: Final = DEPLOY / "nginx" / "transcription.conf"
ALERTS: Final = DEPLOY / "prometheus" / "alerts.yml"
PROMETHEUS: Final = DEPLOY / "prometheus" / "prometheus.yml"
DASHBOARD: Final = DEPLOY / "grafana" / "dashboard.json"

_SECONDS: Final = 60


def tool(name: str) -> str:
    """The path of a program: beside Python's own, on the PATH, or where daemons are. Skips where there is none."""
    here = sysconfig.get_path("scripts")
    found = shutil.which(name, path=here) or shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def judged(*command: str | Path) -> str:
    """What the program says of what is right; fails with what it says where it ends with another code than 0."""
    ended = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
    said = ended.stdout + ended.stderr
    assert ended.returncode == 0, said
    return said


def documents(path: Path) -> list[Any]:
    """The documents of a YAML file."""
    return list(yaml.safe_load_all(path.read_text(encoding="utf-8")))


def seconds(duration: str) -> int:
    """Of a duration such as ``45s``."""
    assert duration.endswith("s")
    return int(duration.removesuffix("s"))


def grace_seconds() -> float:
    """What a stop may take by default."""
    from app.settings import Settings

    grace: float = Settings.model_fields["shutdown_grace_seconds"].default
    return grace
