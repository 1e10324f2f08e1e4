"""Requests to a node whose database is away: refused as the OpenAPI description says."""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import pytest

from tests.cluster.nodes import CLUSTER_SECRET
from tests.support.service import serving

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from local_postgres import LocalPostgres

    from app.transcription.whisper import WhisperModel

pytestmark = [pytest.mark.anyio, pytest.mark.full(reason="kills the database")]


def operations_on_jobs(description: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield the path, the method and the described responses of each operation on jobs."""
    for path, operations in description["paths"].items():
        if path.startswith("/v1/jobs"):
            for method, operation in operations.items():
                yield path, method, operation["responses"]


async def test_operations_on_jobs_without_the_database_are_described(
    postgres: LocalPostgres, database_url: str, tmp_path: Path, model: WhisperModel, samples: Path
) -> None:
    settings: dict[str, Any] = {
        "database_url": database_url,
        "spool_url": f"file://{tmp_path}/objects",
        "cluster_secret": CLUSTER_SECRET,
        "whisper_model": "demo",
    }
    async with serving(tmp_path / "scratch", lambda: model, **settings) as running:
        job_id = await running.submit(samples / "hello.wav", stored_output="true", keep_audio="true")
        await running.finished(job_id)
        operations = list(operations_on_jobs(await running.description()))
        assert len(operations) > 10
        await asyncio.to_thread(postgres.kill)
        try:
            refusals = await asyncio.gather(
                *(running.client.request(method, path.format(job_id=job_id)) for path, method, _ in operations)
            )
            for (path, method, described), refused in zip(operations, refusals, strict=True):
                assert refused.status_code == HTTPStatus.SERVICE_UNAVAILABLE, (method, path)
                assert refused.json()["error"]["code"] == "database_unavailable"
                assert int(refused.headers["Retry-After"]) > 0
                assert "503" in described, (method, path)
        finally:
            await asyncio.to_thread(postgres.start)
