"""``GET /v1/server``: limits and features, before a client has a key."""

from __future__ import annotations

from copy import copy
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from app.domain.formats import ResponseFormat
from tests.support.service import serving

if TYPE_CHECKING:
    from pathlib import Path

    from app.transcription.whisper import WhisperModel

pytestmark = [pytest.mark.anyio, pytest.mark.contract]

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


async def test_server_without_keys_describes_its_limits(tmp_path: Path, model: WhisperModel) -> None:
    limits: dict[str, Any] = {"max_upload_bytes": 1000, "max_audio_seconds": 60, "job_retention_seconds": 90}
    limits |= {"max_retention_seconds": 900, "realtime_max_sessions": 2}
    async with serving(tmp_path / "data", lambda: model, **limits, webhook_secret=SECRET) as running:
        server = (await running.client.get("/v1/server")).json()
        version = (await running.client.get("/health")).json()["version"]
    assert server == {
        "version": version,
        "requires_key": False,
        "max_upload_bytes": 1000,
        "max_audio_seconds": 60.0,
        "retention_seconds": {"default": 90.0, "max": 900.0},
        "models": [
            {
                "id": "demo",
                "is_default": True,
                "multilingual": model.is_multilingual,
                "can_translate": model.is_multilingual,
                "languages": sorted(model.languages) if model.is_multilingual else ["en"],
            }
        ],
        "result_formats": [each.value for each in ResponseFormat],
        "realtime": {"max_sessions": 2, "session_seconds": 3600.0, "idle_seconds": 300.0},
        "features": {"diarization": True, "edits": True, "keep_audio": True, "realtime": True, "webhooks": True},
    }


async def test_server_is_open_although_the_rest_needs_a_key(tmp_path: Path, model: WhisperModel) -> None:
    off: dict[str, Any] = {"diarization_model": "none", "realtime_max_sessions": 0}
    async with serving(tmp_path / "data", lambda: model, api_keys="sk-test", **off) as running:
        server = await running.client.get("/v1/server")
        assert server.status_code == 200
        assert server.json()["requires_key"] is True
        assert server.json()["features"] == {
            "diarization": False,
            "edits": True,
            "keep_audio": True,
            "realtime": False,
            "webhooks": False,
        }
        assert "realtime" not in server.json()
        for path in ("/v1/jobs", "/v1/server/", "/v1/serverx", "/v1/server/x"):
            expected = 200 if path == "/v1/server/" else 401
            assert (await running.client.get(path)).status_code == expected, path


async def test_open_route_counts_towards_the_rate_of_its_address(tmp_path: Path, model: WhisperModel) -> None:
    async with serving(tmp_path / "data", lambda: model, api_keys="sk-test", rate_limit="2/hour") as running:
        statuses = [(await running.client.get("/v1/server")).status_code for _ in range(3)]
    assert statuses == [200, 200, 429]


async def test_models_are_never_named_by_their_paths(tmp_path: Path, model: WhisperModel, samples: Path) -> None:
    named = copy(model)
    named.name = "/models/with spaces/demo"
    async with serving(tmp_path / "data", lambda: named, whisper_model=named.name) as running:
        server = await running.client.get("/v1/server")
        transcribed = await running.transcribe(samples / "hello.wav", model=server.json()["models"][0]["id"])
    assert "/models" not in server.text
    assert transcribed.status_code == 200


async def test_abilities_of_a_model_are_absent_until_it_has_been_loaded(tmp_path: Path, model: WhisperModel) -> None:
    settings: dict[str, Any] = {"whisper_model": "demo", "whisper_models": "small"}
    async with serving(tmp_path / "data", lambda: model, **settings) as running:
        models = (await running.client.get("/v1/server")).json()["models"]
        assert models[1] == {"id": "small", "is_default": False}
        registry = running.service.pool.model_registry
        registry.update("small", replace(registry.find("small"), is_known=True))
        models = (await running.client.get("/v1/server")).json()["models"]
        assert set(models[1]) == {"id", "is_default", "multilingual", "can_translate", "languages"}
