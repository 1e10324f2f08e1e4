"""Edits of one transcript at two nodes."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from app.domain.corrections import NO_CORRECTIONS, Corrections
from app.domain.errors import EditConflict
from app.domain.job import JobStatus
from app.jobs.edits import Edit

if TYPE_CHECKING:
    from app.domain.job import Job
    from tests.cluster.nodes import Cluster, Node

pytestmark = [pytest.mark.anyio, pytest.mark.full(reason="starts nodes of a cluster")]

_ROUNDS = 10


async def edited_at_once(nodes: list[Node], job: Job, *, expected: set[str] | None, number: int) -> list[Edit]:
    """Edit a transcript at all nodes at the same time, and return the edits that were accepted."""
    outcomes = await asyncio.gather(
        *(
            node.jobs.edits.replace(job.id, Corrections(texts={0: f"{number} {name}"}), expected=expected)
            for name, node in enumerate(nodes)
        ),
        return_exceptions=True,
    )
    refused = [outcome for outcome in outcomes if not isinstance(outcome, Edit)]
    assert all(isinstance(outcome, EditConflict) for outcome in refused), refused
    return [outcome for outcome in outcomes if isinstance(outcome, Edit)]


async def seen(node: Node, job: Job) -> Edit:
    """Return the corrections as a client gets them from a node."""
    await node.read(job)
    return await node.jobs.edits.read(job.id)


async def test_one_of_two_edits_of_a_version_wins_at_any_nodes(cluster: Cluster) -> None:
    nodes = [await cluster.start("all"), await cluster.start("api")]
    job = await nodes[0].submit()
    await nodes[0].until(job, JobStatus.COMPLETED)
    version = "0"
    for number in range(_ROUNDS):
        for node in nodes:
            assert (await seen(node, job)).corrections.version == version
        (won,) = await edited_at_once(nodes, job, expected={version}, number=number)
        assert [await seen(node, job) for node in nodes] == [won, won]
        version = won.corrections.version
    for node in nodes:
        assert (await node.read(job)).job.edited_at == won.corrections.edited_at
    with pytest.raises(EditConflict):
        await nodes[1].jobs.edits.replace(job.id, NO_CORRECTIONS, expected={"0"})
    await nodes[1].jobs.edits.replace(job.id, NO_CORRECTIONS, expected={version})
    assert (await seen(nodes[0], job)).corrections == NO_CORRECTIONS
    assert (await nodes[0].read(job)).job.edited_at is None


async def test_edits_of_any_version_replace_each_other_as_a_whole(cluster: Cluster) -> None:
    nodes = [await cluster.start("all"), await cluster.start("api")]
    job = await nodes[0].submit()
    await nodes[0].until(job, JobStatus.COMPLETED)
    await nodes[1].read(job)
    for number in range(_ROUNDS):
        edits = await edited_at_once(nodes, job, expected=None, number=number)
        assert len(edits) == 2
        last = await seen(nodes[0], job)
        assert last in edits
        assert await seen(nodes[1], job) == last
        assert (await nodes[0].read(job)).job.edited_at == last.corrections.edited_at
