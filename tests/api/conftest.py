"""Fixtures: a running service, and a model that waits until the test releases it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.held_model import Held
from tests.support.service import Running, serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from app.transcription.whisper import WhisperModel


@pytest.fixture
async def running(tmp_path: Path, model: WhisperModel) -> AsyncIterator[Running]:
    async with serving(tmp_path / "data", lambda: model, url_allowed_hosts="127.0.0.1") as service:
        yield service


@pytest.fixture
def held(model: WhisperModel, monkeypatch: pytest.MonkeyPatch) -> Held:
    """A model that does not decode until the test sets ``held.open``."""
    return Held(model, monkeypatch)
