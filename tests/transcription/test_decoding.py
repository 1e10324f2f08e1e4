"""The child process: what it may see and use, and that it never outlives the wish for it."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from app.domain.errors import DiskFull, UndecodableAudio
from app.transcription.decoding import DEFAULT_MEMORY_BYTES, Decoded, Decoder
from tests.support.audio import RATE, SAMPLES, encode, sweep

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.anyio

needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks into Linux's /proc")


@pytest.fixture
def decoder() -> Decoder:
    return Decoder(max_seconds=3600)


class Held:
    """A decoding that waits for its source: a named pipe in which nothing comes."""

    def __init__(self, task: asyncio.Task[Decoded], pid: int, destination: Path) -> None:
        self.task = task
        self.pid = pid
        self.destination = destination


@pytest.fixture
async def held(decoder: Decoder, tmp_path: Path) -> AsyncIterator[Held]:
    source, destination = tmp_path / "source", tmp_path / "pcm"
    os.mkfifo(source)
    task = asyncio.create_task(decoder.decode(source, destination), name="held")
    writer = await asyncio.to_thread(os.open, source, os.O_WRONLY)
    try:
        await asyncio.to_thread(wait_for, destination)
        (pid,) = decoders_of(os.getpid())
        yield Held(task, pid, destination)
    finally:
        os.close(writer)
        await asyncio.gather(task, return_exceptions=True)


def wait_for(path: Path) -> None:
    while not path.exists():
        time.sleep(0.005)


def environment_of(pid: int) -> bytes:
    return Path(f"/proc/{pid}/environ").read_bytes()


def limits_of(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/limits").read_text(encoding="utf-8").splitlines()
    return {line[:25].strip(): line[25:].split()[0] for line in lines[1:]}


def open_files_of(pid: int) -> set[str]:
    names = {str(link.readlink()) for link in Path(f"/proc/{pid}/fd").iterdir()}
    return {name for name in names if name.startswith("/") and name != "/dev/null"}


def decoders_of(parent: int) -> list[int]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            stat = (folder / "stat").read_text(encoding="utf-8")
            command = (folder / "cmdline").read_bytes()
        except OSError:
            continue
        if int(stat.rpartition(")")[2].split()[1]) == parent and b"decoder_process.py" in command:
            found.append(int(folder.name))
    return found


def write_for_ever(descriptor: int) -> None:
    while True:
        os.write(descriptor, bytes(65_536))


def is_running(pid: int) -> bool:
    """Whether it exists and is more than an entry that nobody has collected."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@needs_proc
async def test_cancelling_kills_the_child_at_once_and_leaves_no_file(held: Held) -> None:
    held.task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(held.task, 2)

    assert not is_alive(held.pid)
    assert not held.destination.exists()


async def test_a_decoding_cancelled_before_its_child_ran_leaves_nothing(decoder: Decoder, tmp_path: Path) -> None:
    source = SAMPLES / "long.opus"
    for steps in range(8):
        task = asyncio.create_task(decoder.decode(source, tmp_path / "pcm"))
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    assert not (tmp_path / "pcm").exists()
    assert not decoders_of(os.getpid())


@needs_proc
async def test_the_child_sees_nothing_of_our_environment(
    monkeypatch: pytest.MonkeyPatch, decoder: Decoder, tmp_path: Path
) -> None:
    monkeypatch.setenv("WEBHOOK_SECRET", "whsec_made_up")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.delenv("LD_LIBRARY_PATH", raising=False)
    source = tmp_path / "source"
    os.mkfifo(source)
    task = asyncio.create_task(decoder.decode(source, tmp_path / "pcm"))
    writer = await asyncio.to_thread(os.open, source, os.O_WRONLY)

    (pid,) = decoders_of(os.getpid())
    environment = environment_of(pid)

    os.close(writer)
    with pytest.raises(UndecodableAudio, match="empty"):
        await task
    assert b"whsec_made_up" not in environment
    assert environment == b"HOME=/\0"  # or Python would ask the system for its user


@needs_proc
async def test_the_child_is_limited(held: Held) -> None:
    limits = limits_of(held.pid)

    assert limits["Max address space"] == str(DEFAULT_MEMORY_BYTES)
    assert limits["Max cpu time"] == "420"
    assert int(limits["Max file size"]) == 3600 * RATE * 2 + (1 << 20)
    assert limits["Max open files"] == "32"
    assert limits["Max core file size"] == "0"
    assert os.getpriority(os.PRIO_PROCESS, held.pid) >= 5


@needs_proc
async def test_the_child_inherits_no_open_file(held: Held) -> None:
    assert open_files_of(held.pid) == {str(held.destination), str(held.destination.with_name("source"))}


@pytest.mark.skipif(sys.platform != "linux", reason="macOS does not enforce RLIMIT_AS")
async def test_a_child_short_of_memory_ends_as_undecodable(tmp_path: Path) -> None:
    with pytest.raises(UndecodableAudio, match="convert it to wav"):
        await Decoder(max_seconds=60, memory_bytes=90 << 20).decode(SAMPLES / "hello.wav", tmp_path / "pcm")

    assert not (tmp_path / "pcm").exists()


@needs_proc
@pytest.mark.parametrize("number", [signal.SIGXCPU, signal.SIGKILL, signal.SIGSEGV])
async def test_a_child_that_dies_by_a_signal_is_undecodable_audio(
    number: signal.Signals, held: Held, caplog: pytest.LogCaptureFixture
) -> None:
    os.kill(held.pid, number)

    with pytest.raises(UndecodableAudio, match=number.name):
        await held.task

    assert not held.destination.exists()
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can tie a child's life to its parent's")
def test_the_child_dies_with_its_parent(tmp_path: Path) -> None:
    source = tmp_path / "source"
    os.mkfifo(source)
    program = (
        "import asyncio, sys; from pathlib import Path; from app.transcription.decoding import Decoder\n"
        "asyncio.run(Decoder(max_seconds=60).decode(Path(sys.argv[1]), Path(sys.argv[2])))"
    )
    command = [sys.executable, "-c", program, str(source), str(tmp_path / "pcm")]
    with subprocess.Popen(command, cwd=SAMPLES.parent) as parent:
        writer = os.open(source, os.O_WRONLY)
        (pid,) = decoders_of(parent.pid)
        # The kernel closes the child's files when it is gone, and a write to a pipe without reader fails.
        parent.kill()
        parent.wait()
        with pytest.raises(BrokenPipeError):
            write_for_ever(writer)
        os.close(writer)
    deadline = time.monotonic() + 30
    while is_running(pid):  # its files are closed before the last of it has gone
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("seconds", [1, 60])
async def test_a_full_disk_is_named_as_such(seconds: int, decoder: Decoder, tmp_path: Path) -> None:
    source = encode(tmp_path / "source", sweep(seconds), container="wav", codec="pcm_s16le")
    destination = tmp_path / "pcm"
    destination.symlink_to("/dev/full")

    with pytest.raises(DiskFull, match="disk space") as caught:
        await decoder.decode(source, destination)

    assert 1 <= caught.value.retry_after_seconds <= 120
    assert not destination.is_symlink()


async def test_a_missing_source_is_no_fault_of_the_sender(decoder: Decoder, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        await decoder.decode(tmp_path / "nowhere", tmp_path / "pcm")


async def test_several_files_are_decoded_at_once(decoder: Decoder, tmp_path: Path) -> None:
    names = ["hello.wav", "numbers.mp3", "code.flac", "upload.ogg"]

    decoded = await asyncio.gather(*(decoder.decode(SAMPLES / name, tmp_path / name) for name in names))

    assert [one.pcm.name for one in decoded] == names
    assert all(one.duration > 4 for one in decoded)


async def test_messages_of_a_chatty_decoder_are_kept_short(
    decoder: Decoder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    content = bytearray(encode(tmp_path / "w", sweep(60), container="flac", codec="flac").read_bytes())
    for place in range(10_000, len(content), 2_000):
        content[place] ^= 0xFF
    source = tmp_path / "source"
    source.write_bytes(content)

    with caplog.at_level(logging.DEBUG, logger="app.transcription.decoding"):
        await decoder.decode(source, tmp_path / "pcm")

    assert any("The decoder said" in record.message for record in caplog.records)
    assert max(len(record.message) for record in caplog.records) < 20_000


async def test_decoding_leaves_free_on_the_disk_what_is_to_stay_free(tmp_path: Path) -> None:
    careful = Decoder(max_seconds=3600, min_free_bytes=1 << 60)
    with pytest.raises(DiskFull, match="No disk space is left for the decoded audio"):
        await careful.decode(SAMPLES / "long.opus", tmp_path / "pcm")
    assert not (tmp_path / "pcm").exists()
    assert (await careful.decode(SAMPLES / "hello.wav", tmp_path / "pcm")).samples  # it is over before it is looked at


@pytest.mark.parametrize(
    "lie", [{"samples": 10**18}, {"samples": 0}, {"samples": -5}, {"channels": 0}, {"channels": 9}, {"samples": 501}]
)
def test_child_that_claims_more_than_it_has_written_is_not_believed(tmp_path: Path, lie: dict[str, int]) -> None:
    pcm = tmp_path / "pcm"
    pcm.write_bytes(bytes(1000))
    told = {
        "ok": True,
        "confined": [],
        "samples": 500,
        "channels": 1,
        "ended": True,
        "corrupt_frames": 0,
        "gave_up": False,
    }
    decoder = Decoder(max_seconds=3600)
    assert decoder._judge(0, json.dumps(told).encode(), pcm, 1000).samples == 500
    with pytest.raises(UndecodableAudio, match="the decoder failed"):
        decoder._judge(0, json.dumps(told | lie).encode(), pcm, 1000)
