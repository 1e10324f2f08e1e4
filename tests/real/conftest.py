"""Services with OpenAI's models, each loaded once for a module. A model that is not installed skips its tests."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
import real_models

from app.transcription.loading import ModelChoice, load
from tests.support.service import Running, serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


@pytest.fixture(scope="module")
async def english(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Running]:
    """A service with tiny.en."""
    async with _serving_real(real_models.tiny_en(), "whisper-tiny-en", tmp_path_factory) as running:
        yield running


@pytest.fixture(scope="module")
async def multilingual(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Running]:
    """A service with base."""
    async with _serving_real(real_models.base(), "whisper-base", tmp_path_factory) as running:
        yield running


@asynccontextmanager
async def _serving_real(
    model: Path | None, lock: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Running]:
    if model is None:
        pytest.skip(f"requirements/{lock}.lock is not installed: ./run_tests.sh --all installs it if it can be had")
    (loaded,) = load(ModelChoice(name=str(model), device="cpu"))
    async with serving(tmp_path_factory.mktemp("data"), lambda: loaded) as running:
        yield running
