"""The deployment files, and the programs that check them."""

from __future__ import annotations

import shutil
import subprocess
import sysconfig
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from tests.support.waiting import LIMIT_SECONDS

ROOT: Final = Path(__file__).parents[2]
DEPLOY: Final = ROOT / "deploy"
DOCKERFILE: Final = ROOT / "Dockerfile"
DOCKERIGNORE: Final = ROOT / ".dockerignore"
COMPOSE: Final = ROOT / "compose.yaml"
CLUSTER_COMPOSE: Final = ROOT / "compose.cluster.yaml"
UNIT: Final = DEPLOY / "systemd" / "transcription.service"
KUBERNETES: Final = DEPLOY / "kubernetes" / "transcription.yaml"
CLUSTER_KUBERNETES: Final = DEPLOY / "kubernetes" / "cluster.yaml"
NGINX: Final = DEPLOY / "nginx" / "transcription.conf"
CLUSTER_NGINX: Final = DEPLOY / "nginx" / "cluster.conf"
ALERTS: Final = DEPLOY / "prometheus" / "alerts.yml"
PROMETHEUS: Final = DEPLOY / "prometheus" / "prometheus.yml"
DASHBOARD: Final = DEPLOY / "grafana" / "dashboard.json"


def tool(name: str) -> str:
    """Return the path of a program, from Python's folder, PATH or the folders of daemons. Skip if it is missing."""
    here = sysconfig.get_path("scripts")
    found = shutil.which(name, path=here) or shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def output_of(*command: str | Path) -> str:
    """Return the output of a program. Raise ``AssertionError`` with it if the exit code is not 0."""
    process = subprocess.run(command, capture_output=True, text=True, timeout=2 * LIMIT_SECONDS, check=False)
    output = process.stdout + process.stderr
    assert process.returncode == 0, output
    return output


def documents(path: Path) -> list[Any]:
    """Return the documents of a YAML file."""
    return list(yaml.safe_load_all(path.read_text(encoding="utf-8")))


def seconds(duration: str) -> int:
    """Return the seconds of a duration such as ``45s``."""
    assert duration.endswith("s")
    return int(duration.removesuffix("s"))


def grace_seconds() -> float:
    """Return the default of ``SHUTDOWN_GRACE_SECONDS``."""
    from app.settings import Settings

    grace: float = Settings.model_fields["shutdown_grace_seconds"].default
    return grace
