"""Secrets of clients and operators appear in no log, response or trace, and in no file once they are used.

The service meets every fault while it logs at DEBUG, is killed, drained and loses its journal. All secrets contain one
random mark, and all output is searched for it.
"""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import sqlite3
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import pytest

from app.domain.errors import DiskFull
from app.domain.formats import ResponseFormat
from app.domain.job import Upload
from app.jobs.journal import Journal
from app.jobs.service_clock import ServiceClock
from tests.faults.fault_run import FaultRun
from tests.faults.faulty_endpoints import FAULTS, SILENT_FAULTS, faulty_endpoints
from tests.jobs.rig import a_job
from tests.support.disks import filled, small_disk
from tests.support.marked_secrets import Secrets
from tests.support.program import program
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from app.domain.job import Job

#: The faults that results meet. Everything else meets all faults.
_FAULTS_OF_RESULTS: Final = ("ok", "busy", "denied", "later", "reset", "drip", "tls-to-plain")
#: A limit for an upload that hangs until the test cancels it.
_LONG_TIMEOUT: Final = {"UPLOAD_TIMEOUT_SECONDS": "60"}
_ALL_FAULTS: Final = (*FAULTS, *SILENT_FAULTS)
_CONSOLE_LINE: Final = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d (DEBUG|INFO|WARNING|ERROR|CRITICAL) +\S.*|    \| .*")
_JSON_FIELDS: Final = {"time", "level", "logger", "message"}
_MORE_JSON_FIELDS: Final = {"job_id", "elapsed", "exception", "request_id", "client_request_id"}


@pytest.mark.full(reason="runs the service through every fault")
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    "style", ["json", pytest.param("console", marks=pytest.mark.long(reason="repeats it for the other format"))]
)
def test_no_secret_is_logged_answered_or_kept(style: str, tmp_path: Path, samples: Path, *, long: bool) -> None:
    secrets, shown = Secrets(), Secrets()
    with faulty_endpoints(secrets, samples / "silence.wav") as endpoints:
        run = FaultRun(tmp_path, style, secrets=secrets, shown=shown, endpoints=endpoints)
        try:
            run.start(DELIVERY_MAX_AGE_SECONDS="600")
            live_through_faults(run, samples, long=long)
            check_all_output(run, style)
        finally:
            run.close()


def live_through_faults(run: FaultRun, samples: Path, *, long: bool) -> None:
    """Run four processes: one is killed, one drained, one loses its journal, one runs out of files."""
    kept = run.submit(samples / "hello.wav", stored_output="true")
    run.fail_everywhere(_ALL_FAULTS, samples, results=_ALL_FAULTS if long else _FAULTS_OF_RESULTS)
    run.submit_in_odd_spellings(samples)
    assert run.secrets.hits_below(run.data), "the search does not find the URLs of waiting jobs"
    run.running.eventually(run.has_postponed, pause=0.05)
    run.kill()

    run.start(**run.traces_to_nowhere(), **_LONG_TIMEOUT)
    run.cancel_while_uploading(samples)
    run.until(kept, "Done")
    run.misbehave(kept)
    run.send_synchronous_requests()
    run.fail_everywhere(["silent", "broken"], samples, results=["drip"])
    assert run.drain() == 0

    run.start()
    run.fail_everywhere(["silent", "closed"], samples, results=["silent"])
    assert run.break_journal(samples) == 70

    run.start()
    run.run_out_of_files(samples)
    run.settled()
    run.redeliver(kept)


def check_all_output(run: FaultRun, style: str) -> None:
    """Search all output, and all files after every URL has been used, replaced or erased."""
    jobs = run.settled()
    run.request_everything()
    run.forget(job_id for job_id, job in jobs.items() if job["status"] == "failed" and job["result_available"])
    run.running.eventually(lambda: not run.secrets.hits_below(run.data), pause=0.1)
    assert run.shown.hits_below(run.data), "the search does not find the metadata of retained jobs"
    assert run.drain() == 0
    assert run.secrets.hits_below(run.data) == []
    run.learn_signatures()
    log = run.running.log.read_bytes()
    documents = [("the log", log), *run.responses, *run.sent(), *run.commands]
    assert [hit for name, document in documents for hit in run.secrets.hits(name, document)] == []
    returned = {name.partition(" ")[0] for name, document in documents if run.shown.hits(name, document)}
    assert returned >= {"GET", "PUT", "POST"}, "the search does not find the metadata in jobs, results and events"
    assert run.shown.hits("the log", log) == []
    check_lines(log.decode(), style)
    check_events(log.decode())


def check_lines(log: str, style: str) -> None:
    """Check that every line has the format of the log."""
    for line in log.removesuffix("\n").split("\n"):
        if style == "console":
            assert _CONSOLE_LINE.fullmatch(line), line
            continue
        fields = json.loads(line).keys()
        assert fields >= _JSON_FIELDS, line
        assert fields <= _JSON_FIELDS | _MORE_JSON_FIELDS, line


def check_events(log: str) -> None:
    """Check that the faults have happened."""
    for text in (
        *("Too many open files", "can't be written (no such table", "DEBUG", "Invalid HTTP request received."),
        *("jobs restored", "Header format invalid!", "Failed to export", "The cause:", "Traceback (most recent"),
        *("❌ All 2 upload attempts failed", "❌ All 2 download attempts failed", "❌ All 2 webhook attempts failed"),
        *("next round of upload attempts", "goes back to the queue", "Messages of the decoder", "cancelled"),
    ):
        assert text in log, text


# Refused starts.


def refused_start(folder: Path, **settings: str) -> bytes:
    """Return the output of a process that refuses to start."""
    with program(folder, **settings) as running:
        assert running.ends_with() == 1
    return running.log.read_bytes()


@pytest.mark.full(reason="takes more than a second")
def test_invalid_settings_are_reported_without_their_secrets(tmp_path: Path) -> None:
    secrets = Secrets()
    secret = secrets.make
    output = refused_start(
        tmp_path,
        API_KEYS=f"{secret('key')},bob:{secret('key')} {secret('key')}",
        METRICS_KEY=f"name:other:{secret('key')}",
        WEBHOOK_SECRET=f"whsec_{secret('webhook')}!",
        URL_ALLOWED_HOSTS=f"https://user:{secret('password')}@127.0.0.1/key?token={secret('token')}",
        FORWARDED_ALLOW_IPS=f"http://user:{secret('password')}@127.0.0.1",
    )
    assert output.count(b": correct it in the environment") == 5
    assert secrets.hits("the output", output) == []


@pytest.mark.parametrize("style", ["json", "console"])
@pytest.mark.full(reason="takes more than a second")
def test_unreadable_journal_is_reported_without_its_secrets(tmp_path: Path, style: str) -> None:
    secrets = Secrets()
    with in_journal(tmp_path / "data") as journal:
        asyncio.run(journal.write(a_job_with(secrets)))
    with closing(sqlite3.connect(tmp_path / "data" / "journal.sqlite3")) as database:
        database.execute("UPDATE jobs SET job = json_remove(job, '$.uploads[0].format')")
        database.commit()
    assert secrets.hits_below(tmp_path / "data")
    output = refused_start(tmp_path, DATA_DIR="data", LOG_FORMAT=style, LOG_LEVEL="DEBUG")
    assert b"it has an invalid job" in output
    assert secrets.hits("the output", output) == []


# The journal's log after a crash.


@contextmanager
def in_journal(folder: Path) -> Iterator[Journal]:
    folder.mkdir(exist_ok=True)
    journal = Journal(folder / "journal.sqlite3", ServiceClock())
    journal.open()
    try:
        yield journal
    finally:
        journal.close()


def a_job_with(secrets: Secrets) -> Job:
    url = f"https://b.example/key?X-Amz-Signature={secrets.make('signature')}"
    headers = (("x-pass", secrets.make("header")),)
    return a_job(uploads=(Upload(url=url, headers=headers, format=ResponseFormat.JSON),))


def without_upload(job: Job) -> Job:
    return job.without_upload_urls()


def test_secrets_erased_before_a_crash_vanish_after_the_restart(tmp_path: Path) -> None:
    secrets = Secrets()
    job, forgotten = a_job_with(secrets), a_job_with(secrets)
    with in_journal(tmp_path / "before") as journal:
        for written in (job, forgotten):
            asyncio.run(journal.write(written))
        asyncio.run(journal.write(without_upload(job)))
        asyncio.run(journal.delete(forgotten.id))
        shutil.copytree(tmp_path / "before", tmp_path / "after")  # as a crash leaves it
    assert secrets.hits_below(tmp_path / "after")
    with in_journal(tmp_path / "after"):  # nothing else is written
        asyncio.run(eventually(lambda: not secrets.hits_below(tmp_path / "after")))


def test_secrets_refused_by_a_full_disk_remain_in_no_file(tmp_path: Path) -> None:
    secrets = Secrets()
    refused = replace(a_job_with(secrets), metadata={"a": "b" * 100_000})
    with small_disk(tmp_path / "small", size="1m") as disk, in_journal(disk) as journal:
        with filled(disk, leaving=8192), pytest.raises(DiskFull):
            asyncio.run(journal.write(refused))
        asyncio.run(eventually(lambda: not secrets.hits_below(disk)))
