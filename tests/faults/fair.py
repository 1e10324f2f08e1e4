"""Clients that work while others mean harm, and what is seen of the process meanwhile."""

from __future__ import annotations

import os
import statistics
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

import httpx

if TYPE_CHECKING:
    from tests.support.program import Program

HEALTH: Final = "health"
SUBMISSION: Final = "submission"
TRANSCRIPTION: Final = "transcription"
#: How long is waited between two requests.
_PAUSES: Final = {HEALTH: 0.03, SUBMISSION: 0.1, TRANSCRIPTION: 0.3}


class FairClient:
    """Makes each kind of request again and again from ``source``, on a new connection each time.

    ``seconds`` are those until each answer; ``wrong`` tells of answers that were not 200.
    """

    def __init__(
        self, running: Program, samples: Path, *kinds: str, source: str = "127.0.0.2", timeout: float = 120
    ) -> None:
        self.seconds: dict[str, list[float]] = {kind: [] for kind in kinds}
        self.wrong: list[str] = []
        self.failure: BaseException | None = None
        self._address = str(running.client.base_url)
        self._source = source
        self._timeout = timeout
        self._audio = {
            SUBMISSION: (samples / "silence.wav").read_bytes(),
            TRANSCRIPTION: (samples / "hello.wav").read_bytes(),
        }
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._work, args=(kind,), name=f"fair {kind}") for kind in kinds]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _work(self, kind: str) -> None:
        began = time.perf_counter()
        try:
            with self._client() as client:
                while not self._over.wait(_PAUSES[kind]):
                    began = time.perf_counter()
                    answered = self._ask(client, kind)
                    self.seconds[kind].append(time.perf_counter() - began)
                    if answered.status_code != 200:
                        self.wrong.append(f"{kind}: {answered.status_code} {answered.text}")
        except httpx.HTTPError as exc:
            exc.add_note(f"{kind}, {time.perf_counter() - began:.1f} s after it began")
            self.failure = exc

    def _client(self) -> httpx.Client:
        transport = httpx.HTTPTransport(
            local_address=self._source,
            verify=False,  # there is no TLS here, and what it needs takes long to load
            limits=httpx.Limits(max_keepalive_connections=0),
        )
        return httpx.Client(base_url=self._address, transport=transport, timeout=self._timeout)

    def _ask(self, client: httpx.Client, kind: str) -> httpx.Response:
        if kind == HEALTH:
            return client.get("/health")
        fields = {"stored_output": "true"} if kind == SUBMISSION else {}
        return client.post("/v1/audio/transcriptions", files={"file": ("a.wav", self._audio[kind])}, data=fields)

    def check(self) -> None:
        """Fails if a request was refused, or those that wait for no model take a second: one in twenty may, and one
        more, and none may take three. On a machine that is busy with other things all takes longer."""
        if self.failure is not None:
            raise self.failure
        assert not self.wrong, self.wrong[:3]
        second = _crowding()
        for kind in self.seconds.keys() & {HEALTH, SUBMISSION}:
            times = self.seconds[kind]
            assert statistics.median(times) < second, self
            assert sum(seconds >= second for seconds in times) <= 1 + len(times) / 20, self
            assert max(times) < 3 * second, self

    def __str__(self) -> str:
        return "; ".join(
            f"{kind} {len(times)} times, median {1000 * statistics.median(times):.0f} ms, p95 "
            f"{1000 * at(sorted(times), 0.95):.0f}, p99 {1000 * at(sorted(times), 0.99):.0f}, most "
            f"{1000 * max(times):.0f}"
            for kind, times in self.seconds.items()
            if times
        )

    __repr__ = __str__


def _crowding() -> float:
    """By how much this machine has more to do than what belongs to the test: two processes for each of its cores."""
    return max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1) / 2)


def at(times: list[float], share: float) -> float:
    """The time that this share of them did not exceed."""
    return times[min(len(times) - 1, int(share * len(times)))]


class Vitals:
    """The memory and the open files of a process, and what it counts."""

    def __init__(self, running: Program) -> None:
        self._running = running
        self._process = Path(f"/proc/{running.process.pid}")

    @property
    def resident_mib(self) -> float:
        status = (self._process / "status").read_text()
        (line,) = (line for line in status.splitlines() if line.startswith("VmRSS"))
        return int(line.split()[1]) / 1024

    @property
    def open_files(self) -> int:
        return len(list((self._process / "fd").iterdir()))

    def counted(self, name: str) -> float:
        """The metric of that name, with its labels."""
        page = self._running.client.get("/metrics").text
        return sum(float(line.rpartition(" ")[2]) for line in page.splitlines() if line.startswith(f"{name} "))

    def cut(self, reason: str) -> float:
        """How many connections were closed for it."""
        return self.counted(f'transcription_connections_closed_total{{reason="{reason}"}}')
