"""Nodes as an operator runs them, killed with ``kill -9``: every accepted job ends, and its client gets its result."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

from tests.cluster.nodes import CLUSTER_SECRET
from tests.faults.forked_program import forked_program
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from local_postgres import LocalPostgres

    from tests.support.program import Program

pytestmark = pytest.mark.full(reason="starts nodes as processes, with the demo model")


class Nodes:
    """The processes of a cluster."""

    def __init__(self, folder: Path, url: str, stack: ExitStack) -> None:
        self._folder = folder
        self._stack = stack
        self._number = 0
        self._settings = {
            "DATABASE_URL": url,
            "SPOOL_URL": f"file://{folder}/objects",
            "CLUSTER_SECRET": CLUSTER_SECRET,
            "CLUSTER_STALE_SECONDS": "3",
        }

    def start(self, role: str, **settings: str) -> Program:
        self._number += 1
        folder = self._folder / f"node-{self._number}"
        folder.mkdir()
        node = self._stack.enter_context(forked_program(folder, ROLE=role, **self._settings, **settings))
        node.until_ready()
        return node


@pytest.fixture
def nodes(database_url: str, tmp_path: Path) -> Iterator[Nodes]:
    with ExitStack() as stack:
        yield Nodes(tmp_path, database_url, stack)


def statuses(api: Program) -> list[str]:
    return [job["status"] for job in api.jobs().values()]


def test_jobs_of_a_killed_worker_run_on_another(nodes: Nodes, samples: Path) -> None:
    api, doomed = nodes.start("api"), nodes.start("worker")
    ids = [api.submit(samples / "long.opus", stored_output="true") for _ in range(4)]
    api.eventually(lambda: "processing" in statuses(api))
    doomed.kill()
    nodes.start("worker")
    for job_id in ids:
        job = api.until(job_id, "completed")
        assert job["attempts"] <= 2


def test_waiting_client_gets_its_transcript_from_another_worker(
    nodes: Nodes, samples: Path, references: dict[str, dict[str, Any]]
) -> None:
    api, doomed = nodes.start("api"), nodes.start("worker")
    with ThreadPoolExecutor() as executor:
        response = executor.submit(
            api.client.post, "/v1/audio/transcriptions", files={"file": (samples / "long.opus").read_bytes()}
        )
        wait_until(lambda: "waiting for GPU availability" in doomed.log.read_text())
        doomed.kill()
        nodes.start("worker")
        transcript = response.result(timeout=300)
    assert transcript.status_code == 200, transcript.text
    assert words(transcript.json()["text"]) == words(references["long.opus"]["text"])


def test_killed_node_for_clients_loses_no_job(nodes: Nodes, samples: Path) -> None:
    doomed, api = nodes.start("api"), nodes.start("api")
    ids = [doomed.submit(samples / "hello.wav", stored_output="true") for _ in range(5)]
    doomed.kill()
    nodes.start("worker")
    for job_id in ids:
        api.until(job_id, "completed")


def test_start_with_old_tables_names_the_command(postgres: LocalPostgres, tmp_path: Path) -> None:
    url = postgres.create_database("without_tables")
    settings = {
        "DATABASE_URL": url,
        "SPOOL_URL": f"file://{tmp_path}/objects",
        "CLUSTER_SECRET": CLUSTER_SECRET,
    }
    with forked_program(tmp_path, **settings) as node:
        assert node.ends_with() == 1
        assert "run `python -m app migrate` once" in node.log.read_text()


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())
