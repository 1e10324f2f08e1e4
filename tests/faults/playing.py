"""Tests that mostly wait for processes are played side by side, and each is judged in its turn."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@contextmanager
def played(
    request: pytest.FixtureRequest,
    parameter: str,
    play: Callable[[str, Path], None],
    folders: pytest.TempPathFactory,
    *,
    at_once: int,
) -> Iterator[dict[str, Future[None]]]:
    """The outcomes of ``play``, which is given a folder, for each value of ``parameter`` that a test of the module at
    hand is to be run with."""
    tests = (item for item in request.session.items if isinstance(item, pytest.Function) and item.path == request.path)
    wanted = [
        str(test.callspec.params[parameter])
        for test in tests
        if hasattr(test, "callspec") and not test.get_closest_marker("skip")
    ]
    with ThreadPoolExecutor(at_once) as executor:
        try:
            yield {value: executor.submit(play, value, folders.mktemp("play")) for value in wanted}
        finally:
            executor.shutdown(cancel_futures=True)
