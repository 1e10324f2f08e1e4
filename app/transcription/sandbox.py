"""The sandbox of the decoder process: it gives up memory, processor time, rights, files and the network.

The decoder process loads this module by its path, so it imports nothing of this project. A system may not allow every
step; :func:`enter` returns those that took effect. Sources: prctl(2), seccomp(2), credentials(7), the syscall tables of
Linux (arch/x86/entry/syscalls/syscall_64.tbl and include/uapi/asm-generic/unistd.h).
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import platform
import signal
import struct
import sys
from typing import Final

#: The user who owns nothing, on all Linux systems. A service that runs as root decodes as this user.
NOBODY: Final = 65534

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_SECCOMP: Final = 22
_PR_SET_NO_NEW_PRIVS: Final = 38
_SECCOMP_MODE_FILTER: Final = 2
_CLONE_THREAD: Final = 0x0001_0000
_CLONE_NEWUSER: Final = 0x1000_0000
_CLONE_NEWNET: Final = 0x4000_0000

#: For each architecture, its number in seccomp and the column of its syscall numbers in the table below.
_ARCHITECTURES: Final = {"x86_64": (0xC000_003E, 0), "aarch64": (0xC000_00B7, 1)}

#: The syscalls that decoding needs once its files are open and its modules loaded, with their numbers on x86-64 and
#: arm64. All others (open, socket, connect, execve, fork, ptrace, kill, …) fail with EPERM.
_ALLOWED: Final[dict[str, tuple[int, int | None]]] = {
    "read": (0, 63),
    "write": (1, 64),
    "close": (3, 57),
    "fstat": (5, 80),
    "lseek": (8, 62),
    "mmap": (9, 222),
    "mprotect": (10, 226),
    "munmap": (11, 215),
    "brk": (12, 214),
    "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139),
    "pread64": (17, 67),
    "readv": (19, 65),
    "writev": (20, 66),
    "sched_yield": (24, 124),
    "mremap": (25, 216),
    "madvise": (28, 233),
    "nanosleep": (35, 101),
    "getpid": (39, 172),
    "exit": (60, 93),
    "uname": (63, 160),
    "gettimeofday": (96, 169),
    "fstatfs": (138, 44),
    "getrusage": (98, 165),
    "sysinfo": (99, 179),
    "times": (100, 153),
    "getuid": (102, 174),
    "getgid": (104, 176),
    "geteuid": (107, 175),
    "getegid": (108, 177),
    "getppid": (110, 173),
    "sigaltstack": (131, 132),
    "gettid": (186, 178),
    "time": (201, None),  # arm64 has no such syscall
    "futex": (202, 98),
    "sched_getaffinity": (204, 123),
    "restart_syscall": (219, 128),
    "clock_gettime": (228, 113),
    "clock_getres": (229, 114),
    "clock_nanosleep": (230, 115),
    "exit_group": (231, 94),
    "newfstatat": (262, 79),
    "set_robust_list": (273, 99),
    "getrandom": (318, 278),
    "membarrier": (324, 283),
    "rseq": (334, 293),
}
#: Allowed or refused by their first argument.
_CLONE: Final = (56, 220)
_CLONE3: Final = (435, 435)
_TGKILL: Final = (234, 131)
_PRLIMIT64: Final = (302, 261)

# Instructions of classic BPF and the return values of a filter.
_LOAD: Final = 0x20  # a word of struct seccomp_data
_IF_EQUAL: Final = 0x15
_IF_ANY_BIT: Final = 0x45
_RETURN: Final = 0x06
_ALLOW: Final = 0x7FFF_0000
_KILL_PROCESS: Final = 0x8000_0000
_FAIL: Final = 0x0005_0000  # with the errno in the lower half
_NUMBER_AT, _ARCHITECTURE_AT, _FIRST_ARGUMENT_AT = 0, 4, 16


def limit_resources(*, memory_bytes: int, cpu_seconds: int, file_bytes: int) -> None:
    """Limit this process's memory, processor time and files, as far as the platform supports it."""
    try:
        import resource
    except ImportError:  # not a Unix
        return
    limits = {
        "RLIMIT_AS": (memory_bytes, memory_bytes),
        "RLIMIT_CPU": (cpu_seconds, cpu_seconds + 1),  # SIGXCPU first, which names the reason
        "RLIMIT_FSIZE": (file_bytes, file_bytes),
        "RLIMIT_NOFILE": (32, 32),
        "RLIMIT_CORE": (0, 0),
    }
    for name, limit in limits.items():
        kind = getattr(resource, name, None)
        if kind is not None:
            with contextlib.suppress(ValueError, OSError):  # macOS has RLIMIT_AS but refuses it
                resource.setrlimit(kind, limit)
    with contextlib.suppress(OSError):
        os.nice(5)


def die_with(parent: int) -> None:
    """Have this process killed when its parent ends, on Linux. Elsewhere its limits stop it in the end."""
    if sys.platform == "linux":
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            raise SystemExit("The parent process ended before decoding began.")


def enter(parent: int) -> list[str]:
    """Give up all rights except to compute, and to read and write open files. Return the steps that took effect.

    ``network``: the process has none. ``user``: it runs as nobody instead of root. ``privileges``: no program can
    restore its rights. ``syscalls``: it can't open a file, create a socket, or start a program or process. Everything
    that it needs later must be open and imported already.
    """
    if sys.platform != "linux":
        return []
    steps = {
        "network": _leave_network,
        "user": _become_nobody,
        "privileges": _forbid_new_privileges,
        "syscalls": _filter_syscalls,
    }
    effective = []
    for name, step in steps.items():
        if step():
            effective.append(name)
        if name == "user":
            die_with(parent)  # the kernel resets it when the user changes
    return effective


def _leave_network() -> bool:
    unshare = getattr(ctypes.CDLL(None), "unshare", None)
    if unshare is None:
        return False
    flags = _CLONE_NEWNET if os.geteuid() == 0 else _CLONE_NEWNET | _CLONE_NEWUSER
    return bool(unshare(flags) == 0)


def _become_nobody() -> bool:
    """Change from root to nobody. Return False if the process does not run as root or may not change its user."""
    if os.geteuid() != 0:
        return False
    try:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
    except OSError:  # root has no such right in a container without capabilities
        return False
    return True


def _forbid_new_privileges() -> bool:
    return _prctl(_PR_SET_NO_NEW_PRIVS, 1)


def _filter_syscalls() -> bool:
    program = filter_program(platform.machine(), os.getpid())
    if program is None:
        return False
    instructions = ctypes.create_string_buffer(program, len(program))

    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p))

    argument = Program(len(program) // 8, ctypes.addressof(instructions))
    return _prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.addressof(argument))


def filter_program(machine: str, pid: int) -> bytes | None:
    """Return the filter for process ``pid``, 8 bytes per instruction, or None if the machine is not supported."""
    if machine not in _ARCHITECTURES:
        return None
    architecture, column = _ARCHITECTURES[machine]
    program = [
        _instruction(_LOAD, _ARCHITECTURE_AT),
        _instruction(_IF_EQUAL, architecture, when_true=1),
        _instruction(_RETURN, _KILL_PROCESS),
        _instruction(_LOAD, _NUMBER_AT),
    ]
    for numbers in _ALLOWED.values():
        number = numbers[column]
        if number is not None:
            program += _if_called(number, _instruction(_RETURN, _ALLOW))
    tests_of_first_argument = (
        (_TGKILL, _IF_EQUAL, pid),  # abort() works, other processes can't be signalled
        (_PRLIMIT64, _IF_EQUAL, 0),
        (_CLONE, _IF_ANY_BIT, _CLONE_THREAD),  # threads, but no processes
    )
    for numbers, test, value in tests_of_first_argument:
        program += _if_called(
            numbers[column],
            _instruction(_LOAD, _FIRST_ARGUMENT_AT),
            _instruction(test, value, when_false=1),
            _instruction(_RETURN, _ALLOW),
            _instruction(_RETURN, _FAIL | errno.EPERM),
        )
    # A filter can't read the arguments of clone3(). Without clone3() glibc uses clone().
    program += _if_called(_CLONE3[column], _instruction(_RETURN, _FAIL | errno.ENOSYS))
    program.append(_instruction(_RETURN, _FAIL | errno.EPERM))
    return b"".join(program)


def _if_called(number: int, *then: bytes) -> list[bytes]:
    return [_instruction(_IF_EQUAL, number, when_false=len(then)), *then]


def _instruction(code: int, value: int, *, when_true: int = 0, when_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, when_true, when_false, value)


def _prctl(option: int, first: int, second: int = 0) -> bool:
    """Call prctl(2). Return False if it failed or does not exist."""
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is None:
        return False
    prctl.argtypes = (ctypes.c_int, *(ctypes.c_ulong,) * 4)
    return bool(prctl(option, first, second, 0, 0) == 0)
