"""Every setting that a file of the deployment names exists, and has there a value that the service takes."""

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
    judged,
    tool,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SETTINGS: Final = frozenset(name.upper() for name in Settings.model_fields)
#: Other programs' variables.
FOREIGN: Final = frozenset(
    {"HF_HOME", "NVIDIA_DRIVER_CAPABILITIES", "NVIDIA_VISIBLE_DEVICES", "ORT_DISABLE_TELEMETRY", "PATH"}
    | {"PYTHONDONTWRITEBYTECODE"}
)
#: What looks like a variable and is none: systemd's families of addresses.
NO_VARIABLES: Final = frozenset({"AF_INET", "AF_INET6", "AF_NETLINK", "AF_UNIX"})
FILES: Final = (DOCKERFILE, COMPOSE, UNIT, KUBERNETES, NGINX, ALERTS, PROMETHEUS)

_VARIABLE: Final = re.compile(r"\b[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+\b")
_ASSIGNED: Final = re.compile(r"\b([A-Z][A-Z0-9_]*)=(\S+)")


def set_by_the_image() -> dict[str, str]:
    text = DOCKERFILE.read_text(encoding="utf-8").replace("\\\n", "")
    return dict(_ASSIGNED.findall(" ".join(re.findall(r"^ENV (.*)$", text, re.MULTILINE))))


def set_by_compose() -> dict[str, str]:
    (composed,) = documents(COMPOSE)
    found: dict[str, str] = {}
    for service in composed["services"].values():
        found |= service.get("environment", {})
    return found


def set_by_the_unit() -> dict[str, str]:
    return dict(
        _ASSIGNED.findall(" ".join(re.findall(r"^Environment=(.*)$", UNIT.read_text(encoding="utf-8"), re.MULTILINE)))
    )


def set_by_the_manifests() -> dict[str, str]:
    found: dict[str, str] = {}
    for manifest in documents(KUBERNETES):
        found |= manifest.get("stringData", {})
        if manifest["kind"] == "Deployment":
            (container,) = manifest["spec"]["template"]["spec"]["containers"]
            found |= {variable["name"]: variable["value"] for variable in container["env"]}
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_variable_is_named_that_does_not_exist(path: Path) -> None:
    named = set(_VARIABLE.findall(path.read_text(encoding="utf-8")))
    assert named - SETTINGS - FOREIGN - NO_VARIABLES == set()


@pytest.mark.parametrize("given", [set_by_the_image, set_by_compose, set_by_the_unit, set_by_the_manifests])
def test_each_variable_that_is_set_is_one_that_the_service_takes(
    given: Callable[[], dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    variables = given()
    assert variables
    assert variables.keys() - SETTINGS - FOREIGN == set()
    for name, value in variables.items():
        # A secret has a placeholder, or comes from elsewhere.
        if name in SETTINGS and "$" not in value and value != "replace-me":
            monkeypatch.setenv(name, value)
    Settings.load()


def test_the_files_are_plain_yaml() -> None:
    rules = "{extends: default, rules: {document-start: disable, line-length: {max: 120}}}"
    files = [COMPOSE, *sorted(DEPLOY.rglob("*.yaml")), *sorted(DEPLOY.rglob("*.yml"))]
    judged(tool("yamllint"), "--strict", "--config-data", rules, *files)
