"""What clients and operators keep secret stands in nothing that the service says, and in no file once it is used.

Every fault is met while the program runs with its most talkative log, is killed, drained and broken. All secrets have a
mark, and everything is searched for it.
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
from app.domain.formats import Rendering
from app.domain.job import Upload
from app.jobs.journal import Journal
from app.jobs.service_clock import ServiceClock
from tests.faults.echoing import FAULTS, SILENT_FAULTS, places
from tests.faults.secretive import Secretive
from tests.jobs.rig import a_job
from tests.support.disks import filled, small_disk
from tests.support.marked_secrets import Secrets
from tests.support.program import program
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from app.domain.job import Job

#: What the results of transcriptions meet; everything else meets all faults.
_FAULTS_OF_RESULTS: Final = ("ok", "busy", "denied", "later", "reset", "drip", "tls-to-plain")
_ALL_FAULTS: Final = (*FAULTS, *SILENT_FAULTS)
_CONSOLE_LINE: Final = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d (DEBUG|INFO|WARNING|ERROR|CRITICAL) +\S.*|    \| .*")
_JSON_FIELDS: Final = {"time", "level", "logger", "message"}
_MORE_JSON_FIELDS: Final = {"job_id", "elapsed", "exception"}


@pytest.mark.full(reason="runs the service through every fault")
@pytest.mark.parametrize(
    "style", ["json", pytest.param("console", marks=pytest.mark.long(reason="repeats it for the other format"))]
)
def test_no_secret_is_logged_answered_or_kept(style: str, tmp_path: Path, samples: Path, *, long: bool) -> None:
    secrets, shown = Secrets(), Secrets()
    with places(secrets, samples / "silence.wav") as around:
        run = Secretive(tmp_path, style, secrets=secrets, shown=shown, places=around)
        try:
            run.start(DELIVERY_MAX_AGE_SECONDS="600")
            live_through_faults(run, samples, long=long)
            be_found_silent(run, style)
        finally:
            run.close()


def live_through_faults(run: Secretive, samples: Path, *, long: bool) -> None:
    """Five processes: one is killed, one drained, one can't write its journal, one runs out of files."""
    kept = run.submit(samples / "hello.wav", stored_output="true")
    run.fail_everywhere(_ALL_FAULTS, samples, results=_ALL_FAULTS if long else _FAULTS_OF_RESULTS)
    run.submit_in_odd_spellings(samples)
    assert run.secrets.hits_below(run.data), "a search that works finds the URLs of jobs that wait"
    run.running.eventually(run.has_put_off, pause=0.05)
    run.kill()

    run.start(**run.traces_to_nowhere())
    run.cancel_while_uploading(samples)
    run.until(kept, "Done")
    run.misbehave(kept)
    run.wait_for_it()
    run.fail_everywhere(["silent", "broken"], samples, results=["drip"])
    assert run.drain() == 0

    run.start()
    run.fail_everywhere(["silent", "closed"], samples, results=["silent"])
    assert run.break_journal(samples) == 70

    run.start()
    run.run_out_of_files(samples)
    run.settled()
    run.redeliver(kept)


def be_found_silent(run: Secretive, style: str) -> None:
    """Searches all that was said, and the files once every URL has been used, replaced or erased."""
    jobs = run.settled()
    run.look_everywhere()
    run.forget(job_id for job_id, job in jobs.items() if job["status"] == "failed" and job["result_available"])
    run.running.eventually(lambda: not run.secrets.hits_below(run.data), seconds=10, pause=0.1)
    assert run.shown.hits_below(run.data), "a search that works finds the metadata of jobs that are kept"
    assert run.drain() == 0
    assert run.secrets.hits_below(run.data) == []
    run.learn_signatures()
    log = run.running.log.read_bytes()
    documents = [("the log", log), *run.said, *run.sent(), *run.commands]
    assert [hit for name, document in documents for hit in run.secrets.hits(name, document)] == []
    given_back = {name.partition(" ")[0] for name, document in documents if run.shown.hits(name, document)}
    assert given_back >= {"GET", "PUT", "POST"}, "a search that works finds the metadata in jobs, results and events"
    check_lines(log.decode(), style)
    check_course(log.decode())


def check_lines(log: str, style: str) -> None:
    """Each line is one of the log's, and nothing was written past it."""
    for line in log.removesuffix("\n").split("\n"):
        if style == "console":
            assert _CONSOLE_LINE.fullmatch(line), line
            continue
        fields = json.loads(line).keys()
        assert fields >= _JSON_FIELDS, line
        assert fields <= _JSON_FIELDS | _MORE_JSON_FIELDS, line


def check_course(log: str) -> None:
    """What was to be provoked has been."""
    for wanted in (
        *("Too many open files", "can't be written (no such table", "DEBUG", "Invalid HTTP request received."),
        *("jobs restored", "Header format invalid!", "Failed to export", "The cause:", "Traceback (most recent"),
        *("❌ All 2 upload attempts failed", "❌ All 2 download attempts failed", "❌ All 2 webhook attempts failed"),
        *("next round of upload attempts", "goes back to the queue", "Messages of the decoder", "cancelled"),
    ):
        assert wanted in log, wanted


# Starts that are refused.


def refused_start(folder: Path, **settings: str) -> bytes:
    """All that the program says before it ends."""
    with program(folder, **settings) as running:
        assert running.ends_with(60) == 1
    return running.log.read_bytes()


def test_settings_that_are_wrong_are_refused_without_the_secrets_in_them(tmp_path: Path) -> None:
    secrets = Secrets()
    secret = secrets.make
    said = refused_start(
        tmp_path,
        API_KEYS=f"{secret('key')},bob:{secret('key')} {secret('key')}",
        METRICS_KEY=f"name:other:{secret('key')}",
        WEBHOOK_SECRET=f"whsec_{secret('webhook')}!",
        URL_ALLOWED_HOSTS=f"https://user:{secret('password')}@127.0.0.1/key?token={secret('token')}",
        FORWARDED_ALLOW_IPS=f"http://user:{secret('password')}@127.0.0.1",
    )
    assert said.count(b": correct it in the environment") == 5
    assert secrets.hits("what was said", said) == []


@pytest.mark.parametrize("style", ["json", "console"])
def test_journal_that_is_not_understood_is_refused_without_the_secrets_in_it(tmp_path: Path, style: str) -> None:
    secrets = Secrets()
    with in_journal(tmp_path / "data") as journal:
        asyncio.run(journal.write(a_job_with(secrets)))
    with closing(sqlite3.connect(tmp_path / "data" / "journal.sqlite3")) as database:
        database.execute("UPDATE jobs SET job = json_remove(job, '$.upload.rendering')")
        database.commit()
    assert secrets.hits_below(tmp_path / "data")
    said = refused_start(tmp_path, DATA_DIR="data", LOG_FORMAT=style, LOG_LEVEL="DEBUG")
    assert b"a job in it is not understood" in said
    assert secrets.hits("what was said", said) == []


# The journal's log when a process did not come to its end.


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
    return a_job(upload=Upload(url=url, headers=headers, rendering=Rendering()))


def without_upload(job: Job) -> Job:
    return replace(job, upload=job.upload and job.upload.erased())


def test_what_was_erased_just_before_a_crash_is_gone_soon_after_the_next_start(tmp_path: Path) -> None:
    secrets = Secrets()
    job, forgotten = a_job_with(secrets), a_job_with(secrets)
    with in_journal(tmp_path / "before") as journal:
        for one in (job, forgotten):
            asyncio.run(journal.write(one))
        asyncio.run(journal.write(without_upload(job)))
        asyncio.run(journal.delete(forgotten.id))
        shutil.copytree(tmp_path / "before", tmp_path / "after")  # what a crash leaves
    assert secrets.hits_below(tmp_path / "after")
    with in_journal(tmp_path / "after"):  # where nothing is written any more
        asyncio.run(eventually(lambda: not secrets.hits_below(tmp_path / "after"), seconds=10))


def test_what_a_full_disk_refused_is_soon_in_none_of_the_files(tmp_path: Path) -> None:
    secrets = Secrets()
    refused = replace(a_job_with(secrets), metadata={"a": "b" * 100_000})
    with small_disk(tmp_path / "small", size="1m") as disk, in_journal(disk) as journal:
        with filled(disk, leaving=8192), pytest.raises(DiskFull):
            asyncio.run(journal.write(refused))
        asyncio.run(eventually(lambda: not secrets.hits_below(disk), seconds=10))
