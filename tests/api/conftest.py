"""Fixtures: a running service, alone or shared by the tests of a module, and a model that waits for the test."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.held_model import Held
from tests.support.service import Running, serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from app.transcription.whisper import WhisperModel


@pytest.fixture
async def running(tmp_path: Path, model: WhisperModel) -> AsyncIterator[Running]:
    """A service with the demo model that may send requests to this machine."""
    async with serving(tmp_path / "data", lambda: model, url_allowed_hosts="127.0.0.1") as service:
        yield service


@pytest.fixture(scope="module")
async def shared(tmp_path_factory: pytest.TempPathFactory, model: WhisperModel) -> AsyncIterator[Running]:
    """A service for all tests of a module, none of which may depend on the jobs of another."""
    async with serving(tmp_path_factory.mktemp("data"), lambda: model, url_allowed_hosts="127.0.0.1") as service:
        yield service


@pytest.fixture
def held(model: WhisperModel, monkeypatch: pytest.MonkeyPatch) -> Iterator[Held]:
    """A model that does not decode until the test sets ``held.open``."""
    held = Held(model, monkeypatch)
    yield held
    held.open.set()
