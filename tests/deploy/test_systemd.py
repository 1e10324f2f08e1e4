"""The systemd unit."""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING, Final

import pytest

from tests.deploy.deployment import UNIT, grace_seconds, output_of, tool

if TYPE_CHECKING:
    from pathlib import Path

#: The exposure that ``systemd-analyze security`` allows; 10 is a service without any restriction.
_MOST_EXPOSED: Final = 2.5
_PYTHON: Final = "/opt/transcription/.venv/bin/python"


@pytest.fixture(scope="module")
def directives() -> dict[str, str]:
    return dict(re.findall(r"^(\w+)=(.*)$", UNIT.read_text(encoding="utf-8"), re.MULTILINE))


def test_unit_passes_systemd_analyze(tmp_path: Path) -> None:
    text = UNIT.read_text(encoding="utf-8")
    assert f"ExecStart={_PYTHON} -m app\n" in text
    here = tmp_path / UNIT.name
    here.write_text(text.replace(_PYTHON, sys.executable))
    output = output_of(tool("systemd-analyze"), "verify", "--man=no", here)
    assert UNIT.name not in output, output


def test_unit_restricts_the_service() -> None:
    # The threshold is in tenths.
    threshold = str(int(_MOST_EXPOSED * 10))
    output_of(tool("systemd-analyze"), "security", "--no-pager", "--offline=true", f"--threshold={threshold}", UNIT)


def test_unit_stops_no_sooner_than_the_grace_period(directives: dict[str, str]) -> None:
    assert int(directives["TimeoutStopSec"]) > grace_seconds()


def test_unit_restarts_except_after_invalid_settings(directives: dict[str, str]) -> None:
    assert directives["Restart"] == "on-failure"
    assert directives["RestartPreventExitStatus"] == "1"


def test_unit_sends_the_stop_signal_to_the_service_only(directives: dict[str, str]) -> None:
    assert directives["KillMode"] == "mixed"


def test_unit_allows_memory_that_is_writable_and_executable(directives: dict[str, str]) -> None:
    """Without it, CTranslate2 fails with "could not create a primitive", as measured."""
    assert "MemoryDenyWriteExecute" not in directives
