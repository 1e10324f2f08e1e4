"""Jobs and deliveries while the spool is away: they wait, which counts neither as a start nor as a round."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from app.api.errors import error_response
from app.domain.errors import SpoolUnavailable
from app.domain.job import DeliveryKind, JobStatus
from app.jobs import deliveries, pipeline
from app.jobs.deliveries import Bucket
from app.jobs.pipeline import Pipeline
from app.jobs.retention import Retention
from app.jobs.spool import Spool
from tests.jobs.rig import AUDIO, a_job, upload_to
from tests.support.fake_transcriber import GREETING
from tests.support.fault_server import answer, fault_server

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from app.domain.job import Job
    from app.domain.transcript import Transcript
    from app.domain.waveform import Waveform
    from tests.jobs.rig import Rig

pytestmark = pytest.mark.anyio


class SpoolAway(Spool):
    """A spool that is away the first time that something is asked of it."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.refused: list[str] = []

    @asynccontextmanager
    async def audio(self, job_id: str) -> AsyncIterator[Path]:
        self._refuse_once("audio")
        async with super().audio(job_id) as path:
            yield path

    def store_result(
        self,
        job_id: str,
        transcript: Transcript,
        *,
        processing_time: float,
        waveform: Waveform | None = None,
        durably: bool = True,
    ) -> str:
        self._refuse_once("store_result")
        return super().store_result(
            job_id, transcript, processing_time=processing_time, waveform=waveform, durably=durably
        )

    def result(self, job_id: str, *, original: bool = False) -> tuple[Transcript, float]:
        self._refuse_once("result")
        return super().result(job_id, original=original)

    def _refuse_once(self, name: str) -> None:
        if name not in self.refused:
            self.refused.append(name)
            raise SpoolUnavailable("The object store can't be reached now.", retry_after_seconds=10)


@pytest.fixture(autouse=True)
def pauses_are_short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "FULL_DISK_SECONDS", 0.01)
    monkeypatch.setattr(deliveries, "_SPOOL_AWAY_SECONDS", 0.01)


@pytest.fixture
def spool(rig: Rig) -> SpoolAway:
    """A spool beside that of the rig, which has its folder open."""
    return SpoolAway(rig.root)


@pytest.fixture
def away_pipeline(rig: Rig, spool: SpoolAway) -> Pipeline:
    return Pipeline(
        store=rig.store,
        spool=spool,
        transcriber=rig.transcriber,
        downloader=rig.pipeline._downloader,
        estimate=rig.estimate,
        segments=rig.segments,
        retention=Retention(finished_seconds=3600.0, undelivered_seconds=3600.0),
        service_clock=rig.service_clock,
    )


async def admitted(rig: Rig, *, synchronous: bool = False) -> Job:
    job = a_job(synchronous=synchronous)
    await asyncio.to_thread(rig.put_audio, job.id, AUDIO)
    return await rig.store.admit(job)


async def test_job_waits_for_the_spool(rig: Rig, spool: SpoolAway, away_pipeline: Pipeline) -> None:
    job = await admitted(rig)
    await away_pipeline.process(job.id)
    assert spool.refused == ["audio", "store_result"]
    assert (rig.now(job).status, rig.now(job).starts) == (JobStatus.COMPLETED, 1)
    assert len(rig.transcriber.calls) == 1
    assert (await asyncio.to_thread(rig.spool.result, job.id))[0] == GREETING


async def test_client_that_waits_is_told_to_retry(rig: Rig, away_pipeline: Pipeline) -> None:
    job = await admitted(rig, synchronous=True)
    with pytest.raises(SpoolUnavailable) as caught:
        await away_pipeline.process(job.id)
    response = error_response(caught.value)
    assert (response.status_code, response.headers["Retry-After"]) == (503, "10")
    assert rig.now(job).starts == 0


async def test_delivery_waits_for_the_spool_within_its_round(rig: Rig, spool: SpoolAway) -> None:
    attempts: list[tuple[int, str | None]] = []
    async with fault_server(answer(200)) as target:
        job = await admitted(rig)
        await asyncio.to_thread(rig.spool.store_result, job.id, GREETING, processing_time=1.0)
        bucket = rig.deliveries._rounds._destinations[DeliveryKind.UPLOAD]
        assert isinstance(bucket, Bucket)
        delivered = a_job(id=job.id, **upload_to(target.url()))
        await Bucket(spool=spool, uploader=bucket.uploader).send(
            delivered, lambda number, error: attempts.append((number, error))
        )
    assert spool.refused == ["result"]
    assert len(target.requests) == 1
    assert attempts == [(1, None)]
