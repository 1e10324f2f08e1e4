"""The sandbox of the decoder process, and how the service treats one that is controlled by a file's code."""

from __future__ import annotations

import asyncio
import errno
import itertools
import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from app.domain.errors import UndecodableAudio
from app.transcription import decoder_launcher, decoding
from app.transcription.decoding import Decoder
from app.transcription.sandbox import NOBODY
from tests.support import escape_attempts
from tests.support.audio import SAMPLES
from tests.support.decoders import blocked_decoding, decoders_of, replaced_program
from tests.support.hostile_boxes import MATROSKA
from tests.support.waiting import eventually
from tests.transcription.test_decoding import is_alive
from tests.transcription.test_decoding_attacks import MAKERS, NOT_AUDIO

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from tests.support.decoders import Blocked

pytestmark = pytest.mark.anyio

APP: Final = Path(decoding.__file__).parent
IS_ROOT: Final = hasattr(os, "geteuid") and os.geteuid() == 0

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has filters of syscalls")
needs_root = pytest.mark.skipif(not IS_ROOT, reason="only root can become another user")


def try_everything(folder: Path, how: str) -> subprocess.CompletedProcess[bytes]:
    """Run the program that tries to escape, in a folder that everybody may write to."""
    folder.chmod(0o777)
    for name, content in (("source", bytes(100_000)), ("there", b"x"), ("unwanted", b""), ("destination", b"")):
        (folder / name).write_bytes(content)
        (folder / name).chmod(0o666)
    command = (
        sys.executable,
        "-I",
        escape_attempts.__file__,
        str(APP / "sandbox.py"),
        how,
        str(folder),
        str(os.getpid()),
    )
    return subprocess.run(command, capture_output=True, check=False, timeout=240)


def outcomes(folder: Path, how: str) -> dict[str, Any]:
    done = try_everything(folder, how)
    if how == "as somebody" and b"PermissionError" in done.stderr:
        pytest.skip("this root may not become another user")
    assert done.returncode == 0, done.stderr.decode()
    report: dict[str, Any] = json.loads(done.stdout)
    if how != "not at all" and "syscalls" not in report["effective"]:
        pytest.skip("this system does not let a process filter its syscalls")
    return report


@pytest.fixture
def effective(tmp_path: Path) -> list[str]:
    """The parts of the sandbox that this machine supports."""
    (tmp_path / "probe").mkdir()
    parts: list[str] = outcomes(tmp_path / "probe", "as a decoder")["effective"]
    return parts


@linux_only
@pytest.mark.parametrize(
    "how", ["as a decoder", pytest.param("as somebody", marks=needs_root), pytest.param("by the filter alone")]
)
def test_sandboxed_process_can_only_compute(how: str, tmp_path: Path) -> None:
    report = outcomes(tmp_path, how)

    assert len(report["tried"]) > 70
    refused = {errno.EPERM, errno.ENOSYS, errno.EACCES}  # EACCES if nobody may not look into the folder
    assert {name: code for name, code in report["tried"].items() if code not in refused} == {}
    assert set(report["needed"].values()) == {0}, report["needed"]
    assert (tmp_path / "destination").stat().st_size == 1 << 20
    assert {path.name for path in tmp_path.iterdir()} == {"source", "there", "unwanted", "destination"}


@linux_only
def test_escape_attempts_succeed_without_a_sandbox(tmp_path: Path) -> None:
    report = outcomes(tmp_path, "not at all")

    assert len(report["tried"]) > 20
    assert set(report["tried"].values()) <= {0, errno.EAFNOSUPPORT}, report["tried"]
    assert set(report["needed"].values()) == {0}


@linux_only
def test_sandboxed_process_can_abort(tmp_path: Path) -> None:
    assert try_everything(tmp_path, "as a decoder, then abort").returncode == -signal.SIGABRT


@pytest.fixture
async def running(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Blocked]:
    """A decoder process that makes no progress. The parameter is its ``stall_seconds``."""
    decoder = Decoder(max_seconds=3600, stall_seconds=getattr(request, "param", 120))
    async with blocked_decoding(decoder, tmp_path) as decoding:
        yield decoding


def status_of(pid: int) -> list[dict[str, str]]:
    """Return the status of each thread of a process, as Linux shows it."""
    return [
        dict(
            line.split(":\t", 1) for line in (task / "status").read_text(encoding="utf-8").splitlines() if ":\t" in line
        )
        for task in Path(f"/proc/{pid}/task").iterdir()
    ]


def network_of(process: str) -> Path:
    return Path(f"/proc/{process}/ns/net").readlink()


@linux_only
async def test_running_decoder_has_no_rights(effective: list[str], running: Blocked) -> None:
    def is_filtered() -> bool:
        return all(thread["Seccomp"] == "2" for thread in status_of(running.pid)) or running.task.done()

    await eventually(is_filtered)

    is_nobody = "user" in effective
    assert is_nobody == IS_ROOT or "network" not in effective  # root has no such right in some containers
    for thread in status_of(running.pid):
        assert thread["NoNewPrivs"] == "1"
        assert thread["Seccomp"] == "2"
        assert thread["Uid"].split() == [str(NOBODY if is_nobody else os.getuid())] * 4
        if is_nobody:
            assert thread["Gid"].split() == [str(NOBODY)] * 4
            assert thread["Groups"].strip() == ""
            assert int(thread["CapEff"], 16) == int(thread["CapPrm"], 16) == 0
    if IS_ROOT and "network" in effective:  # another user may not read it
        assert network_of(str(running.pid)) != network_of("self")


@linux_only
@needs_root
def test_process_that_is_not_root_keeps_its_user(tmp_path: Path) -> None:
    report = outcomes(tmp_path, "as somebody")

    assert "user" not in report["effective"]
    assert {"privileges", "syscalls"} <= set(report["effective"])


@linux_only
async def test_effective_sandbox_is_logged_once(
    effective: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    decoder = Decoder(max_seconds=3600)
    with caplog.at_level(logging.DEBUG, logger=decoding.__name__):
        for _ in range(2):
            await decoder.decode(SAMPLES / "hello.wav", tmp_path / "pcm")

    messages = [record.getMessage() for record in caplog.records if "sandbox" in record.getMessage()]
    assert messages == [f"Decoders run in a sandbox: {', '.join(effective)}"]


def corpus(folder: Path) -> Iterator[Path]:
    """Yield the samples and files that attack."""
    yield from sorted(path for path in SAMPLES.iterdir() if path.suffix != ".json")
    target = folder / "target.wav"
    shutil.copy(SAMPLES / "hello.wav", target)
    targets = [str(target), "target.wav", f"concat:{target}", "http://127.0.0.1:9/a.wav", "udp://127.0.0.1:9"]
    for index, (make, address) in enumerate(itertools.product(MAKERS, targets)):
        path = folder / f"list-{index}"
        path.write_text(make(address), encoding="utf-8")
        yield path
    for name, write in NOT_AUDIO.items():
        path = folder / name
        write(path)
        yield path


_NETWORK: Final = re.compile(r"\b(socket|socketpair|connect|bind|listen|accept4?|sendto|sendmsg|sendmmsg|recvfrom)\(")
_REACHING: Final = re.compile(r"\b(open|openat|openat2|creat|execve|execveat|fork|vfork|memfd_create)\(.* = \d+$")
_ENTERED: Final = "prctl(PR_SET_SECCOMP"
_PROCESS: Final = re.compile(r"\bclone3?\((?!.*CLONE_THREAD).* = \d+$")


def forbidden_calls(trace: Path) -> list[str]:
    """Return the syscalls, of a decoder process or one of its threads, that it must not make."""
    lines = trace.read_text(errors="replace").splitlines()
    entered = next((index + 1 for index, line in enumerate(lines) if _ENTERED in line), 0)
    networking = [line for line in lines if _NETWORK.search(line)]
    return networking + [line for line in lines[entered:] if _REACHING.search(line) or _PROCESS.search(line)]


def decoder_traces(folder: Path) -> list[Path]:
    """Return the traces of decoder processes, without that of the server, which executes a program."""
    return [trace for trace in folder.glob("trace.*") if "execve(" not in trace.read_text(errors="replace")]


@linux_only
@pytest.mark.full(reason="traces more than fifty decoder processes")
@pytest.mark.timeout(600)
async def test_no_file_makes_a_decoder_call_forbidden_syscalls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("strace is not installed")
    if await asyncio.to_thread(os.spawnl, os.P_WAIT, strace, "strace", "-D", "-o", "/dev/null", "true") != 0:
        pytest.skip("this machine does not allow tracing a process")
    sources = await asyncio.to_thread(lambda: list(corpus(tmp_path)))
    assert len(sources) > 50
    python = tmp_path / "python"
    # With -D the tracer is the grandchild, so that the decoder server is a child of this process.
    options = f"-D -ff -q -s 0 -o {tmp_path}/trace"
    await asyncio.to_thread(python.write_text, f'#!/bin/sh\nexec {strace} {options} {sys.executable} "$@"\n')
    await asyncio.to_thread(python.chmod, 0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    decoder = Decoder(max_seconds=3600)
    for source in sources:
        with nullcontext() if source.parent == SAMPLES else pytest.raises(UndecodableAudio):
            await decoder.decode(source, tmp_path / "pcm")
    decoder.close()
    traces = await asyncio.to_thread(decoder_traces, tmp_path)
    await eventually(lambda: all("+++ exited with 0 +++" in trace.read_text(errors="replace") for trace in traces))
    assert sum(_ENTERED in trace.read_text(errors="replace") for trace in traces) == len(sources)
    assert {trace.name: lines for trace in traces if (lines := forbidden_calls(trace))} == {}


async def test_video_with_subtitles_is_decoded(tmp_path: Path) -> None:
    source = tmp_path / "film.mkv"
    content = MATROSKA["mkv with subtitles"]()
    await asyncio.to_thread(source.write_bytes, b"".join(part for part in content if isinstance(part, bytes)))

    assert (await Decoder(max_seconds=60).decode(source, tmp_path / "pcm")).duration == pytest.approx(1)


def test_everything_is_imported_before_entering_the_sandbox() -> None:
    program = (
        "import importlib.util, json, pkgutil, sys\n"
        "spec = importlib.util.spec_from_file_location('decoder_server', sys.argv[1])\n"
        "server = importlib.util.module_from_spec(spec)\n"
        "spec.loader.exec_module(server)\n"
        "program = [server.load(name) for name in ('media_source', 'mixing', 'decoder_process')][-1]\n"
        "program.load_decoders()\n"
        "import av\n"
        "known = {module.name for module in pkgutil.walk_packages(av.__path__, 'av.')}\n"
        "print(json.dumps(sorted(known - set(sys.modules))))\n"
    )
    command = (sys.executable, "-Ic", program, str(APP / "decoder_server.py"))
    done = subprocess.run(command, capture_output=True, check=True)

    assert json.loads(done.stdout) == ["av.__main__", "av.datasets"]  # a program and a module that downloads examples


@linux_only
@pytest.mark.full(reason="waits for fifteen seconds")
@pytest.mark.parametrize("running", [15], indirect=True)
async def test_decoder_without_progress_is_stopped(running: Blocked, caplog: pytest.LogCaptureFixture) -> None:
    os.kill(running.pid, signal.SIGSTOP)

    with pytest.raises(UndecodableAudio, match=r"no progress for 15 s\): convert it to wav"):
        await running.task

    assert not is_alive(running.pid)
    assert not running.destination.exists()
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


@pytest.mark.parametrize(
    "line",
    [
        "",
        "{",
        "7",
        "[" * 4_000,
        '{"a":' * 800,
        "x" * 1_000_000,
        "9" * 4_000,
        '{"ok": true}',
        '{"ok": false, "sandbox": [], "kind": 7, "message": "x"}',
        '{"ok": true, "sandbox": [], "samples": "7", "channels": 1, "track": 1, "tracks": 1, "is_complete": true, '
        '"corrupt_frames": 0, "cancelled_seconds": 0.0, "missing_seconds": 0.0, "gave_up": false}',
        '{"decoded": "many", "channels": 1}',
        '{"decoded": 7}',
        '{"decoded": [7], "channels": null}',
    ],
)
async def test_invalid_output_of_a_decoder_is_a_failure(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "line").write_text(line + "\n")
    decoder = controlled(monkeypatch, tmp_path, f"connection.sendall(open({str(tmp_path / 'line')!r}, 'rb').read())")
    progress: list[tuple[int, int]] = []

    with pytest.raises(UndecodableAudio, match="the decoder failed"):
        await decoder.decode(
            SAMPLES / "hello.wav", tmp_path / "pcm", on_progress=lambda *counts: progress.append(counts)
        )

    assert progress == []


def controlled(monkeypatch: pytest.MonkeyPatch, folder: Path, code: str, **limits: float) -> Decoder:
    """Return a decoder whose processes run ``code`` instead, as if a file had taken them over."""
    monkeypatch.setattr(decoder_launcher, "_PROGRAM", replaced_program(folder, code))
    return Decoder(max_seconds=60, **limits)  # type: ignore[arg-type]  # seconds


@linux_only
async def test_decoder_is_killed_if_its_output_raises_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(samples: int, channels: int) -> None:
        raise ValueError(samples, channels)

    code = 'connection.sendall(b\'{"decoded": 7, "channels": 1}\\n\')\ntime.sleep(1000)'
    with pytest.raises(ValueError, match="7"):
        await controlled(monkeypatch, tmp_path, code).decode(SAMPLES / "hello.wav", tmp_path / "pcm", on_progress=fail)
    assert decoders_of(os.getpid()) == []


@linux_only
async def test_decoder_with_endless_invalid_output_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = "while True: connection.sendall(b'x' * 1000 + b'\\n')"
    with pytest.raises(UndecodableAudio, match=r"no progress for 0\.5 s"):
        await controlled(monkeypatch, tmp_path, code, stall_seconds=0.5).decode(SAMPLES / "hello.wav", tmp_path / "pcm")
    assert decoders_of(os.getpid()) == []


@linux_only
async def test_claimed_exit_of_a_decoder_is_not_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = "import signal\nconnection.sendall(b'{\"exit\": 0}\\n')\nos.kill(os.getpid(), signal.SIGSEGV)"
    with pytest.raises(UndecodableAudio, match="SIGSEGV"):
        await controlled(monkeypatch, tmp_path, code).decode(SAMPLES / "hello.wav", tmp_path / "pcm")
