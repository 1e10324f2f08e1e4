"""The service in processes that start quickly, because they are forked from one that has imported everything.

Imports take most of the second that a start needs, which adds up in tests that start the service a hundred times.
"""

from __future__ import annotations

import os
import signal
from contextlib import contextmanager
from functools import partial
from multiprocessing import get_context
from typing import TYPE_CHECKING, Final

from tests.faults.crash_points import STEPS, install
from tests.support.program import Program

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

_FORKSERVER: Final = get_context("forkserver")
_FORKSERVER.set_forkserver_preload(
    ["app.__main__", "app.cluster.system", "faster_whisper", "tests.faults.forked_program"]
)


#: The exit code that multiprocessing returns if it missed the end of a process.
MISSED: Final = 255


class Child:
    """A forked process with the methods of ``subprocess.Popen`` that ``Program`` uses."""

    def __init__(
        self, environment: dict[str, str], *, folder: Path, log: Path, prepare: Callable[[], None] | None
    ) -> None:
        self._process = _FORKSERVER.Process(target=_serve, args=(environment, str(folder), str(log), prepare))
        self._process.start()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        assert self._process.exitcode is not None, f"The process still runs after {timeout} s."
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class ForkedProgram(Program):
    """The service in a forked process, which kills itself at ``step`` if there is one."""

    def __init__(self, folder: Path, step: str | None = None, **environment: str) -> None:
        self._step = step
        super().__init__(folder, **environment)

    def _preparation(self) -> Callable[[], None] | None:
        """Return a function to be called in the process before the service starts, which can be pickled."""
        return None if self._step is None else partial(install, STEPS[self._step])

    def _start(self, command: Sequence[str], folder: Path, environment: dict[str, str]) -> Child:  # noqa: ARG002  # forked
        return Child(environment, folder=folder, log=self.log, prepare=self._preparation())


@contextmanager
def forked_program(folder: Path, **environment: str) -> Iterator[Program]:
    """Run the service as ``program()`` does, but forked, until the block ends."""
    running = ForkedProgram(folder, **environment)
    try:
        yield running
    finally:
        running.close()


def _serve(environment: dict[str, str], folder: str, log: str, prepare: Callable[[], None] | None) -> None:
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(output, 1)
    os.dup2(output, 2)
    if prepare is not None:
        prepare()
    from app.__main__ import end, main

    end(main())
