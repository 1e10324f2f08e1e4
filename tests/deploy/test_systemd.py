"""The unit of systemd."""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING, Final

import pytest

from tests.deploy.deployment import UNIT, grace_seconds, judged, tool

if TYPE_CHECKING:
    from pathlib import Path

#: Of 10, which is a service that may do everything.
_MOST_EXPOSED: Final = 2.5
_PYTHON: Final = "/opt/transcription/.venv/bin/python"


@pytest.fixture(scope="module")
def directives() -> dict[str, str]:
    return dict(re.findall(r"^(\w+)=(.*)$", UNIT.read_text(encoding="utf-8"), re.MULTILINE))


def test_the_unit_is_one_that_systemd_takes(tmp_path: Path) -> None:
    text = UNIT.read_text(encoding="utf-8")
    assert f"ExecStart={_PYTHON} -m app\n" in text
    here = tmp_path / UNIT.name
    here.write_text(text.replace(_PYTHON, sys.executable))
    said = judged(tool("systemd-analyze"), "verify", "--man=no", here)
    assert UNIT.name not in said, said


def test_the_unit_leaves_the_service_little_to_harm() -> None:
    # It compares with tenths.
    threshold = str(int(_MOST_EXPOSED * 10))
    judged(tool("systemd-analyze"), "security", "--no-pager", "--offline=true", f"--threshold={threshold}", UNIT)


def test_the_unit_stops_no_sooner_than_the_service_does(directives: dict[str, str]) -> None:
    assert int(directives["TimeoutStopSec"]) > grace_seconds()


def test_the_unit_starts_the_service_again_but_for_wrong_settings(directives: dict[str, str]) -> None:
    assert directives["Restart"] == "on-failure"
    assert directives["RestartPreventExitStatus"] == "1"


def test_the_unit_tells_the_service_alone_to_stop(directives: dict[str, str]) -> None:
    assert directives["KillMode"] == "mixed"


def test_the_unit_lets_the_model_compile_its_loops(directives: dict[str, str]) -> None:
    """Seen: with memory that is written or run, never both, CTranslate2 ends with "could not create a primitive"."""
    assert "MemoryDenyWriteExecute" not in directives
