"""Nodes of a cluster under load are killed at random moments, also all at once, and lose no accepted job."""

from __future__ import annotations

import sys
import time
from collections import Counter
from random import Random
from typing import TYPE_CHECKING, Any, Final

import pytest

from tests.faults.ends import COUNTED, Ends
from tests.faults.receiver import receiver
from tests.faults.retrying_clients import RetryingClients

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cluster.faults.programs import ClusterPrograms

pytestmark = pytest.mark.full(reason="kills nodes of a cluster again and again")

_KILLS: Final = 15
_LONG_KILLS: Final = 200
#: The pauses between kills, in the time that all nodes need to start, so that they mean the same on a slow machine:
#: some nodes are killed while they start, some when they have done work.
_PAUSES: Final = (0.0, 0.7)
#: The share of kills that end all nodes at once.
_ALL_AT_ONCE: Final = 0.1
#: A kill within this time of the receiver's response has the result delivered twice.
_RESPONSE_SECONDS: Final = 0.1


@pytest.mark.timeout(3600)
def test_killed_nodes_lose_no_accepted_job(
    programs: ClusterPrograms,
    samples: Path,
    references: dict[str, dict[str, Any]],
    capsys: pytest.CaptureFixture[str],
    *,
    long: bool,
) -> None:
    chance = Random(1)  # noqa: S311  # no cryptography
    kills = _LONG_KILLS if long else _KILLS
    counts = Counter[str]()
    began = time.monotonic()
    programs.start_all("api", "api", "worker", "worker")
    start_seconds = time.monotonic() - began
    addresses = [f"http://127.0.0.1:{node.port}" for node in programs.nodes if node.role == "api"]
    with (
        receiver(samples, seconds=_RESPONSE_SECONDS) as store,
        RetryingClients(addresses, store, samples, chance) as clients,
    ):
        while counts["kills"] < kills:
            clients.allow(1)
            time.sleep(chance.uniform(*_PAUSES) * start_seconds)
            doomed = list(programs.nodes) if chance.random() < _ALL_AT_ONCE else [chance.choice(programs.nodes)]
            for node in doomed:
                node.kill()
            counts["kills"] += len(doomed)
            for node in doomed:
                programs.restart(node)
        clients.finish()
        for node in programs.nodes:
            node.until_ready()
        programs.check_nothing_is_left()
        api = next(node for node in programs.nodes if node.role == "api")
        jobs = api.jobs()
        counts["accepted"] = len(clients.sent)
        ends = Ends(api, store, references, counts)
        for request in clients.sent:
            ends.check(request, jobs)
        assert jobs.keys() == {request.job_id for request in clients.sent if request.ended != "forgotten"}
        assert [node.stop() for node in programs.nodes] == [0, 0, 0, 0]
    with capsys.disabled():
        sys.stdout.write("\n" + ", ".join(f"{counts[name]} {name}" for name in COUNTED) + "\n")
