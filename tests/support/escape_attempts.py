"""A program that enters the decoders' sandbox and then tries everything that is not allowed in it.

Usage: ``python -I escape_attempts.py SANDBOX HOW FOLDER PARENT``, where SANDBOX is the path of ``sandbox.py``. The
program prints JSON: the ``effective`` parts of the sandbox, and the errno of each attempt (0: it succeeded). HOW is
``as a decoder``, ``as somebody`` (after it became a user other than root), ``by the filter alone``, ``not at all``, or
``as a decoder, then abort``.
"""

from __future__ import annotations

import ctypes
import fcntl
import importlib.util
import json
import os
import platform
import signal
import socket
import sys
import threading
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    Attempt = Callable[[], object]

_COLUMN: Final = 1 if platform.machine() == "aarch64" else 0
#: Numbers on x86-64 and arm64 (-1: it has none), then arguments that do nothing if the call is allowed.
_RAW: Final[dict[str, tuple[int, int, tuple[int, ...]]]] = {
    "accept4": (288, 242, (-1, 0, 0, 0)),
    "add_key": (248, 217, (0, 0, 0, 0, 0)),
    "bpf": (321, 280, (99, 0, 0)),
    "capset": (126, 91, (0, 0)),
    "chroot": (161, 51, (0,)),
    "clone without a thread": (56, 220, (signal.SIGCHLD | 0x8000_0000_0000, 0, 0, 0, 0)),
    "clone3": (435, 435, (0, 0)),
    "creat": (85, -1, (0, 0)),
    "dup3": (292, 24, (-1, -1, 0)),
    "epoll_create1": (291, 20, (-1,)),
    "eventfd2": (290, 19, (0, -1)),
    "execveat": (322, 281, (-1, 0, 0, 0, 0)),
    "fanotify_init": (300, 262, (-1, 0)),
    "ftruncate": (77, 46, (-1, 0)),
    "init_module": (175, 105, (0, 0, 0)),
    "inotify_init1": (294, 26, (-1,)),
    "io_uring_setup": (425, 425, (0, 0)),
    "ioctl": (16, 29, (-1, 0, 0)),
    "kexec_load": (246, 104, (0, 0, 0, -1)),
    "keyctl": (250, 219, (0, -1, 0, 0, 0)),
    "landlock_create_ruleset": (444, 444, (0, 0, 99)),
    "memfd_create": (319, 279, (0, 0)),
    "mount": (165, 40, (0, 0, 0, 0, 0)),
    "open_by_handle_at": (304, 265, (-1, 0, 0)),
    "openat2": (437, 437, (-1, 0, 0, 0)),
    "perf_event_open": (298, 241, (0, 0, 0, 0, -1)),
    "personality": (135, 92, (0xFFFF_FFFF,)),
    "pidfd_open": (434, 434, (-1, 0)),
    "pidfd_send_signal": (424, 424, (-1, 0, 0, 0)),
    "pivot_root": (155, 41, (0, 0)),
    "prctl": (157, 167, (-1, 0, 0, 0, 0)),
    "process_vm_readv": (310, 270, (0, 0, 0, 0, 0, 0)),
    "process_vm_writev": (311, 271, (0, 0, 0, 0, 0, 0)),
    "rt_sigqueueinfo": (129, 138, (0, 0, 0)),
    "seccomp": (317, 277, (-1, 0, 0)),
    "setns": (308, 268, (-1, 0)),
    "setrlimit": (160, 164, (-1, 0)),
    "shmget": (29, 194, (0, 0, 0)),
    "tkill": (200, 130, (-1, 0)),
    "umount2": (166, 39, (0, 0)),
    "unshare": (272, 97, (-1,)),
    "userfaultfd": (323, 282, (-1,)),
    "vfork": (58, -1, ()),
}


def load(path: str) -> Any:
    spec = importlib.util.spec_from_file_location("sandbox", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def opened(path: Path | str, flags: int) -> None:
    os.close(os.open(path, flags, 0o600))


def looked_at_and_opened(path: Path) -> None:
    path.stat()
    opened(path, os.O_RDONLY)


def fork() -> None:
    if os.fork() == 0:
        os._exit(0)
    os.wait()


def raw(libc: Any, number: int, *arguments: int) -> None:
    """Make a syscall by its number."""
    result = libc.syscall(*(ctypes.c_long(value) for value in (number, *arguments)))
    if result == 0 and number in (57, 58):
        os._exit(1)  # a new process, which must not continue
    if result < 0:
        raise OSError(ctypes.get_errno(), "refused")


def harmless(folder: Path, descriptor: int) -> dict[str, Attempt]:
    """Return attempts that succeed outside the sandbox."""
    there, new = folder / "there", folder / "new"
    return {
        "open a file": lambda: opened(there, os.O_RDONLY),
        "stat, then open a file": lambda: looked_at_and_opened(there),
        "open what is open by its name": lambda: opened(folder / "source", os.O_RDONLY),
        "create a file": lambda: opened(new, os.O_CREAT | os.O_WRONLY),
        "open a folder": lambda: list(os.scandir(folder)),
        "open its own memory": lambda: opened("/proc/self/mem", os.O_RDWR),
        "socket of IPv4": lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM),
        "socket of IPv6": lambda: socket.socket(socket.AF_INET6, socket.SOCK_STREAM),
        "socket of datagrams": lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM),
        "socket of this machine": lambda: socket.socket(socket.AF_UNIX, socket.SOCK_STREAM),
        "socket of the kernel": lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0),
        "pair of sockets": socket.socketpair,
        "pipe": os.pipe,
        "fork": fork,
        "start a program": lambda: os.waitpid(os.posix_spawn("/bin/true", ["true"], {}), 0),
        "duplicate": lambda: os.close(os.dup(descriptor)),
        "rename": lambda: there.replace(there),
        "make a folder": (folder / "made").mkdir,
        "change a mode": lambda: there.chmod(0o600),
        "change an owner": lambda: os.chown(there, -1, -1),
        "link by a name": lambda: (folder / "symbolic").symlink_to("there"),
        "link": lambda: os.link(there, folder / "linked"),
        "read a link": Path("/proc/self/exe").readlink,
        "truncate": lambda: os.truncate(there, 0),
        "change the folder": lambda: os.chdir(folder),
        "lock": lambda: fcntl.flock(descriptor, fcntl.LOCK_SH),
        "ask for signals": lambda: fcntl.fcntl(descriptor, fcntl.F_SETOWN, os.getpid()),
        "delete": (folder / "unwanted").unlink,
    }


def harmful(libc: Any, folder: Path, connected: socket.socket, parent: int) -> dict[str, Attempt]:
    """Return attempts that must fail, with the least harmful arguments."""
    tgkill, ptrace, prlimit = ((234, 101, 302), (131, 117, 261))[_COLUMN]
    return {
        "connect": lambda: connected.connect(("127.0.0.1", 9)),
        "send a datagram": lambda: connected.sendto(b"x", ("127.0.0.1", 9)),
        "become another program": lambda: os.execv("/bin/true", ["true"]),  # noqa: S606  # expected to be refused
        "signal its parent": lambda: os.kill(parent, 0),
        "signal a thread of its parent": lambda: raw(libc, tgkill, parent, parent, 0),
        "trace its parent": lambda: raw(libc, ptrace, 0x4206, parent, 0, 0),  # PTRACE_SEIZE
        "limits of its parent": lambda: raw(libc, prlimit, parent, 7, 0, 0),
        "have its parent killed by a pipe": lambda: fcntl.fcntl(1, fcntl.F_SETOWN, parent),
        "become root": lambda: os.setuid(0),
        "become root by all ids": lambda: os.setresuid(0, 0, 0),
        "open the parent's memory": lambda: os.open(f"/proc/{parent}/mem", os.O_RDWR),
        "make a device": lambda: os.mknod(folder / "device", 0o600 | 0o020000, os.makedev(1, 3)),
        **{
            name: partial(raw, libc, numbers[_COLUMN], *arguments)
            for name, (*numbers, arguments) in _RAW.items()
            if numbers[_COLUMN] >= 0
        },
    }


def needed(source: Any, destination: Any) -> dict[str, Attempt]:
    """Return what decoding needs and must succeed."""

    def thread() -> None:
        done: list[int] = []
        started = threading.Thread(target=done.append, args=(1,))
        started.start()
        started.join()
        assert done

    def clocks() -> None:
        assert time.time() > time.process_time()
        time.sleep(0.001)

    return {
        "read": lambda: source.seek(3) and source.read(1_000),
        "write": lambda: (destination.write(bytes(1 << 20)), destination.flush()),
        "thread": thread,
        "time": clocks,
        "random": lambda: os.getrandom(64),
        "memory": lambda: [bytearray(1 << 24) for _ in range(8)],
        "signal handler": lambda: signal.signal(signal.SIGUSR1, signal.SIG_IGN),
        "stat of what is open": lambda: os.fstat(source.fileno()),
    }


def outcome(attempt: Attempt) -> int | str:
    try:
        attempt()
    except OSError as refusal:
        return refusal.errno or -1
    except Exception as other:  # noqa: BLE001  # it is reported
        return repr(other)
    return 0


def enter_sandbox(module: Any, how: str, parent: int) -> list[str]:
    if how == "not at all":
        return []
    if how == "by the filter alone":
        module._forbid_new_privileges()
        return ["syscalls"] if module._filter_syscalls() else []
    if how == "as somebody":
        os.setgroups([])
        os.setresgid(1_000, 1_000, 1_000)
        os.setresuid(1_000, 1_000, 1_000)
    effective: list[str] = module.enter(parent)
    return effective


def main() -> None:
    sandbox, how, folder_name, parent_id = sys.argv[1:]
    folder, parent = Path(folder_name), int(parent_id)
    module, libc = load(sandbox), ctypes.CDLL(None, use_errno=True)
    datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with (folder / "source").open("rb") as source, (folder / "destination").open("wb") as destination:
        tried = harmless(folder, source.fileno())
        if how != "not at all":
            tried |= harmful(libc, folder, datagrams, parent)
        effective = enter_sandbox(module, how, parent)
        if how.endswith("abort"):
            os.abort()
        report = {
            "effective": effective,
            "user": os.getuid(),
            "tried": {name: outcome(attempt) for name, attempt in tried.items()},
            "needed": {name: outcome(attempt) for name, attempt in needed(source, destination).items()},
        }
        os.write(1, json.dumps(report).encode())


if __name__ == "__main__":
    main()
