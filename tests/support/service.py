"""The whole service over real HTTP, in the test's own event loop."""

from __future__ import annotations

import asyncio
import signal
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import uvicorn

from app.__main__ import CLOSE_SECONDS, Server, listen
from app.edge.protocol import http_protocol
from app.edge.websocket import websocket_options
from app.jobs.spool import JOB_ID
from app.jobs.sync_requests import GRACE_SECONDS
from app.main import create_app
from app.settings import Settings
from tests.support.cluster_mode import cluster_mode
from tests.support.program import NO_TLS
from tests.support.waiting import LIMIT_SECONDS, eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from fastapi import FastAPI

    from app.api.events import EventFeed
    from app.delivery.attempts import Clock
    from app.service import Service
    from app.transcription.whisper import WhisperModel


class Running:
    """A running service: its parts, its address and a client for it."""

    def __init__(self, app: FastAPI, server: Server, client: httpx.AsyncClient, address: str) -> None:
        self.service: Service = app.state.service
        self.feed: EventFeed = app.state.parts.feed
        self.server = server
        self.client = client
        self.address = address

    async def description(self) -> dict[str, Any]:
        """Return ``/openapi.json``."""
        described: dict[str, Any] = (await self.client.get("/openapi.json")).json()
        return described

    async def is_up(self) -> bool:
        return await self._is_ok("/health")

    async def is_ready(self) -> bool:
        return await self._is_ok("/health/ready")

    async def _is_ok(self, path: str) -> bool:
        try:
            return (await self.client.get(path)).status_code == 200
        except httpx.TransportError:
            return False

    async def transcribe(self, file: Path | None = None, **fields: Any) -> httpx.Response:
        """POST a file and form fields to ``/v1/audio/transcriptions``."""
        files = {}
        if file is not None:
            files["file"] = (file.name, await asyncio.to_thread(file.read_bytes))
        return await self.client.post("/v1/audio/transcriptions", data=fields, files=files or {"": ("", b"")})

    async def submit(self, file: Path | None = None, **fields: Any) -> str:
        """Submit an asynchronous job and return its id."""
        answer = await self.transcribe(file, **fields)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["job_id"])

    async def job(self, job_id: str, **params: Any) -> dict[str, Any]:
        answer = await self.client.get(f"/v1/jobs/{job_id}", params=params)
        assert answer.status_code == 200, answer.text
        job: dict[str, Any] = answer.json()
        return job

    async def until(self, job_id: str, *statuses: str, seconds: float = LIMIT_SECONDS) -> dict[str, Any]:
        """Wait until the job is in one of ``statuses`` and return it."""
        return await self._until(job_id, lambda job: job["status"] in statuses, seconds)

    async def until_progress(self, job_id: str, phrase: str, *, seconds: float = LIMIT_SECONDS) -> dict[str, Any]:
        """Wait until the progress of the job is ``phrase`` and return it."""
        return await self._until(job_id, lambda job: job["progress"] == phrase, seconds)

    async def _until(self, job_id: str, condition: Callable[[dict[str, Any]], bool], seconds: float) -> dict[str, Any]:
        job: dict[str, Any] = {}

        async def holds() -> bool:
            job.update(await self.job(job_id))
            return condition(job)

        await eventually(holds, seconds=seconds)
        return job

    async def until_position(self, job_id: str, position: int) -> None:
        """Wait until the job is shown at this place of the queue."""

        async def is_there() -> bool:
            await self._count()
            return (await self.job(job_id)).get("queue_position") == position

        await eventually(is_there)

    async def until_waiting(self, number: int) -> None:
        """Wait until this many jobs wait for a slot."""
        await self.until_metric("waiting_requests", number)

    async def until_metric(self, name: str, value: float, **labels: str) -> None:
        """Wait until a gauge has this value."""
        wanted = "".join(f'{{{label}="{text}"}}' for label, text in labels.items())
        line = f"transcription_{name}{wanted} {float(value)}"

        async def is_shown() -> bool:
            await self._count()
            return line in (await self.client.get("/metrics")).text.splitlines()

        await eventually(is_shown)

    async def _count(self) -> None:
        """Count what a cluster otherwise counts once a second: a number that it shows may be older than a request."""
        if self.service.settings.database_url:
            jobs: Any = self.service.jobs
            await jobs._counts.refresh()

    async def jobs_with_files(self) -> set[str]:
        """Return the ids of the jobs of which there are files, also in the object store of a cluster."""
        return await asyncio.to_thread(self._jobs_with_files)

    async def until_no_files(self) -> None:
        """Wait until no job has files."""

        async def are_gone() -> bool:
            return not await self.jobs_with_files()

        await eventually(are_gone)

    def _jobs_with_files(self) -> set[str]:
        settings = self.service.settings
        paths = list((settings.data_dir / "jobs").iterdir())
        if settings.spool_url:
            paths += [path for path in Path(settings.spool_url.removeprefix("file://")).rglob("*") if path.is_file()]
        return {found[0] for path in paths if (found := JOB_ID.search(f"{path.parent.name}/{path.name}"))}

    async def finished(self, job_id: str) -> dict[str, Any]:
        """Wait until the job has ended and nothing of it runs, and return it."""
        job = await self.until(job_id, "completed", "failed", "cancelled")
        await eventually(lambda: not self.service.jobs.runner.is_running(job_id))
        return await self.job(job_id) if job["status"] != "cancelled" else job


@asynccontextmanager
async def serving(
    data_dir: Path,
    load_model: Callable[[], WhisperModel],
    *,
    load_by_name: Callable[[str], WhisperModel] | None = None,
    wait_for_model: bool = True,
    clock: Clock | None = None,
    grace_seconds: float = GRACE_SECONDS,
    **settings: Any,
) -> AsyncIterator[Running]:
    """Serve on a free port of the loopback; with ``load_by_name`` several models. The end is that after a signal."""
    shared = await asyncio.to_thread(cluster_mode.settings, data_dir)
    chosen = Settings(**{"_env_file": None, "data_dir": data_dir, "shutdown_grace_seconds": 0, **shared, **settings})
    listener = listen("127.0.0.1", 0)
    app = create_app(
        chosen,
        load_model=lambda name: (load_by_name(name) if load_by_name else load_model(),),
        clock=clock,
        grace_seconds=grace_seconds,
        stop=lambda code: server.stop(code),
    )
    service: Service = app.state.service
    config = uvicorn.Config(
        app,
        http=http_protocol(service.connections),
        **websocket_options(service.connections),
        lifespan="on",
        log_config=None,
        access_log=False,
        forwarded_allow_ips=str(chosen.forwarded_allow_ips),
        timeout_graceful_shutdown=CLOSE_SECONDS,
    )
    server = Server(config, drain=service.drain)
    task = asyncio.create_task(server.serve(sockets=[listener]))
    address = f"http://127.0.0.1:{listener.getsockname()[1]}"
    try:
        async with httpx.AsyncClient(base_url=address, verify=NO_TLS, trust_env=False, timeout=LIMIT_SECONDS) as client:
            running = Running(app, server, client, address)
            await eventually(running.is_ready if wait_for_model else running.is_up)
            yield running
    finally:
        server.handle_exit(signal.SIGTERM, None)
        await task
        listener.close()
        cluster_mode.ended(data_dir)
