"""The Kubernetes manifests of a cluster."""

from __future__ import annotations

from typing import Any

import kubernetes_validate  # type: ignore[import-untyped]  # publishes no types
import pytest

from app.settings import InvalidSettings, Settings
from tests.deploy.deployment import CLUSTER_KUBERNETES, documents, grace_seconds

#: The API group of KEDA, whose schema is not among those of Kubernetes.
KEDA = "keda.sh/v1alpha1"
UNPRIVILEGED = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}


@pytest.fixture(scope="module")
def manifests() -> list[dict[str, Any]]:
    return documents(CLUSTER_KUBERNETES)


@pytest.fixture(scope="module")
def pods(manifests: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The pods of the deployments and the migration, by their component."""
    templates = [manifest["spec"]["template"] for manifest in manifests if manifest["kind"] in ("Deployment", "Job")]
    return {template["metadata"]["labels"]["app.kubernetes.io/component"]: template for template in templates}


def container_of(pod: dict[str, Any]) -> dict[str, Any]:
    (container,) = pod["spec"]["containers"]
    assert isinstance(container, dict)
    return container


def spec_of(manifests: list[dict[str, Any]], kind: str, name: str) -> dict[str, Any]:
    (spec,) = (
        manifest["spec"]
        for manifest in manifests
        if manifest["kind"] == kind and manifest["metadata"]["name"] == f"transcription-{name}"
    )
    assert isinstance(spec, dict)
    return spec


@pytest.mark.parametrize("version", ["1.29", "1.33", "1.37"])
def test_manifests_of_a_cluster_follow_the_schemas(version: str, manifests: list[dict[str, Any]]) -> None:
    for manifest in manifests:
        if manifest["apiVersion"] != KEDA:
            kubernetes_validate.validate(manifest, version, strict=True)


def test_each_role_has_a_deployment_and_tables_are_migrated(pods: dict[str, dict[str, Any]]) -> None:
    assert pods.keys() == {"migrate", "api", "worker"}
    assert container_of(pods["migrate"])["args"] == ["migrate"]
    for role in ("api", "worker"):
        assert {"name": "ROLE", "value": role} in container_of(pods[role])["env"]


def test_pods_run_unprivileged(pods: dict[str, dict[str, Any]]) -> None:
    for pod in pods.values():
        assert pod["spec"]["securityContext"]["runAsNonRoot"] is True
        assert pod["spec"]["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["spec"]["automountServiceAccountToken"] is False
        assert container_of(pod)["securityContext"] == UNPRIVILEGED


def test_pods_share_no_volume(pods: dict[str, dict[str, Any]]) -> None:
    for pod in pods.values():
        assert all("emptyDir" in volume for volume in pod["spec"]["volumes"])
        mounted = {mount["name"] for mount in container_of(pod)["volumeMounts"]}
        assert mounted == {volume["name"] for volume in pod["spec"]["volumes"]}


def test_pods_stop_no_sooner_than_their_grace_period(pods: dict[str, dict[str, Any]]) -> None:
    for role in ("api", "worker"):
        variables = {variable["name"]: variable["value"] for variable in container_of(pods[role])["env"]}
        grace = float(variables.get("SHUTDOWN_GRACE_SECONDS", grace_seconds()))
        assert pods[role]["spec"]["terminationGracePeriodSeconds"] > grace


def test_probes_of_all_roles_request_the_right_paths(pods: dict[str, dict[str, Any]]) -> None:
    for role in ("api", "worker"):
        container = container_of(pods[role])
        paths = {name: container[f"{name}Probe"]["httpGet"]["path"] for name in ("startup", "readiness", "liveness")}
        assert paths == {"startup": "/health/ready", "readiness": "/health/ready", "liveness": "/health"}


def test_an_upgrade_leaves_both_api_nodes_running(manifests: list[dict[str, Any]]) -> None:
    api = spec_of(manifests, "Deployment", "api")
    assert api["replicas"] == 2
    assert api["strategy"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}


def test_keda_alone_sets_the_number_of_workers(
    manifests: list[dict[str, Any]], pods: dict[str, dict[str, Any]]
) -> None:
    assert "replicas" not in spec_of(manifests, "Deployment", "worker")
    scaling = spec_of(manifests, "ScaledObject", "worker")
    assert scaling["scaleTargetRef"] == {"name": "transcription-worker"}
    assert scaling["minReplicaCount"] < scaling["maxReplicaCount"]
    (trigger,) = scaling["triggers"]
    assert trigger["type"] == "postgresql"
    assert all(isinstance(value, str) for value in trigger["metadata"].values())
    # KEDA looks the variable up in the worker's Secret.
    (secret,) = (manifest for manifest in manifests if manifest["kind"] == "Secret")
    assert trigger["metadata"]["connectionFromEnv"] in secret["stringData"]
    assert {"secretRef": {"name": secret["metadata"]["name"]}} in container_of(pods["worker"])["envFrom"]


def test_selectors_match_the_pods_of_one_role(manifests: list[dict[str, Any]], pods: dict[str, dict[str, Any]]) -> None:
    def matched(selector: dict[str, str]) -> set[str]:
        return {role for role, pod in pods.items() if selector.items() <= pod["metadata"]["labels"].items()}

    for role in ("api", "worker"):
        for kind in ("Deployment", "PodDisruptionBudget"):
            assert matched(spec_of(manifests, kind, role)["selector"]["matchLabels"]) == {role}
    (service,) = (manifest["spec"]["selector"] for manifest in manifests if manifest["kind"] == "Service")
    assert matched(service) == {"api"}
    assert matched(spec_of(manifests, "NetworkPolicy", "cluster")["podSelector"]["matchLabels"]) == pods.keys()


def test_some_pod_of_each_role_survives_a_drain_of_machines(manifests: list[dict[str, Any]]) -> None:
    assert spec_of(manifests, "PodDisruptionBudget", "api")["minAvailable"] == 1
    assert spec_of(manifests, "PodDisruptionBudget", "worker")["maxUnavailable"] == 1


def test_placeholder_secrets_prevent_the_start_of_a_cluster(
    manifests: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    for manifest in manifests:
        for name, value in {**manifest.get("stringData", {}), **manifest.get("data", {})}.items():
            monkeypatch.setenv(name, value)
    with pytest.raises(InvalidSettings, match="WEBHOOK_SECRET"):
        Settings.load()
