"""Every setting in the deployment files exists and has a value that is valid."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

import pytest

from app.settings import Settings
from tests.deploy.deployment import (
    ALERTS,
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
    | {"PYTHONDONTWRITEBYTECODE"}
)
#: systemd's address families, which look like variables.
NO_VARIABLES: Final = frozenset({"AF_INET", "AF_INET6", "AF_NETLINK", "AF_UNIX"})
FILES: Final = (DOCKERFILE, COMPOSE, UNIT, KUBERNETES, NGINX, ALERTS, PROMETHEUS)

_VARIABLE: Final = re.compile(r"\b[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+\b")
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


def test_files_pass_yamllint() -> None:
    rules = "{extends: default, rules: {document-start: disable, line-length: {max: 120}}}"
    files = [COMPOSE, *sorted(DEPLOY.rglob("*.yaml")), *sorted(DEPLOY.rglob("*.yml"))]
    output_of(tool("yamllint"), "--strict", "--config-data", rules, *files)
