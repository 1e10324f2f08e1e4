"""The journal: durability through a crash and a full disk, and the erasure of secrets."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import threading
import types
from collections.abc import Mapping
from contextlib import closing, contextmanager
from dataclasses import is_dataclass, replace
from enum import Enum
from typing import TYPE_CHECKING, Any, Final, Union, get_args, get_origin, get_type_hints

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.domain.errors import DiskFull, JournalFailed, ServiceError
from app.domain.formats import ResponseFormat
from app.domain.job import Delivery, Job, JobStatus, Upload, Webhook
from app.domain.usage import Usage, UsageKey
from app.jobs.journal import Journal
from tests.domain.strategies import NUMBERS, TEXTS
from tests.jobs.rig import a_job
from tests.support.disks import filled, small_disk
from tests.support.service_clock import FakeServiceClock
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

SECRET: Final = "X-Amz-Signature=0123456789abcdef"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.sqlite3"


@contextmanager
def opened(path: Path, service_clock: FakeServiceClock | None = None) -> Iterator[tuple[Journal, list[Job]]]:
    """Open a journal and yield it with the jobs that it had."""
    journal = Journal(path, service_clock or FakeServiceClock())
    found = list(journal.open())
    try:
        yield journal, found
    finally:
        journal.close()


def found_in(path: Path) -> list[Job]:
    with opened(path) as (_, jobs):
        return jobs


def write(journal: Journal, *jobs: Job) -> None:
    async def all_of_them() -> None:
        for job in jobs:
            await journal.write(job)

    asyncio.run(all_of_them())


def delete(journal: Journal, job_id: str) -> None:
    asyncio.run(journal.delete(job_id))


def refusal(path: Path) -> str:
    """Return the message with which the journal is rejected."""
    with pytest.raises(ServiceError) as caught:
        Journal(path, FakeServiceClock()).open()
    return str(caught.value)


def stored_bytes(folder: Path) -> bytes:
    return b"".join(file.read_bytes() for file in folder.iterdir() if file.is_file())


@pytest.fixture
def journal(path: Path) -> Iterator[Journal]:
    journal = Journal(path, FakeServiceClock())
    yield journal
    journal.close()


def test_new_journal_holds_no_jobs(journal: Journal) -> None:
    assert list(journal.open()) == []


def test_writes_and_deletes_are_accepted_in_any_order(journal: Journal) -> None:
    async def use() -> None:
        job = a_job()
        await journal.delete(job.id)
        await journal.write(job)
        await journal.write(job.moved_to(JobStatus.PROCESSING, at=1.0))
        await asyncio.gather(*(journal.write(a_job()) for _ in range(20)), journal.save_service_clock())
        await journal.delete(job.id)

    journal.open()
    asyncio.run(use())


def test_journal_may_be_closed_twice_and_before_it_was_opened(journal: Journal) -> None:
    journal.close()
    journal.open()
    journal.close()
    journal.close()


# Usage.

USED: Final = (UsageKey(day=20_000, owner="f00d", model="small"), Usage(61.5, 1))


def test_usage_is_added_up_and_survives_a_restart(path: Path) -> None:
    other = replace(USED[0], model="tiny")
    with opened(path) as (journal, _):
        assert list(journal.usage) == []
        asyncio.run(journal.write(a_job(), USED))
        journal.add_usage(*USED)
        journal.add_usage(other, Usage(2.5, 1))
    with opened(path) as (journal, jobs):
        assert len(jobs) == 1
        assert dict(journal.usage) == {USED[0]: Usage(123.0, 2), other: Usage(2.5, 1)}


def test_usage_is_committed_together_with_its_job(path: Path) -> None:
    with opened(path) as (journal, _):
        job = a_job()
        write(journal, job)
        before = journal.transactions
        asyncio.run(journal.write(replace(job, starts=1), USED))
        assert journal.transactions == before + 1


def test_usage_after_the_end_is_ignored(path: Path) -> None:
    with opened(path) as (journal, _):
        pass
    journal.add_usage(*USED)
    with opened(path) as (journal, _):
        assert list(journal.usage) == []


def test_usage_that_cannot_be_written_is_logged(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with opened(path) as (journal, _):
        assert journal._connection is not None
        journal._connection.execute("DROP TABLE usage")
        journal.add_usage(*USED)
    assert "The usage of a request was not recorded: The journal" in caplog.text


def test_journal_without_usage_gets_the_table(path: Path) -> None:
    with opened(path) as (journal, _):
        write(journal, a_job())
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("DROP TABLE usage")
    with opened(path) as (journal, jobs):
        assert len(jobs) == 1
        journal.add_usage(*USED)
    with opened(path) as (journal, _):
        assert dict(journal.usage) == dict([USED])


# Stored values.


def strategy_of(hint: Any) -> st.SearchStrategy[Any]:
    """Return a strategy for the values of a field of this type."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return st.one_of([strategy_of(argument) for argument in arguments])
    if origin is tuple and arguments[-1] is Ellipsis:
        return st.lists(strategy_of(arguments[0]), max_size=3).map(tuple)
    if origin is tuple:
        return st.tuples(*map(strategy_of, arguments))
    if origin is frozenset:
        return st.frozensets(strategy_of(arguments[0]))
    if origin is Mapping:
        return st.dictionaries(strategy_of(arguments[0]), strategy_of(arguments[1]), max_size=3)
    if is_dataclass(hint):
        assert isinstance(hint, type)
        return st.builds(hint, **{name: strategy_of(of) for name, of in get_type_hints(hint).items()})
    if isinstance(hint, type) and issubclass(hint, Enum):
        return st.sampled_from(hint)
    return LEAVES[hint]


LEAVES: Final[dict[Any, st.SearchStrategy[Any]]] = {
    str: TEXTS,
    float: NUMBERS,
    int: st.integers(min_value=-(2**40), max_value=2**40),
    bool: st.booleans(),
    type(None): st.none(),
}


@settings(deadline=None, max_examples=12)
@given(st.lists(strategy_of(Job), min_size=1, max_size=8, unique_by=lambda job: job.id))
def test_every_field_of_every_job_comes_back_as_it_was(
    tmp_path_factory: pytest.TempPathFactory, jobs: list[Job]
) -> None:
    path = tmp_path_factory.mktemp("journal") / "journal.sqlite3"
    with opened(path) as (journal, _):
        write(journal, *jobs)
    found = found_in(path)
    assert found == jobs
    assert [job.revision for job in found] == [job.revision for job in jobs]  # which the comparison leaves out


def test_jobs_come_back_in_the_order_of_acceptance(path: Path) -> None:
    jobs = [a_job() for _ in range(5)]
    with opened(path) as (journal, _):
        write(journal, *jobs)
        write(journal, *(replace(job, language="english") for job in reversed(jobs)))
    found = found_in(path)
    assert [job.id for job in found] == [job.id for job in jobs]
    assert {job.language for job in found} == {"english"}


def test_deleted_job_is_gone_and_the_others_stay(path: Path) -> None:
    jobs = [a_job() for _ in range(3)]
    with opened(path) as (journal, _):
        write(journal, *jobs)
        delete(journal, jobs[1].id)
        delete(journal, "one that never was")
    assert found_in(path) == [jobs[0], jobs[2]]


def test_acknowledged_changes_survive_a_crash(path: Path, tmp_path: Path) -> None:
    """The files as they are while the journal is open, without anything that closing does."""
    jobs = [a_job(uploads=(Upload(url="https://b.example/k", format=ResponseFormat.JSON),)) for _ in range(20)]
    crashed = tmp_path / "crashed"
    with opened(path, FakeServiceClock(41.0)) as (journal, _):
        write(journal, *jobs)
        delete(journal, jobs[0].id)
        crashed.mkdir()
        for file in tmp_path.glob("journal.*"):
            shutil.copy(file, crashed)
    service_clock = FakeServiceClock()
    with opened(crashed / path.name, service_clock) as (_, found):
        assert found == jobs[1:]
        assert service_clock.seconds == 41.0


def test_restored_journal_is_made_private_again(path: Path) -> None:
    with opened(path):
        pass
    path.chmod(0o644)
    with opened(path) as (journal, _):
        write(journal, a_job())
        assert {file.name: file.stat().st_mode & 0o777 for file in path.parent.glob(f"{path.name}*")} == {
            f"{path.name}{ending}": 0o600 for ending in ("", "-wal", "-shm")
        }


def test_service_clock_continues_where_it_stopped(path: Path) -> None:
    with opened(path, FakeServiceClock(100.0)) as (journal, _):
        asyncio.run(journal.save_service_clock())
    service_clock = FakeServiceClock()
    with opened(path, service_clock) as (journal, _):
        assert service_clock.seconds == 100.0
        service_clock.advance(50.0)
        write(journal, a_job())  # every commit saves the clock
        service_clock.advance(7.0)  # and so does closing
    service_clock = FakeServiceClock()
    with opened(path, service_clock):
        assert service_clock.seconds == 157.0


# Transactions.


def test_concurrent_writes_share_transactions(path: Path) -> None:
    jobs = [a_job() for _ in range(200)]

    async def all_at_once(journal: Journal) -> None:
        await asyncio.gather(*(journal.write(job) for job in jobs))

    with opened(path) as (journal, _):
        asyncio.run(all_at_once(journal))
        assert 1 <= journal.transactions <= 50
    assert {job.id for job in found_in(path)} == {job.id for job in jobs}


def test_concurrent_changes_of_one_job_stay_in_order(path: Path) -> None:
    job = a_job()

    async def all_at_once(journal: Journal) -> None:
        await asyncio.gather(*(journal.write(replace(job, starts=number)) for number in range(50)))

    with opened(path) as (journal, _):
        asyncio.run(all_at_once(journal))
    assert [found.starts for found in found_in(path)] == [49]


def test_journal_is_readable_by_its_owner_only(path: Path, tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        with opened(path) as (journal, _):
            write(journal, a_job())
            modes = {file.name: file.stat().st_mode & 0o777 for file in tmp_path.glob("journal.*")}
    finally:
        os.umask(before)
    assert modes == {"journal.sqlite3": 0o600, "journal.sqlite3-wal": 0o600, "journal.sqlite3-shm": 0o600}


def test_commits_are_synced_and_deleted_content_is_overwritten(path: Path) -> None:
    with opened(path) as (journal, _):
        connection = journal._connection
        assert connection is not None
        assert connection.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert connection.execute("PRAGMA secure_delete").fetchone() == (1,)


# Rejected files and changes.


def test_journal_of_a_later_version_is_left_alone(path: Path) -> None:
    job = a_job()
    with opened(path) as (journal, _):
        write(journal, job)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version=4")
    assert refusal(path) == (
        f"The journal {path} was written by a later version of this service: start that version, or use another "
        "DATA_DIR."
    )
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT count(*) FROM jobs").fetchone() == (1,)
        connection.execute("PRAGMA user_version=3")
    assert found_in(path) == [job]


def a_text_file(path: Path) -> None:
    path.write_text("This is no database. " * 500)


def a_damaged_file(path: Path) -> None:
    with opened(path) as (journal, _):
        write(journal, *(a_job() for _ in range(50)))
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * 12_288)


def a_folder(path: Path) -> None:
    path.mkdir()


def another_database(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE jobs (name TEXT)")


@pytest.mark.parametrize("make", [a_text_file, a_damaged_file, a_folder, another_database])
def test_invalid_journal_file_is_rejected_in_one_sentence(path: Path, make: Callable[[Path], None]) -> None:
    make(path)
    threads = threading.active_count()
    sentence = refusal(path)
    assert sentence.startswith(f"The journal {path} can't be read (")
    assert sentence.endswith("replace it by a backup of DATA_DIR, or move the folder away to start without its jobs.")
    assert "\n" not in sentence
    assert threading.active_count() == threads


@pytest.mark.parametrize(
    "row",
    [
        "no JSON at all",
        "{}",
        '{"id": "1", "accepted_at": "yesterday", "source_url": "https://b.example/?' + SECRET + '"}',
        "[]",
    ],
)
def test_invalid_row_is_rejected_without_quoting_it(path: Path, row: str) -> None:
    with opened(path):
        pass
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("INSERT INTO jobs (id, job) VALUES ('1', ?)", (row,))
    sentence = refusal(path)
    assert "it has an invalid job" in sentence
    assert SECRET not in sentence
    assert "\n" not in sentence


def test_closed_journal_rejects_changes(path: Path) -> None:
    journal = Journal(path, FakeServiceClock())
    with pytest.raises(JournalFailed, match="closed"):
        write(journal, a_job())
    journal.open()
    journal.close()
    with pytest.raises(JournalFailed, match="closed"):
        write(journal, a_job())
    with pytest.raises(JournalFailed, match="closed"):
        delete(journal, "1")
    with pytest.raises(JournalFailed, match="closed"):
        asyncio.run(journal.save_service_clock())


@pytest.mark.anyio
async def test_changes_during_the_close_are_rejected_and_earlier_ones_written(path: Path) -> None:
    journal = Journal(path, FakeServiceClock())
    await asyncio.to_thread(journal.open)
    before = [a_job() for _ in range(3)]
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")  # from here on the writer waits
        writing = [asyncio.create_task(journal.write(job)) for job in before]
        await asyncio.sleep(0)
        closed = asyncio.create_task(asyncio.to_thread(journal.close))
        await eventually(lambda: journal._writer is None)
        try:
            with pytest.raises(JournalFailed, match="closed"):
                async with asyncio.timeout(60):
                    await journal.write(a_job())
        finally:
            other.execute("ROLLBACK")
    async with asyncio.timeout(60):
        await asyncio.gather(*writing, closed)
    assert await asyncio.to_thread(found_in, path) == before


def test_permanent_error_is_a_journal_failure(path: Path) -> None:
    with opened(path) as (journal, _):
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("ALTER TABLE jobs RENAME TO others")
        with pytest.raises(JournalFailed, match=r"can't be written \(no such table: .*\): check the disk"):
            write(journal, a_job())
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("ALTER TABLE others RENAME TO jobs")
        job = a_job()
        write(journal, job)
    assert found_in(path) == [job]


# Erased secrets.


def a_secretive_job(size: int) -> Job:
    """Return a job with secrets of ``size`` characters in every field that can have some."""
    secret = f"https://b.example/k?{SECRET * (1 + size // len(SECRET))}"
    return a_job(
        source_url=secret,
        uploads=(Upload(url=secret, headers=(("x-amz-meta", secret),), format=ResponseFormat.JSON),),
        webhook=Webhook(url=secret),
        delivery=Delivery(),
    )


def without_secrets(job: Job) -> Job:
    return replace(job.without_upload_urls(), source_url="", webhook=Webhook(url=""))


def test_erased_secret_is_soon_gone_from_all_files(path: Path, tmp_path: Path) -> None:
    jobs = [a_secretive_job(size) for size in (100, 1000, 5000, 20_000, 20_000)]
    with opened(path) as (journal, _):
        write(journal, *jobs)
        assert SECRET.encode() in stored_bytes(tmp_path)
        write(journal, *map(without_secrets, jobs[:4]))
        delete(journal, jobs[4].id)
        asyncio.run(eventually(lambda: SECRET.encode() not in stored_bytes(tmp_path)))
    assert SECRET.encode() not in stored_bytes(tmp_path)
    assert found_in(path) == list(map(without_secrets, jobs[:4]))


def test_closed_journal_has_no_erased_secrets_in_its_files(path: Path, tmp_path: Path) -> None:
    jobs = [a_secretive_job(1000) for _ in range(20)]
    with opened(path) as (journal, _):
        write(journal, *jobs)
        write(journal, *map(without_secrets, jobs))
        assert SECRET.encode() in stored_bytes(tmp_path)
    assert SECRET.encode() not in stored_bytes(tmp_path)
    assert [file.name for file in tmp_path.glob("journal.*")] == [path.name]


# A full disk.


@pytest.mark.parametrize("size", ["192k", "1m"])
def test_writes_continue_once_a_full_disk_has_space(tmp_path: Path, size: str) -> None:
    with small_disk(tmp_path / "small", size=size) as disk:
        path = disk / "journal.sqlite3"
        job = a_job()
        with opened(path) as (journal, _):
            write(journal, job)
            refused = 0
            with filled(disk):
                for number in range(20):  # the log may have room for a few
                    larger = replace(job, starts=number + 1, metadata={"a": "b" * 2000})
                    try:
                        write(journal, larger)
                        job = larger
                    except DiskFull:
                        refused += 1
            assert refused
            later = a_job()
            write(journal, later)
        assert found_in(path) == [job, later]


def test_journal_can_not_be_created_on_a_full_disk(tmp_path: Path) -> None:
    with small_disk(tmp_path / "small", size="64k") as disk, filled(disk):
        assert refusal(disk / "journal.sqlite3").startswith(f"The journal {disk / 'journal.sqlite3'} can't be read (")
