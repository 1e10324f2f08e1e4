"""The space for audio: a budget for all jobs, and free space that must be left on the disk."""

from __future__ import annotations

import asyncio
import os
import threading
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.errors import DiskFull
from app.domain.job import JobStatus
from app.jobs.space import Space
from app.jobs.spool import Spool
from tests.domain.strategies import unhurried
from tests.jobs.rig import open_rig
from tests.support.disks import small_disk
from tests.support.fault_server import fault_server, response_head

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.fault_server import Connection


STEPS = st.sampled_from(["claim", "settle", "release"])


def free_bytes(folder: Path) -> int:
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize


def refused(
    space: Space, job_id: str, size: int, *, because: str = "holds as much audio as SPOOL_MAX_BYTES="
) -> DiskFull:
    with pytest.raises(DiskFull, match=because) as caught:
        space.claim(job_id, size)
    return caught.value


def refused_by_the_disk(space: Space, job_id: str, size: int) -> DiskFull:
    return refused(space, job_id, size, because="has no disk space left")


# The budget.


def test_claims_of_all_jobs_share_one_budget(tmp_path: Path) -> None:
    space = Space(tmp_path, max_bytes=100)
    space.claim("a", 60)
    space.claim("b", 40)
    refused(space, "c", 1)
    assert space.claimed == 100


def test_rejected_claim_reserves_nothing(tmp_path: Path) -> None:
    space = Space(tmp_path, max_bytes=100)
    space.claim("a", 60)
    refused(space, "b", 41)
    refused(space, "a", 101)
    assert space.claimed == 60
    space.claim("b", 40)


def test_growing_claim_reserves_the_difference(tmp_path: Path) -> None:
    space = Space(tmp_path, max_bytes=100)
    for size in (30, 70, 100, 50):
        space.claim("a", size)
    assert space.claimed == 100
    refused(space, "b", 1)


def test_settled_and_released_claims_make_room(tmp_path: Path) -> None:
    space = Space(tmp_path, max_bytes=100)
    space.claim("a", 100)
    space.settle("a", 30)
    space.claim("b", 70)
    space.release("a")
    space.release("one that never was")
    assert space.claimed == 70
    space.claim("c", 30)


def test_announced_size_keeps_no_other_out(tmp_path: Path) -> None:
    mib = 1024 * 1024
    space = Space(tmp_path, max_bytes=10 * mib)
    for job in "abcde":
        space.announce(job, 5 * mib)
    assert space.claimed == 5 * mib
    space.claim("a", 5 * mib)  # as it comes
    assert space.claimed == 9 * mib
    space.announce("f", 100)
    assert space.claimed == 9 * mib + 100


def test_announced_size_must_fit_now(tmp_path: Path) -> None:
    space = Space(tmp_path, max_bytes=100)
    space.claim("a", 60)
    with pytest.raises(DiskFull):
        space.announce("b", 41)
    assert space.claimed == 60
    space.announce("b", 40)
    space.announce("a", 10)
    assert space.claimed == 100


def test_budget_of_zero_is_no_limit(tmp_path: Path) -> None:
    space = Space(tmp_path)
    space.claim("a", free_bytes(tmp_path) // 2)
    assert space.claimed > 0


@unhurried
@given(
    st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from(["claim", "settle", "release"]), st.integers(0, 60)))
)
def test_claims_are_rejected_only_beyond_the_budget(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, str, int]]
) -> None:
    space = Space(tmp_path_factory.getbasetemp(), max_bytes=100)
    claimed: dict[str, int] = {}
    for job_id, step, size in steps:
        if step == "release":
            space.release(job_id)
            claimed.pop(job_id, None)
        elif step == "settle":
            size = min(size, claimed.get(job_id, 0))
            space.settle(job_id, size)
            claimed[job_id] = size
        elif sum((claimed | {job_id: max(size, claimed.get(job_id, 0))}).values()) > 100:
            refused(space, job_id, size)
        else:
            space.claim(job_id, size)
            claimed[job_id] = max(size, claimed.get(job_id, 0))
        assert space.claimed == sum(claimed.values()) <= 100


def test_concurrent_claims_stay_within_the_budget(tmp_path: Path) -> None:
    space = Space(tmp_path, max_bytes=1000)
    won: list[str] = []
    begin = threading.Barrier(20)

    def claim(number: int) -> None:
        begin.wait()
        for turn in range(10):
            try:
                space.claim(f"{number}-{turn}", 30)
            except DiskFull:
                continue
            won.append(f"{number}-{turn}")

    threads = [threading.Thread(target=claim, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 33
    assert space.claimed == 990


# What must stay free.


def test_free_space_is_kept_beyond_unwritten_claims(tmp_path: Path) -> None:
    with small_disk(tmp_path / "small", size="1m") as disk:
        space = Space(disk, min_free_bytes=100_000)
        free = free_bytes(disk)
        space.claim("a", free - 300_000)
        refused_by_the_disk(space, "b", 200_001)  # nothing of the first has come yet
        space.claim("b", 200_000)
        refused_by_the_disk(space, "c", 1)


def test_written_bytes_are_not_counted_twice(tmp_path: Path) -> None:
    with small_disk(tmp_path / "small", size="1m") as disk:
        space = Space(disk, min_free_bytes=100_000)
        space.claim("a", 500_000)
        (disk / "a").write_bytes(bytes(500_000))
        space.written("a", 500_000)
        room = free_bytes(disk) - 100_000
        assert room > 300_000
        refused_by_the_disk(space, "b", room + 1)
        space.claim("b", room)


def test_disk_filled_by_others_rejects_claims(tmp_path: Path) -> None:
    with small_disk(tmp_path / "small", size="1m") as disk:
        space = Space(disk, min_free_bytes=100_000)
        space.claim("a", 1000)
        others = disk / "others"
        others.write_bytes(bytes(free_bytes(disk) - 50_000))
        refused_by_the_disk(space, "b", 0)
        others.unlink()
        space.claim("b", 1000)


# When there may be room again.


def test_retry_after_is_when_the_next_job_will_be_done(tmp_path: Path) -> None:
    space = Space(tmp_path, max_bytes=100, next_free_seconds=lambda: 7.2)
    assert refused(space, "a", 101).retry_after_seconds == 60  # no job is there that could make room
    space.claim("a", 100)
    assert refused(space, "b", 1).retry_after_seconds == 8


@pytest.mark.parametrize(("seconds", "expected"), [(0.0, 1), (0.001, 1), (119.5, 120), (1e9, 120)])
def test_retry_after_of_a_full_spool_is_1_to_120_seconds(tmp_path: Path, seconds: float, expected: int) -> None:
    space = Space(tmp_path, max_bytes=1, next_free_seconds=lambda: seconds)
    space.claim("a", 1)
    assert refused(space, "b", 1).retry_after_seconds == expected


# The spool's files.


def test_arriving_audio_claims_its_size(tmp_path: Path) -> None:
    spool = Spool(tmp_path, Space(tmp_path, max_bytes=100))
    spool.open()
    file = spool.create_audio("a")
    file.write(bytes(40))
    file.write(bytes(20))
    assert spool.space.claimed == 60
    with pytest.raises(DiskFull):
        file.write(bytes(41))
    file.close()
    spool.complete_audio("a")
    assert spool.audio_path("a").stat().st_size == spool.space.claimed == 60
    spool.discard_audio("a")
    assert spool.space.claimed == 0
    spool.close()


def test_smaller_audio_releases_the_rest_of_its_claim(tmp_path: Path) -> None:
    spool = Spool(tmp_path, Space(tmp_path, max_bytes=100))
    spool.open()
    spool.space.claim("a", 100)
    file = spool.create_audio("a")
    file.write(bytes(10))
    file.close()
    assert spool.space.claimed == 100
    spool.complete_audio("a")
    assert spool.space.claimed == 10
    spool.discard("a")
    assert spool.space.claimed == 0
    spool.close()


def test_audio_of_an_earlier_process_counts(tmp_path: Path) -> None:
    job_id, other = str(uuid4()), str(uuid4())
    before = Spool(tmp_path)
    before.open()
    for one in (job_id, other):
        file = before.create_audio(one)
        file.write(bytes(30))
        file.close()
        before.complete_audio(one)
    before.close()
    spool = Spool(tmp_path, Space(tmp_path, max_bytes=100))
    spool.open()
    assert spool.sweep({job_id}) == 1
    assert spool.space.claimed == 30
    spool.close()


def put_reference(spool: Spool, job_id: str) -> None:
    file = spool.create_reference(job_id, 1)
    file.write(bytes(1000))
    file.close()
    spool.complete_references(job_id)


@pytest.mark.anyio
@pytest.mark.full(reason="waits for space")
async def test_downloads_without_room_for_both_run_one_after_another(tmp_path: Path) -> None:
    """Each has half of its audio when the budget is used up: neither keeps the other from its end.

    What came with the forms is not lost while one waits.
    """
    audio, came = bytes(2_500_000), 0
    both, one_by_one = asyncio.Event(), asyncio.Lock()

    async def behave(connection: Connection) -> None:
        nonlocal came
        await connection.read_request()
        came += 1
        head = response_head(200, {"Content-Length": str(len(audio))})
        if came > 2:
            async with one_by_one:
                await connection.send(head + audio)
                await connection.until_closed()
            return
        await connection.send(head + audio[:1_500_000])
        if came == 2:
            both.set()
        await both.wait()
        await connection.send(audio[1_500_000:])

    async with open_rig(tmp_path, file_bytes=2_500_000, spool_bytes=3_000_000) as rig, fault_server(behave) as source:
        ids = [str(uuid4()) for _ in range(2)]
        for job_id in ids:
            await asyncio.to_thread(put_reference, rig.spool, job_id)
        rig.transcriber.decoding.hold()
        jobs = [await rig.submit(id=job_id, source_url=source.url(), audio=None) for job_id in ids]
        await rig.transcriber.decoding.reached()
        for job in jobs:
            assert "reference-1" in await rig.files(job)
        rig.transcriber.decoding.release()
        assert [(await rig.ended(job)).status for job in jobs] == [JobStatus.COMPLETED] * 2
        assert rig.spool.space.claimed == 0
