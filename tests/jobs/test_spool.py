"""Audio and results on a real disk, also a full one."""

from __future__ import annotations

import errno
import io
import json
import math
import os
import subprocess
import sys
import threading
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest
from hypothesis import given

from app.domain.errors import DiskFull, ServiceError
from app.jobs.space import Space
from app.jobs.spool import AudioFile, Spool, SpoolInUse
from tests.domain.strategies import transcripts, unhurried
from tests.support.disks import filled, small_disk
from tests.support.fake_transcriber import GREETING, WAVEFORM

if TYPE_CHECKING:
    from collections.abc import Iterator

    from app.domain.transcript import Transcript

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
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "small", size="64k") as folder:
        yield folder


class FullDisk(io.RawIOBase):
    """A file to which ``room`` bytes can be written, a few at a time."""

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


def write(spool: Spool, data: bytes, job_id: str = JOB, *, keep: bool = True) -> None:
    """Write audio in one piece."""
    file = spool.create_audio(job_id)
    try:
        file.write(data)
    finally:
        file.close()
    if keep:
        spool.complete_audio(job_id)


def names(spool: Spool) -> list[str]:
    """Return the names of the job's files."""
    return sorted(path.name for path in spool.audio_path(JOB).parent.iterdir())


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_files_are_readable_by_their_owner_only(spool: Spool, root: Path) -> None:
    before = os.umask(0)
    try:
        write(spool, b"x")
        spool.store_result(JOB, GREETING, processing_time=1.0)
    finally:
        os.umask(before)
    assert mode(root) == 0o700
    assert mode(root / "jobs") == 0o700
    assert mode(root / "jobs" / JOB) == 0o700
    for path in (root / "lock", spool.audio_path(JOB), spool.audio_path(JOB).with_name("result.json")):
        assert mode(path) == 0o600


def test_audio_is_kept_as_it_was_received(spool: Spool) -> None:
    write(spool, bytes(range(256)) * 100)
    assert spool.audio_path(JOB).read_bytes() == bytes(range(256)) * 100


@pytest.mark.parametrize("durably", [True, False])
def test_audio_has_its_name_once_it_is_complete(spool: Spool, *, durably: bool) -> None:
    write(spool, b"so far", keep=False)
    assert not spool.has_audio(JOB)
    assert names(spool) == ["audio.partial"]
    spool.complete_audio(JOB, durably=durably)
    assert spool.has_audio(JOB)
    assert names(spool) == ["audio"]


def test_new_audio_replaces_incomplete_audio(spool: Spool) -> None:
    write(spool, b"a first attempt that broke off", keep=False)
    write(spool, b"second")
    assert spool.audio_path(JOB).read_bytes() == b"second"
    assert names(spool) == ["audio"]


def test_second_spool_in_the_same_folder_is_rejected(spool: Spool, root: Path) -> None:
    write(spool, b"x")
    other = Spool(root)
    with pytest.raises(SpoolInUse, match=r"is in use by another process: stop that process, or use another folder"):
        other.open()
    other.close()
    assert spool.audio_path(JOB).exists()
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


def test_sweep_keeps_only_complete_files_of_known_jobs(root: Path) -> None:
    known, begun, unknown = (str(uuid4()) for _ in range(3))
    first = Spool(root)
    first.open()
    write(first, b"whole", known)
    first.store_result(known, GREETING, processing_time=1.0)
    write(first, b"begun again", known, keep=False)
    first.audio_path(known).with_name("result.partial").write_bytes(b'{"transcr')
    first.audio_path(known).with_name("audio.pcm").write_bytes(b"decoded")
    write(first, b"begun", begun, keep=False)
    write(first, b"of nobody", unknown)
    (root / "jobs" / "lost+found").mkdir()
    (root / "journal.sqlite3").write_text("not the spool's")
    first.close()

    second = Spool(root)
    second.open()
    assert {path.name for path in (root / "jobs").iterdir()} == {known, begun, unknown, "lost+found"}
    assert second.sweep({known, begun, str(uuid4())}) == 1
    assert {path.name for path in (root / "jobs").iterdir()} == {known, begun, "lost+found"}
    assert {path.name for path in (root / "jobs" / known).iterdir()} == {"audio", "result.json"}
    assert second.audio_path(known).read_bytes() == b"whole"
    assert second.result(known) == (GREETING, 1.0)
    assert not second.has_audio(begun)
    assert (root / "journal.sqlite3").exists()
    assert second.space.claimed == len(b"whole")
    second.close()


def test_unusable_folder_is_named_in_the_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ServiceError, match=r"DATA_DIR=.*/file/data can't be used .*: use a folder that can be writ"):
        Spool(tmp_path / "file" / "data").open()


@pytest.mark.parametrize("durably", [True, False])
def test_result_comes_back_as_it_was_stored(spool: Spool, *, durably: bool) -> None:
    write(spool, b"x")
    assert not spool.has_result(JOB)
    spool.store_result(JOB, GREETING, processing_time=1.25, durably=durably)
    assert spool.has_result(JOB)
    assert spool.result(JOB) == (GREETING, 1.25)


@unhurried
@given(transcripts())
def test_transcript_survives_its_storage_exactly(transcript: Transcript) -> None:
    with TemporaryDirectory() as folder:
        spool = Spool(Path(folder))
        spool.open()
        write(spool, b"x")
        spool.store_result(JOB, transcript, processing_time=1.0, durably=False)
        assert spool.result(JOB) == (transcript, 1.0)
        spool.close()


def test_result_of_an_earlier_version_can_be_read(spool: Spool) -> None:
    """Version 1.0 had no log probabilities, channels, warnings, speakers, or languages of segments."""
    stored = json.loads(json.dumps({"transcript": asdict(GREETING), "processing_time": 2}))
    for name in ("warnings", "turns", "languages", "prompt_tokens", "output_tokens"):
        del stored["transcript"][name]
    for segment in stored["transcript"]["segments"]:
        for name in ("logprobs", "channel", "speaker", "uncertain", "language"):
            del segment[name]
        for word in segment["words"]:
            del word["channel"], word["speaker"]
    write(spool, b"x")
    spool.audio_path(JOB).with_name("result.json").write_text(json.dumps(stored))
    assert spool.result(JOB) == (GREETING, 2.0)


@pytest.mark.parametrize("languages", [(), ("de",), ("de", "en")])
def test_languages_come_back_as_they_were_stored(spool: Spool, languages: tuple[str, ...]) -> None:
    write(spool, b"x")
    segments = tuple(replace(segment, language="de") for segment in GREETING.segments)
    transcript = replace(GREETING, segments=segments, languages=languages)
    spool.store_result(JOB, transcript, processing_time=1.0)
    assert spool.result(JOB) == (transcript, 1.0)


def test_number_that_is_none_is_read_back_as_it_was_stored(spool: Spool) -> None:
    write(spool, b"x")
    first, *others = GREETING.segments
    unlikely = replace(first, avg_logprob=-math.inf, no_speech_prob=math.nan)
    spool.store_result(JOB, replace(GREETING, segments=(unlikely, *others)), processing_time=1.0)
    read = spool.result(JOB)[0].segments[0]
    assert read.avg_logprob == -math.inf
    assert math.isnan(read.no_speech_prob)


def test_waveform_is_stored_with_the_result(spool: Spool) -> None:
    write(spool, b"x")
    assert spool.waveform(JOB) is None
    spool.store_result(JOB, GREETING, processing_time=1.0, waveform=WAVEFORM)
    assert spool.waveform(JOB) == WAVEFORM
    spool.discard_audio(JOB, keep_recording=True)
    spool.sweep({JOB})
    assert names(spool) == ["audio", "result.json", "waveform.json"]


def test_result_is_replaced_atomically(spool: Spool) -> None:
    write(spool, b"x")
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
    write(spool, b"xy", keep=False)
    (spool.audio_path(JOB).parent / "audio.pcm").write_bytes(b"x")
    spool.store_result(JOB, GREETING, processing_time=1.0)
    assert spool.space.claimed == 2
    spool.discard_audio(JOB)
    assert names(spool) == ["result.json"]
    assert spool.space.claimed == 0
    spool.discard(JOB)
    assert not spool.audio_path(JOB).parent.exists()


def test_kept_recording_outlives_the_rest_of_the_audio(spool: Spool) -> None:
    write(spool, b"xyz")
    write(spool, b"xy", keep=False)
    (spool.audio_path(JOB).parent / "audio.pcm").write_bytes(b"x")
    spool.store_result(JOB, GREETING, processing_time=1.0)
    spool.discard_audio(JOB, keep_recording=True)
    assert names(spool) == ["audio", "result.json"]
    assert spool.space.claimed == 3
    with spool.open_audio(JOB) as recording:
        spool.discard(JOB)
        assert recording.read() == b"xyz"
    assert spool.space.claimed == 0


def write_references(spool: Spool, *contents: bytes, job_id: str = JOB) -> None:
    for number, content in enumerate(contents, start=1):
        file = spool.create_reference(job_id, number)
        file.write(content)
        file.close()


@pytest.mark.parametrize("durably", [True, False])
def test_references_keep_their_order_and_count_as_audio(spool: Spool, *, durably: bool) -> None:
    assert spool.references(JOB) == ()
    write(spool, b"xyz", keep=False)
    write_references(spool, b"first", b"second")
    spool.complete_references(JOB, durably=durably)
    spool.complete_audio(JOB, durably=durably)
    assert [path.read_bytes() for path in spool.references(JOB)] == [b"first", b"second"]
    assert names(spool) == ["audio", "reference-1", "reference-2"]
    assert {mode(path) for path in spool.references(JOB)} == {0o600}
    assert spool.space.claimed == len(b"xyz" + b"first" + b"second")


@pytest.mark.parametrize("keep_recording", [True, False])
def test_references_are_discarded_with_the_recording(spool: Spool, *, keep_recording: bool) -> None:
    write(spool, b"xyz")
    write_references(spool, b"first")
    spool.store_result(JOB, GREETING, processing_time=1.0)
    spool.discard_audio(JOB, keep_recording=keep_recording)
    assert names(spool) == (["audio", "reference-1", "result.json"] if keep_recording else ["result.json"])
    assert spool.space.claimed == (len(b"xyzfirst") if keep_recording else 0)


def test_references_outlive_audio_that_is_incomplete(root: Path) -> None:
    job = str(uuid4())
    first = Spool(root)
    first.open()
    write_references(first, b"first", b"second", job_id=job)
    write(first, b"begun", job, keep=False)
    first.discard_partial_audio(job)
    assert first.space.claimed == len(b"firstsecond")
    write(first, b"begun again", job, keep=False)
    first.close()

    second = Spool(root)
    second.open()
    second.sweep({job})
    assert [path.name for path in second.references(job)] == ["reference-1", "reference-2"]
    assert not second.audio_path(job).with_name("audio.partial").exists()
    assert second.space.claimed == len(b"firstsecond")
    second.close()


def test_missing_files_can_be_discarded(spool: Spool) -> None:
    spool.discard_audio(JOB)
    spool.discard(JOB)
    assert not spool.has_audio(JOB)
    assert not spool.has_result(JOB)


def on(file: FullDisk, spool: Spool) -> AudioFile:
    return AudioFile(file, JOB, spool.space)  # type: ignore[arg-type]  # raw files are what is written to here


def test_short_writes_are_continued(spool: Spool) -> None:
    disk = FullDisk(room=1000)
    file = on(disk, spool)
    file.write(bytes(range(95)))
    file.write(b"more")
    assert bytes(disk.written) == bytes(range(95)) + b"more"
    assert file.size == spool.space.claimed == 99


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_full_disk_raises_disk_full(spool: Spool, code: int) -> None:
    with pytest.raises(DiskFull, match="no disk space left") as caught:
        on(FullDisk(room=25, code=code), spool).write(b"x" * 100)
    assert 1 <= caught.value.retry_after_seconds <= 120


def test_other_disk_errors_are_not_translated(spool: Spool) -> None:
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        on(FullDisk(room=0, code=errno.EIO), spool).write(b"x")


def test_audio_beyond_the_budget_is_rejected_before_it_is_written(root: Path) -> None:
    root.parent.mkdir()
    spool = Spool(root, Space(root.parent, max_bytes=1000))
    spool.open()
    write(spool, b"x" * 900, "5e11")
    with pytest.raises(DiskFull):
        write(spool, b"x" * 101)
    assert spool.audio_path(JOB).with_name("audio.partial").stat().st_size == 0
    spool.discard("5e11")
    write(spool, b"x" * 101)
    assert spool.space.claimed == 101
    spool.close()


def test_full_disk_rejects_audio_and_results(disk: Path) -> None:
    spool = Spool(disk, Space(disk.parent))  # which sees the space of another disk, and so lets everything pass
    spool.open()
    write(spool, b"x" * 10_000)
    with filled(disk):
        with pytest.raises(DiskFull):
            write(spool, b"x" * 10_000, "5e11")
        with pytest.raises(DiskFull):
            spool.store_result(JOB, GREETING, processing_time=1.0)
        assert not spool.has_result(JOB)
        assert not spool.has_audio("5e11")
    write(spool, b"x" * 10_000, "5e11")
    spool.store_result(JOB, GREETING, processing_time=1.0)
    assert spool.result(JOB) == (GREETING, 1.0)
    spool.close()
