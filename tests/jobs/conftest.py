"""Fixtures for the tests of jobs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.jobs.rig import Rig, open_rig

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    async with open_rig(tmp_path / "data") as rig:
        yield rig
