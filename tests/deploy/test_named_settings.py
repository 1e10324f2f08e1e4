"""Every setting in the deployment files exists and has a value that is valid."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

import pytest

from app.settings import Settings
from tests.deploy.deployment import (
    ALERTS,
    CLUSTER_COMPOSE,
    CLUSTER_KUBERNETES,
    CLUSTER_NGINX,
    COMPOSE,
    DEPLOY,
    DOCKERFILE,
    KUBERNETES,
    NGINX,
    PROMETHEUS,
    ROOT,
    UNIT,
    documents,
    output_of,
    tool,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SETTINGS: Final = frozenset(name.upper() for name in Settings.model_fields)
#: Variables of other programs.
FOREIGN: Final = frozenset(
    {"HF_HOME", "NVIDIA_DRIVER_CAPABILITIES", "NVIDIA_VISIBLE_DEVICES", "ORT_DISABLE_TELEMETRY", "PATH"}
    | {"PYTHONDONTWRITEBYTECODE", "POSTGRES_DB", "POSTGRES_PASSWORD", "POSTGRES_USER"}
    | {"AWS_ACCESS_KEY_ID", "AWS_ENDPOINT_URL", "AWS_REGION", "AWS_SECRET_ACCESS_KEY"}
)
#: systemd's address families, which look like variables.
NO_VARIABLES: Final = frozenset({"AF_INET", "AF_INET6", "AF_NETLINK", "AF_UNIX"})
FILES: Final = (
    *(DOCKERFILE, COMPOSE, UNIT, KUBERNETES, NGINX, ALERTS, PROMETHEUS),
    *(CLUSTER_COMPOSE, CLUSTER_KUBERNETES, CLUSTER_NGINX),
)

_VARIABLE: Final = re.compile(r"\b[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+\b")
#: A variable in a compose file that is required, or has a default.
_FROM_COMPOSE: Final = re.compile(r"\$\{[A-Z_]+(?::\?(?P<required>[^}]*)|:?-(?P<default>[^}]*))\}")
_SECRET: Final = "0123456789abcdef" * 4
_ASSIGNED: Final = re.compile(r"\b([A-Z][A-Z0-9_]*)=(\S+)")


def image_variables() -> dict[str, str]:
    text = DOCKERFILE.read_text(encoding="utf-8").replace("\\\n", "")
    return dict(_ASSIGNED.findall(" ".join(re.findall(r"^ENV (.*)$", text, re.MULTILINE))))


def compose_variables() -> dict[str, str]:
    (composed,) = documents(COMPOSE)
    variables: dict[str, str] = {}
    for service in composed["services"].values():
        variables |= service.get("environment", {})
    return variables


def unit_variables() -> dict[str, str]:
    return dict(
        _ASSIGNED.findall(" ".join(re.findall(r"^Environment=(.*)$", UNIT.read_text(encoding="utf-8"), re.MULTILINE)))
    )


def manifest_variables() -> dict[str, str]:
    variables: dict[str, str] = {}
    for manifest in documents(KUBERNETES):
        variables |= manifest.get("stringData", {})
        if manifest["kind"] == "Deployment":
            (container,) = manifest["spec"]["template"]["spec"]["containers"]
            variables |= {variable["name"]: variable["value"] for variable in container["env"]}
    return variables


def cluster_compose_nodes() -> list[dict[str, str]]:
    """Return the variables of each node in compose.cluster.yaml, with the secrets that cluster.env would have."""
    (composed,) = documents(CLUSTER_COMPOSE)
    nodes = [service["environment"] for service in composed["services"].values() if "build" in service]
    return [{name: _FROM_COMPOSE.sub(_interpolated, value) for name, value in node.items()} for node in nodes]


def cluster_manifest_nodes() -> list[dict[str, str]]:
    """Return the variables of each node in the Kubernetes manifests, with secrets in place of their placeholders."""
    manifests = documents(CLUSTER_KUBERNETES)
    shared: dict[str, str] = {}
    for manifest in manifests:
        shared |= {**manifest.get("stringData", {}), **manifest.get("data", {})}
    secrets = {"DATABASE_URL": "postgresql://database/transcription", "WEBHOOK_SECRET": ""}
    shared = {name: secrets.get(name, _SECRET) if value == "replace-me" else value for name, value in shared.items()}
    containers = [
        manifest["spec"]["template"]["spec"]["containers"][0]
        for manifest in manifests
        if manifest["kind"] in ("Deployment", "Job")
    ]
    return [
        shared | {variable["name"]: variable["value"] for variable in container.get("env", ())}
        for container in containers
    ]


def _interpolated(match: re.Match[str]) -> str:
    """Return what Compose puts in place of a variable."""
    return _SECRET if match["required"] is not None else match["default"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_name_no_variable_that_does_not_exist(path: Path) -> None:
    named = set(_VARIABLE.findall(path.read_text(encoding="utf-8")))
    assert named - SETTINGS - FOREIGN - NO_VARIABLES == set()


@pytest.mark.parametrize("variables_of", [image_variables, compose_variables, unit_variables, manifest_variables])
def test_files_set_only_valid_settings(
    variables_of: Callable[[], dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    variables = variables_of()
    assert variables
    assert variables.keys() - SETTINGS - FOREIGN == set()
    for name, value in variables.items():
        # Secrets have placeholders or come from the environment.
        if name in SETTINGS and "$" not in value and value != "replace-me":
            monkeypatch.setenv(name, value)
    Settings.load()


@pytest.mark.parametrize("nodes_of", [cluster_compose_nodes, cluster_manifest_nodes])
def test_nodes_of_a_cluster_accept_their_settings(
    nodes_of: Callable[[], list[dict[str, str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes = nodes_of()
    for variables in nodes:
        assert variables.keys() - SETTINGS - FOREIGN == set()
        with monkeypatch.context() as patch:
            for name, value in variables.items():
                patch.setenv(name, value)
            settings = Settings.load()
            assert settings.role == variables.get("ROLE", "all")
            assert settings.database_url.startswith("postgresql://")
            assert settings.spool_url == "s3://transcription/spool"
    assert {variables.get("ROLE") for variables in nodes} == {"api", "worker", None}  # None migrates the tables


def test_files_pass_yamllint() -> None:
    rules = "{extends: default, rules: {document-start: disable, line-length: {max: 120}}}"
    files = [COMPOSE, CLUSTER_COMPOSE, *sorted(DEPLOY.rglob("*.yaml")), *sorted(DEPLOY.rglob("*.yml"))]
    output_of(tool("yamllint"), "--strict", "--config-data", rules, *files)
