"""The Kubernetes manifests."""

from __future__ import annotations

from typing import Any

import kubernetes_validate  # type: ignore[import-untyped]  # publishes no types
import pytest

from app.settings import InvalidSettings, Settings
from tests.deploy.deployment import KUBERNETES, documents, grace_seconds


@pytest.fixture(scope="module")
def manifests() -> list[dict[str, Any]]:
    return documents(KUBERNETES)


@pytest.fixture(scope="module")
def deployment(manifests: list[dict[str, Any]]) -> dict[str, Any]:
    (spec,) = (manifest["spec"] for manifest in manifests if manifest["kind"] == "Deployment")
    assert isinstance(spec, dict)
    return spec


@pytest.fixture(scope="module")
def container(deployment: dict[str, Any]) -> dict[str, Any]:
    (only,) = deployment["template"]["spec"]["containers"]
    assert isinstance(only, dict)
    return only


@pytest.mark.parametrize("version", ["1.29", "1.33", "1.37"])
def test_manifests_follow_the_schemas(version: str, manifests: list[dict[str, Any]]) -> None:
    for manifest in manifests:
        kubernetes_validate.validate(manifest, version, strict=True)


def test_schema_check_rejects_an_unknown_field(manifests: list[dict[str, Any]]) -> None:
    wrong = manifests[0] | {"kindd": "Secret"}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, "1.33", strict=True)


def test_only_one_pod_uses_the_volume(deployment: dict[str, Any]) -> None:
    assert deployment["replicas"] == 1
    assert deployment["strategy"]["type"] == "Recreate"


def test_pod_runs_unprivileged(deployment: dict[str, Any], container: dict[str, Any]) -> None:
    pod = deployment["template"]["spec"]["securityContext"]
    assert pod["runAsNonRoot"] is True
    assert pod["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def test_pod_mounts_all_writable_folders(deployment: dict[str, Any], container: dict[str, Any]) -> None:
    mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    assert mounts.keys() == {"/data", "/models", "/tmp"}
    assert set(mounts.values()) == {volume["name"] for volume in deployment["template"]["spec"]["volumes"]}


def test_claimed_volumes_are_defined(manifests: list[dict[str, Any]], deployment: dict[str, Any]) -> None:
    made = {manifest["metadata"]["name"] for manifest in manifests if manifest["kind"] == "PersistentVolumeClaim"}
    volumes = deployment["template"]["spec"]["volumes"]
    named = [volume["persistentVolumeClaim"]["claimName"] for volume in volumes if "persistentVolumeClaim" in volume]
    assert sorted(named) == sorted(made)


def test_all_selectors_match_the_pod(manifests: list[dict[str, Any]], deployment: dict[str, Any]) -> None:
    labels = deployment["template"]["metadata"]["labels"]
    (service,) = (manifest["spec"]["selector"] for manifest in manifests if manifest["kind"] == "Service")
    (policy,) = (
        manifest["spec"]["podSelector"]["matchLabels"] for manifest in manifests if manifest["kind"] == "NetworkPolicy"
    )
    assert deployment["selector"]["matchLabels"] == service == policy == labels


def test_pod_stops_no_sooner_than_the_grace_period(deployment: dict[str, Any]) -> None:
    assert deployment["template"]["spec"]["terminationGracePeriodSeconds"] > grace_seconds()


def test_probes_request_the_right_paths(container: dict[str, Any]) -> None:
    asked = {name: container[f"{name}Probe"]["httpGet"]["path"] for name in ("startup", "readiness", "liveness")}
    assert asked == {"startup": "/health/ready", "readiness": "/health/ready", "liveness": "/health"}


def test_placeholder_secrets_prevent_the_start(
    manifests: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    (secret,) = (manifest["stringData"] for manifest in manifests if manifest["kind"] == "Secret")
    for name, value in secret.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InvalidSettings, match="WEBHOOK_SECRET"):
        Settings.load()
