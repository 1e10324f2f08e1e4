"""Many submissions at once: each is accepted and delivered, or refused with a time to retry."""

from __future__ import annotations

import json
import statistics
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.support.fault_server import answer, fault_server_in_thread
from tests.support.program import program
from tests.support.waiting import LIMIT_SECONDS

if TYPE_CHECKING:
    from tests.support.program import Program

pytestmark = pytest.mark.full(reason="transcribes dozens of files")

MEGABYTE = 1_000_000


class HealthWatch:
    """A thread that requests ``/health`` repeatedly. ``times`` are the seconds of each response."""

    def __init__(self, address: str) -> None:
        self.times: list[float] = []
        self._address = address
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> HealthWatch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        with httpx.Client(base_url=self._address, trust_env=False, timeout=LIMIT_SECONDS) as client:
            while not self._over.wait(0.05):
                began = time.perf_counter()
                assert client.get("/health").status_code == 200
                self.times.append(time.perf_counter() - began)


def resident_bytes(pid: int) -> int:
    (line,) = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS")]
    return int(line.split()[1]) * 1024


def p99(times: list[float]) -> float:
    return statistics.quantiles(times, n=100)[98]


def submit(client: httpx.Client, audio: bytes, url: str) -> tuple[float, httpx.Response]:
    began = time.perf_counter()
    response = client.post(
        "/v1/audio/transcriptions", files={"file": ("a.wav", audio)}, data={"upload_presigned_url": url}
    )
    return time.perf_counter() - began, response


@pytest.mark.timeout(1200)
def test_each_submission_is_delivered_or_refused(
    tmp_path: Path, samples: Path, capsys: pytest.CaptureFixture[str], *, long: bool
) -> None:
    count, at_once, may_wait = (1000, 100, 600) if long else (60, 40, 45)
    audio = (samples / "silence.wav").read_bytes(), (samples / "hello.wav").read_bytes()
    with (
        fault_server_in_thread(answer(200)) as receiver,
        program(tmp_path, MAX_QUEUED_JOBS=str(may_wait)) as running,
        ExitStack() as clients,
        ThreadPoolExecutor(at_once) as threads,
    ):
        running.until_ready()
        client = clients.enter_context(
            httpx.Client(
                base_url=running.client.base_url,
                trust_env=False,
                timeout=5 * LIMIT_SECONDS,
                limits=httpx.Limits(max_connections=at_once),
            )
        )
        for clip in audio:  # the first requests allocate memory that the service keeps
            assert client.post("/v1/audio/transcriptions", files={"file": ("a.wav", clip)}).status_code == 200
        before = resident_bytes(running.process.pid)
        with HealthWatch(str(running.client.base_url)) as health:
            urls = [receiver.url(f"/{number}") for number in range(count)]
            responses = list(threads.map(lambda pair: submit(client, *pair), _pairs(audio, urls)))
            accepted = {one.json()["job_id"] for _, one in responses if one.status_code == 200}
            refused = [one for _, one in responses if one.status_code != 200]
            _until_ended(running, len(accepted))
        growth = resident_bytes(running.process.pid) - before
    for one in refused:
        assert (one.status_code, one.json()["error"]["code"]) == (429, "queue_full")
        assert 1 <= int(one.headers["Retry-After"]) <= 120
    assert len(accepted) + len(refused) == count
    documents = [json.loads(request.body) for request in receiver.requests]
    assert sorted(document["job_id"] for document in documents) == sorted(accepted)
    assert {(document["status"], document["text"]) for document in documents} == {
        ("completed", ""),
        ("completed", "hello this is a test the job is complete now"),
    }
    assert growth < 100 * MEGABYTE
    with capsys.disabled():
        print(  # noqa: T201  # to compare versions
            f"\n{count} submissions, {at_once} at a time: {len(accepted)} accepted and delivered, {len(refused)} "
            f"refused; response p99 {1000 * p99([seconds for seconds, _ in responses]):.0f} ms, health p99 "
            f"{1000 * p99(health.times):.0f} ms, memory +{growth / MEGABYTE:.0f} MB"
        )


def _pairs(audio: tuple[bytes, bytes], urls: list[str]) -> list[tuple[bytes, str]]:
    """Return audio and URL of each submission. Only one in ten has speech, which takes most of the time."""
    return [(audio[number % 10 == 0], url) for number, url in enumerate(urls)]


def _until_ended(running: Program, count: int) -> None:
    def have_ended() -> bool:
        return bool(running.client.get("/health").json()["concurrency"]["completed"] >= count)

    running.eventually(have_ended, seconds=900, pause=0.1)
