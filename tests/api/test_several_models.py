"""Several models in one server: each has a name, and one is loaded at a time."""

from __future__ import annotations

import asyncio
import shutil
import threading
import weakref
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import openai
import pytest

from app.transcription.loading import DEMO_MODEL, ModelChoice, load
from app.transcription.models import MODEL_ALIASES
from tests.support.fault_server import fault_server, never_answer
from tests.support.service import Running, serving
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from app.transcription.whisper import WhisperModel
    from app.transcription.window import Window

    Serving = Callable[..., AbstractAsyncContextManager[Running]]

pytestmark = [pytest.mark.anyio, pytest.mark.contract, pytest.mark.full(reason="starts a service for each test")]

GREETING = "hello this is a test"


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for models. Its name does not depend on the test, because a model is named after its path."""
    return tmp_path_factory.mktemp("models")


@pytest.fixture
def other(folder: Path) -> str:
    """The name of a second model, which is a directory."""
    return a_model(folder / "other")


def a_model(path: Path) -> str:
    shutil.copytree(DEMO_MODEL, path)
    return str(path)


@pytest.fixture
def service(tmp_path: Path, model: WhisperModel, other: str) -> Serving:
    """A function that serves the demo model, which is loaded once for all tests, and other models."""

    def by_name(name: str) -> WhisperModel:
        if name == "demo":
            return model
        (loaded,) = load(ModelChoice(name=name, device="cpu", cpu_threads=1))
        return loaded

    @asynccontextmanager
    async def serve(*others: str, **settings: Any) -> AsyncIterator[Running]:
        chosen = {"whisper_model": "demo", "whisper_models": ",".join(others or (other,)), **settings}
        async with serving(tmp_path / "data", lambda: model, load_by_name=by_name, **chosen) as running:
            yield running

    return serve


async def loaded(running: Running) -> dict[str, bool]:
    health = (await running.client.get("/health")).json()
    return {model["name"]: model["loaded"] for model in health["models"]}


async def text_of(running: Running, file: Path, **fields: str) -> str:
    response = await running.transcribe(file, **fields)
    assert response.status_code == 200, response.text
    return str(response.json()["text"])


@pytest.mark.smoke
async def test_models_are_listed_from_the_default_to_the_aliases(service: Serving, other: str) -> None:
    async with service(whisper_model_aliases=f"second={other},best") as running:
        body = (await running.client.get("/v1/models")).json()
        assert [model["id"] for model in body["data"]] == [
            *("demo", other),
            *MODEL_ALIASES,
            *("second", "best"),
        ]
        client = openai.AsyncOpenAI(base_url=f"{running.address}/v1", api_key="any", max_retries=0)
        assert other in [model.id async for model in client.models.list()]
        await client.close()


async def test_model_named_by_a_path_can_be_retrieved(service: Serving, other: str) -> None:
    async with service() as running:
        for spelled in (other, quote(other, safe="")):
            response = await running.client.get(f"/v1/models/{spelled}")
            assert (response.status_code, response.json()["id"]) == (200, other)
        assert (await running.client.get(f"/v1/models/{other}x")).status_code == 404


async def test_job_uses_and_names_the_requested_model(service: Serving, other: str, samples: Path) -> None:
    async with service(whisper_model_aliases=f"second={other}") as running:
        for name, real in ((other, other), ("second", other), ("demo", "demo"), ("whisper-1", "demo"), ("", "demo")):
            job_id = await running.submit(samples / "hello.wav", model=name, stored_output="true")
            job = await running.finished(job_id)
            assert (job["status"], job["model"]) == ("completed", real)
            assert (await loaded(running))[real]
            result = await running.client.get(f"/v1/jobs/{job_id}/result", params={"response_format": "text"})
            assert GREETING in result.text


async def test_openais_client_gets_a_transcript_from_each_model(service: Serving, other: str, samples: Path) -> None:
    file = ("hello.wav", await asyncio.to_thread((samples / "hello.wav").read_bytes))
    async with service() as running:
        client = openai.AsyncOpenAI(base_url=f"{running.address}/v1", api_key="any", max_retries=0)
        for name in ("whisper-1", other):
            assert GREETING in (await client.audio.transcriptions.create(model=name, file=file)).text
        await client.close()


async def test_health_shows_loaded_models_and_stays_ready(service: Serving, other: str, samples: Path) -> None:
    async with service() as running:
        assert await loaded(running) == {"demo": True, other: False}
        await text_of(running, samples / "hello.wav", model=other)
        health = (await running.client.get("/health")).json()
        assert health["models"] == [{"name": "demo", "loaded": False}, {"name": other, "loaded": True}]
        assert (health["status"], health["model"]["name"], health["model"]["loaded"]) == ("healthy", "demo", False)
        assert (await running.client.get("/health/ready")).status_code == 200
        assert GREETING in await text_of(running, samples / "hello.wav")
        assert await loaded(running) == {"demo": True, other: False}


async def test_two_models_stay_loaded_if_allowed(service: Serving, other: str, samples: Path) -> None:
    async with service(whisper_max_loaded_models=2) as running:
        await asyncio.gather(*(text_of(running, samples / "hello.wav", model=name) for name in ("demo", other)))
        assert await loaded(running) == {"demo": True, other: True}


@pytest.mark.smoke
async def test_unknown_model_is_404_with_the_served_ones(service: Serving, other: str, samples: Path) -> None:
    async with service() as running:
        response = await running.transcribe(samples / "hello.wav", model="large-v3")
        error = response.json()["error"]
        assert (response.status_code, error["code"], error["param"]) == (404, "model_not_found", "model")
        assert f"must be demo or {other} or whisper-1" in error["message"]


async def test_any_name_is_served_with_a_warning_if_accepted(service: Serving, other: str, samples: Path) -> None:
    file = ("hello.wav", await asyncio.to_thread((samples / "hello.wav").read_bytes))
    async with service(whisper_accept_any_model=True) as running:
        client = openai.AsyncOpenAI(base_url=f"{running.address}/v1", api_key="any", max_retries=0)
        warning = "`model` 'gpt-9-transcribe' is none of this server's names, so demo was used."
        transcript = await client.audio.transcriptions.create(model="gpt-9-transcribe", file=file)
        assert GREETING in transcript.text
        assert (transcript.model_extra or {})["warnings"] == [warning]
        job = await running.finished(
            await running.submit(samples / "hello.wav", model="gpt-9-transcribe", stored_output=True)
        )
        assert (job["status"], job["model"], job["warnings"]) == ("completed", "demo", [warning])
        assert [model.id async for model in client.models.list()] == ["demo", other, *MODEL_ALIASES]
        with pytest.raises(openai.NotFoundError):
            await client.models.retrieve("gpt-9-transcribe")
        await client.close()


async def test_whisper_1_can_be_an_alias_of_another_model(service: Serving, other: str, samples: Path) -> None:
    async with service(whisper_model_aliases=f"whisper-1={other}") as running:
        await text_of(running, samples / "hello.wav", model="whisper-1")
        assert await loaded(running) == {"demo": False, other: True}


async def test_model_that_cannot_translate_is_400_with_the_setting(
    service: Serving, folder: Path, samples: Path
) -> None:
    name = a_model(folder / "demo-turbo")
    async with service(name) as running:
        audio = await asyncio.to_thread((samples / "hello.wav").read_bytes)
        rejected, done = [
            await running.client.post("/v1/audio/translations", files={"file": audio}, data=fields)
            for fields in ({"model": name}, {})
        ]
        assert (rejected.status_code, rejected.json()["error"]["param"]) == (400, "model")
        assert "WHISPER_MODEL" in rejected.json()["error"]["message"]
        assert done.status_code == 200
        assert GREETING in await text_of(running, samples / "hello.wav", model=name)


async def test_unloadable_model_fails_only_its_own_requests(service: Serving, folder: Path, samples: Path) -> None:
    broken = folder / "broken"
    broken.mkdir()
    async with service(str(broken)) as running:
        response = await running.transcribe(samples / "hello.wav", model=str(broken))
        assert (response.status_code, response.headers["x-should-retry"]) == (500, "false")
        assert f"The model in {broken} can't be loaded" in response.json()["error"]["message"]
        assert (await running.client.get("/health/ready")).status_code == 200
        assert GREETING in await text_of(running, samples / "hello.wav")
        await asyncio.to_thread(shutil.copytree, DEMO_MODEL, broken, dirs_exist_ok=True)
        assert GREETING in await text_of(running, samples / "hello.wav", model=str(broken))
        assert running.server.exit_code == 0


async def test_job_waiting_for_its_model_can_be_cancelled(
    service: Serving, other: str, model: WhisperModel, samples: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started, released = threading.Event(), threading.Event()
    decode = model.decode

    def held(windows: list[Window]) -> Any:
        started.set()
        assert released.wait(60)
        return decode(windows)

    monkeypatch.setattr(model, "decode", held)
    async with service() as running:
        first = await running.submit(samples / "hello.wav", stored_output="true")
        await eventually(started.is_set)
        waiting = [await running.submit(samples / "hello.wav", model=other, stored_output="true") for _ in range(2)]
        job = await running.job(waiting[0])
        assert (job["status"], job["progress"], job["model"]) == ("queued", "Waiting for GPU availability", other)
        cancelled = (await running.client.delete(f"/v1/jobs/{waiting[0]}")).json()
        assert cancelled["status"] == "cancelled"
        assert await loaded(running) == {"demo": True, other: False}
        released.set()
        for job_id in (first, waiting[1]):
            assert (await running.finished(job_id))["status"] == "completed"
        assert await loaded(running) == {"demo": False, other: True}
        health = (await running.client.get("/health")).json()
        assert health["concurrency"]["active_transcriptions"] == 0


async def test_unfinished_failure_delivery_keeps_no_model_in_memory(
    service: Serving, other: str, samples: Path, tmp_path: Path
) -> None:
    text = tmp_path / "text.wav"
    text.write_text("no audio at all")
    async with service(url_allowed_hosts="127.0.0.1") as running, fault_server(never_answer()) as store:
        job_id = await running.submit(text, upload_presigned_url=f"http://127.0.0.1:{store.port}/result")
        await eventually(lambda: store.requests != [])
        assert (await running.job(job_id))["status"] == "failed"
        engine = running.service.pool._models["demo"].engine
        assert engine is not None
        engine_in_memory = weakref.ref(engine)
        del engine
        await text_of(running, samples / "hello.wav", model=other)
        assert running.service.jobs.runner.is_running(job_id)
        assert engine_in_memory() is None
