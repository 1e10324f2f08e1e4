"""The system calls of a process in order, recorded by strace."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_CALLS: Final = (
    *("openat", "write", "pwrite64", "fsync", "fdatasync", "rename", "renameat", "renameat2", "sendto", "writev"),
    *("sendmsg", "unlink", "ftruncate", "mkdir", "connect"),
)
#: Longer than a page of the journal.
_LONGEST_TEXT: Final = 5000
_BEGUN: Final = re.compile(r"(?P<thread>\d+) +(?P<name>\w+)\((?P<text>.*)")
_RESUMED: Final = re.compile(r"(?P<thread>\d+) +<\.\.\. \w+ resumed>(?P<text>.*)")
_UNFINISHED: Final = " <unfinished ...>"


def traced(command: tuple[str, ...], trace: Path) -> tuple[str, ...]:
    """Return ``command`` under strace, which writes to the file ``trace``. Skip the test if strace is not usable."""
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("strace is not installed")
    if subprocess.run([strace, "-D", "-o", "/dev/null", "true"], check=False, capture_output=True).returncode != 0:
        pytest.skip("this machine does not allow tracing processes")
    options = ("-D", "-f", "-yy", "-s", str(_LONGEST_TEXT), "-e", f"trace={','.join(_CALLS)}", "-o", str(trace))
    return (strace, *options, *command)


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A system call.

    ``begun`` and ``ended`` are line numbers of the trace. ``text`` has the arguments, with the path or address of each
    descriptor, and the result.
    """

    name: str
    text: str
    begun: int
    ended: int


class Trace:
    """The trace of a process that has ended."""

    def __init__(self, path: Path) -> None:
        self._calls = list(_read(path))

    def all(self, names: str, pattern: str, *, after: Call | None = None) -> list[Call]:
        """Return the calls of any of ``names`` that match ``pattern`` and began after ``after`` had ended."""
        start = -1 if after is None else after.ended
        chosen, text = names.split(), re.compile(pattern)
        return [call for call in self._calls if call.begun > start and call.name in chosen and text.search(call.text)]

    def first(self, names: str, pattern: str, *, after: Call | None = None) -> Call:
        """Return the first of these calls."""
        calls = self.all(names, pattern, after=after)
        assert calls, f"No call of {names} matches {pattern} after {after}."
        return calls[0]


def _read(path: Path) -> Iterator[Call]:
    """Yield the calls in the order in which they ended."""
    open_calls: dict[str, Call] = {}
    for number, line in enumerate(path.read_text(errors="replace").splitlines()):
        if (resumed := _RESUMED.fullmatch(line)) is not None:
            call = open_calls.pop(resumed["thread"])
            yield replace(call, text=call.text + resumed["text"], ended=number)
        elif (begun := _BEGUN.fullmatch(line)) is not None:
            text = begun["text"]
            call = Call(name=begun["name"], text=text.removesuffix(_UNFINISHED), begun=number, ended=number)
            if text.endswith(_UNFINISHED):
                open_calls[begun["thread"]] = call
            else:
                yield call


def has_ended(path: Path, process: int) -> bool:
    """Return whether the trace is complete: its last line says that the process exited."""
    return re.search(rf"^{process} +\+\+\+ exited.*\n\Z", path.read_text(errors="replace"), re.MULTILINE) is not None
