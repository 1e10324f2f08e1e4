"""nginx with the example configuration in front of the service, on the loopback."""

from __future__ import annotations

import http.client
import json
import ssl
import wave
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import httpx
import pytest
import trustme
from websockets.sync.client import connect

from tests.deploy.deployment import NGINX, tool
from tests.deploy.running_nginx import check, configuration_of, running_nginx
from tests.support.fault_server import answer, fault_server_in_thread
from tests.support.program import Program, free_port, program
from tests.support.waiting import LIMIT_SECONDS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.full(reason="starts the service behind nginx")

_KEY: Final = "a-key-that-nobody-guesses"
_MB: Final = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Proxy:
    """nginx, listening on ``port``. ``context`` trusts its certificate."""

    port: int
    context: ssl.SSLContext
    folder: Path

    @property
    def client(self) -> httpx.Client:
        return httpx.Client(
            base_url=f"https://127.0.0.1:{self.port}",
            verify=self.context,
            trust_env=False,
            timeout=LIMIT_SECONDS,
            headers={"Authorization": f"Bearer {_KEY}"},
        )

    def connection(self) -> http.client.HTTPSConnection:
        """Return a connection over which a test can send a body in parts."""
        return http.client.HTTPSConnection("127.0.0.1", self.port, context=self.context, timeout=LIMIT_SECONDS)

    @property
    def buffered(self) -> list[Path]:
        """The files in which nginx has buffered requests and responses."""
        return [path for kind in ("client_body", "proxy") for path in (self.folder / kind).rglob("*") if path.is_file()]


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def configured(folder: Path, authority: trustme.CA, *, port: str, upstream: str) -> Path:
    """Write the example configuration to ``folder`` with these ports and a certificate, and return its path."""
    certificate = authority.issue_cert("127.0.0.1")
    certificate.cert_chain_pems[0].write_to_path(folder / "cert.pem")
    certificate.private_key_pem.write_to_path(folder / "key.pem")
    text = NGINX.read_text(encoding="utf-8")
    for original, replacement in {
        "server 127.0.0.1:8000;": f"server 127.0.0.1:{upstream};",
        "listen 443 ssl;": f"listen 127.0.0.1:{port} ssl;",
        "listen [::]:443 ssl;": "",  # not every machine has IPv6
        "/etc/ssl/transcription/fullchain.pem": str(folder / "cert.pem"),
        "/etc/ssl/transcription/privkey.pem": str(folder / "key.pem"),
    }.items():
        assert text.count(original) == 1, original
        text = text.replace(original, replacement)
    return configuration_of(text, folder)


@contextmanager
def proxy_before(upstream: str, folder: Path, authority: trustme.CA) -> Iterator[Proxy]:
    port = free_port()
    configuration = configured(folder, authority, port=port, upstream=upstream)
    context = ssl.create_default_context()
    authority.configure_trust(context)
    with running_nginx(configuration, port):
        yield Proxy(port=int(port), context=context, folder=folder)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """A service that decodes window by window, so that a stream has events before its end."""
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
    """A silent WAV file of 20 MB."""
    with wave.open(str(tmp_path / "large.wav"), "wb") as written:
        written.setnchannels(1)
        written.setsampwidth(2)
        written.setframerate(192_000)
        written.writeframes(bytes(20 * _MB))
    return (tmp_path / "large.wav").read_bytes()


def form(audio: bytes, **fields: str) -> tuple[str, bytes]:
    """Return the content type and the body of a submission."""
    request = httpx.Request(
        "POST", "https://127.0.0.1/", files={"file": ("audio.wav", audio, "audio/wav")}, data=fields
    )
    return request.headers["Content-Type"], request.read()


@pytest.mark.smoke
def test_nginx_accepts_the_configuration(tmp_path: Path, authority: trustme.CA) -> None:
    check(configured(tmp_path, authority, port=free_port(), upstream=free_port()))


@pytest.mark.smoke
def test_transcription_works_through_nginx(proxy: Proxy, samples: Path) -> None:
    with proxy.client as client, (samples / "hello.wav").open("rb") as audio:
        response = client.post("/v1/audio/transcriptions", files={"file": audio})
    assert response.json()["text"] == "hello this is a test the job is complete now"


def test_upload_is_not_buffered(proxy: Proxy, service: Program, large: bytes) -> None:
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

        service.eventually(lambda: spooled() > 5 * _MB)
        connection.send(body[10 * _MB :])
        response = connection.getresponse()
        assert response.status == 200, response.read()
        assert response.read()
    assert proxy.buffered == []


def test_stream_is_not_buffered(proxy: Proxy, service: Program, samples: Path) -> None:
    with (
        proxy.client as client,
        (samples / "long.opus").open("rb") as audio,
        client.stream("POST", "/v1/audio/transcriptions", files={"file": audio}, data={"stream": "true"}) as response,
    ):
        lines = response.iter_lines()
        first = next(line for line in lines if line.startswith("data: "))
        active = service.client.get("/health").json()["concurrency"]["active_transcriptions"]
        last = [line for line in lines if line.startswith("data: ")][-1]
    assert "transcript.text.delta" in first
    assert active == 1
    assert "transcript.text.done" in last


def test_wrong_key_gets_the_services_error(proxy: Proxy, samples: Path) -> None:
    with proxy.client as client, (samples / "hello.wav").open("rb") as audio:
        response = client.post(
            "/v1/audio/transcriptions", files={"file": audio}, headers={"Authorization": "Bearer wrong"}
        )
    assert response.status_code == 401
    assert response.json()["error"]["message"]


def test_live_session_works_through_nginx(proxy: Proxy) -> None:
    address = f"wss://127.0.0.1:{proxy.port}/v1/realtime?intent=transcription"
    headers = {"Authorization": f"Bearer {_KEY}"}
    with connect(address, ssl=proxy.context, additional_headers=headers, compression=None) as session:
        assert json.loads(session.recv(LIMIT_SECONDS))["type"] == "session.created"


def test_large_file_with_a_wrong_key_gets_an_error(proxy: Proxy, large: bytes) -> None:
    """The response comes before the whole body has been read."""
    with proxy.client as client:
        response = client.post(
            "/v1/audio/transcriptions",
            files={"file": ("large.wav", large)},
            headers={"Authorization": "Bearer wrong"},
        )
    assert response.status_code == 401
    assert response.json()["error"]["message"]


def test_metrics_are_not_public(proxy: Proxy, service: Program) -> None:
    key = {"Authorization": "Bearer key-of-prometheus"}
    assert service.client.get("/metrics", headers=key).status_code == 200
    with proxy.client as client:
        for path in ("/metrics", "//metrics", "/%6detrics", "/v1/../metrics", "/metrics?x=1"):
            url = f"{str(client.base_url).rstrip('/')}{path}"  # a path that begins with // would be a host
            assert client.get(url, headers=key).status_code == 404, path


def test_service_receives_the_address_that_nginx_saw(tmp_path: Path, authority: trustme.CA) -> None:
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
    assert seen.headers["host"] == client.base_url.netloc.decode()
    assert "forwarded" not in seen.headers
    assert "connection" not in seen.headers


def test_service_ignores_addresses_claimed_by_clients(tmp_path: Path, authority: trustme.CA) -> None:
    """One of two clients exceeds its rate limit, whatever address it claims."""
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
    with httpx.Client(transport=transport, timeout=LIMIT_SECONDS, headers={"X-Forwarded-For": "203.0.113.7"}) as client:
        return client.get(f"https://127.0.0.1:{proxy.port}/v1/models").status_code
