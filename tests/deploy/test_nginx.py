"""nginx with the example's configuration before the real program, on ports of the loopback."""

from __future__ import annotations

import http.client
import socket
import ssl
import subprocess
import time
import wave
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import httpx
import pytest
import trustme

from tests.deploy.deployment import NGINX, judged, tool
from tests.support.fault_server import answer, fault_server_in_thread
from tests.support.program import Program, free_port, program

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.full(reason="starts the service behind nginx")

_KEY: Final = "a-key-that-nobody-guesses"
_START_SECONDS: Final = 20
_MB: Final = 1_000_000
#: What is around the example in Debian's nginx.conf, for a process that whoever runs the tests may start.
_AROUND: Final = """
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 512; }}
http {{
    access_log off;
    client_body_temp_path {folder}/client_body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    include {folder}/transcription.conf;
}}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Proxy:
    """nginx that listens on ``port``; ``context`` trusts its certificate."""

    port: int
    context: ssl.SSLContext
    folder: Path

    @property
    def client(self) -> httpx.Client:
        return httpx.Client(
            base_url=f"https://127.0.0.1:{self.port}",
            verify=self.context,
            trust_env=False,
            timeout=60,
            headers={"Authorization": f"Bearer {_KEY}"},
        )

    def connection(self) -> http.client.HTTPSConnection:
        """A connection whose body is sent as slowly as the test likes."""
        return http.client.HTTPSConnection("127.0.0.1", self.port, context=self.context, timeout=60)

    @property
    def stored(self) -> list[Path]:
        """What nginx has put on its disk."""
        return [path for kind in ("client_body", "proxy") for path in (self.folder / kind).rglob("*") if path.is_file()]


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def configured(folder: Path, authority: trustme.CA, *, port: str, upstream: str) -> Path:
    """The example's configuration in ``folder``, for ports and a certificate of this machine."""
    certificate = authority.issue_cert("127.0.0.1")
    certificate.cert_chain_pems[0].write_to_path(folder / "cert.pem")
    certificate.private_key_pem.write_to_path(folder / "key.pem")
    text = NGINX.read_text(encoding="utf-8")
    for there, here in {
        "server 127.0.0.1:8000;": f"server 127.0.0.1:{upstream};",
        "listen 443 ssl;": f"listen 127.0.0.1:{port} ssl;",
        "listen [::]:443 ssl;": "",  # not every machine has IPv6
        "/etc/ssl/transcription/fullchain.pem": str(folder / "cert.pem"),
        "/etc/ssl/transcription/privkey.pem": str(folder / "key.pem"),
    }.items():
        assert text.count(there) == 1, there
        text = text.replace(there, here)
    (folder / "transcription.conf").write_text(text)
    (folder / "nginx.conf").write_text(_AROUND.format(folder=folder))
    return folder / "nginx.conf"


@contextmanager
def proxy_before(upstream: str, folder: Path, authority: trustme.CA) -> Iterator[Proxy]:
    nginx, port = tool("nginx"), free_port()
    configuration = configured(folder, authority, port=port, upstream=upstream)
    context = ssl.create_default_context()
    authority.configure_trust(context)
    log = folder / "nginx.log"
    with log.open("wb") as output:
        running = subprocess.Popen(
            [nginx, "-p", folder, "-e", folder / "error.log", "-c", configuration], stdout=output, stderr=output
        )
    try:
        _until_it_listens(int(port), running, log)
        yield Proxy(port=int(port), context=context, folder=folder)
    finally:
        running.terminate()
        try:
            running.wait(10)
        except subprocess.TimeoutExpired:
            running.kill()
            running.wait()


def _until_it_listens(port: int, running: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while True:
        assert running.poll() is None, log.read_text()
        assert time.monotonic() < deadline, "nginx does not listen"
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.02)
        else:
            return


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """The program, one window after the other, so that a stream has something to say before its end."""
    tool("nginx")
    folder = tmp_path_factory.mktemp("service")
    with program(folder, API_KEYS=_KEY, WHISPER_BATCH_SIZE="1", METRICS_KEY="key-of-prometheus") as running:
        running.client.headers["Authorization"] = f"Bearer {_KEY}"
        running.until_ready()
        yield running


@pytest.fixture
def proxy(service: Program, tmp_path: Path, authority: trustme.CA) -> Iterator[Proxy]:
    assert service.client.base_url.port is not None
    with proxy_before(str(service.client.base_url.port), tmp_path, authority) as running:
        yield running


@pytest.fixture
def large(tmp_path: Path) -> bytes:
    """A wav of 20 MB, with nothing in it."""
    with wave.open(str(tmp_path / "large.wav"), "wb") as written:
        written.setnchannels(1)
        written.setsampwidth(2)
        written.setframerate(192_000)
        written.writeframes(bytes(20 * _MB))
    return (tmp_path / "large.wav").read_bytes()


def form(audio: bytes, **fields: str) -> tuple[str, bytes]:
    """The content type and the body of a submission, as httpx would send them."""
    request = httpx.Request(
        "POST", "https://127.0.0.1/", files={"file": ("audio.wav", audio, "audio/wav")}, data=fields
    )
    return request.headers["Content-Type"], request.read()


@pytest.mark.smoke
def test_nginx_takes_the_configuration(tmp_path: Path, authority: trustme.CA) -> None:
    nginx = tool("nginx")
    configuration = configured(tmp_path, authority, port=free_port(), upstream=free_port())
    said = judged(nginx, "-t", "-p", tmp_path, "-e", tmp_path / "error.log", "-c", configuration)
    assert "[warn]" not in said


@pytest.mark.smoke
def test_a_transcript_comes_through(proxy: Proxy, samples: Path) -> None:
    with proxy.client as client, (samples / "hello.wav").open("rb") as audio:
        answered = client.post("/v1/audio/transcriptions", files={"file": audio})
    assert answered.json()["text"] == "hello this is a test the job is complete now"


def test_a_large_file_reaches_the_service_while_it_is_sent(proxy: Proxy, service: Program, large: bytes) -> None:
    content_type, body = form(large, stored_output="true")
    with closing(proxy.connection()) as connection:
        connection.putrequest("POST", "/v1/audio/transcriptions")
        connection.putheader("Authorization", f"Bearer {_KEY}")
        connection.putheader("Content-Type", content_type)
        connection.putheader("Content-Length", str(len(body)))
        connection.endheaders()
        connection.send(body[: 10 * _MB])

        def spooled() -> int:
            return sum(path.stat().st_size for path in service.log.parent.glob("data/jobs/*/audio.partial"))

        service.eventually(lambda: spooled() > 5 * _MB, seconds=20)
        connection.send(body[10 * _MB :])
        answered = connection.getresponse()
        assert answered.status == 200, answered.read()
        assert answered.read()
    assert proxy.stored == []


def test_events_of_a_stream_arrive_as_they_happen(proxy: Proxy, service: Program, samples: Path) -> None:
    with (
        proxy.client as client,
        (samples / "long.opus").open("rb") as audio,
        client.stream("POST", "/v1/audio/transcriptions", files={"file": audio}, data={"stream": "true"}) as answered,
    ):
        lines = answered.iter_lines()
        first = next(line for line in lines if line.startswith("data: "))
        still_at_it = service.client.get("/health").json()["concurrency"]["active_transcriptions"]
        last = [line for line in lines if line.startswith("data: ")][-1]
    assert "transcript.text.delta" in first
    assert still_at_it == 1
    assert "transcript.text.done" in last


def test_a_wrong_key_is_refused_in_the_words_of_the_service(proxy: Proxy, samples: Path) -> None:
    with proxy.client as client, (samples / "hello.wav").open("rb") as audio:
        answered = client.post(
            "/v1/audio/transcriptions", files={"file": audio}, headers={"Authorization": "Bearer wrong"}
        )
    assert answered.status_code == 401
    assert answered.json()["error"]["message"]


def test_a_large_file_with_a_wrong_key_is_refused_likewise(proxy: Proxy, large: bytes) -> None:
    """The answer comes before the body was read to its end."""
    with proxy.client as client:
        answered = client.post(
            "/v1/audio/transcriptions",
            files={"file": ("large.wav", large)},
            headers={"Authorization": "Bearer wrong"},
        )
    assert answered.status_code == 401
    assert answered.json()["error"]["message"]


def test_metrics_are_not_for_the_outside(proxy: Proxy, service: Program) -> None:
    key = {"Authorization": "Bearer key-of-prometheus"}
    assert service.client.get("/metrics", headers=key).status_code == 200
    with proxy.client as client:
        for path in ("/metrics", "//metrics", "/%6detrics", "/v1/../metrics", "/metrics?x=1"):
            assert client.get(path, headers=key).status_code == 404, path


def test_the_service_hears_the_address_that_nginx_saw(tmp_path: Path, authority: trustme.CA) -> None:
    with (
        fault_server_in_thread(answer(200, b"{}", **{"Content-Length": "2"})) as upstream,
        proxy_before(str(upstream.port), tmp_path, authority) as proxy,
        proxy.client as client,
    ):
        claimed = {"X-Forwarded-For": "203.0.113.7", "Forwarded": "for=203.0.113.7", "X-Forwarded-Proto": "http"}
        assert client.get("/v1/models", headers=claimed).status_code == 200
        (seen,) = upstream.requests
    assert seen.headers["x-forwarded-for"] == "127.0.0.1"
    assert seen.headers["x-forwarded-proto"] == "https"
    assert seen.headers["host"] == "127.0.0.1"
    assert "forwarded" not in seen.headers
    assert "connection" not in seen.headers


def test_the_service_believes_nginx_and_not_the_client(tmp_path: Path, authority: trustme.CA) -> None:
    """Two clients at addresses of their own, of which one has asked too often, whatever it claims to be."""
    folder = tmp_path / "nginx"
    folder.mkdir()
    tool("nginx")
    with program(tmp_path, RATE_LIMIT="1/day") as running:
        running.until_ready()
        with proxy_before(str(running.client.base_url.port), folder, authority) as proxy:
            statuses = [_status_for(proxy, address) for address in ("127.0.0.2", "127.0.0.2", "127.0.0.3")]
    assert statuses == [200, 429, 200]


def _status_for(proxy: Proxy, address: str) -> int:
    transport = httpx.HTTPTransport(verify=proxy.context, local_address=address)
    with httpx.Client(transport=transport, headers={"X-Forwarded-For": "203.0.113.7"}) as client:
        return client.get(f"https://127.0.0.1:{proxy.port}/v1/models").status_code
