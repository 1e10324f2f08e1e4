"""Clients that use two nodes of a cluster, or whose node is killed while they wait."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final

import httpx
import pytest

from tests.cluster.faults.programs import Submission
from tests.cluster.faults.steps import Gate
from tests.faults.crash_points import BEFORE, Step
from tests.faults.receiver import receiver

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cluster.faults.programs import ClusterPrograms, NodeProgram

pytestmark = pytest.mark.full(reason="starts nodes of a cluster as processes")

_DECODE: Final = Step("app.transcription.whisper:WhisperModel", "decode", BEFORE)
_SENT_AT_ONCE: Final = 8


def events(node: NodeProgram, job_id: str) -> list[dict[str, Any]]:
    """Follow a job until its end, or until the node dies, and return what it has shown."""
    seen = []
    try:
        with node.client.stream("GET", f"/v1/jobs/{job_id}/events") as response:
            seen += [json.loads(line[5:]) for line in response.iter_lines() if line.startswith("data:")]
    except httpx.TransportError:
        seen.append({"status": "cut off"})
    return seen


def wait_for_transcript(node: NodeProgram, audio: bytes) -> httpx.Response | None:
    """Send a synchronous request, and return its response, or None if the node died."""
    try:
        return node.client.post("/v1/audio/transcriptions", files={"file": audio})
    except httpx.TransportError:
        return None


def test_clients_of_a_killed_node_go_on_at_another(
    programs: ClusterPrograms, samples: Path, tmp_path: Path, references: dict[str, dict[str, Any]]
) -> None:
    gate = Gate(tmp_path / "gate")
    doomed, other = programs.start_all("api", "api")
    programs.start("worker", steps=[(_DECODE, gate.pass_through)])
    text = references["hello.wav"]["text"]
    audio = (samples / "hello.wav").read_bytes()
    with receiver(samples) as store, ThreadPoolExecutor() as executor:
        job = Submission(number=0, receiver=store, samples=samples)
        job.send(doomed)
        gate.until_reached()
        waiting = executor.submit(wait_for_transcript, doomed, audio)
        remaining = executor.submit(wait_for_transcript, other, audio)
        followed, also_followed = (executor.submit(events, node, job.job_id) for node in (doomed, other))
        doomed.eventually(lambda: programs.query("SELECT count(*) FROM jobs WHERE synchronous") == [(2,)])
        doomed.kill()
        assert waiting.result() is None
        assert followed.result()[-1] == {"status": "cut off"}
        gate.open()
        response = remaining.result()
        assert response is not None
        assert response.json()["text"] == text
        assert also_followed.result()[-1]["status"] == "completed"
        assert events(other, job.job_id)[-1]["status"] == "completed"
        again = wait_for_transcript(other, audio)
        assert again is not None
        assert again.json()["text"] == text
        programs.check_nothing_is_left()
        job.check(other, text)
        programs.check_puts(store)


def test_jobs_are_cancelled_forgotten_and_delivered_again_at_another_node(
    programs: ClusterPrograms, samples: Path, tmp_path: Path, references: dict[str, dict[str, Any]]
) -> None:
    gate = Gate(tmp_path / "gate")
    first, second = programs.start_all("api", "api")
    programs.start("worker", steps=[(_DECODE, gate.pass_through)])
    with receiver(samples) as store:
        cancelled, forgotten, delivered = jobs = [
            Submission(number=number, receiver=store, samples=samples) for number in range(3)
        ]
        for job in jobs:
            job.send(first)
        gate.until_reached()
        assert second.client.delete(f"/v1/jobs/{cancelled.job_id}").json()["status"] == "cancelled"
        gate.open()
        first.until(forgotten.job_id, "completed")
        first.eventually(lambda: first.job(forgotten.job_id)["webhook"]["status"] == "delivered")
        assert second.client.delete(f"/v1/jobs/{forgotten.job_id}").json()["deleted"]
        assert first.client.get(f"/v1/jobs/{forgotten.job_id}").status_code == 404
        first.until(delivered.job_id, "completed")
        body = {"upload_presigned_url": store.url("/again")}
        assert second.client.post(f"/v1/jobs/{delivered.job_id}/redeliver", json=body).status_code == 200
        first.eventually(lambda: len(store.results("/again")) == 1)
        programs.check_nothing_is_left()
        assert {job_id: job["status"] for job_id, job in first.jobs().items()} == {
            cancelled.job_id: "cancelled",
            delivered.job_id: "completed",
        }
        assert store.results(cancelled.path) == []
        delivered.check(first, references["hello.wav"]["text"])
        programs.check_puts(store)


def test_same_key_on_two_nodes_at_once_is_one_job(
    programs: ClusterPrograms, samples: Path, references: dict[str, dict[str, Any]]
) -> None:
    first, second, _, _ = programs.start_all("api", "api", "worker", "worker")
    with receiver(samples) as store, ThreadPoolExecutor(_SENT_AT_ONCE) as executor:
        requests = [Submission(number=7, receiver=store, samples=samples) for _ in range(_SENT_AT_ONCE)]
        sent = [executor.submit(each.send, node) for each, node in zip(requests, [first, second] * 4, strict=True)]
        assert len({each.result() for each in sent}) == 1
        programs.check_nothing_is_left()
        requests[0].check(second, references["hello.wav"]["text"])
        assert len(store.results(requests[0].path)) == 1
        assert programs.query("SELECT count(*) FROM jobs") == [(1,)]
