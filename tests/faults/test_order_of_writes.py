"""The order of writes, syncs and responses, traced in the kernel: nothing is promised before it is durable."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from tests.faults.final_state import settled
from tests.faults.receiver import receiver
from tests.faults.strace import Call, Trace, has_ended, traced
from tests.support.program import PROGRAM, program

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.full(reason="runs the service under strace")


class JobTrace:
    """The trace of a service that started in a new folder and processed one job."""

    def __init__(self, trace: Trace, data: Path, job_id: str) -> None:
        self.trace = trace
        self.data = data
        self.job_id = job_id
        self.folder = data / "jobs" / job_id
        self.log = data / "journal.sqlite3-wal"

    def last_write(self, path: Path) -> Call:
        return self.trace.all("write pwrite64", _of(path))[-1]

    def renamed(self, path: Path, name: str) -> Call:
        return self.trace.first("rename renameat renameat2", f'"{path}".*"{path.with_name(name)}"')

    def synced(self, path: Path, *, after: Call) -> Call:
        return self.trace.first("fsync fdatasync", _of(path), after=after)

    def journalled(self, text: str, *, after: Call) -> Call:
        """Return the write of a row with this text to the journal's log."""
        return self.trace.first("pwrite64", f"{_of(self.log)}.*{text}", after=after)


def _of(path: Path) -> str:
    """Return a pattern for a descriptor of this file."""
    return rf"^\d+<{re.escape(str(path))}>"


@pytest.fixture(scope="module")
def job_trace(tmp_path_factory: pytest.TempPathFactory, samples: Path) -> JobTrace:
    folder = tmp_path_factory.mktemp("traced")
    path, data = folder / "trace", folder / "new" / "data"
    with (
        receiver(samples) as store,
        program(folder, traced(PROGRAM, path), DATA_DIR=str(data), SPOOL_MIN_FREE_BYTES="0") as running,
    ):
        running.until_ready()
        job_id = running.submit(samples / "hello.wav", upload_presigned_url=store.url("/result"))
        settled(running)
        assert running.stop() == 0
        running.eventually(lambda: has_ended(path, running.process.pid))
    return JobTrace(Trace(path), data, job_id)


def check_order(*calls: Call) -> None:
    """Check that each call succeeded and ended before the next one began."""
    for call in calls:
        assert not re.search(r"= -1 (?!EINPROGRESS)", call.text), call
    for before, after in pairwise(calls):
        assert before.ended < after.begun, (before, after)


def test_response_follows_the_sync_of_audio_folders_and_journal(job_trace: JobTrace) -> None:
    partial = job_trace.folder / "audio.partial"
    written = job_trace.last_write(partial)
    renamed = job_trace.renamed(partial, "audio")
    row = job_trace.journalled(job_trace.job_id, after=renamed)
    answered = job_trace.trace.first("sendto", rf'"job_id.{{5}}{job_trace.job_id}.*in_progress', after=row)
    for folder in (job_trace.folder, job_trace.data / "jobs"):
        check_order(
            written, job_trace.synced(partial, after=written), renamed, job_trace.synced(folder, after=renamed), row
        )
    check_order(row, job_trace.synced(job_trace.log, after=row), answered)


def test_delivery_follows_the_sync_of_result_folder_and_journal(job_trace: JobTrace) -> None:
    partial = job_trace.folder / "result.partial"
    written = job_trace.last_write(partial)
    renamed = job_trace.renamed(partial, "result.json")
    folder_synced = job_trace.synced(job_trace.folder, after=renamed)
    row = job_trace.journalled(r"has_result\\?\":true", after=folder_synced)
    connected = job_trace.trace.first("connect", "sin_port", after=row)
    sent = job_trace.trace.first("sendto", '"PUT /result', after=connected)
    check_order(written, job_trace.synced(partial, after=written), renamed, folder_synced, row)
    check_order(row, job_trace.synced(job_trace.log, after=row), connected, sent)


def test_audio_is_removed_after_the_result_is_committed(job_trace: JobTrace) -> None:
    row = job_trace.journalled(
        r"has_result\\?\":true", after=job_trace.renamed(job_trace.folder / "result.partial", "result.json")
    )
    removed = job_trace.trace.first("unlink", f'"{job_trace.folder / "audio"}"')
    check_order(row, job_trace.synced(job_trace.log, after=row), removed)


def test_journal_log_is_truncated_after_the_database_is_synced(job_trace: JobTrace) -> None:
    (first, *_) = job_trace.trace.all("ftruncate", f"{_of(job_trace.log)}, 0")
    database = job_trace.data / "journal.sqlite3"
    moved = [call for call in job_trace.trace.all("pwrite64", _of(database)) if call.begun < first.begun][-1]
    check_order(moved, job_trace.synced(database, after=moved), first)


def test_folders_are_synced_before_audio_is_received(job_trace: JobTrace) -> None:
    received = job_trace.trace.first("openat", f'"{job_trace.folder / "audio.partial"}"')
    for folder in (job_trace.data.parent, job_trace.data, job_trace.data / "jobs"):
        made = job_trace.trace.first("mkdir", f'"{folder}"')
        check_order(made, job_trace.synced(folder.parent, after=made), received)
