"""``/v1/models``: the served models, in OpenAI's shape."""

from __future__ import annotations

from typing import TYPE_CHECKING

import openai
import pytest

from app.transcription.models import MODEL_ALIASES
from tests.support.service import serving

if TYPE_CHECKING:
    from pathlib import Path

    from app.transcription.whisper import WhisperModel
    from tests.support.service import Running

pytestmark = [pytest.mark.anyio, pytest.mark.contract]


async def test_openais_client_lists_the_model_and_its_alias(running: Running) -> None:
    client = openai.AsyncOpenAI(base_url=f"{running.address}/v1", api_key="any", max_retries=0)
    assert [model.id async for model in client.models.list()] == ["demo", *MODEL_ALIASES]
    retrieved = await client.models.retrieve("whisper-1")
    assert (retrieved.id, retrieved.object) == ("whisper-1", "model")
    with pytest.raises(openai.NotFoundError, match="must be demo or whisper-1"):
        await client.models.retrieve("openai/whisper-large-v3")
    await client.close()


async def test_models_require_a_key(tmp_path: Path, model: WhisperModel) -> None:
    async with serving(tmp_path / "data", lambda: model, api_keys="sk-test") as running:
        assert (await running.client.get("/v1/models")).status_code == 401
