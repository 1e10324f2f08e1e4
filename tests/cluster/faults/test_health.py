"""A node for clients shows the state of the whole cluster over HTTP."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cluster.faults.programs import ClusterPrograms, NodeProgram

pytestmark = pytest.mark.full(reason="starts nodes of a cluster as processes")


def health(node: NodeProgram) -> dict[str, Any]:
    report: dict[str, Any] = node.client.get("/health").json()
    return report


def models(report: dict[str, Any]) -> list[Any]:
    return [report[each] for each in ("model", "models", "device")]


def metrics(node: NodeProgram) -> dict[str, float]:
    lines = node.client.get("/metrics").text.splitlines()
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if line[0] != "#")}


def test_node_without_a_model_shows_what_the_workers_can_do(programs: ClusterPrograms, samples: Path) -> None:
    api = programs.start("api", MAX_CONCURRENT_REQUESTS="7")
    assert health(api)["concurrency"]["max_concurrent_requests"] == 0
    job_id = api.submit(samples / "hello.wav", stored_output="true")
    name = health(api)["model"]["name"]
    api.eventually(lambda: health(api)["cluster"]["unserved_models"] == [{"name": name, "waiting": 1}])
    assert metrics(api)["transcription_unserved"] == 1
    first, _ = programs.start_all("worker", "worker")
    api.until(job_id, "completed")
    api.eventually(lambda: health(api)["cluster"] == {"workers": 2, "unserved_models": []})
    first.eventually(lambda: health(first)["model"]["loaded"])
    own = health(first)
    api.eventually(lambda: models(health(api)) == models(own))
    assert "cluster" not in own
    slots = own["concurrency"]["max_concurrent_requests"]
    api.eventually(lambda: health(api)["concurrency"]["available_slots"] == 2 * slots)  # once nothing is active
    assert health(api)["concurrency"]["max_concurrent_requests"] == 2 * slots
    server = api.client.get("/v1/server").json()
    assert server["models"][0]["languages"]
    assert "realtime" not in server
    assert not server["features"]["realtime"]
    assert api.client.get("/v1/models").json()["data"][0]["loaded"]
    assert metrics(api)["transcription_permits"] == metrics(api)["transcription_models_loaded"] == 0
    assert metrics(first)["transcription_permits"] == slots
