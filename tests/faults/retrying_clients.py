"""Clients that submit short clips to a service that is killed repeatedly, and record its responses."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from itertools import cycle
from typing import TYPE_CHECKING, Any, Final, Self

import httpx

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path
    from random import Random

    from tests.faults.receiver import Receiver

SAMPLES: Final = ("hello.wav", "numbers.mp3", "upload.ogg", "report.m4a", "code.flac", "colours.webm", "phone_8k.wav")
_PAUSE_SECONDS: Final = 0.05


@dataclass(slots=True, kw_only=True)
class Sent:
    """A submission, its job's id, and the result of its cancellation.

    ``fetched``, ``uploaded`` and ``notified`` say whether it has URLs for its audio, its result and its webhook;
    ``cancels`` whether the client cancels it. ``ended`` is ``cancelled``, ``forgotten`` or empty.
    """

    number: int
    sample: str
    fetched: bool
    uploaded: bool
    notified: bool
    cancels: bool
    job_id: str = ""
    ended: str = ""

    @property
    def result(self) -> str:
        """The path of the URL for its result."""
        return f"/results/{self.number}"

    @property
    def event(self) -> str:
        """The path of the URL for its webhook."""
        return f"/events/{self.number}"


class RetryingClients:
    """Threads of clients that repeat each request, with the same idempotency key, until it is answered.

    A client goes on to the next of ``addresses`` when it gets no response.
    """

    def __init__(
        self, addresses: Sequence[str], receiver: Receiver, samples: Path, chance: Random, *, threads: int = 3
    ) -> None:
        self.sent: list[Sent] = []
        self.failures: list[BaseException] = []
        self._addresses = cycle(addresses)
        self._receiver = receiver
        self._samples = samples
        self._chance = chance
        self._allowed = 0
        self._over = self._abandoned = False
        self._changed = threading.Condition()
        self._threads = [threading.Thread(target=self._work, name=f"client {number}") for number in range(threads)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._abandoned = True
        self._join()

    def allow(self, requests: int) -> None:
        """Let the clients send this many further requests."""
        with self._changed:
            self._allowed += requests
            self._changed.notify_all()

    def finish(self) -> None:
        """Wait until all allowed requests have been sent and answered. Raise if a client failed."""
        self._join()
        if self.failures:
            raise self.failures[0]

    def _join(self) -> None:
        with self._changed:
            self._over = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        try:
            # There is no TLS here, and loading certificates is slow.
            with httpx.Client(base_url=next(self._addresses), trust_env=False, timeout=60, verify=False) as client:  # noqa: S501
                while (request := self._next()) is not None:
                    self._send(client, request)
                    if request.cancels:
                        time.sleep(self._chance.uniform(0, 0.5))
                        self._cancel(client, request)
        except BaseException as exc:  # noqa: BLE001  # finish() raises it in the thread of the test
            self.failures.append(exc)

    def _next(self) -> Sent | None:
        with self._changed:
            self._changed.wait_for(lambda: self._over or len(self.sent) < self._allowed)
            if self._abandoned or len(self.sent) >= self._allowed:
                return None
            kind = self._chance.random()
            request = Sent(
                number=len(self.sent),
                sample=self._chance.choice(SAMPLES),
                fetched=kind > 0.85,
                uploaded=kind > 0.2,
                notified=kind < 0.1 or 0.5 < kind < 0.7,
                cancels=0.4 < kind < 0.55,
            )
            self.sent.append(request)
            return request

    def _send(self, client: httpx.Client, request: Sent) -> None:
        fields, files = self._form(request)
        key = {"Idempotency-Key": f"request {request.number}"}
        response = self._until_answered(
            client, lambda: client.post("/v1/audio/transcriptions", data=fields, files=files, headers=key)
        )
        assert response.status_code == 200, response.text
        request.job_id = str(response.json()["job_id"])

    def _form(self, request: Sent) -> tuple[dict[str, str], dict[str, Any]]:
        fields = {}
        if request.uploaded:
            fields["upload_presigned_url"] = self._receiver.url(request.result)
        else:
            fields["stored_output"] = "true"
        if request.notified:
            fields["webhook_url"] = self._receiver.url(request.event)
        if request.fetched:
            return {**fields, "s3_presigned_url": self._receiver.url(f"/audio/{request.sample}")}, {"": ("", b"")}
        return fields, {"file": (request.sample, (self._samples / request.sample).read_bytes())}

    def _cancel(self, client: httpx.Client, request: Sent) -> None:
        """Delete the job once, unless it has ended. Repeat a DELETE without a response only if it had no effect."""
        path = f"/v1/jobs/{request.job_id}"
        while True:
            response = self._until_answered(client, lambda: client.get(path))
            if response.status_code == 404:
                request.ended = "forgotten"
                return
            status = response.json()["status"]
            if status not in ("queued", "processing"):
                request.ended = "cancelled" if status == "cancelled" else ""
                return
            try:
                client.delete(path)
            except httpx.TransportError:
                time.sleep(_PAUSE_SECONDS)

    def _until_answered(self, client: httpx.Client, send: Callable[[], httpx.Response]) -> httpx.Response:
        """Repeat the request until the service runs and accepts it, and return the response."""
        while not self._abandoned:
            try:
                response = send()
            except httpx.TransportError:
                client.base_url = next(self._addresses)
            else:
                if response.status_code not in (429, 503):
                    return response
            time.sleep(_PAUSE_SECONDS)
        raise RuntimeError("The test ended before the service answered.")
