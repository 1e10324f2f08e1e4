"""What a decoder can't do once it looks at a stranger's bytes, whatever those make of it."""

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
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from app.domain.errors import UndecodableAudio
from app.transcription import decoding
from app.transcription.decoding import Decoder
from app.transcription.sandbox import NOBODY
from tests.faults.tracing import has_ended
from tests.support import confined
from tests.support.audio import SAMPLES
from tests.support.hostile_boxes import MATROSKA
from tests.support.waiting import eventually
from tests.transcription.test_decoding import decoders_of, is_alive
from tests.transcription.test_decoding_attacks import MAKERS, NOT_AUDIO

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

pytestmark = pytest.mark.anyio

APP: Final = Path(decoding.__file__).parent
IS_ROOT: Final = hasattr(os, "geteuid") and os.geteuid() == 0

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has filters of syscalls")
needs_root = pytest.mark.skipif(not IS_ROOT, reason="only root can become another user")


def try_everything(folder: Path, how: str) -> subprocess.CompletedProcess[bytes]:
    """Runs the program that tries to get out, in a folder that is anybody's."""
    folder.chmod(0o777)
    for name, content in (("source", bytes(100_000)), ("there", b"x"), ("unwanted", b""), ("destination", b"")):
        (folder / name).write_bytes(content)
        (folder / name).chmod(0o666)
    command = (sys.executable, "-I", confined.__file__, str(APP / "sandbox.py"), how, str(folder), str(os.getpid()))
    return subprocess.run(command, capture_output=True, check=False, timeout=60)


def outcomes(folder: Path, how: str) -> dict[str, Any]:
    done = try_everything(folder, how)
    if how == "as somebody" and b"PermissionError" in done.stderr:
        pytest.skip("this root may not become another user")
    assert done.returncode == 0, done.stderr.decode()
    said: dict[str, Any] = json.loads(done.stdout)
    if how != "not at all" and "syscalls" not in said["held"]:
        pytest.skip("this system does not let a process filter its syscalls")
    return said


@pytest.fixture
def held(tmp_path: Path) -> list[str]:
    """What a process of this machine can give up."""
    (tmp_path / "probe").mkdir()
    given_up: list[str] = outcomes(tmp_path / "probe", "as a decoder")["held"]
    return given_up


@linux_only
@pytest.mark.parametrize(
    "how", ["as a decoder", pytest.param("as somebody", marks=needs_root), pytest.param("by the filter alone")]
)
def test_a_confined_process_can_compute_and_nothing_else(how: str, tmp_path: Path) -> None:
    said = outcomes(tmp_path, how)

    assert len(said["tried"]) > 70
    refused = {errno.EPERM, errno.ENOSYS, errno.EACCES}  # the last where nobody can't look into the folder
    assert {name: code for name, code in said["tried"].items() if code not in refused} == {}
    assert set(said["still"].values()) == {0}, said["still"]
    assert (tmp_path / "destination").stat().st_size == 1 << 20
    assert {path.name for path in tmp_path.iterdir()} == {"source", "there", "unwanted", "destination"}


@linux_only
def test_the_same_attempts_succeed_where_nothing_stops_them(tmp_path: Path) -> None:
    said = outcomes(tmp_path, "not at all")

    assert len(said["tried"]) > 20
    assert set(said["tried"].values()) <= {0, errno.EAFNOSUPPORT}, said["tried"]
    assert set(said["still"].values()) == {0}


@linux_only
def test_a_confined_process_can_still_abort(tmp_path: Path) -> None:
    assert try_everything(tmp_path, "as a decoder, then abort").returncode == -signal.SIGABRT


class Working:
    """A decoder that waits for its source, a named pipe."""

    def __init__(self, task: asyncio.Task[Any], pid: int, destination: Path) -> None:
        self.task = task
        self.pid = pid
        self.destination = destination


STALL_SECONDS: Final = 3


@pytest.fixture
async def working(tmp_path: Path) -> AsyncIterator[Working]:
    """It is confined, and nothing comes out of it."""
    source, destination = tmp_path / "source", tmp_path / "pcm"
    os.mkfifo(source)
    decoder = Decoder(max_seconds=3600, stall_seconds=STALL_SECONDS)
    task = asyncio.create_task(decoder.decode(source, destination), name="working")
    writer = await asyncio.to_thread(os.open, source, os.O_WRONLY)
    try:
        await eventually(destination.exists)
        (pid,) = decoders_of(os.getpid())
        yield Working(task, pid, destination)
    finally:
        os.close(writer)
        await asyncio.gather(task, return_exceptions=True)


def status_of(pid: int) -> list[dict[str, str]]:
    """What Linux says about each thread of a process."""
    return [
        dict(
            line.split(":\t", 1) for line in (task / "status").read_text(encoding="utf-8").splitlines() if ":\t" in line
        )
        for task in Path(f"/proc/{pid}/task").iterdir()
    ]


def network_of(process: str) -> Path:
    return Path(f"/proc/{process}/ns/net").readlink()


@linux_only
async def test_a_decoder_at_work_has_no_rights(held: list[str], working: Working) -> None:
    def is_filtered() -> bool:
        return all(thread["Seccomp"] == "2" for thread in status_of(working.pid)) or working.task.done()

    await eventually(is_filtered)

    is_nobody = "user" in held
    assert is_nobody == IS_ROOT or "network" not in held  # a root without the right to, as in some containers
    for thread in status_of(working.pid):
        assert thread["NoNewPrivs"] == "1"
        assert thread["Seccomp"] == "2"
        assert thread["Uid"].split() == [str(NOBODY if is_nobody else os.getuid())] * 4
        if is_nobody:
            assert thread["Gid"].split() == [str(NOBODY)] * 4
            assert thread["Groups"].strip() == ""
            assert int(thread["CapEff"], 16) == int(thread["CapPrm"], 16) == 0
    if IS_ROOT and "network" in held:  # another user may not look
        assert network_of(str(working.pid)) != network_of("self")


@linux_only
@needs_root
def test_who_is_not_root_keeps_its_user(tmp_path: Path) -> None:
    said = outcomes(tmp_path, "as somebody")

    assert "user" not in said["held"]
    assert {"privileges", "syscalls"} <= set(said["held"])


@linux_only
async def test_what_confines_decoders_is_said_once(
    held: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    decoder = Decoder(max_seconds=3600)
    with caplog.at_level(logging.DEBUG, logger=decoding.__name__):
        for _ in range(2):
            await decoder.decode(SAMPLES / "hello.wav", tmp_path / "pcm")

    said = [record.getMessage() for record in caplog.records if "confined" in record.getMessage()]
    assert said == [f"Decoders are confined: {', '.join(held)}"]


def corpus(folder: Path) -> Iterator[Path]:
    """The samples, and what attacks are made of."""
    yield from sorted(path for path in SAMPLES.iterdir() if path.suffix != ".json")
    target = folder / "target.wav"
    shutil.copy(SAMPLES / "hello.wav", target)
    places = [str(target), "target.wav", f"concat:{target}", "http://127.0.0.1:9/a.wav", "udp://127.0.0.1:9"]
    for index, (make, place) in enumerate(itertools.product(MAKERS, places)):
        path = folder / f"list-{index}"
        path.write_text(make(place), encoding="utf-8")
        yield path
    for name, write in NOT_AUDIO.items():
        path = folder / name
        write(path)
        yield path


_NETWORK: Final = re.compile(r"\b(socket|socketpair|connect|bind|listen|accept4?|sendto|sendmsg|sendmmsg|recvfrom)\(")
_REACHING: Final = re.compile(r"\b(open|openat|openat2|creat|execve|execveat|fork|vfork|memfd_create)\(.* = \d+$")
_PROCESS: Final = re.compile(r"\bclone3?\((?!.*CLONE_THREAD).* = \d+$")


def whole(trace: Path) -> list[str]:
    """The lines of a trace once the tracer is done with it, which is later than the process."""
    deadline = time.monotonic() + 60
    while not (
        (lines := trace.read_text(errors="replace").splitlines()) and has_ended(trace, int(lines[0].split()[0]))
    ):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return lines


def calls_of_a_decoder(strace: str, folder: Path, number: int, source: Path) -> list[str]:
    """The syscalls of a decoder for ``source``, of all its threads."""
    pcm, trace = folder / f"pcm-{number}", folder / f"trace-{number}"
    wanted = {"parent": os.getpid(), "max_seconds": 3600, "enough_seconds": None, "separate_channels": False}
    limits = json.dumps(
        wanted
        | {
            "memory_bytes": decoding.DEFAULT_MEMORY_BYTES,
            "cpu_seconds": 60,
            "silent_seconds": decoding.DEFAULT_SILENT_SECONDS,
            "min_free_bytes": 0,
        }
    )
    # With -D it is the tracer that is the grandchild, so that the decoder has its right parent.
    options = ("-D", "-f", "-q", "-s", "0", "-o", str(trace))
    program = (sys.executable, "-I", APP / "decoder_process.py", source, pcm, limits)
    done = subprocess.run((strace, *options, *program), env={"HOME": "/"}, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    answer = json.loads(done.stdout.splitlines()[-1])
    assert answer["ok"] == (source.parent == SAMPLES), (source.name, answer)
    lines = whole(trace)
    opened = [index for index, line in enumerate(lines) if f'{pcm}"' in line or "O_CREAT" in line]
    assert len(opened) == 1, opened
    networking = [line for line in lines if _NETWORK.search(line)]
    return networking + [line for line in lines[opened[0] + 1 :] if _REACHING.search(line) or _PROCESS.search(line)]


@linux_only
@pytest.mark.timeout(300)
def test_no_file_makes_a_decoder_ask_the_system_for_anything(tmp_path: Path) -> None:
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("strace is not installed")
    if subprocess.run([strace, "-D", "-o", "/dev/null", "true"], check=False, capture_output=True).returncode != 0:
        pytest.skip("this machine lets nobody trace a process")
    sources = list(corpus(tmp_path))
    assert len(sources) > 50
    # The system kills a decoder when the thread that started it ends: those of the pool outlive it.
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(partial(calls_of_a_decoder, strace, tmp_path), range(len(sources)), sources))

    assert {source.name: calls for source, calls in zip(sources, found, strict=True) if calls} == {}


async def test_a_film_with_subtitles_is_decoded(tmp_path: Path) -> None:
    source = tmp_path / "film.mkv"
    content = MATROSKA["mkv with subtitles"]()
    await asyncio.to_thread(source.write_bytes, b"".join(part for part in content if isinstance(part, bytes)))

    assert (await Decoder(max_seconds=60).decode(source, tmp_path / "pcm")).duration == pytest.approx(1)


def test_all_that_decoding_imports_is_imported_before() -> None:
    program = (
        "import importlib.util, json, pkgutil, sys\n"
        "place = importlib.util.spec_from_file_location('child', sys.argv[1])\n"
        "child = importlib.util.module_from_spec(place)\n"
        "place.loader.exec_module(child)\n"
        "child.load_decoders()\n"
        "import av\n"
        "known = {module.name for module in pkgutil.walk_packages(av.__path__, 'av.')}\n"
        "print(json.dumps(sorted(known - set(sys.modules))))\n"
    )
    command = (sys.executable, "-Ic", program, str(APP / "decoder_process.py"))
    done = subprocess.run(command, capture_output=True, check=True)

    assert json.loads(done.stdout) == ["av.__main__", "av.datasets"]  # a program, and what downloads examples


@linux_only
async def test_a_decoder_that_stands_still_is_stopped(working: Working, caplog: pytest.LogCaptureFixture) -> None:
    os.kill(working.pid, signal.SIGSTOP)

    with pytest.raises(UndecodableAudio, match=r"nothing came out of it for 3 s\): convert it to wav"):
        await working.task

    assert not is_alive(working.pid)
    assert not working.destination.exists()
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


@linux_only
async def test_a_source_that_never_opens_is_given_up(tmp_path: Path) -> None:
    source = tmp_path / "source"
    os.mkfifo(source)

    with pytest.raises(UndecodableAudio, match=r"nothing came out of it for 0\.3 s"):
        await Decoder(max_seconds=3600, stall_seconds=0.3).decode(source, tmp_path / "pcm")

    assert not decoders_of(os.getpid())
    assert not await asyncio.to_thread((tmp_path / "pcm").exists)


async def talking(
    program: str, line: str, on_progress: Callable[[int, int], None], *, stall_seconds: float = 20
) -> tuple[int, bytes, bytes]:
    """What the service makes of a child that says something else than a decoder does; it is given ``line``."""
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-Ic", program),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        limit=decoding._MAX_LINE_BYTES,
    )
    assert child.stdin is not None
    child.stdin.write(line.encode() + b"\n")
    child.stdin.close()
    try:
        return await decoding._outcome(child, on_progress, stall_seconds=stall_seconds)
    finally:
        assert child.returncode is not None
        assert not is_alive(child.pid)


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
        '{"ok": false, "confined": [], "kind": 7, "message": "x"}',
        '{"ok": true, "confined": [], "samples": "7", "channels": 1, "ended": true, "corrupt_frames": 0, '
        '"gave_up": false}',
        '{"decoded": "many", "channels": 1}',
        '{"decoded": 7}',
        '{"decoded": [7], "channels": null}',
    ],
)
async def test_a_decoder_that_talks_nonsense_has_failed(line: str, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []

    code, answer, _ = await talking("print(input())", line, lambda *said: told.append(said))

    with pytest.raises(UndecodableAudio, match="the decoder failed"):
        Decoder(max_seconds=60)._judge(code, answer, tmp_path / "pcm", 0)
    assert told == []


@linux_only
async def test_a_decoder_that_is_not_understood_is_not_left_alone() -> None:
    def is_confused(samples: int, channels: int) -> None:
        raise ValueError(samples, channels)

    program = "print(input(), flush=True); import time; time.sleep(1_000)"
    with pytest.raises(ValueError, match="7"):
        await talking(program, '{"decoded": 7, "channels": 1}', is_confused)


@linux_only
async def test_a_decoder_that_talks_without_end_about_nothing_is_stopped() -> None:
    with pytest.raises(TimeoutError):
        await talking("line = input()\nwhile True: print(line)", "x" * 1_000, lambda *_: None, stall_seconds=0.5)
