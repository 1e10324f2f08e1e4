"""What is on the disk when something is promised, seen from the kernel: a loss of power in between undoes nothing."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from tests.faults.findings import settled
from tests.faults.receiver import receiver
from tests.faults.tracing import Call, Trace, has_ended, traced
from tests.support.program import PROGRAM, program

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.full(reason="runs the service under strace")


class Seen:
    """The trace of a service with one job, whose folder did not exist before."""

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

    def written_down(self, what: str, *, after: Call) -> Call:
        """The row of a job, on its way into the journal."""
        return self.trace.first("pwrite64", f"{_of(self.log)}.*{what}", after=after)


def _of(path: Path) -> str:
    """The descriptor of that file."""
    return rf"^\d+<{re.escape(str(path))}>"


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory, samples: Path) -> Seen:
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
    return Seen(Trace(path), data, job_id)


def check_order(*calls: Call) -> None:
    """Each had ended, well, before the next one began."""
    for call in calls:
        assert not re.search(r"= -1 (?!EINPROGRESS)", call.text), call
    for before, after in pairwise(calls):
        assert before.ended < after.begun, (before, after)


def test_client_is_answered_when_the_audio_its_name_and_the_job_are_on_the_disk(seen: Seen) -> None:
    partial = seen.folder / "audio.partial"
    written = seen.last_write(partial)
    renamed = seen.renamed(partial, "audio")
    row = seen.written_down(seen.job_id, after=renamed)
    answered = seen.trace.first("sendto", rf'"job_id.{{5}}{seen.job_id}.*in_progress', after=row)
    for folder in (seen.folder, seen.data / "jobs"):
        check_order(written, seen.synced(partial, after=written), renamed, seen.synced(folder, after=renamed), row)
    check_order(row, seen.synced(seen.log, after=row), answered)


def test_upload_begins_when_the_result_its_name_and_its_commit_are_on_the_disk(seen: Seen) -> None:
    partial = seen.folder / "result.partial"
    written = seen.last_write(partial)
    renamed = seen.renamed(partial, "result.json")
    folder_synced = seen.synced(seen.folder, after=renamed)
    row = seen.written_down(r"has_result\\?\":true", after=folder_synced)
    connected = seen.trace.first("connect", "sin_port", after=row)
    sent = seen.trace.first("sendto", '"PUT /result', after=connected)
    check_order(written, seen.synced(partial, after=written), renamed, folder_synced, row)
    check_order(row, seen.synced(seen.log, after=row), connected, sent)


def test_audio_is_removed_when_the_result_is_committed(seen: Seen) -> None:
    row = seen.written_down(r"has_result\\?\":true", after=seen.renamed(seen.folder / "result.partial", "result.json"))
    removed = seen.trace.first("unlink", f'"{seen.folder / "audio"}"')
    check_order(row, seen.synced(seen.log, after=row), removed)


def test_log_of_the_journal_is_emptied_when_its_content_is_on_the_disk_elsewhere(seen: Seen) -> None:
    (first, *_) = seen.trace.all("ftruncate", f"{_of(seen.log)}, 0")
    database = seen.data / "journal.sqlite3"
    moved = [call for call in seen.trace.all("pwrite64", _of(database)) if call.begun < first.begun][-1]
    check_order(moved, seen.synced(database, after=moved), first)


def test_folders_are_on_the_disk_before_anything_is_accepted(seen: Seen) -> None:
    received = seen.trace.first("openat", f'"{seen.folder / "audio.partial"}"')
    for folder in (seen.data.parent, seen.data, seen.data / "jobs"):
        made = seen.trace.first("mkdir", f'"{folder}"')
        check_order(made, seen.synced(folder.parent, after=made), received)
