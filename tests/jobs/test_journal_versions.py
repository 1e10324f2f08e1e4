"""Journals written by earlier versions are upgraded, and their jobs continue."""

from __future__ import annotations

import asyncio
import json
import shutil
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from app.domain.errors import ServiceError
from app.domain.job import Delivery, DeliveryStatus, JobStatus, Target
from app.jobs.journal import Journal, job_adapter, journal_entry
from app.transcription.models import ModelRegistry
from tests.jobs.rig import a_job, open_rig
from tests.support.fault_server import answer, fault_server
from tests.support.service_clock import FakeServiceClock

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from app.domain.job import Job
    from tests.jobs.rig import Rig

pytestmark = pytest.mark.anyio

QUEUED, PROCESSING, COMPLETED, FAILED, CANCELLED = JobStatus
DATA: Final = Path(__file__).parent / "data"
DAY: Final = 86_400.0
#: The jobs of version 2 whose URLs have an end, and that end in Unix time.
WITH_END: Final = frozenset({"delivering", "refused", "waiting"})
END: Final = 4_102_444_800.0
DUE: Final = Delivery(since=100.0, next_round=100.0)
CLOCKS: Final = {1: "SELECT seconds FROM uptime", 2: "SELECT seconds FROM service_clock"}


def copied(folder: Path, *, version: int = 1, url: str = "") -> Path:
    """Return a copy of the stored ``DATA_DIR`` of a version, with its URLs pointing to the server ``url``."""
    shutil.copytree(DATA / f"version-{version}", folder)
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
    assert version_of(folder) == 3
    async with opened(folder) as rig:  # and again, by the version that wrote it
        assert set(by_name(rig)) == set(jobs)


async def test_jobs_of_version_2_continue(tmp_path: Path) -> None:
    async with fault_server(answer(200)) as receiver:
        folder = copied(tmp_path / "data", version=2, url=receiver.url("").rstrip("/"))
        async with opened(folder) as rig:
            rig.service_clock.advance(60)  # the next rounds are due
            await rig.recovery.resume(ModelRegistry("small"))
            ended = {name: await rig.ended(job) for name, job in by_name(rig).items()}
            assert len(rig.transcriber.calls) == 1
            await rig.intake.redeliver(ended["refused"].id, ())
            assert (await rig.ended(ended["refused"])).status is COMPLETED
    assert {
        name: (job.status, job.delivery and (job.delivery.status, job.delivery.attempts)) for name, job in ended.items()
    } == {
        "finished": (COMPLETED, (DeliveryStatus.DELIVERED, 1)),
        "delivering": (COMPLETED, (DeliveryStatus.DELIVERED, 2)),
        "refused": (FAILED, (DeliveryStatus.FAILED, 1)),
        "failed": (FAILED, (DeliveryStatus.DELIVERED, 2)),
        "waiting": (COMPLETED, (DeliveryStatus.DELIVERED, 1)),
    }
    requests = {request.target.partition("?")[0]: request for request in receiver.requests}
    assert requests.keys() == {"/result", "/failure", "/hook", "/waiting", "/refused"}
    assert requests["/result"].body.startswith(b"1\n00:00:0")  # srt
    assert requests["/result"].headers["x-amz-meta-call"] == "17"
    assert requests["/waiting"].body.decode() == "Grüße an alle.\n"
    assert json.loads(requests["/refused"].body)["status"] == "completed"
    assert json.loads(requests["/failure"].body)["error"] == "The file is not audio."


async def test_jobs_of_version_2_are_restored_as_they_were(tmp_path: Path) -> None:
    folder, clock = copied(tmp_path / "data", version=2), FakeServiceClock()
    async with opened(folder, clock) as rig:
        jobs = by_name(rig)
        assert clock.seconds == 101.0
        assert await rig.store.with_key("key-2", owner="") == rig.live(jobs["waiting"])
        ends = {name: [upload.expires_at for upload in job.uploads] for name, job in jobs.items()}
        assert ends == {name: [END if name in WITH_END else None] for name in jobs}
        kept = {name for name, job in jobs.items() if job.uploads[0].is_kept}
        assert kept == jobs.keys() - {"finished"}
        states = {name: job.delivery for name, job in jobs.items()}
        assert states["finished"] == replace(DUE, targets=(Target(status=DeliveryStatus.DELIVERED, attempts=1),))
        refused = Target(status=DeliveryStatus.FAILED, attempts=1, last_error=jobs["refused"].error)
        assert states["refused"] == replace(DUE, targets=(refused,))
        assert states["delivering"] is not None
        assert (states["delivering"].rounds, states["delivering"].last_error) == (
            1,
            "HTTP 503 (attempt 1/1) to /result",
        )
        assert jobs["failed"].webhook_delivery is not None
        assert (jobs["failed"].webhook_delivery.rounds, jobs["failed"].webhook_delivery.attempts) == (1, 1)
        assert states["waiting"] == Delivery()
    assert version_of(folder) == 3


def test_entries_have_the_defaults_that_they_were_written_with() -> None:
    stored = json.loads((DATA / "version-3.json").read_bytes())
    job = job_adapter().validate_python(stored["entry"])
    assert job_adapter().dump_python(job, mode="json") == stored["job"]
    assert job_adapter().validate_json(journal_entry(job)) == job


def test_entry_leaves_out_what_has_its_default() -> None:
    plain = a_job()
    required = {"id": plain.id, "accepted_at": plain.accepted_at, "model": plain.model}
    assert json.loads(journal_entry(plain)) == {**required, "options": {}, "rendering": {}}
    assert json.loads(journal_entry(replace(plain, starts=1))).keys() - required == {"options", "rendering", "starts"}


@pytest.mark.parametrize("version", [1, 2])
def test_journal_that_can_not_be_upgraded_is_left_as_it_is(tmp_path: Path, version: int) -> None:
    folder = copied(tmp_path / "data", version=version)
    with closing(sqlite3.connect(folder / "journal.sqlite3")) as connection, connection:
        connection.execute("UPDATE jobs SET job = '{}' WHERE number = 3")
    with pytest.raises(ServiceError, match="it has an invalid job"):
        Journal(folder / "journal.sqlite3", FakeServiceClock()).open()
    assert version_of(folder) == version
    with closing(sqlite3.connect(folder / "journal.sqlite3")) as connection:
        assert connection.execute(CLOCKS[version]).fetchall() == [(101.0,)]
