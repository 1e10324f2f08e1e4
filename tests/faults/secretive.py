"""A service that is told many secrets while everything around it fails, and all that it says meanwhile."""

from __future__ import annotations

import json
import resource
import signal
import sqlite3
import sys
from contextlib import ExitStack, closing, suppress
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

import httpx

from tests.faults.findings import is_settled
from tests.faults.prying import (
    TRANSCRIPTIONS,
    broken_heads,
    odd_paths,
    sent_raw,
    strangers,
    wrong_bodies,
    wrong_forms,
    wrong_redeliveries,
)
from tests.faults.signing import Signer, signed
from tests.support.program import Program, free_port

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests.faults.echoing import FairSlots
    from tests.support.marked_secrets import Secrets

#: Rounds of delivery come so soon after each other.
_ROUNDS_SECONDS: Final = "0.5"
_MAX_FILE_BYTES: Final = 1_000_000
_CUT_OFF_SECONDS: Final = 3
_COMMAND: Final = (sys.executable, "-m", "tests.faults.hurried", _ROUNDS_SECONDS)


class Secretive:
    """Starts the service again and again in ``folder``; ``said`` are all answers, each with what it answers.

    ``secrets`` are to be found nowhere, ``shown`` are those that are given back, as metadata is.
    """

    def __init__(self, folder: Path, style: str, *, secrets: Secrets, shown: Secrets, places: FairSlots) -> None:
        self.folder = folder
        self.data = folder / "data"
        self.secrets = secrets
        self.shown = shown
        self.places = places
        self.said: list[tuple[str, bytes]] = []
        self.commands: list[tuple[str, bytes]] = []
        self.keys = [secrets.make(f"apikey{name}") for name in ("", "bob", "eve")]
        self.metrics_key = secrets.make("metricskey")
        self._signers = cycle(Signer)
        self._turns = cycle(range(len(self.keys)))
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
            "OTEL_EXPORTER_OTLP_ENDPOINT": places.collector.url(""),
            "OTEL_EXPORTER_OTLP_HEADERS": f"authorization=Bearer {secrets.make('collectorkey')}",
        }
        self.clients: list[httpx.Client] = []
        self._processes: list[Program] = []

    def start(self, **settings: str) -> None:
        """Another process, after the one before has ended."""
        self.close()
        self._processes.append(Program(self.folder, _COMMAND, **{**self._settings, **settings}))
        self.clients = [self.with_key(key) for key in self.keys]
        self.running.until_ready()
        command = Path(f"/proc/{self.running.process.pid}/cmdline").read_bytes()
        self.commands.append(("the command line", command))

    def traces_to_nowhere(self) -> dict[str, str]:
        """Settings with which traces are sent in vain, and one of their headers is no header."""
        user, key = self.secrets.make("collectorpassword"), self.secrets.make("collectorkey")
        place = f"http://user:{user}@127.0.0.1:{self.places.refused_port}/v1/traces?api_key={key}"
        return {
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": place,
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
        """The last process."""
        return self._processes[-1]

    @property
    def client(self) -> httpx.Client:
        return self.clients[0]

    def of(self, job_id: str) -> httpx.Client:
        """A client with the key that a job was made with."""
        return self.clients[self._owners[job_id]]

    def with_key(self, key: str) -> httpx.Client:
        """A client whose answers are kept."""
        return httpx.Client(
            base_url=self.running.client.base_url,
            headers={"Authorization": f"Bearer {key}"},
            event_hooks={"response": [self._keep]},
            trust_env=False,
            timeout=60,
        )

    def _keep(self, answer: httpx.Response) -> None:
        answer.read()
        head = "\n".join(f"{name}: {value}" for name, value in answer.headers.items())
        what = f"{answer.request.method} {answer.request.url.path[:80]} → {answer.status_code}"
        self.said.append((what, head.encode() + b"\n\n" + answer.content))

    def url(self, fault: str, signer: Signer | None = None) -> str:
        return signed(self.places.base(fault), signer or next(self._signers), self.secrets)

    def submit(self, file: Path | None = None, **fields: str) -> str:
        """Has a job of any key accepted, with secrets wherever a form may have them beside its URLs."""
        owner = next(self._turns)
        given: dict[str, str] = {
            "metadata": json.dumps({"pass": self.shown.make("metadata")}),
            "password": self.secrets.make("unknownfield"),
            self.secrets.make("unknownname"): "x",
            **fields,
        }
        if "x-amz-meta-pass" in given.get("upload_presigned_url", ""):
            signed_headers = {"x-amz-meta-pass": self.secrets.make("header"), "Content-Type": "application/json"}
            given["upload_headers"] = json.dumps(signed_headers)
        named = f"{self.secrets.make('filename')}.wav"
        files = {"file": (named, file.read_bytes())} if file else {"": ("", b"")}
        accepted = self.clients[owner].post(TRANSCRIPTIONS, data=given, files=files)
        assert accepted.status_code == 200, (fields, accepted.text)
        job_id = str(accepted.json()["job_id"])
        self._owners[job_id] = owner
        return job_id

    def job(self, job_id: str) -> dict[str, Any]:
        job: dict[str, Any] = self.of(job_id).get(f"/v1/jobs/{job_id}").json()
        return job

    def jobs(self) -> dict[str, dict[str, Any]]:
        found: dict[str, dict[str, Any]] = {}
        for owner, client in enumerate(self.clients):
            page = client.get("/v1/jobs", params={"limit": "1000"}).json()["jobs"]
            self._owners |= dict.fromkeys(page, owner)
            found |= page
        return found

    def until(self, job_id: str, *phrases: str) -> dict[str, Any]:
        self.running.eventually(lambda: self.job(job_id)["progress"] in phrases, pause=0.05)
        return self.job(job_id)

    def settled(self) -> dict[str, dict[str, Any]]:
        """All jobs, once nothing is left to do for any."""
        self.running.eventually(lambda: all(map(is_settled, self.jobs().values())), pause=0.2)
        return self.jobs()

    def fail_everywhere(self, faults: Iterable[str], samples: Path, *, results: Iterable[str]) -> None:
        """A job for each fault, which its audio, the report of its failure and its event meet; and one whose result
        does."""
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
        """What clients send that is refused; ``job_id`` is that of a job with a result."""
        base = self.places.base("ok")
        hello = {"file": (f"{self.secrets.make('filename')}.wav", b"RIFF")}
        nothing = {"": ("", b"")}
        unexpected = []
        for what, form in wrong_forms(self.secrets, base):
            has_audio = bool(form.keys() & {"s3_presigned_url", "audio_url", "url", "file"})
            answer = self.client.post(TRANSCRIPTIONS, data=form, files=nothing if has_audio else hello)
            unexpected += [(what, answer.text)] if answer.status_code not in (400, 404) else []
        for what, kind, body in wrong_bodies(self.secrets, base):
            answer = self.client.post(TRANSCRIPTIONS, content=body, headers=[(b"Content-Type", kind.encode("latin-1"))])
            unexpected += [(what, answer.text)] if answer.status_code != 400 else []
        for what, body in wrong_redeliveries(self.secrets, base):
            answer = self.of(job_id).post(f"/v1/jobs/{job_id}/redeliver", content=body)
            unexpected += [(what, answer.text)] if answer.status_code != 400 else []
        for method, path, status in odd_paths(self.secrets, base, job_id):
            answer = self.of(job_id).request(method, path)
            unexpected += [(f"{method} {path}", answer.text)] if answer.status_code != status else []
        assert not unexpected, "\n".join(f"{what[:120]}: {text[:200]}" for what, text in unexpected)
        self._knock(job_id)

    def _knock(self, job_id: str) -> None:
        """Comes without a key, or without being understood, or with too much."""
        for head in strangers(self.secrets, self.keys[1]):
            for path in ("/v1/jobs", f"/v1/jobs/{job_id}", "/metrics"):
                with self.with_key(self.secrets.make("wrongkey")) as client:
                    del client.headers["Authorization"]
                    assert client.get(path, headers=head).status_code == 401
        for number, request in enumerate(broken_heads(self.secrets, self.keys[1])):
            self.said.append((f"broken head {number}", sent_raw(self.running.client, request)))
        large = {"file": (f"{self.secrets.make('filename')}.wav", b"x" * (_MAX_FILE_BYTES + 1))}
        form = {"upload_presigned_url": self.url("ok")}
        assert self.client.post(TRANSCRIPTIONS, data=form, files=large).status_code == 413

    def submit_in_odd_spellings(self, samples: Path) -> None:
        """URLs as careless programs pass them on: escaped for JSON, encoded once too often, signed anew."""
        for escaped in (json.dumps(self.url("denied")).replace("/", "\\/")[1:-1], f"  {self.url('ok')}\n"):
            self.submit(samples / "silence.wav", upload_presigned_url=escaped.replace("&", "\\u0026"))
        for fault in ("denied", "broken"):
            audio, upload, webhook = (quote(self.url(fault), safe=":/") for _ in range(3))
            self.submit(s3_presigned_url=audio, upload_presigned_url=upload, webhook_url=webhook)
        for _ in range(2):
            again = {"s3_presigned_url": self.url("silent"), "upload_presigned_url": self.url("ok", Signer.V4)}
            headers = {"Idempotency-Key": "only one"}
            form = {**again, "metadata": json.dumps({"pass": "same"})}
            answer = self.client.post(TRANSCRIPTIONS, data=form, files={"": ("", b"")}, headers=headers)
            self._owners[answer.json()["job_id"]] = 0

    def has_put_off(self) -> bool:
        """Whether some deliveries are between two rounds."""
        states = [job.get("delivery") or {} for job in self.jobs().values()]
        return sum("next_attempt_at" in state for state in states) > 1

    def cancel_while_uploading(self, samples: Path) -> None:
        job_id = self.submit(samples / "silence.wav", upload_presigned_url=self.url("silent"))
        self.until(job_id, "Uploading results")
        assert self.of(job_id).delete(f"/v1/jobs/{job_id}").json()["status"] == "cancelled"

    def redeliver(self, job_id: str) -> None:
        """To URLs that fail, and to one that does not."""
        for fault, status in (("denied", "failed"), ("misled", "failed"), ("ok", "completed")):
            body = {"upload_presigned_url": self.url(fault, Signer.GOOGLE)}
            assert self.of(job_id).post(f"/v1/jobs/{job_id}/redeliver", json=body).status_code == 200
            assert self.until(job_id, "Done", "Failed")["status"] == status

    def forget(self, jobs: Iterable[str]) -> None:
        for job_id in jobs:
            assert self.of(job_id).delete(f"/v1/jobs/{job_id}").json()["deleted"]

    def sent(self) -> list[tuple[str, bytes]]:
        """What was sent to stores, receivers and the collector, of which the heads are secret by design."""
        requests = [*self.places.requests, *self.places.collector.requests]
        return [(f"{request.method} {request.target.partition('?')[0]}", request.body) for request in requests]

    def learn_signatures(self) -> None:
        """Has the signatures of events searched for, which the service made itself."""
        for request in self.places.requests:
            if signature := request.headers.get("webhook-signature"):
                self.secrets.add(signature.removeprefix("v1,"))

    def wait_for_it(self) -> None:
        """Requests whose client waits while their audio can't be fetched."""
        for fault in ("denied", "misled", "misled-with-password", "page", "playlist"):
            for streamed in ("false", "true"):
                form = {"s3_presigned_url": self.url(fault), "stream": streamed}
                self.client.post(TRANSCRIPTIONS, data=form, files={"": ("", b"")})

    def break_journal(self, samples: Path) -> int:
        """Takes the journal's table away, so that nothing can be written down; gives the exit code of the process."""
        self._alter_journal("ALTER TABLE jobs RENAME TO away")
        form = {"upload_presigned_url": self.url("ok"), "webhook_url": self.url("ok", Signer.OWN)}
        answer = self.client.post(
            TRANSCRIPTIONS, data=form, files={"file": ("a.wav", (samples / "silence.wav").read_bytes())}
        )
        assert (answer.status_code, answer.json()["error"]["code"]) == (500, "journal_failed")
        code = self.running.ends_with()
        self._alter_journal("ALTER TABLE away RENAME TO jobs")
        return code

    def _alter_journal(self, statement: str) -> None:
        with closing(sqlite3.connect(self.data / "journal.sqlite3", timeout=30)) as journal:
            journal.execute("PRAGMA secure_delete=ON")
            journal.execute(statement)
            journal.commit()

    def run_out_of_files(self, samples: Path) -> None:
        """Lets the process open nothing more for a while, which no code of it expects everywhere."""
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
                client.get("/health")  # from here on it has a connection
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (1, before[1]))
            stack.callback(resource.prlimit, pid, resource.RLIMIT_NOFILE, before)
            for client, (form, files) in zip(clients, forms, strict=True):
                with suppress(httpx.TransportError):  # where the answer was too late, or cut off
                    client.post(TRANSCRIPTIONS, data=form, files=files, timeout=_CUT_OFF_SECONDS)

    def look_everywhere(self) -> None:
        """All that the service says of its jobs and of itself, for each key."""
        for job_id in self.jobs():
            client = self.of(job_id)
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
