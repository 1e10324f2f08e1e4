"""The manifests for Kubernetes."""

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
    (found,) = (one["spec"] for one in manifests if one["kind"] == "Deployment")
    assert isinstance(found, dict)
    return found


@pytest.fixture(scope="module")
def container(deployment: dict[str, Any]) -> dict[str, Any]:
    (found,) = deployment["template"]["spec"]["containers"]
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize("version", ["1.29", "1.33", "1.37"])
def test_the_manifests_are_of_the_schemas(version: str, manifests: list[dict[str, Any]]) -> None:
    for manifest in manifests:
        kubernetes_validate.validate(manifest, version, strict=True)


def test_a_wrong_manifest_is_told(manifests: list[dict[str, Any]]) -> None:
    """The check above finds something."""
    wrong = manifests[0] | {"kindd": "Secret"}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, "1.33", strict=True)


def test_no_two_processes_share_a_folder(deployment: dict[str, Any]) -> None:
    assert deployment["replicas"] == 1
    assert deployment["strategy"]["type"] == "Recreate"


def test_the_pod_is_nobody_and_may_nothing(deployment: dict[str, Any], container: dict[str, Any]) -> None:
    pod = deployment["template"]["spec"]["securityContext"]
    assert pod["runAsNonRoot"] is True
    assert pod["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def test_the_pod_has_a_place_for_all_that_is_written(deployment: dict[str, Any], container: dict[str, Any]) -> None:
    mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    assert mounts.keys() == {"/data", "/models", "/tmp"}
    assert set(mounts.values()) == {volume["name"] for volume in deployment["template"]["spec"]["volumes"]}


def test_the_claims_that_are_named_are_made(manifests: list[dict[str, Any]], deployment: dict[str, Any]) -> None:
    made = {one["metadata"]["name"] for one in manifests if one["kind"] == "PersistentVolumeClaim"}
    volumes = deployment["template"]["spec"]["volumes"]
    named = [volume["persistentVolumeClaim"]["claimName"] for volume in volumes if "persistentVolumeClaim" in volume]
    assert sorted(named) == sorted(made)


def test_all_that_selects_pods_selects_these(manifests: list[dict[str, Any]], deployment: dict[str, Any]) -> None:
    labels = deployment["template"]["metadata"]["labels"]
    (service,) = (one["spec"]["selector"] for one in manifests if one["kind"] == "Service")
    (policy,) = (one["spec"]["podSelector"]["matchLabels"] for one in manifests if one["kind"] == "NetworkPolicy")
    assert deployment["selector"]["matchLabels"] == service == policy == labels


def test_the_pod_ends_no_sooner_than_the_service_does(deployment: dict[str, Any]) -> None:
    assert deployment["template"]["spec"]["terminationGracePeriodSeconds"] > grace_seconds()


def test_the_probes_ask_for_readiness_before_work_and_for_life_after(container: dict[str, Any]) -> None:
    asked = {name: container[f"{name}Probe"]["httpGet"]["path"] for name in ("startup", "readiness", "liveness")}
    assert asked == {"startup": "/health/ready", "readiness": "/health/ready", "liveness": "/health"}


def test_the_secret_as_it_stands_stops_the_start(
    manifests: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    (secret,) = (one["stringData"] for one in manifests if one["kind"] == "Secret")
    for name, value in secret.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InvalidSettings, match="WEBHOOK_SECRET"):
        Settings.load()
