"""Audio and results on a real disk, also a full one."""

from __future__ import annotations

import errno
import io
import os
import shutil
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest

from app.domain.errors import DiskFull, ServiceError
from app.jobs.spool import Spool, SpoolInUse
from tests.support.fake_transcriber import GREETING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

JOB = "4f0c"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "a" / "data"


@pytest.fixture
def spool(root: Path) -> Iterator[Spool]:
    spool = Spool(root)
    spool.open()
    yield spool
    spool.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB, where this machine lets us make one."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount, umount = shutil.which("mount"), shutil.which("umount")
    if mount is None or umount is None or os.geteuid() != 0:
        pytest.skip("only root can mount a small file system")
    options = ["-t", "tmpfs", "-o", "size=64k", "tmpfs"]
    if subprocess.run([mount, *options, str(folder)], check=False, capture_output=True).returncode != 0:
        pytest.skip("this machine lets nobody mount a small file system")
    yield folder
    subprocess.run([umount, "-l", str(folder)], check=True)


class FullDisk(io.RawIOBase):
    """A file on which ``room`` bytes can be written, a few at a time, and then no more."""

    def __init__(self, *, room: int, code: int = errno.ENOSPC) -> None:
        super().__init__()
        self.written = bytearray()
        self._room = room
        self._code = code

    def write(self, data: object) -> int:
        assert isinstance(data, memoryview)
        taken = bytes(data[: min(10, self._room - len(self.written))])
        if not taken:
            raise OSError(self._code, os.strerror(self._code))
        self.written += taken
        return len(taken)


def write(spool: Spool, data: bytes, job_id: str = JOB) -> None:
    with spool.create_audio(job_id) as file:
        spool.write(file, data)


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_nobody_else_on_the_machine_may_look_inside(spool: Spool, root: Path) -> None:
    before = os.umask(0)
    try:
        write(spool, b"x")
    finally:
        os.umask(before)
    assert mode(root / "jobs") == 0o700
    assert mode(root / "jobs" / JOB) == 0o700
    assert mode(root / "lock") == 0o600


def test_audio_is_kept_as_it_was_received(spool: Spool) -> None:
    write(spool, bytes(range(256)) * 100)
    assert spool.audio(JOB).read_bytes() == bytes(range(256)) * 100


def test_audio_is_written_once(spool: Spool) -> None:
    write(spool, b"first")
    with pytest.raises(FileExistsError):
        write(spool, b"second")
    assert spool.audio(JOB).read_bytes() == b"first"


def test_second_spool_in_the_same_folder_is_refused(spool: Spool, root: Path) -> None:
    write(spool, b"x")
    other = Spool(root)
    with pytest.raises(SpoolInUse, match=r"is in use by another process: stop that one, or name another folder"):
        other.open()
    other.close()
    assert spool.audio(JOB).exists()
    spool.close()
    other.open()
    other.close()


def test_lock_holds_between_processes_and_ends_with_them(root: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from app.jobs.spool import Spool\n"
        "Spool(Path(sys.argv[1])).open(); print('open', flush=True); sys.stdin.read()"
    )
    repository = os.fspath(__file__).partition("/tests/")[0]
    child = subprocess.Popen(
        [sys.executable, "-c", program, str(root)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": repository},
    )
    with child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"open\n"
        with pytest.raises(SpoolInUse):
            Spool(root).open()
        child.kill()
    spool = Spool(root)
    spool.open()
    spool.close()


def test_leftovers_of_an_earlier_process_are_swept(root: Path) -> None:
    first = Spool(root)
    first.open()
    write(first, b"x")
    first.store_result(JOB, GREETING, processing_time=1.0)
    (root / "kept").write_text("not ours")
    first.close()
    second = Spool(root)
    second.open()
    second.close()
    assert list((root / "jobs").iterdir()) == []
    assert (root / "kept").exists()


def test_folder_that_can_not_be_made_is_named_with_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ServiceError, match=r"DATA_DIR=.*/file/data can't be used .*: name a folder that may be writ"):
        Spool(tmp_path / "file" / "data").open()


def test_result_comes_back_as_it_was_stored(spool: Spool) -> None:
    spool.make_room(JOB)
    spool.store_result(JOB, GREETING, processing_time=1.25)
    assert spool.result(JOB) == (GREETING, 1.25)


def test_result_is_there_whole_or_not_at_all(spool: Spool) -> None:
    spool.make_room(JOB)
    spool.store_result(JOB, GREETING, processing_time=0.0)
    done, seen = threading.Event(), set[float]()

    def look() -> None:
        while not done.is_set():
            transcript, seconds = spool.result(JOB)
            assert transcript == GREETING
            seen.add(seconds)

    reader = threading.Thread(target=look)
    reader.start()
    for number in range(100):
        spool.store_result(JOB, GREETING, processing_time=float(number))
    done.set()
    reader.join()
    assert seen <= {float(number) for number in range(100)}
    assert seen


def test_audio_is_discarded_and_the_result_kept(spool: Spool) -> None:
    write(spool, b"x")
    (spool.audio(JOB).parent / "audio.pcm").write_bytes(b"x")
    spool.store_result(JOB, GREETING, processing_time=1.0)
    spool.discard_audio(JOB)
    assert [path.name for path in spool.audio(JOB).parent.iterdir()] == ["result.json"]
    spool.discard(JOB)
    assert not spool.audio(JOB).parent.exists()


def test_what_is_not_there_can_be_discarded(spool: Spool) -> None:
    spool.discard_audio(JOB)
    spool.discard(JOB)
    spool.make_room(JOB)
    spool.make_room(JOB)


def test_write_goes_on_until_everything_is_written(spool: Spool) -> None:
    file = FullDisk(room=1000)
    spool.write(file, bytes(range(95)))  # type: ignore[arg-type]  # raw files are what is written to here
    assert bytes(file.written) == bytes(range(95))


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_full_disk_is_told_as_such(spool: Spool, code: int) -> None:
    with pytest.raises(DiskFull, match="no disk space left") as caught:
        spool.write(FullDisk(room=25, code=code), b"x" * 100)  # type: ignore[arg-type]  # see above
    assert 1 <= caught.value.retry_after_seconds <= 120


def test_other_trouble_with_the_disk_keeps_its_own_name(spool: Spool) -> None:
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        spool.write(FullDisk(room=0, code=errno.EIO), b"x")  # type: ignore[arg-type]  # see above


def test_really_full_disk_refuses_audio_and_results(small_disk: Path) -> None:
    spool = Spool(small_disk)
    spool.open()
    with pytest.raises(DiskFull):
        write(spool, b"x" * 200_000)
    with pytest.raises(DiskFull):
        spool.store_result(JOB, GREETING, processing_time=1.0)
    spool.discard(JOB)
    write(spool, b"x" * 10_000)
    spool.store_result(JOB, GREETING, processing_time=1.0)
    assert spool.result(JOB) == (GREETING, 1.0)
    spool.close()
