"""The spool in an object store: a real S3, and a shared folder."""

from __future__ import annotations

import asyncio
import hashlib
import inspect
import os
import random
import subprocess
import sys
import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest
from local_s3 import LocalS3

from app.domain.corrections import NO_CORRECTIONS, Corrections
from app.domain.errors import AudioLost, DiskFull, ServiceError, SpoolUnavailable, UnknownJob
from app.jobs.audio import ReceivedAudio
from app.jobs.space import Space
from app.jobs.spool import Spool, SpoolInUse
from tests.support.disks import filled, small_disk
from tests.support.fake_transcriber import GREETING, WAVEFORM
from tests.support.memory import resident_mib
from tests.support.program import free_port
from tests.support.waiting import eventually

pytest.importorskip("obstore", reason="needs the extra [cluster]")

from app.cluster.object_names import KeptObjects
from app.cluster.object_store import ObjectStore
from app.cluster.objects import ObjectSpool

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

pytestmark = pytest.mark.anyio

MIB = 1024 * 1024
BUCKET = "spool"
#: A failed request is repeated for this long, instead of ten seconds.
RETRY_SECONDS = 0.5


class StoppableS3(LocalS3):
    """An S3 that can be away for a while, and has the same objects afterwards."""

    def stop(self) -> None:
        self._stop()

    def start(self) -> None:
        self.__enter__()


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StoppableS3]:
    with StoppableS3(tmp_path_factory.mktemp("s3"), port=int(free_port())) as store:
        store.create_bucket(BUCKET)
        yield store


@pytest.fixture
def s3_url(s3: StoppableS3, monkeypatch: pytest.MonkeyPatch) -> str:
    """Set the variables that the service reads in order to reach the S3, and return the URL of its bucket."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3.endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3.secret_key)
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    return f"s3://{BUCKET}"


@pytest.fixture
def s3_place(s3: StoppableS3, s3_url: str) -> Place:
    prefix = f"deployment/{uuid4().hex}"
    return Place(f"{s3_url}/{prefix}", s3.folder / BUCKET / prefix, s3)


@pytest.fixture
def folder_place(tmp_path: Path) -> Place:
    return Place(f"file://{tmp_path}/a%20shared/folder", tmp_path / "a shared" / "folder", None)


@pytest.fixture(params=["s3", "folder"])
def place(request: pytest.FixtureRequest) -> Place:
    found = request.getfixturevalue(f"{request.param}_place")
    assert isinstance(found, Place)
    return found


class Place:
    """A place for objects. ``folder`` is where its objects are files, whatever it is."""

    def __init__(self, url: str, folder: Path, s3: StoppableS3 | None) -> None:
        self.url = url
        self.folder = folder
        self.s3 = s3

    def names(self) -> list[str]:
        """Return everything that is there, files that have not arrived completely included."""
        files = [path for path in self.folder.rglob("*") if path.is_file()]
        # rclone's own files for uploads that are not complete are no objects.
        return sorted(str(path.relative_to(self.folder)) for path in files if not path.name.startswith(".rclone_"))

    def unfinished_uploads(self) -> int:
        """Return the number of uploads that were neither completed nor aborted."""
        if self.s3 is None:
            return sum("#" in name for name in self.names())
        client = self.s3.client()
        uploads = []
        with suppress(client.exceptions.NoSuchUpload):  # there has not been one since the start
            uploads = client.list_multipart_uploads(Bucket=BUCKET).get("Uploads", [])
        return sum(self.url.endswith(upload["Key"].partition("/audio/")[0]) for upload in uploads)


class Node:
    """A machine: its spool, and what the table of jobs says about them, which all nodes share."""

    def __init__(self, place: Place, scratch: Path, rows: Rows, space: Space | None = None) -> None:
        self.scratch = scratch
        self.rows = rows
        self.spool = ObjectSpool(
            place.url,
            scratch,
            space=space,
            received_audio=rows.audio.get,
            result_name=lambda job_id: rows.results.get(job_id, ""),
            corrections_name=lambda job_id: rows.corrections.get(job_id, ""),
            retry_seconds=RETRY_SECONDS,
        )

    def receive(self, content: bytes, job_id: str | None = None) -> str:
        """Receive audio as a route does, in writes of a quarter of a megabyte, and return the job's id."""
        job_id = job_id or str(uuid4())
        file = self.spool.create_audio(job_id, hashed=True)
        write(file, content)
        file.close()
        self.rows.audio[job_id] = self.spool.complete_audio(job_id)
        assert file.digest == self.rows.audio[job_id].digest
        return job_id

    def store_result(self, job_id: str, *, processing_time: float = 1.0) -> str:
        """Store a result and name it in the job's row, unless there is one."""
        name = self.spool.store_result(job_id, GREETING, processing_time=processing_time, waveform=WAVEFORM)
        self.rows.results.setdefault(job_id, name)
        return name

    def correct(self, job_id: str, corrections: Corrections) -> str:
        """Store corrections and name them in the job's row."""
        self.rows.corrections[job_id] = name = self.spool.store_corrections(job_id, corrections)
        return name

    def scratch_files(self) -> list[Path]:
        return [path for path in (self.scratch / "jobs").rglob("*") if path.is_file()]


class Rows:
    """The columns of the table of jobs that concern the spool."""

    def __init__(self) -> None:
        self.audio: dict[str, ReceivedAudio] = {}
        self.results: dict[str, str] = {}
        self.corrections: dict[str, str] = {}


def write(file: object, content: bytes) -> None:
    assert hasattr(file, "write")
    for first in range(0, len(content), 256 * 1024):
        file.write(content[first : first + 256 * 1024])


def noise(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)  # noqa: S311  # sound, not secrets


@pytest.fixture
def node(place: Place, tmp_path: Path) -> Iterator[Node]:
    node = Node(place, tmp_path / "scratch", Rows())
    node.spool.open()
    yield node
    node.spool.close()


@pytest.fixture
def other_node(place: Place, node: Node, tmp_path: Path) -> Iterator[Node]:
    other = Node(place, tmp_path / "other-scratch", node.rows)
    other.spool.open()
    yield other
    other.spool.close()


async def copied(node: Node, job_id: str) -> bytes:
    """Return what a worker reads of a job's audio."""
    async with node.spool.audio(job_id) as path:
        return await asyncio.to_thread(path.read_bytes)


def test_every_method_that_touches_files_is_its_own() -> None:
    shared = {"result", "corrections", "waveform", "audio_path"}
    methods = {name for name, _ in inspect.getmembers(Spool, inspect.isfunction) if not name.startswith("_")}
    assert {name for name in methods if name not in vars(ObjectSpool)} == shared


# Audio.


@pytest.mark.parametrize("size", [1, 8 * MIB, 20 * MIB + 5])
async def test_audio_reaches_another_node_as_it_was_received(
    node: Node, other_node: Node, place: Place, size: int
) -> None:
    content = noise(size)
    job_id = node.receive(content)
    digest = hashlib.blake2b(content, digest_size=32).hexdigest()
    assert node.rows.audio[job_id] == ReceivedAudio(size, digest)
    assert place.names() == [f"audio/{job_id}"]
    assert place.unfinished_uploads() == 0
    assert other_node.spool.has_audio(job_id)
    assert await copied(other_node, job_id) == content
    assert not node.scratch_files()
    assert not other_node.scratch_files()


async def test_copy_is_private_counted_and_removed(node: Node) -> None:
    job_id = node.receive(noise(MIB))
    assert node.spool.space.claimed == 0  # arriving audio takes no disk
    async with node.spool.audio(job_id) as path:
        assert path.stat().st_mode & 0o777 == 0o600
        assert path.parent.stat().st_mode & 0o777 == 0o700
        assert node.spool.space.claimed == MIB
        (path.parent / "audio.pcm").write_bytes(b"decoded")
    assert not path.parent.exists()
    assert node.spool.space.claimed == 0


async def test_copy_is_removed_after_a_failure(node: Node) -> None:
    job_id = node.receive(b"x")
    with pytest.raises(RuntimeError):
        async with node.spool.audio(job_id):
            raise RuntimeError
    assert not node.scratch_files()
    assert await copied(node, job_id) == b"x"


async def test_copy_is_removed_when_its_job_is_cancelled(node: Node) -> None:
    job_id = node.receive(noise(30 * MIB))

    async def work() -> None:
        async with node.spool.audio(job_id):
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await eventually(lambda: bool(node.scratch_files()))
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    assert not node.scratch_files()
    assert node.spool.space.claimed == 0


@pytest.mark.parametrize("size", [100, 20 * MIB])
def test_incomplete_audio_never_appears(node: Node, place: Place, size: int) -> None:
    job_id = str(uuid4())
    write(node.spool.create_audio(job_id), noise(size))
    assert f"audio/{job_id}" not in place.names()
    node.spool.discard(job_id)
    assert place.names() == []
    assert place.unfinished_uploads() == 0


def test_incomplete_audio_is_given_up_when_the_process_ends(node: Node, place: Place) -> None:
    write(node.spool.create_audio(str(uuid4())), noise(20 * MIB))
    assert place.unfinished_uploads() == 1
    node.spool.close()
    assert place.unfinished_uploads() == 0
    assert place.names() == []


async def test_new_audio_replaces_incomplete_audio(node: Node, place: Place) -> None:
    job_id = str(uuid4())
    write(node.spool.create_audio(job_id), noise(20 * MIB))
    node.receive(b"second", job_id)
    assert await copied(node, job_id) == b"second"
    assert place.unfinished_uploads() == 0


def test_discarded_download_can_begin_again(node: Node, place: Place) -> None:
    job_id = str(uuid4())
    write(node.spool.create_audio(job_id), noise(9 * MIB))
    node.spool.discard_partial_audio(job_id)
    assert place.unfinished_uploads() == 0
    node.receive(b"again", job_id)
    assert place.names() == [f"audio/{job_id}"]


@pytest.mark.parametrize(
    "damaged", [b"", b"trunc", b"truncated audiO", b"truncated audio and more"], ids=["empty", "short", "other", "long"]
)
async def test_damaged_audio_is_lost(node: Node, place: Place, damaged: bytes) -> None:
    job_id = node.receive(b"truncated audio")
    (place.folder / "audio" / job_id).write_bytes(damaged)
    with pytest.raises(AudioLost, match="was damaged in the object store: submit it again"):
        await copied(node, job_id)
    assert not node.scratch_files()
    assert node.spool.space.claimed == 0


async def test_missing_audio_is_lost(node: Node) -> None:
    job_id = node.receive(b"audio")
    node.spool.discard_audio(job_id)
    assert not node.spool.has_audio(job_id)
    with pytest.raises(AudioLost, match="no longer in the object store: submit it again"):
        await copied(node, job_id)
    with pytest.raises(FileNotFoundError):
        node.spool.open_audio(job_id)


async def test_audio_that_is_removed_while_it_is_opened_is_lost(folder_place: Place, tmp_path: Path) -> None:
    class Removing(Space):
        def claim(self, job_id: str, size: int) -> None:
            (folder_place.folder / "audio" / job_id).unlink()
            super().claim(job_id, size)

    node = Node(folder_place, tmp_path / "scratch", Rows(), Removing(tmp_path))
    await asyncio.to_thread(node.spool.open)
    job_id = node.receive(b"audio")
    with pytest.raises(AudioLost, match="no longer in the object store: submit it again"):
        await copied(node, job_id)
    assert not node.scratch_files()
    await asyncio.to_thread(node.spool.close)


async def test_audio_that_nobody_recorded_is_not_trusted(node: Node) -> None:
    """A download whose process died before it could record what has arrived is repeated."""
    job_id = node.receive(b"audio")
    del node.rows.audio[job_id]
    assert not node.spool.has_audio(job_id)
    with pytest.raises(AudioLost):
        await copied(node, job_id)


async def test_copy_waits_for_space_in_the_scratch_folder(folder_place: Place, tmp_path: Path) -> None:
    node = Node(folder_place, tmp_path / "scratch", Rows(), Space(tmp_path, max_bytes=100))
    await asyncio.to_thread(node.spool.open)
    first, second = node.receive(b"x" * 60), node.receive(b"x" * 60)
    async with node.spool.audio(first):
        with pytest.raises(DiskFull):
            await copied(node, second)
        assert node.spool.space.claimed == 60
    assert await copied(node, second) == b"x" * 60
    node.spool.close()


def test_scratch_folder_is_locked_and_swept_at_the_start(folder_place: Place, node: Node) -> None:
    left = node.scratch / "jobs" / str(uuid4())
    left.mkdir()
    (left / "audio").write_bytes(b"of a process that died")
    other = Node(folder_place, node.scratch, Rows())
    with pytest.raises(SpoolInUse):
        other.spool.open()
    assert left.exists()
    node.spool.close()
    other.spool.open()
    assert not left.exists()
    other.spool.close()


def test_recording_is_read_in_ranges_and_whole(node: Node) -> None:
    content = noise(3 * MIB + 7)
    job_id = node.receive(content)
    with node.spool.open_audio(job_id) as audio:
        assert audio.size == len(content)
        assert audio.read_range(0, 64) == content[:64]
        assert audio.read_range(2 * MIB - 5, 2 * MIB + 5) == content[2 * MIB - 5 : 2 * MIB + 5]
        assert audio.read_range(len(content) - 1, len(content) + 100) == content[-1:]
        pieces = list(iter(lambda: audio.read(256 * 1024), b""))
        assert b"".join(pieces) == content
        assert max(map(len, pieces)) == 256 * 1024
    with node.spool.open_audio(job_id) as again:
        assert again.read() == content
        assert again.version == audio.version
        assert '"' not in again.version


def test_recording_of_other_bytes_has_another_version(node: Node) -> None:
    first, second = node.receive(b"one recording"), node.receive(b"the other one")
    assert node.spool.open_audio(first).version != node.spool.open_audio(second).version


# References.


def test_references_are_copied_in_their_order(node: Node, other_node: Node, place: Place) -> None:
    job_id = str(uuid4())
    for number, content in enumerate((b"first", b"second", b"third"), start=1):
        file = node.spool.create_reference(job_id, number)
        file.write(content)
        file.close()
    assert place.names() == []
    node.spool.complete_references(job_id)
    node.receive(b"audio", job_id)
    assert [path.read_bytes() for path in other_node.spool.references(job_id)] == [b"first", b"second", b"third"]
    other_node.spool.discard_audio(job_id, keep_recording=True)
    assert not other_node.scratch_files()
    assert place.names() == [f"audio/{job_id}", *(f"references/{job_id}/{number}" for number in (1, 2, 3))]
    other_node.spool.discard_audio(job_id)
    assert place.names() == []


async def test_references_stay_beside_the_copy_of_the_audio(node: Node) -> None:
    job_id = node.receive(b"audio")
    node.spool.create_reference(job_id, 1).write(b"voice")
    node.spool.complete_references(job_id)
    async with node.spool.audio(job_id) as path:
        (reference,) = await asyncio.to_thread(node.spool.references, job_id)
        assert (path.read_bytes(), reference.read_bytes()) == (b"audio", b"voice")
        assert node.spool.space.claimed == len(b"audiovoice")
    assert not node.scratch_files()


def test_references_without_a_use_are_given_up(node: Node, place: Place) -> None:
    job_id = str(uuid4())
    node.spool.create_reference(job_id, 1).write(b"voice")
    node.spool.discard_references(job_id)
    node.spool.complete_references(job_id)
    assert place.names() == []
    assert node.spool.references(job_id) == ()


# Results.


def test_result_is_read_by_the_name_in_the_row(node: Node, other_node: Node) -> None:
    job_id = str(uuid4())
    assert not node.spool.has_result(job_id)
    with pytest.raises(FileNotFoundError):
        node.spool.result(job_id)
    assert node.spool.waveform(job_id) is None
    node.store_result(job_id, processing_time=1.25)
    assert other_node.spool.has_result(job_id)
    assert other_node.spool.result(job_id) == (GREETING, 1.25)
    assert other_node.spool.waveform(job_id) == WAVEFORM


def test_first_of_two_results_wins_and_the_other_is_removed(node: Node, other_node: Node, place: Place) -> None:
    job_id = str(uuid4())
    first = node.store_result(job_id, processing_time=1.0)
    second = other_node.store_result(job_id, processing_time=2.0)
    assert first != second
    assert node.rows.results[job_id] == first
    assert len(place.names()) == 4  # each with its waveform
    other_node.spool.discard_result(second)
    assert place.names() == [f"results/{first}.result.json", f"results/{first}.waveform.json"]
    assert other_node.spool.result(job_id) == (GREETING, 1.0)


def test_corrections_are_those_of_the_name_in_the_row(node: Node, other_node: Node) -> None:
    job_id = str(uuid4())
    corrections = Corrections(texts={0: "Grüße!"}, edited_at=5.0)
    with pytest.raises(UnknownJob):
        node.spool.store_corrections(job_id, corrections)
    node.store_result(job_id)
    assert node.spool.corrections(job_id) == NO_CORRECTIONS
    name = node.correct(job_id, corrections)
    assert other_node.spool.store_corrections(job_id, Corrections(texts={0: "Moin!"}, edited_at=6.0)) != name
    assert other_node.spool.corrections(job_id) == corrections
    assert other_node.spool.result(job_id)[0].segments[0].text == "Grüße!"
    assert other_node.spool.result(job_id, original=True)[0] == GREETING
    assert node.correct(job_id, NO_CORRECTIONS) != name
    assert node.spool.corrections(job_id) == NO_CORRECTIONS


@pytest.mark.parametrize(("hours", "is_removed"), [(23.0, False), (25.0, True)])
async def test_corrections_that_were_replaced_are_removed_after_a_day(
    node: Node, place: Place, hours: float, *, is_removed: bool
) -> None:
    job_id = str(uuid4())
    result = node.store_result(job_id)
    for text in ("Hi!", "Ho!"):
        last = node.correct(job_id, Corrections(texts={0: text}, edited_at=5.0))
    age(place, hours=hours)
    await age_is_noticed(node)
    kept = KeptObjects(needs_audio=False, result_name=result, corrections_name=last)
    assert await node.spool.remove_orphans(Known({job_id: kept})) == (1 if is_removed else 0)
    assert f"results/{last}.corrections.json" in place.names()


def test_everything_of_a_forgotten_job_is_removed(node: Node, place: Place) -> None:
    jobs = [node.receive(b"audio") for _ in range(2)]
    for job_id in jobs:
        node.spool.create_reference(job_id, 1).write(b"voice")
        node.spool.complete_references(job_id)
        node.store_result(job_id)
        node.store_result(job_id)
        node.correct(job_id, Corrections(texts={0: "Hi!"}, edited_at=5.0))
    node.rows.results.clear()  # the row goes first
    node.spool.discard(jobs[0])
    assert {name.split("/")[1].partition(".")[0] for name in place.names()} == {jobs[1]}
    assert len(place.names()) == 7
    node.spool.discard(jobs[1])
    node.spool.discard(str(uuid4()))
    assert place.names() == []


# Orphans.


class Known:
    """Answers for the jobs that exist, and remembers whom it was asked about."""

    def __init__(self, jobs: Mapping[str, KeptObjects]) -> None:
        self._jobs = jobs
        self.asked: set[str] = set()

    async def __call__(self, job_ids: Sequence[str]) -> Mapping[str, KeptObjects]:
        self.asked.update(job_ids)
        return {job_id: self._jobs[job_id] for job_id in job_ids if job_id in self._jobs}


def age(place: Place, *, hours: float) -> None:
    """Make everything that is there older."""
    then = time.time() - hours * 3600
    for path in place.folder.rglob("*"):
        if path.is_file():
            os.utime(path, (then, then))


async def age_is_noticed(node: Node) -> None:
    """Return once the store has noticed the age of its files."""

    def is_noticed() -> bool:
        pages = (page for folder in ("audio", "references", "results") for page in node.spool._store.pages(folder))
        return all(info.modified < datetime.now(UTC) - timedelta(hours=1) for page in pages for info in page)

    await eventually(is_noticed)


@pytest.mark.parametrize(("hours", "is_removed"), [(23.0, False), (25.0, True)])
async def test_objects_without_a_row_are_removed_after_a_day(
    node: Node, place: Place, hours: float, *, is_removed: bool
) -> None:
    job_id = node.receive(b"audio")
    node.spool.create_reference(job_id, 1).write(b"voice")
    node.spool.complete_references(job_id)
    node.store_result(job_id)
    before = place.names()
    age(place, hours=hours)
    await age_is_noticed(node)
    known = Known({})
    assert await node.spool.remove_orphans(known) == (4 if is_removed else 0)
    assert place.names() == ([] if is_removed else before)
    assert known.asked == {job_id}


async def test_objects_that_jobs_need_are_never_removed(node: Node, place: Place) -> None:
    queued, done = node.receive(b"audio"), node.receive(b"audio")
    node.store_result(queued)  # which is about to be committed
    node.store_result(done)
    corrections = node.correct(done, Corrections(texts={0: "Hi!"}, edited_at=5.0))
    before = place.names()
    age(place, hours=1000)
    known = Known(
        {
            queued: KeptObjects(needs_audio=True, result_name=""),
            done: KeptObjects(needs_audio=True, result_name=node.rows.results[done], corrections_name=corrections),
        }
    )
    assert await node.spool.remove_orphans(known) == 0
    assert place.names() == before


async def test_results_and_audio_that_jobs_no_longer_need_are_removed(node: Node, place: Place) -> None:
    job_id = node.receive(b"audio")
    first, second = node.store_result(job_id), node.store_result(job_id)
    known = Known({job_id: KeptObjects(needs_audio=False, result_name=first)})
    assert await node.spool.remove_orphans(known) == 3
    assert place.names() == [f"results/{first}.result.json", f"results/{first}.waveform.json"]
    assert second not in first


async def test_objects_of_others_are_left_alone(node: Node, place: Place) -> None:
    for name in ("audio/lost+found", "results/readme.txt", f"results/{uuid4()}", "elsewhere/x"):
        (place.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (place.folder / name).write_bytes(b"of somebody else")
    before = place.names()
    age(place, hours=1000)
    await age_is_noticed(node)
    assert await node.spool.remove_orphans(Known({})) == 0
    assert place.names() == before


async def test_more_orphans_than_one_request_takes_are_removed(folder_place: Place, tmp_path: Path) -> None:
    node = Node(folder_place, tmp_path / "scratch", Rows())
    await asyncio.to_thread(node.spool.open)
    for _ in range(2100):
        (folder_place.folder / "audio" / str(uuid4())).write_bytes(b"")
    age(folder_place, hours=25)
    assert await node.spool.remove_orphans(Known({})) == 2100
    assert folder_place.names() == []
    node.spool.close()


# A store that is away.


@pytest.fixture
def s3_node(s3_place: Place, tmp_path: Path) -> Iterator[Node]:
    node = Node(s3_place, tmp_path / "scratch", Rows())
    node.spool.open()
    yield node
    node.spool.close()


@pytest.fixture
def away(s3: StoppableS3) -> Iterator[None]:
    """Start the store again after the test, whatever it did."""
    yield
    if s3._process is None:
        s3.start()


@pytest.mark.full(reason="waits for the retries of requests")
@pytest.mark.usefixtures("away")
class TestStoreIsAway:
    def test_upload_fails_and_can_be_sent_again(self, s3_node: Node, s3_place: Place, s3: StoppableS3) -> None:
        job_id = str(uuid4())
        file = s3_node.spool.create_audio(job_id)
        write(file, noise(20 * MIB))
        s3.stop()
        with pytest.raises(SpoolUnavailable, match="object store can't be reached now: try again later") as caught:
            write(file, noise(100 * MIB))
        assert caught.value.retry_after_seconds == 10
        file.close()
        s3_node.spool.discard(job_id)  # which does not reach the store
        s3.start()
        assert s3_place.names() == []
        assert s3_node.receive(b"again", job_id) == job_id
        assert s3_place.names() == [f"audio/{job_id}"]

    @pytest.mark.parametrize("size", [1000, 20 * MIB])
    def test_upload_that_cannot_be_completed_is_not_there(
        self, s3_node: Node, s3_place: Place, s3: StoppableS3, size: int
    ) -> None:
        job_id = str(uuid4())
        write(s3_node.spool.create_audio(job_id), noise(size))
        s3.stop()
        with pytest.raises(SpoolUnavailable):
            s3_node.spool.complete_audio(job_id)
        s3_node.spool.discard(job_id)
        s3.start()
        assert s3_place.names() == []
        assert not s3_node.spool._arriving

    async def test_copy_is_put_off(self, s3_node: Node, s3: StoppableS3) -> None:
        content = noise(MIB)
        job_id = s3_node.receive(content)
        s3.stop()
        with pytest.raises(SpoolUnavailable):
            await copied(s3_node, job_id)
        assert not s3_node.scratch_files()
        assert s3_node.spool.space.claimed == 0
        s3.start()
        assert await copied(s3_node, job_id) == content

    async def test_copy_that_breaks_off_is_put_off(self, s3_node: Node, s3: StoppableS3) -> None:
        content = noise(100 * MIB)
        job_id = s3_node.receive(content)
        copying = asyncio.create_task(copied(s3_node, job_id))
        await eventually(lambda: any(path.stat().st_size for path in s3_node.scratch_files()))
        await asyncio.to_thread(s3.stop)
        with suppress(SpoolUnavailable):  # unless it was faster
            assert await copying == content
        assert not s3_node.scratch_files()
        await asyncio.to_thread(s3.start)
        assert await copied(s3_node, job_id) == content

    def test_result_is_stored_later(self, s3_node: Node, s3_place: Place, s3: StoppableS3) -> None:
        job_id = str(uuid4())
        s3.stop()
        with pytest.raises(SpoolUnavailable):
            s3_node.store_result(job_id)
        with pytest.raises(SpoolUnavailable):
            s3_node.spool.store_result(job_id, GREETING, processing_time=1.0)
        s3.start()
        assert s3_place.names() == []
        s3_node.store_result(job_id)
        s3.stop()
        with pytest.raises(SpoolUnavailable):
            s3_node.spool.result(job_id)
        s3.start()
        assert s3_node.spool.result(job_id) == (GREETING, 1.0)

    async def test_what_could_not_be_removed_is_removed_by_the_sweep(
        self, s3_node: Node, s3_place: Place, s3: StoppableS3
    ) -> None:
        job_id = s3_node.receive(b"audio")
        name, loser = s3_node.store_result(job_id), s3_node.store_result(job_id)
        s3.stop()
        await asyncio.to_thread(s3_node.spool.discard_audio, job_id)
        s3_node.spool.discard_result(loser)
        with pytest.raises(SpoolUnavailable):
            await s3_node.spool.remove_orphans(Known({}))
        s3.start()
        assert len(s3_place.names()) == 5
        await s3_node.spool.remove_orphans(Known({job_id: KeptObjects(needs_audio=False, result_name=name)}))
        assert s3_place.names() == [f"results/{name}.result.json", f"results/{name}.waveform.json"]

    def test_node_starts_while_the_store_is_away(
        self, s3_place: Place, s3: StoppableS3, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        s3.stop()
        node = Node(s3_place, tmp_path / "scratch", Rows())
        node.spool.open()
        assert f"SPOOL_URL={s3_place.url} can't be reached" in caplog.text
        assert s3.secret_key not in caplog.text
        s3.start()
        node.receive(b"audio")
        node.spool.close()


@pytest.mark.full(reason="starts a process")
def test_upload_of_a_killed_process_never_appears(place: Place, node: Node, tmp_path: Path) -> None:
    program = (
        "import os, sys; from pathlib import Path; from app.cluster.objects import ObjectSpool\n"
        "names = dict.fromkeys(('received_audio', 'result_name', 'corrections_name'))\n"
        "spool = ObjectSpool(sys.argv[1], Path(sys.argv[2]), **names)\n"
        "spool.open(); file = spool.create_audio(sys.argv[3])\n"
        "for _ in range(100): file.write(os.urandom(256 * 1024))\n"
        "print('written', flush=True); sys.stdin.read()"
    )
    repository = os.fspath(__file__).partition("/tests/")[0]
    job_id = str(uuid4())
    child = subprocess.Popen(
        [sys.executable, "-c", program, place.url, str(tmp_path / "killed"), job_id],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": repository},
    )
    with child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"written\n"
        child.kill()
    assert f"audio/{job_id}" not in place.names()
    age(place, hours=25)
    assert asyncio.run(node.spool.remove_orphans(Known({}))) == (1 if place.s3 is None else 0)
    assert place.names() == []
    assert node.receive(b"again", job_id) == job_id


@pytest.mark.full(reason="200 MB")
async def test_memory_stays_flat_while_large_audio_passes(node: Node, other_node: Node) -> None:
    block, job_id = noise(256 * 1024), str(uuid4())
    before = resident_mib()
    digest, peak = hashlib.blake2b(digest_size=32), 0.0
    file = node.spool.create_audio(job_id)
    for number in range(800):
        file.write(block)
        digest.update(block)
        if number % 50 == 0:
            peak = max(peak, resident_mib())
    node.rows.audio[job_id] = node.spool.complete_audio(job_id)
    assert node.rows.audio[job_id] == ReceivedAudio(200 * MIB, digest.hexdigest())
    async with other_node.spool.audio(job_id) as path:
        assert path.stat().st_size == 200 * MIB
        peak = max(peak, resident_mib())
    assert peak - before < 64


# Settings.


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("", "nothing"),
        ("ftp://host/x", "ftp://host/x"),
        ("s3:///x", "s3:///x"),
        ("file:relative", "file:relative"),
        ("file://host/x", "file://host/x"),
        ("s3://key:secret@bucket/x", "one with credentials, a query or a fragment"),
        ("s3://bucket/x?secret=y", "one with credentials, a query or a fragment"),
    ],
)
def test_other_urls_are_rejected_without_their_secrets(url: str, shown: str) -> None:
    with pytest.raises(ServiceError) as caught:
        ObjectStore(url)
    assert f"SPOOL_URL must be s3://bucket/prefix or file:///folder, got {shown}. " in str(caught.value)
    assert "secret" not in str(caught.value)


def test_missing_bucket_stops_the_start(s3_url: str) -> None:
    with pytest.raises(ServiceError, match=r"SPOOL_URL=s3://spool-nowhere/x can't be used: .*NoSuchBucket"):
        ObjectStore(f"{s3_url}-nowhere/x").open([])


def test_wrong_credentials_stop_the_start(s3_place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another secret")
    with pytest.raises(ServiceError, match=r"can't be used: .*SignatureDoesNotMatch") as caught:
        ObjectStore(s3_place.url).open([])
    assert "another secret" not in str(caught.value)


def test_credentials_that_become_invalid_are_reported(s3_place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another secret")
    store = ObjectStore(s3_place.url)
    with pytest.raises(SpoolUnavailable, match="refuses its requests: try again later, or ask"):
        store.get("audio/x")
    with pytest.raises(SpoolUnavailable, match="refuses its requests"):
        store.put("audio/x", b"")


def test_unusable_folder_is_named_in_the_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ServiceError, match=r"SPOOL_URL=file://.*/file/x can't be used .*: use a folder that can be"):
        ObjectStore(f"file://{tmp_path}/file/x").open(["audio"])


def test_shared_folder_is_readable_by_its_owner_only(folder_place: Place, tmp_path: Path) -> None:
    node = Node(folder_place, tmp_path / "scratch", Rows())
    before = os.umask(0)
    try:
        node.spool.open()
    finally:
        os.umask(before)
    for name in ("audio", "references", "results"):
        assert (folder_place.folder / name).stat().st_mode & 0o777 == 0o700
    node.spool.close()


def test_full_shared_folder_raises_disk_full(tmp_path: Path) -> None:
    with small_disk(tmp_path / "small", size="2m") as folder:
        node = Node(Place(f"file://{folder}/spool", folder / "spool", None), tmp_path / "scratch", Rows())
        node.spool.open()
        job_id = str(uuid4())
        with filled(folder):
            with pytest.raises(DiskFull):
                node.receive(noise(MIB), job_id)
            node.spool.discard(job_id)
            with pytest.raises(DiskFull):
                node.store_result(job_id)
        assert node.receive(noise(MIB), job_id) == job_id
        node.spool.close()
