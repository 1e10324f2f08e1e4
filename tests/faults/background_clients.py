"""Well-behaved clients that keep sending requests during an attack, and figures of the process under attack."""

from __future__ import annotations

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
_PAUSE_SECONDS: Final = {HEALTH: 0.1, SUBMISSION: 0.5, TRANSCRIPTION: 0.3}
#: A service that waits for its attackers never answers. One on a busy machine answers within this time.
_ANSWER_SECONDS: Final = 120.0


class BackgroundClient:
    """A thread for each kind of request, which repeats it from the address ``source`` on new connections.

    ``seconds`` are the response times of each kind, ``wrong`` describes the responses other than 200.
    """

    def __init__(self, running: Program, samples: Path, *kinds: str, source: str = "127.0.0.2") -> None:
        self.seconds: dict[str, list[float]] = {kind: [] for kind in kinds}
        self.wrong: list[str] = []
        self.failure: BaseException | None = None
        self._address = str(running.client.base_url)
        self._source = source
        self._audio = {
            SUBMISSION: (samples / "silence.wav").read_bytes(),
            TRANSCRIPTION: (samples / "hello.wav").read_bytes(),
        }
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._repeat, args=(kind,), name=f"{kind} client") for kind in kinds]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def check(self) -> None:
        """Raise if a request failed, was refused, or was not answered in time."""
        if self.failure is not None:
            raise self.failure
        assert not self.wrong, self.wrong[:3]

    def _repeat(self, kind: str) -> None:
        began = time.perf_counter()
        try:
            with self._client() as client:
                while not self._over.wait(_PAUSE_SECONDS[kind]):
                    began = time.perf_counter()
                    response = self._request(client, kind)
                    self.seconds[kind].append(time.perf_counter() - began)
                    if response.status_code != 200:
                        self.wrong.append(f"{kind}: {response.status_code} {response.text}")
        except httpx.HTTPError as exc:
            exc.add_note(f"{kind}, after {time.perf_counter() - began:.1f} s")
            self.failure = exc

    def _client(self) -> httpx.Client:
        transport = httpx.HTTPTransport(
            local_address=self._source,
            verify=False,  # there is no TLS here, and loading certificates is slow
            limits=httpx.Limits(max_keepalive_connections=0),
        )
        return httpx.Client(base_url=self._address, transport=transport, timeout=_ANSWER_SECONDS)

    def _request(self, client: httpx.Client, kind: str) -> httpx.Response:
        if kind == HEALTH:
            return client.get("/health")
        fields = {"stored_output": "true"} if kind == SUBMISSION else {}
        return client.post("/v1/audio/transcriptions", files={"file": ("a.wav", self._audio[kind])}, data=fields)

    def __str__(self) -> str:
        return "; ".join(
            f"{len(times)} {kind} requests, median {statistics.median(times):.3f} s, max {max(times):.3f} s"
            for kind, times in self.seconds.items()
            if times
        )


class ProcessFigures:
    """Memory, open files and metrics of a running service."""

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

    def metric(self, name: str) -> float:
        """Return the value of a metric, named with its labels."""
        page = self._running.client.get("/metrics").text
        return sum(float(line.rpartition(" ")[2]) for line in page.splitlines() if line.startswith(f"{name} "))

    def closed(self, reason: str) -> float:
        """Return how many connections were closed for this reason."""
        return self.metric(f'transcription_connections_closed_total{{reason="{reason}"}}')
