"""An interpreter of the classic BPF in syscall filters (Linux, Documentation/networking/filter.rst)."""

from __future__ import annotations

import struct
from typing import Final

ALLOW: Final = 0x7FFF_0000
KILL: Final = 0x8000_0000
ERRNO: Final = 0x0005_0000
_INSTRUCTION: Final = struct.Struct("=HBBI")


def call(number: int, architecture: int, *arguments: int) -> bytes:
    """Return a syscall as a filter sees it: ``struct seccomp_data``."""
    six = [argument & (1 << 64) - 1 for argument in (*arguments, *[0] * 6)[:6]]
    return struct.pack("=IIQ6Q", number & 0xFFFF_FFFF, architecture, 0, *six)


def run(program: bytes, call_data: bytes) -> int:
    """Return the result of a filter. An unknown or missing instruction is an error."""
    instructions = list(_INSTRUCTION.iter_unpack(program))
    accumulator = at = 0
    while True:
        code, when_true, when_false, value = instructions[at]
        at += 1
        match code:
            case 0x20:  # load a word
                (accumulator,) = struct.unpack_from("=I", call_data, value)
            case 0x15:
                at += when_true if accumulator == value else when_false
            case 0x45:
                at += when_true if accumulator & value else when_false
            case 0x06:
                return int(value)
            case _:
                raise AssertionError(f"instruction {code:#x} at {at - 1}")


def jumps_outside(program: bytes) -> list[int]:
    """Return the instructions that jump beyond the last one."""
    instructions = list(_INSTRUCTION.iter_unpack(program))
    return [
        index
        for index, (code, when_true, when_false, _) in enumerate(instructions)
        if code != 0x06 and index + 1 + max(when_true, when_false) >= len(instructions)
    ]
