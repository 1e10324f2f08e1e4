"""The filter that a decoder puts upon itself lets through what is on its list, whatever the machine."""

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
#: As the tables of the kernel number them: asm/unistd_64.h and asm-generic/unistd.h.
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
    found = filter_program(machine, PID)
    assert found is not None
    return found


@pytest.mark.parametrize(("machine", "architecture"), MACHINES)
def test_the_filter_allows_these_syscalls_and_no_others(machine: str, architecture: int) -> None:
    # An argument of 2**15 is no thread, neither this process nor the process itself.
    answers = {number: bpf.answer(program(machine), bpf.call(number, architecture, 1 << 15)) for number in range(1_024)}

    assert {number for number, answer in answers.items() if answer == bpf.ALLOW} == ALLOWED[machine]
    others = {number: answer for number, answer in answers.items() if answer != bpf.ALLOW}
    assert others.pop(CLONE3[machine]) == bpf.ERRNO | errno.ENOSYS
    assert set(others.values()) == {REFUSED}


@pytest.mark.parametrize(("machine", "architecture"), MACHINES)
def test_the_filter_looks_at_the_first_argument_where_it_matters(machine: str, architecture: int) -> None:
    def answer(number: int, *arguments: int) -> int:
        return bpf.answer(program(machine), bpf.call(number, architecture, *arguments))

    thread, process = 0x003D_0F00, signal.SIGCHLD
    assert answer(CLONE[machine], thread) == bpf.ALLOW
    assert answer(CLONE[machine], process) == REFUSED
    assert answer(CLONE[machine], 0x4000 | process) == REFUSED  # as vfork() does
    assert answer(TGKILL[machine], PID, PID + 1, signal.SIGABRT) == bpf.ALLOW
    assert answer(TGKILL[machine], PID - 1, PID, signal.SIGKILL) == REFUSED
    assert answer(TGKILL[machine], -1, PID, signal.SIGKILL) == REFUSED
    assert answer(PRLIMIT64[machine], 0) == bpf.ALLOW
    assert answer(PRLIMIT64[machine], PID + 1) == REFUSED


def test_the_filter_knows_no_syscall_of_x32() -> None:
    answers = {bpf.answer(program("x86_64"), bpf.call(number | 1 << 30, X86_64)) for number in range(1_024)}

    assert answers == {REFUSED}


@pytest.mark.parametrize(("machine", "architecture"), MACHINES)
def test_a_call_by_the_table_of_another_architecture_ends_the_process(machine: str, architecture: int) -> None:
    foreign = {X86_64, AARCH64, I386, 0} - {architecture}

    answers = {
        bpf.answer(program(machine), bpf.call(number, other)) for number in range(1_024) for other in sorted(foreign)
    }

    assert answers == {bpf.KILL}


@pytest.mark.parametrize(("machine", "architecture"), MACHINES)
def test_the_filter_has_no_jump_to_nowhere(machine: str, architecture: int) -> None:
    assert len(program(machine)) % 8 == 0
    assert bpf.jumps_outside(program(machine)) == []
    assert bpf.answer(program(machine), bpf.call(0xFFFF_FFFF, architecture)) == REFUSED


@pytest.mark.parametrize("machine", ["armv7l", "i686", "riscv64", "ppc64le", "s390x", "", "arm64"])
def test_other_machines_have_no_filter(machine: str) -> None:
    assert filter_program(machine, PID) is None


@pytest.mark.skipif(sys.platform != "linux", reason="looks into Linux's headers")
def test_the_numbers_are_those_of_this_system() -> None:
    names = {"x86_64": "x86_64-linux-gnu/asm/unistd_64.h", "aarch64": "asm-generic/unistd.h"}
    header = Path("/usr/include", names.get(platform.machine(), "nowhere"))
    if not header.exists():
        pytest.skip("the headers of the kernel are not installed")
    text = header.read_text(encoding="utf-8")
    known = {name: int(value) for name, value in re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)\s", text)}
    column = 0 if platform.machine() == "x86_64" else 1
    wanted = {name: numbers[column] for name, numbers in _ALLOWED.items() if numbers[column] is not None}
    assert {name: known.get(name) for name in wanted} == wanted
