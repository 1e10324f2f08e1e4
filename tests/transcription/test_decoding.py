"""The decoder process: its limits, its environment, and that it ends when it is no longer needed."""

from __future__ import annotations

import asyncio
import importlib
import json
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import av
import pytest

from app.domain.errors import DecoderUnavailable, DiskFull, UndecodableAudio
from app.transcription import decoder_launcher, decoding
from app.transcription.decoding import DEFAULT_MEMORY_BYTES, Decoder
from tests.support.audio import RATE, SAMPLES, encode, sweep
from tests.support.decoders import blocked_decoding, children_of, decoders_of, replaced_program, servers_of
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from tests.support.decoders import Blocked

pytestmark = pytest.mark.anyio

needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks into Linux's /proc")


@pytest.fixture
def decoder() -> Iterator[Decoder]:
    decoder = Decoder(max_seconds=3600)
    yield decoder
    decoder.close()


@pytest.fixture
async def blocked(decoder: Decoder, tmp_path: Path) -> AsyncIterator[Blocked]:
    async with blocked_decoding(decoder, tmp_path) as decoding:
        yield decoding


def environment_of(pid: int) -> bytes:
    return Path(f"/proc/{pid}/environ").read_bytes()


def limits_of(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/limits").read_text(encoding="utf-8").splitlines()
    return {line[:25].strip(): line[25:].split()[0] for line in lines[1:]}


def open_files_of(pid: int) -> set[str]:
    names = {str(link.readlink()) for link in Path(f"/proc/{pid}/fd").iterdir()}
    return {name for name in names if name.startswith("/") and name != "/dev/null"}


def write_endlessly(descriptor: int) -> None:
    while True:
        os.write(descriptor, bytes(65_536))


def is_running(pid: int) -> bool:
    """Return False if the process has ended, also if it has not been reaped yet."""
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
async def test_cancelling_kills_the_process_and_deletes_the_output(blocked: Blocked) -> None:
    blocked.task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(blocked.task, 60)

    assert not is_alive(blocked.pid)
    assert not blocked.destination.exists()


async def test_decoding_cancelled_at_its_start_leaves_nothing(decoder: Decoder, tmp_path: Path) -> None:
    source = SAMPLES / "long.opus"
    for steps in range(8):
        task = asyncio.create_task(decoder.decode(source, tmp_path / "pcm"))
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    assert not (tmp_path / "pcm").exists()
    await eventually(lambda: not decoders_of(os.getpid()))


@needs_proc
async def test_decoder_process_does_not_inherit_the_environment(
    monkeypatch: pytest.MonkeyPatch, decoder: Decoder, tmp_path: Path
) -> None:
    monkeypatch.setenv("WEBHOOK_SECRET", "whsec_made_up")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.delenv("LD_LIBRARY_PATH", raising=False)
    async with blocked_decoding(decoder, tmp_path) as decoding:
        assert environment_of(decoding.pid) == b"HOME=/\0"  # otherwise Python would look up its user


@needs_proc
async def test_decoder_process_has_resource_limits(blocked: Blocked) -> None:
    limits = limits_of(blocked.pid)

    assert limits["Max address space"] == str(DEFAULT_MEMORY_BYTES)
    assert limits["Max cpu time"] == "420"
    assert int(limits["Max file size"]) == 3600 * RATE * 2 + (1 << 20)
    assert limits["Max open files"] == "32"
    assert limits["Max core file size"] == "0"
    assert os.getpriority(os.PRIO_PROCESS, blocked.pid) >= 5


@needs_proc
async def test_decoder_process_inherits_no_open_files(blocked: Blocked) -> None:
    assert open_files_of(blocked.pid) == {str(blocked.destination), str(blocked.destination.with_name("source"))}


@pytest.mark.skipif(sys.platform != "linux", reason="macOS does not enforce RLIMIT_AS")
async def test_decoder_out_of_memory_means_undecodable_audio(tmp_path: Path) -> None:
    with pytest.raises(UndecodableAudio, match="convert it to wav"):
        await Decoder(max_seconds=60, memory_bytes=90 << 20).decode(SAMPLES / "hello.wav", tmp_path / "pcm")

    assert not (tmp_path / "pcm").exists()


@needs_proc
@pytest.mark.parametrize("number", [signal.SIGXCPU, signal.SIGKILL, signal.SIGSEGV])
async def test_decoder_killed_by_a_signal_means_undecodable_audio(
    number: signal.Signals, blocked: Blocked, caplog: pytest.LogCaptureFixture
) -> None:
    os.kill(blocked.pid, number)

    with pytest.raises(UndecodableAudio, match=number.name):
        await blocked.task

    assert not blocked.destination.exists()
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can tie a child's life to its parent's")
def test_decoder_process_dies_with_the_service(tmp_path: Path) -> None:
    source = tmp_path / "source"
    os.mkfifo(source)
    program = (
        "import asyncio, sys; from pathlib import Path; from app.transcription.decoding import Decoder\n"
        "asyncio.run(Decoder(max_seconds=60).decode(Path(sys.argv[1]), Path(sys.argv[2])))"
    )
    command = [sys.executable, "-c", program, str(source), str(tmp_path / "pcm")]
    with subprocess.Popen(command, cwd=SAMPLES.parent) as service:
        writer = os.open(source, os.O_WRONLY)
        processes = wait_for(lambda: decoders_of(service.pid)) + servers_of(service.pid)
        service.kill()
        service.wait()
    wait_for(lambda: not any(map(is_running, processes)))
    os.close(writer)


def wait_for(condition: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + 120
    while not (value := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return value


@needs_proc
async def test_decodings_continue_if_the_decoder_server_ends(
    blocked: Blocked, caplog: pytest.LogCaptureFixture
) -> None:
    (server,) = (pid for pid in servers_of(os.getpid()) if blocked.pid in children_of(pid))
    os.kill(server, signal.SIGKILL)

    await eventually(lambda: decoders_of(os.getpid()) not in ([], [blocked.pid]))
    assert not blocked.task.done()
    assert "is started again" in caplog.text


@needs_proc
async def test_file_whose_decoder_server_ends_twice_is_not_blamed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = replaced_program(tmp_path, "import signal\nos.kill(os.getppid(), signal.SIGKILL)\ntime.sleep(1000)")
    monkeypatch.setattr(decoder_launcher, "_PROGRAM", program)

    with pytest.raises(DecoderUnavailable, match="ended twice"):
        await Decoder(max_seconds=60).decode(SAMPLES / "hello.wav", tmp_path / "pcm")
    assert not await asyncio.to_thread((tmp_path / "pcm").exists)


async def test_missing_library_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = replaced_program(tmp_path, "pass")
    process = program.with_name("decoder_process.py")
    process.write_text(process.read_text().replace("    pass\n", "    import av_of_another_world\n", 1))
    monkeypatch.setattr(decoder_launcher, "_PROGRAM", program)

    with pytest.raises(DecoderUnavailable, match="ModuleNotFoundError: No module named 'av_of_another_world'"):
        await Decoder(max_seconds=60).check()


async def test_check_reports_a_decoder_that_does_not_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoder_launcher, "_PROGRAM", replaced_program(tmp_path, "raise ImportError('no codec')"))

    with pytest.raises(DecoderUnavailable, match=r"A bundled sample can't be decoded: .*\(the decoder failed\)"):
        await Decoder(max_seconds=60).check()


def test_libraries_of_another_folder_are_found(tmp_path: Path) -> None:
    """Run the service with packages that Python's isolated mode does not find: from PYTHONPATH."""
    packages = tmp_path / "packages"
    packages.mkdir()
    for package in Path(av.__file__).parent.parent.iterdir():
        if package.suffix != ".dist-info":
            (packages / package.name).symlink_to(package)
    program = (
        "import asyncio; from app.transcription.decoding import Decoder; asyncio.run(Decoder(max_seconds=9).check())"
    )
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    done = subprocess.run(
        [venv / "bin" / "python", "-c", program],
        env={"PYTHONPATH": f"{packages}:{SAMPLES.parent}"},
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.skipif(importlib.util.find_spec("uvloop") is None, reason="uvloop is not installed")
def test_files_are_decoded_on_uvloop() -> None:
    uvloop = importlib.import_module("uvloop")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(Decoder(max_seconds=9).check())


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("seconds", [1, 60])
async def test_full_disk_is_reported(seconds: int, decoder: Decoder, tmp_path: Path) -> None:
    source = encode(tmp_path / "source", sweep(seconds), container="wav", codec="pcm_s16le")
    destination = tmp_path / "pcm"
    destination.symlink_to("/dev/full")

    with pytest.raises(DiskFull, match="disk space") as caught:
        await decoder.decode(source, destination)

    assert 1 <= caught.value.retry_after_seconds <= 120
    assert not destination.is_symlink()


async def test_missing_source_is_not_the_senders_fault(decoder: Decoder, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        await decoder.decode(tmp_path / "nowhere", tmp_path / "pcm")


async def test_several_files_are_decoded_concurrently(decoder: Decoder, tmp_path: Path) -> None:
    names = ["hello.wav", "numbers.mp3", "code.flac", "upload.ogg"]

    decoded = await asyncio.gather(*(decoder.decode(SAMPLES / name, tmp_path / name) for name in names))

    assert [result.pcm.name for result in decoded] == names
    assert all(result.duration > 4 for result in decoded)


async def test_long_messages_of_a_decoder_are_truncated(
    decoder: Decoder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    content = bytearray(encode(tmp_path / "w", sweep(60), container="flac", codec="flac").read_bytes())
    for place in range(10_000, len(content), 2_000):
        content[place] ^= 0xFF
    source = tmp_path / "source"
    source.write_bytes(content)

    with caplog.at_level(logging.DEBUG, logger="app.transcription.decoding"):
        await decoder.decode(source, tmp_path / "pcm")

    assert any("Messages of the decoder" in record.message for record in caplog.records)
    assert max(len(record.message) for record in caplog.records) < 20_000


async def test_decoding_stops_before_the_reserved_disk_space(tmp_path: Path) -> None:
    careful = Decoder(max_seconds=3600, min_free_bytes=1 << 60)
    with pytest.raises(DiskFull, match="No disk space is left for the decoded audio"):
        await careful.decode(SAMPLES / "long.opus", tmp_path / "pcm")
    assert not (tmp_path / "pcm").exists()
    assert (await careful.decode(SAMPLES / "hello.wav", tmp_path / "pcm")).samples  # it ends before the first check


@pytest.mark.parametrize(
    "lie",
    [
        {"samples": 10**18},
        {"samples": 0},
        {"samples": -5},
        {"channels": 0},
        {"channels": 9},
        {"samples": 501},
        {"track": 2},
        {"track": 0},
    ],
)
def test_claim_of_more_samples_than_written_is_rejected(tmp_path: Path, lie: dict[str, int]) -> None:
    pcm = tmp_path / "pcm"
    pcm.write_bytes(bytes(1000))
    result = {
        "ok": True,
        "sandbox": [],
        "samples": 500,
        "channels": 1,
        "track": 1,
        "tracks": 1,
        "is_complete": True,
        "corrupt_frames": 0,
        "cancelled_seconds": 0.0,
        "missing_seconds": 0.0,
        "gave_up": False,
    }
    decoder = Decoder(max_seconds=3600)
    assert decoder._decoded(exited(result), pcm, 1000).samples == 500
    with pytest.raises(UndecodableAudio, match="the decoder failed"):
        decoder._decoded(exited(result | lie), pcm, 1000)


def exited(result: dict[str, object]) -> decoding._Exit:
    return decoding._Exit(status=0, result=json.dumps(result).encode(), messages=b"")
