"""The whole service over real HTTP, in the test's own event loop."""

from __future__ import annotations

import asyncio
import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import httpx
import uvicorn

from app.__main__ import Server
from app.main import Service, create_app
from app.settings import Settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from app.delivery.attempts import Clock
    from app.transcription.whisper import WhisperModel


class Running:
    """A running service: its parts, its address and a client for it."""

    def __init__(self, service: Service, server: Server, client: httpx.AsyncClient, address: str) -> None:
        self.service = service
        self.server = server
        self.client = client
        self.address = address

    async def transcribe(self, file: Path | None = None, **fields: Any) -> httpx.Response:
        """``POST /v1/audio/transcriptions`` with a file and form fields."""
        files = {}
        if file is not None:
            files["file"] = (file.name, await asyncio.to_thread(file.read_bytes))
        return await self.client.post(
            "/v1/audio/transcriptions", data=fields, files=files or {"": ("", b"")}, timeout=60
        )

    async def submit(self, file: Path | None = None, **fields: Any) -> str:
        """An asynchronous submission; gives the job's id."""
        answer = await self.transcribe(file, **fields)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["job_id"])

    async def job(self, job_id: str, **params: Any) -> dict[str, Any]:
        answer = await self.client.get(f"/v1/jobs/{job_id}", params=params)
        assert answer.status_code == 200, answer.text
        job: dict[str, Any] = answer.json()
        return job

    async def until(self, job_id: str, *statuses: str, seconds: float = 60) -> dict[str, Any]:
        """The job once it is in one of ``statuses``."""
        async with asyncio.timeout(seconds):
            while (job := await self.job(job_id))["status"] not in statuses:
                await asyncio.sleep(0.02)
        return job

    async def finished(self, job_id: str) -> dict[str, Any]:
        """The job at its end, its failure document delivered or not."""
        job = await self.until(job_id, "completed", "failed", "cancelled")
        async with asyncio.timeout(60):
            while self.service.runner.is_running(job_id):
                await asyncio.sleep(0.01)
        return await self.job(job_id) if job["status"] != "cancelled" else job


@asynccontextmanager
async def serving(
    data_dir: Path,
    load_model: Callable[[], WhisperModel],
    *,
    wait_for_model: bool = True,
    clock: Clock | None = None,
    **settings: Any,
) -> AsyncIterator[Running]:
    """Serves on a free port of the loopback until the block ends."""
    listener = socket.create_server(("127.0.0.1", 0))
    chosen = Settings(_env_file=None, data_dir=data_dir, **{"shutdown_grace_seconds": 0, **settings})  # type: ignore[call-arg]  # pydantic-settings' own argument
    app = create_app(chosen, load_model=load_model, clock=clock, stop=lambda code: server.stop(code))
    service: Service = app.state.service
    config = uvicorn.Config(app, http="h11", ws="none", lifespan="on", log_config=None, access_log=False)
    server = Server(config, drain=service.drain)
    task = asyncio.create_task(server.serve(sockets=[listener]))
    address = f"http://127.0.0.1:{listener.getsockname()[1]}"
    try:
        async with httpx.AsyncClient(base_url=address, trust_env=False) as client:
            path = "/health/ready" if wait_for_model else "/health"
            async with asyncio.timeout(30):
                while not await _answers(client, path):
                    await asyncio.sleep(0.01)
            yield Running(service, server, client, address)
    finally:
        server.should_exit = True
        await task
        listener.close()


async def _answers(client: httpx.AsyncClient, path: str) -> bool:
    try:
        return (await client.get(path)).status_code == 200
    except httpx.TransportError:
        return False
