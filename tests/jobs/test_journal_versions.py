"""Journals written by earlier versions are upgraded, and their jobs continue."""

from __future__ import annotations

import asyncio
import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from app.domain.errors import ServiceError
from app.domain.job import DeliveryStatus, JobStatus
from app.jobs.journal import Journal
from app.transcription.models import ModelRegistry
from tests.jobs.rig import open_rig
from tests.support.fault_server import answer, fault_server
from tests.support.service_clock import FakeServiceClock

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from app.domain.job import Job
    from tests.jobs.rig import Rig

pytestmark = pytest.mark.anyio

QUEUED, PROCESSING, COMPLETED, FAILED, CANCELLED = JobStatus
VERSION_1: Final = Path(__file__).parent / "data" / "version-1"
DAY: Final = 86_400.0


def copied(folder: Path, *, url: str = "") -> Path:
    """Return a copy of the stored ``DATA_DIR``, with its URLs pointing to the server ``url``."""
    shutil.copytree(VERSION_1, folder)
    with closing(sqlite3.connect(folder / "journal.sqlite3")) as connection, connection:
        connection.execute("UPDATE jobs SET job = replace(job, ?, ?)", ("http://127.0.0.1:1/", url + "/"))
    return folder


def opened(folder: Path, clock: FakeServiceClock | None = None) -> AbstractAsyncContextManager[Rig]:
    clock = clock or FakeServiceClock()
    journal = Journal(folder / "journal.sqlite3", clock)
    return open_rig(folder, journal=journal, service_clock=clock, max_age_seconds=DAY, attempts=1, forget=False)


def by_name(rig: Rig) -> dict[str, Job]:
    return {(job.metadata or {})["name"]: job for job in rig.jobs()}


def version_of(folder: Path) -> int:
    with closing(sqlite3.connect(folder / "journal.sqlite3")) as connection:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        return int(version)


async def test_jobs_of_version_1_continue(tmp_path: Path) -> None:
    async with fault_server(answer(200)) as receiver:
        folder = copied(tmp_path / "data", url=receiver.url("").rstrip("/"))
        async with opened(folder) as rig:
            rig.service_clock.advance(60)  # the next rounds are due
            await rig.recovery.resume(ModelRegistry("small"))
            ended = {name: await rig.ended(job) for name, job in by_name(rig).items()}
            assert len(rig.transcriber.calls) == 2
    assert {name: job.status for name, job in ended.items()} == {
        "finished": COMPLETED,
        "delivering": COMPLETED,
        "failed": FAILED,
        "on the model": COMPLETED,
        "waiting": COMPLETED,
    }
    bodies = {request.target.partition("?")[0]: json.loads(request.body) for request in receiver.requests}
    assert bodies["/result"]["text"] == "Grüße an alle."
    assert bodies["/failure"]["error"] == "The file is not audio."
    assert bodies["/hook"]["type"] == "job.failed"
    for state, attempts in (
        (ended["delivering"].delivery, 2),
        (ended["failed"].delivery, 2),
        (ended["failed"].webhook_delivery, 2),
    ):
        assert state is not None
        assert (state.status, state.attempts) == (DeliveryStatus.DELIVERED, attempts)
    # Their process died, so the starts of those without a result count.
    assert {name: job.starts for name, job in ended.items()} == {
        "finished": 1,
        "delivering": 1,
        "failed": 1,
        "on the model": 2,
        "waiting": 2,
    }


async def test_jobs_of_version_1_are_restored_as_they_were(tmp_path: Path) -> None:
    folder, clock = copied(tmp_path / "data"), FakeServiceClock()
    async with opened(folder, clock) as rig:
        jobs = by_name(rig)
        assert clock.seconds == 101.0
        finished = jobs["finished"]
        assert await rig.store.with_key("key-1", owner="") == rig.live(finished)
        assert (finished.language, finished.audio_duration, finished.revision) == ("german", 10.0, 7)
        assert (await asyncio.to_thread(rig.spool.result, finished.id))[0].text == "Grüße an alle."
        assert [jobs[name].status for name in ("waiting", "on the model", "delivering")] == [QUEUED, QUEUED, PROCESSING]
        assert (jobs["on the model"].started_at, jobs["on the model"].options.hotwords) == (None, "Zoe")
        assert jobs["failed"].webhook_delivery is not None
        assert jobs["failed"].webhook_delivery.rounds == 1
    assert version_of(folder) == 2
    async with opened(folder) as rig:  # and again, by the version that wrote it
        assert set(by_name(rig)) == set(jobs)


def test_journal_that_can_not_be_upgraded_is_left_as_it_is(tmp_path: Path) -> None:
    folder = copied(tmp_path / "data")
    with closing(sqlite3.connect(folder / "journal.sqlite3")) as connection, connection:
        connection.execute("UPDATE jobs SET job = '{}' WHERE number = 3")
    with pytest.raises(ServiceError, match="it has an invalid job"):
        Journal(folder / "journal.sqlite3", FakeServiceClock()).open()
    assert version_of(folder) == 1
    with closing(sqlite3.connect(folder / "journal.sqlite3")) as connection:
        assert connection.execute("SELECT seconds FROM uptime").fetchall() == [(101.0,)]
