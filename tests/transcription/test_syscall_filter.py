"""The syscall filter of the decoder process allows exactly the syscalls on its list, on each architecture."""

from __future__ import annotations

import errno
import platform
import re
import signal
import sys
from pathlib import Path
from typing import Final

import pytest

from app.transcription.sandbox import _ALLOWED, filter_program
from tests.support import bpf

X86_64: Final = 0xC000_003E
AARCH64: Final = 0xC000_00B7
I386: Final = 0x4000_0003
PID: Final = 4_711
#: Numbers from the tables of the kernel: asm/unistd_64.h and asm-generic/unistd.h.
ALLOWED: Final = {
    "x86_64": {
        *(0, 1, 3, 5, 8, 9, 10, 11, 12, 13, 14, 15, 17, 19, 20, 24, 25, 28, 35, 39, 60, 63, 96, 98, 99, 100, 102, 104),
        *(107, 108, 110, 131, 138, 186, 201, 202, 204, 219, 228, 229, 230, 231, 262, 273, 318, 324, 334),
    },
    "aarch64": {
        *(
            44,
            62,
            63,
            64,
            65,
            66,
            57,
            67,
            79,
            80,
            93,
            94,
            98,
            99,
            101,
            113,
            114,
            115,
            123,
            124,
            128,
            132,
            134,
            135,
            139,
        ),
        *(153, 160, 165, 169, 172, 173, 174, 175, 176, 177, 178, 179, 214, 215, 216, 222, 226, 233, 278, 283, 293),
    },
}
CLONE, CLONE3, TGKILL, PRLIMIT64 = (
    {"x86_64": 56, "aarch64": 220},
    {"x86_64": 435, "aarch64": 435},
    {"x86_64": 234, "aarch64": 131},
    {"x86_64": 302, "aarch64": 261},
)
MACHINES: Final = [("x86_64", X86_64), ("aarch64", AARCH64)]
REFUSED: Final = bpf.ERRNO | errno.EPERM


def program(machine: str) -> bytes:
    instructions = filter_program(machine, PID)
    assert instructions is not None
    return instructions


@pytest.mark.parametrize(("machine", "architecture"), MACHINES)
def test_filter_allows_these_syscalls_and_no_others(machine: str, architecture: int) -> None:
    # As an argument, 2**15 is neither a flag for a thread nor the process itself.
    results = {number: bpf.run(program(machine), bpf.call(number, architecture, 1 << 15)) for number in range(1_024)}

    assert {number for number, result in results.items() if result == bpf.ALLOW} == ALLOWED[machine]
    others = {number: result for number, result in results.items() if result != bpf.ALLOW}
    assert others.pop(CLONE3[machine]) == bpf.ERRNO | errno.ENOSYS
    assert set(others.values()) == {REFUSED}


@pytest.mark.parametrize(("machine", "architecture"), MACHINES)
def test_filter_checks_the_first_argument(machine: str, architecture: int) -> None:
    def run(number: int, *arguments: int) -> int:
        return bpf.run(program(machine), bpf.call(number, architecture, *arguments))

    thread, process = 0x003D_0F00, signal.SIGCHLD
    assert run(CLONE[machine], thread) == bpf.ALLOW
    assert run(CLONE[machine], process) == REFUSED
    assert run(CLONE[machine], 0x4000 | process) == REFUSED  # as in vfork()
    assert run(TGKILL[machine], PID, PID + 1, signal.SIGABRT) == bpf.ALLOW
    assert run(TGKILL[machine], PID - 1, PID, signal.SIGKILL) == REFUSED
    assert run(TGKILL[machine], -1, PID, signal.SIGKILL) == REFUSED
    assert run(PRLIMIT64[machine], 0) == bpf.ALLOW
    assert run(PRLIMIT64[machine], PID + 1) == REFUSED


def test_filter_refuses_syscalls_of_x32() -> None:
    results = {bpf.run(program("x86_64"), bpf.call(number | 1 << 30, X86_64)) for number in range(1_024)}

    assert results == {REFUSED}


@pytest.mark.parametrize(("machine", "architecture"), MACHINES)
def test_syscall_of_another_architecture_kills_the_process(machine: str, architecture: int) -> None:
    foreign = {X86_64, AARCH64, I386, 0} - {architecture}

    results = {
        bpf.run(program(machine), bpf.call(number, other)) for number in range(1_024) for other in sorted(foreign)
    }

    assert results == {bpf.KILL}


@pytest.mark.parametrize(("machine", "architecture"), MACHINES)
def test_filter_has_no_jump_outside(machine: str, architecture: int) -> None:
    assert len(program(machine)) % 8 == 0
    assert bpf.jumps_outside(program(machine)) == []
    assert bpf.run(program(machine), bpf.call(0xFFFF_FFFF, architecture)) == REFUSED


@pytest.mark.parametrize("machine", ["armv7l", "i686", "riscv64", "ppc64le", "s390x", "", "arm64"])
def test_other_architectures_have_no_filter(machine: str) -> None:
    assert filter_program(machine, PID) is None


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's headers")
def test_numbers_match_the_headers_of_this_system() -> None:
    names = {"x86_64": "x86_64-linux-gnu/asm/unistd_64.h", "aarch64": "asm-generic/unistd.h"}
    header = Path("/usr/include", names.get(platform.machine(), "nowhere"))
    if not header.exists():
        pytest.skip("the headers of the kernel are not installed")
    text = header.read_text(encoding="utf-8")
    known = {name: int(value) for name, value in re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)\s", text)}
    column = 0 if platform.machine() == "x86_64" else 1
    wanted = {name: numbers[column] for name, numbers in _ALLOWED.items() if numbers[column] is not None}
    assert {name: known.get(name) for name in wanted} == wanted
