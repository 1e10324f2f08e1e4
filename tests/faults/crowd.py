"""Clients that send short clips to a service which dies again and again, and remember what they were told."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Self

import httpx

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from random import Random

    from tests.faults.receiver import Receiver

SAMPLES: Final = ("hello.wav", "numbers.mp3", "upload.ogg", "report.m4a", "code.flac", "colours.webm", "phone_8k.wav")
_PAUSE_SECONDS: Final = 0.05


@dataclass(slots=True, kw_only=True)
class Sent:
    """A request, the id that it was answered with, and how its cancellation was answered, if it was tried.

    ``ended`` is ``cancelled``, ``forgotten`` or empty.
    """

    number: int
    sample: str
    fetched: bool
    uploaded: bool
    told: bool
    cancels: bool
    job_id: str = ""
    ended: str = ""

    @property
    def result(self) -> str:
        """The path that its result is PUT to."""
        return f"/results/{self.number}"

    @property
    def event(self) -> str:
        """The path of its webhook."""
        return f"/events/{self.number}"


class Crowd:
    """Threads of clients. Each tries again until it is answered, with the idempotency key of the first time."""

    def __init__(self, address: str, receiver: Receiver, samples: Path, chance: Random, *, threads: int = 3) -> None:
        self.sent: list[Sent] = []
        self.failures: list[BaseException] = []
        self._address = address
        self._receiver = receiver
        self._samples = samples
        self._chance = chance
        self._allowed = 0
        self._over = self._abandoned = False
        self._more = threading.Condition()
        self._threads = [threading.Thread(target=self._work, name=f"client {number}") for number in range(threads)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._abandoned = True
        self._join()

    def allow(self, more: int) -> None:
        """So many further requests may be sent."""
        with self._more:
            self._allowed += more
            self._more.notify_all()

    def finish(self) -> None:
        """Waits until all that have been sent are answered."""
        self._join()
        if self.failures:
            raise self.failures[0]

    def _join(self) -> None:
        with self._more:
            self._over = True
            self._more.notify_all()
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        try:
            # There is no TLS here, and what it needs takes long to load.
            with httpx.Client(base_url=self._address, trust_env=False, timeout=30, verify=False) as client:  # noqa: S501
                while (request := self._next()) is not None:
                    self._send(client, request)
                    if request.cancels:
                        time.sleep(self._chance.uniform(0, 0.5))
                        self._cancel(client, request)
        except BaseException as exc:  # noqa: BLE001  # raised in the test's own thread
            self.failures.append(exc)

    def _next(self) -> Sent | None:
        with self._more:
            self._more.wait_for(lambda: self._over or len(self.sent) < self._allowed)
            if self._over:
                return None
            kind = self._chance.random()
            request = Sent(
                number=len(self.sent),
                sample=self._chance.choice(SAMPLES),
                fetched=kind > 0.85,
                uploaded=kind > 0.2,
                told=kind < 0.1 or 0.5 < kind < 0.7,
                cancels=0.4 < kind < 0.55,
            )
            self.sent.append(request)
            return request

    def _send(self, client: httpx.Client, request: Sent) -> None:
        fields, files = self._form(request)
        key = {"Idempotency-Key": f"request {request.number}"}
        answered = self._until_answered(
            lambda: client.post("/v1/audio/transcriptions", data=fields, files=files, headers=key)
        )
        assert answered.status_code == 200, answered.text
        request.job_id = str(answered.json()["job_id"])

    def _form(self, request: Sent) -> tuple[dict[str, str], dict[str, Any]]:
        fields = {}
        if request.uploaded:
            fields["upload_presigned_url"] = self._receiver.url(request.result)
        else:
            fields["stored_output"] = "true"
        if request.told:
            fields["webhook_url"] = self._receiver.url(request.event)
        if request.fetched:
            return {**fields, "s3_presigned_url": self._receiver.url(f"/audio/{request.sample}")}, {"": ("", b"")}
        return fields, {"file": (request.sample, (self._samples / request.sample).read_bytes())}

    def _cancel(self, client: httpx.Client, request: Sent) -> None:
        """Deletes the job once, unless it has ended; what was not answered is looked at first."""
        path = f"/v1/jobs/{request.job_id}"
        while True:
            found = self._until_answered(lambda: client.get(path))
            if found.status_code == 404:
                request.ended = "forgotten"
                return
            status = found.json()["status"]
            if status not in ("queued", "processing"):
                request.ended = "cancelled" if status == "cancelled" else ""
                return
            try:
                client.delete(path)
            except httpx.TransportError:
                time.sleep(_PAUSE_SECONDS)

    def _until_answered(self, ask: Callable[[], httpx.Response]) -> httpx.Response:
        """The answer of a service that is there and takes work."""
        while not self._abandoned:
            try:
                answered = ask()
            except httpx.TransportError:
                pass
            else:
                if answered.status_code not in (429, 503):
                    return answered
            time.sleep(_PAUSE_SECONDS)
        raise RuntimeError("The test ended before the service answered.")
