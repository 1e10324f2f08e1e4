"""A service that receives many secrets while everything around it fails, and all its output."""

from __future__ import annotations

import json
import resource
import signal
import sqlite3
from contextlib import ExitStack, closing, suppress
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

import httpx

from tests.faults.bad_requests import (
    TRANSCRIPTIONS,
    broken_heads,
    odd_paths,
    send_raw,
    unauthorized_headers,
    wrong_bodies,
    wrong_forms,
    wrong_redeliveries,
)
from tests.faults.final_state import is_settled
from tests.faults.signed_urls import Signer, signed
from tests.faults.tuned_service import tuned
from tests.support.program import Program, free_port
from tests.support.waiting import LIMIT_SECONDS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests.faults.faulty_endpoints import FaultyEndpoints
    from tests.support.marked_secrets import Secrets

_ROUND_SECONDS: Final = 0.5
_MAX_FILE_BYTES: Final = 1_000_000
_CUT_OFF_SECONDS: Final = 3


class FaultRun:
    """Successive processes of the service in ``folder``, and clients with three API keys.

    ``responses`` are all responses, each with its request. ``secrets`` must appear nowhere; ``shown`` are values that
    the service returns to clients, such as metadata.
    """

    def __init__(
        self, folder: Path, style: str, *, secrets: Secrets, shown: Secrets, endpoints: FaultyEndpoints
    ) -> None:
        self.folder = folder
        self.data = folder / "data"
        self.secrets = secrets
        self.shown = shown
        self.endpoints = endpoints
        self.responses: list[tuple[str, bytes]] = []
        self.commands: list[tuple[str, bytes]] = []
        self.keys = [secrets.make(f"apikey{name}") for name in ("", "bob", "eve")]
        self.metrics_key = secrets.make("metricskey")
        self._signers = cycle(Signer)
        self._next_key = cycle(range(len(self.keys)))
        self._owners: dict[str, int] = {}
        self._settings = {
            "PORT": free_port(),
            "LOG_FORMAT": style,
            "LOG_LEVEL": "DEBUG",
            "DATA_DIR": str(self.data),
            "API_KEYS": f"{self.keys[0]},bob:{self.keys[1]},eve:{self.keys[2]}",
            "METRICS_KEY": self.metrics_key,
            "WEBHOOK_SECRET": secrets.webhook_secret(),
            "RATE_LIMIT": "100000/minute",
            "UPLOAD_TIMEOUT_SECONDS": "1",
            "UPLOAD_CONNECT_TIMEOUT_SECONDS": "1",
            "UPLOAD_MAX_ATTEMPTS": "2",
            "DOWNLOAD_TIMEOUT_SECONDS": "1",
            "DELIVERY_MAX_AGE_SECONDS": "3",
            "SHUTDOWN_GRACE_SECONDS": "1",
            "MAX_UPLOAD_BYTES": str(_MAX_FILE_BYTES),
            "URL_ALLOWED_HOSTS": "127.0.0.1,nowhere.invalid",
            "OTEL_EXPORTER_OTLP_ENDPOINT": endpoints.collector.url(""),
            "OTEL_EXPORTER_OTLP_HEADERS": f"authorization=Bearer {secrets.make('collectorkey')}",
        }
        self.clients: list[httpx.Client] = []
        self._processes: list[Program] = []

    def start(self, **settings: str) -> None:
        """Start another process, after closing the one before."""
        self.close()
        self._processes.append(
            Program(self.folder, tuned(delivery_round=_ROUND_SECONDS), **{**self._settings, **settings})
        )
        self.clients = [self.with_key(key) for key in self.keys]
        self.running.until_ready()
        command = Path(f"/proc/{self.running.process.pid}/cmdline").read_bytes()
        self.commands.append(("the command line", command))

    def traces_to_nowhere(self) -> dict[str, str]:
        """Return settings that send traces to a closed port with an invalid header."""
        user, key = self.secrets.make("collectorpassword"), self.secrets.make("collectorkey")
        endpoint = f"http://user:{user}@127.0.0.1:{self.endpoints.refused_port}/v1/traces?api_key={key}"
        return {
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": endpoint,
            "OTEL_EXPORTER_OTLP_TRACES_HEADERS": f'x-api-key="{self.secrets.make("collectorkey")}"',
            "OTEL_EXPORTER_OTLP_TIMEOUT": "1",
        }

    def close(self) -> None:
        for client in self.clients:
            client.close()
        if self._processes:
            self.running.close()

    @property
    def running(self) -> Program:
        """The current process."""
        return self._processes[-1]

    @property
    def client(self) -> httpx.Client:
        return self.clients[0]

    def owner(self, job_id: str) -> httpx.Client:
        """Return the client with the key that submitted the job."""
        return self.clients[self._owners[job_id]]

    def with_key(self, key: str) -> httpx.Client:
        """Return a client whose responses are recorded."""
        return httpx.Client(
            base_url=self.running.client.base_url,
            headers={"Authorization": f"Bearer {key}"},
            event_hooks={"response": [self._record]},
            trust_env=False,
            timeout=LIMIT_SECONDS,
        )

    def _record(self, response: httpx.Response) -> None:
        response.read()
        head = "\n".join(f"{name}: {value}" for name, value in response.headers.items())
        name = f"{response.request.method} {response.request.url.path[:80]} → {response.status_code}"
        self.responses.append((name, head.encode() + b"\n\n" + response.content))

    def url(self, fault: str, signer: Signer | None = None) -> str:
        return signed(self.endpoints.base(fault), signer or next(self._signers), self.secrets)

    def submit(self, file: Path | None = None, **fields: str) -> str:
        """Submit a job with one of the keys and with secrets in all other fields, and return its id."""
        owner = next(self._next_key)
        form: dict[str, str] = {
            "metadata": json.dumps({"pass": self.shown.make("metadata")}),
            "password": self.secrets.make("unknownfield"),
            self.secrets.make("unknownname"): "x",
            **fields,
        }
        if "x-amz-meta-pass" in form.get("upload_presigned_url", ""):
            signed_headers = {"x-amz-meta-pass": self.secrets.make("header"), "Content-Type": "application/json"}
            form["upload_headers"] = json.dumps(signed_headers)
        filename = f"{self.shown.make('filename')}.wav"
        files = {"file": (filename, file.read_bytes())} if file else {"": ("", b"")}
        accepted = self.clients[owner].post(TRANSCRIPTIONS, data=form, files=files)
        assert accepted.status_code == 200, (fields, accepted.text)
        job_id = str(accepted.json()["job_id"])
        self._owners[job_id] = owner
        return job_id

    def job(self, job_id: str) -> dict[str, Any]:
        job: dict[str, Any] = self.owner(job_id).get(f"/v1/jobs/{job_id}").json()
        return job

    def jobs(self) -> dict[str, dict[str, Any]]:
        jobs: dict[str, dict[str, Any]] = {}
        for owner, client in enumerate(self.clients):
            page = client.get("/v1/jobs", params={"limit": "1000"}).json()["jobs"]
            self._owners |= dict.fromkeys(page, owner)
            jobs |= page
        return jobs

    def until(self, job_id: str, *phrases: str) -> dict[str, Any]:
        self.running.eventually(lambda: self.job(job_id)["progress"] in phrases, pause=0.05)
        return self.job(job_id)

    def settled(self) -> dict[str, dict[str, Any]]:
        """Wait until every job and its deliveries have ended, and return all jobs."""
        self.running.eventually(lambda: all(map(is_settled, self.jobs().values())), pause=0.2)
        return self.jobs()

    def fail_everywhere(self, faults: Iterable[str], samples: Path, *, results: Iterable[str]) -> None:
        """Submit a job for each fault, with URLs that have it for audio, result and webhook.

        ``results`` are the faults of the URLs for the results of uploaded files.
        """
        for fault in results:
            self.submit(
                samples / "silence.wav",
                upload_presigned_url=self.url(fault),
                webhook_url=self.url("ok", Signer.OWN),
            )
        for fault in faults:
            self.submit(
                s3_presigned_url=self.url(fault),
                upload_presigned_url=self.url(fault),
                webhook_url=self.url(fault, Signer.OWN),
            )

    def misbehave(self, job_id: str) -> None:
        """Send invalid requests and check that they are refused. ``job_id`` is a job with a result."""
        base = self.endpoints.base("ok")
        hello = {"file": (f"{self.shown.make('filename')}.wav", b"RIFF")}
        nothing = {"": ("", b"")}
        unexpected = []
        for case, form in wrong_forms(self.secrets, base):
            has_audio = bool(form.keys() & {"s3_presigned_url", "audio_url", "url", "file"})
            response = self.client.post(TRANSCRIPTIONS, data=form, files=nothing if has_audio else hello)
            unexpected += [(case, response.text)] if response.status_code not in (400, 404) else []
        for case, kind, body in wrong_bodies(self.secrets, base):
            response = self.client.post(
                TRANSCRIPTIONS, content=body, headers=[(b"Content-Type", kind.encode("latin-1"))]
            )
            unexpected += [(case, response.text)] if response.status_code != 400 else []
        for case, body in wrong_redeliveries(self.secrets, base):
            response = self.owner(job_id).post(f"/v1/jobs/{job_id}/redeliver", content=body)
            unexpected += [(case, response.text)] if response.status_code != 400 else []
        for method, path, status in odd_paths(self.secrets, base, job_id):
            response = self.owner(job_id).request(method, path)
            unexpected += [(f"{method} {path}", response.text)] if response.status_code != status else []
        assert not unexpected, "\n".join(f"{case[:120]}: {text[:200]}" for case, text in unexpected)
        self._send_without_access(job_id)

    def _send_without_access(self, job_id: str) -> None:
        """Send requests with a wrong key, invalid heads, or too large a file."""
        for head in unauthorized_headers(self.secrets, self.keys[1]):
            for path in ("/v1/jobs", f"/v1/jobs/{job_id}", "/metrics"):
                with self.with_key(self.secrets.make("wrongkey")) as client:
                    del client.headers["Authorization"]
                    assert client.get(path, headers=head).status_code == 401
        for number, request in enumerate(broken_heads(self.secrets, self.keys[1])):
            self.responses.append((f"broken head {number}", send_raw(self.running.client, request)))
        large = {"file": (f"{self.shown.make('filename')}.wav", b"x" * (_MAX_FILE_BYTES + 1))}
        form = {"upload_presigned_url": self.url("ok")}
        assert self.client.post(TRANSCRIPTIONS, data=form, files=large).status_code == 413

    def submit_in_odd_spellings(self, samples: Path) -> None:
        """Submit URLs as careless programs do: escaped for JSON, encoded twice, signed again."""
        for escaped in (json.dumps(self.url("denied")).replace("/", "\\/")[1:-1], f"  {self.url('ok')}\n"):
            self.submit(samples / "silence.wav", upload_presigned_url=escaped.replace("&", "\\u0026"))
        for fault in ("denied", "broken"):
            audio, upload, webhook = (quote(self.url(fault), safe=":/") for _ in range(3))
            self.submit(s3_presigned_url=audio, upload_presigned_url=upload, webhook_url=webhook)
        for _ in range(2):
            again = {"s3_presigned_url": self.url("silent"), "upload_presigned_url": self.url("ok", Signer.V4)}
            headers = {"Idempotency-Key": "the job"}
            form = {**again, "metadata": json.dumps({"pass": "same"})}
            response = self.client.post(TRANSCRIPTIONS, data=form, files={"": ("", b"")}, headers=headers)
            self._owners[response.json()["job_id"]] = 0

    def has_postponed(self) -> bool:
        """Return whether at least two deliveries wait for their next round."""
        states = [job.get("delivery") or {} for job in self.jobs().values()]
        return sum("next_attempt_at" in state for state in states) > 1

    def cancel_while_uploading(self, samples: Path) -> None:
        job_id = self.submit(samples / "silence.wav", upload_presigned_url=self.url("silent"))
        self.until(job_id, "Uploading results")
        assert self.owner(job_id).delete(f"/v1/jobs/{job_id}").json()["status"] == "cancelled"

    def redeliver(self, job_id: str) -> None:
        """Redeliver a result to URLs that fail, then to one that works."""
        for fault, status in (("denied", "failed"), ("misled", "failed"), ("ok", "completed")):
            body = {"upload_presigned_url": self.url(fault, Signer.GOOGLE)}
            assert self.owner(job_id).post(f"/v1/jobs/{job_id}/redeliver", json=body).status_code == 200
            assert self.until(job_id, "Done", "Failed")["status"] == status

    def forget(self, jobs: Iterable[str]) -> None:
        for job_id in jobs:
            assert self.owner(job_id).delete(f"/v1/jobs/{job_id}").json()["deleted"]

    def sent(self) -> list[tuple[str, bytes]]:
        """Return the bodies sent to stores, receivers and the collector. Their headers contain secrets on purpose."""
        requests = [*self.endpoints.requests, *self.endpoints.collector.requests]
        return [(f"{request.method} {request.target.partition('?')[0]}", request.body) for request in requests]

    def learn_signatures(self) -> None:
        """Add the signatures of webhook events, which the service made itself, to the secrets."""
        for request in self.endpoints.requests:
            if signature := request.headers.get("webhook-signature"):
                self.secrets.add(signature.removeprefix("v1,"))

    def send_synchronous_requests(self) -> None:
        """Send synchronous requests whose audio cannot be downloaded."""
        for fault in ("denied", "misled", "misled-with-password", "page", "playlist"):
            for streamed in ("false", "true"):
                form = {"s3_presigned_url": self.url(fault), "stream": streamed}
                self.client.post(TRANSCRIPTIONS, data=form, files={"": ("", b"")})

    def break_journal(self, samples: Path) -> int:
        """Rename the journal's table, submit a job, and return the exit code of the process."""
        self._alter_journal("ALTER TABLE jobs RENAME TO away")
        form = {"upload_presigned_url": self.url("ok"), "webhook_url": self.url("ok", Signer.OWN)}
        response = self.client.post(
            TRANSCRIPTIONS, data=form, files={"file": ("a.wav", (samples / "silence.wav").read_bytes())}
        )
        assert (response.status_code, response.json()["error"]["code"]) == (500, "journal_failed")
        code = self.running.ends_with()
        self._alter_journal("ALTER TABLE away RENAME TO jobs")
        return code

    def _alter_journal(self, statement: str) -> None:
        with closing(sqlite3.connect(self.data / "journal.sqlite3", timeout=30)) as journal:
            journal.execute("PRAGMA secure_delete=ON")
            journal.execute(statement)
            journal.commit()

    def run_out_of_files(self, samples: Path) -> None:
        """Submit jobs while the process cannot open another file."""
        pid = self.running.process.pid
        audio = (samples / "silence.wav").read_bytes()
        forms: list[tuple[dict[str, str], dict[str, tuple[str, bytes]]]] = [
            ({"s3_presigned_url": self.url("ok"), "upload_presigned_url": self.url("ok")}, {"": ("", b"")}),
            ({"upload_presigned_url": self.url("ok")}, {"file": ("a.wav", audio)}),
        ]
        before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        with ExitStack() as stack:
            clients = [stack.enter_context(self.with_key(self.keys[0])) for _ in forms]
            for client in clients:
                client.get("/health")  # opens a connection
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (1, before[1]))
            stack.callback(resource.prlimit, pid, resource.RLIMIT_NOFILE, before)
            for client, (form, files) in zip(clients, forms, strict=True):
                with suppress(httpx.TransportError):  # no response, or only a part of it
                    client.post(TRANSCRIPTIONS, data=form, files=files, timeout=_CUT_OFF_SECONDS)
            self.running.eventually(lambda: "Too many open files" in self.running.log.read_text(), pause=0.1)

    def request_everything(self) -> None:
        """Request everything that the service says about its jobs and itself."""
        for job_id in self.jobs():
            client = self.owner(job_id)
            client.get(f"/v1/jobs/{job_id}", params={"include_result": "true"})
            client.get(f"/v1/jobs/{job_id}/events")
            client.get(f"/v1/jobs/{job_id}/result")
        for path in ("/health", "/health/ready", "/v1/models", "/openapi.json", "/docs"):
            self.client.get(path)
        with self.with_key(self.metrics_key) as client:
            assert client.get("/metrics").status_code == 200

    def kill(self) -> None:
        self.running.kill()

    def drain(self) -> int:
        self.running.process.send_signal(signal.SIGTERM)
        return self.running.ends_with()
