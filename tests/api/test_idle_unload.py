"""Models that nobody uses are unloaded: the service stays ready, and the next request loads them again."""

from __future__ import annotations

import asyncio
import copy
from typing import TYPE_CHECKING, Any

import openai
import pytest

from tests.support.memory import resident_mib
from tests.support.program import program
from tests.support.service import serving
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from app.transcription.whisper import WhisperModel
    from tests.support.service import Running

pytestmark = [pytest.mark.anyio, pytest.mark.contract, pytest.mark.full(reason="starts a service for each test")]

GREETING = "hello this is a test"
#: The weights of the demo model in int8.
_LEAST_MIB = 2.5


@pytest.fixture
def load(model: WhisperModel) -> Callable[[str], WhisperModel]:
    """A function that loads the demo model by any name."""

    def by_name(name: str) -> WhisperModel:
        loaded = copy.copy(model)
        loaded.name = name
        return loaded

    return by_name


async def is_loaded(running: Running) -> bool:
    health = (await running.client.get("/health")).json()
    return bool(health["model"]["loaded"])


async def is_unloaded(running: Running) -> bool:
    return not await is_loaded(running)


@pytest.mark.smoke
async def test_service_stays_ready_and_says_that_the_model_is_not_loaded(
    tmp_path: Path, model: WhisperModel, samples: Path
) -> None:
    async with serving(
        tmp_path / "data", lambda: model, whisper_model="demo", whisper_idle_unload_seconds=1
    ) as running:
        client = openai.AsyncOpenAI(base_url=f"{running.address}/v1", api_key="any", max_retries=0)
        await eventually(lambda: is_unloaded(running))
        assert await running.is_ready()
        health = (await running.client.get("/health")).json()
        assert (health["status"], health["models"], health["devices"]) == (
            "healthy",
            [{"name": "demo", "loaded": False}],
            [],
        )
        assert {(listed.model_extra or {})["loaded"] async for listed in client.models.list()} == {False}
        (described,) = (await running.client.get("/v1/server")).json()["models"]
        assert "de" in described["languages"]  # what it can do is still known
        metrics = (await running.client.get("/metrics")).text
        assert "transcription_models_loaded 0.0" in metrics
        assert 'transcription_model_unloads_total{reason="idle"} 1.0' in metrics
        audio = await asyncio.to_thread((samples / "hello.wav").read_bytes)
        transcript = await client.audio.transcriptions.create(model="whisper-1", file=("hello.wav", audio))
        assert GREETING in transcript.text
        metrics = (await running.client.get("/metrics")).text
        assert "transcription_model_load_seconds_count 2.0" in metrics
        await client.close()


async def test_requests_under_load_outlast_unloading_and_loading(
    tmp_path: Path, model: WhisperModel, load: Callable[[str], WhisperModel], samples: Path
) -> None:
    settings: dict[str, Any] = {"whisper_model": "demo", "whisper_models": "b", "whisper_idle_unload_seconds": 0.001}
    async with serving(tmp_path / "data", lambda: model, load_by_name=load, **settings) as running:
        await eventually(lambda: is_unloaded(running))

        async def client(number: int) -> None:
            for turn in range(4):
                fields = {"model": ("demo", "b")[(number + turn) % 2]}
                if turn == 3:
                    job = await running.finished(
                        await running.submit(samples / "hello.wav", stored_output=True, **fields)
                    )
                    assert job["status"] == "completed"
                    continue
                response = await running.transcribe(samples / "hello.wav", stream=turn == 2, **fields)
                assert (response.status_code, GREETING in response.text.replace('"}\n\ndata', "")) == (200, True)

        await asyncio.gather(*map(client, range(4)))
        await eventually(lambda: running.service.pool.active == 0)
        await eventually(lambda: not any(state.loaded for state in running.service.pool.model_registry.states))
        assert running.server.exit_code == 0


def test_memory_of_an_idle_model_is_freed(tmp_path: Path, samples: Path) -> None:
    with program(tmp_path, WHISPER_IDLE_UNLOAD_SECONDS="2") as running:
        running.until_ready()
        resident: list[float] = []

        def loaded() -> bool:
            return bool(running.client.get("/health").json()["model"]["loaded"])

        def transcribe_and_measure() -> bool:
            """Append the resident memory in MiB. Return whether the model is still loaded."""
            with (samples / "hello.wav").open("rb") as audio:
                response = running.client.post("/v1/audio/transcriptions", files={"file": audio})
            assert GREETING in response.json()["text"]
            resident.append(resident_mib(running.process.pid))
            return loaded()

        for _ in range(2):
            running.eventually(transcribe_and_measure)
            running.eventually(lambda: not loaded())
            running.eventually(lambda: resident_mib(running.process.pid) < resident[-1] - _LEAST_MIB)
            assert running.is_ready()
