"""nginx with the configuration for a cluster in front of two API nodes, which are scripted."""

from __future__ import annotations

import asyncio
import http.client
import threading
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.deploy.deployment import CLUSTER_NGINX, tool
from tests.deploy.running_nginx import check, configuration_of, running_nginx
from tests.support.fault_server import (
    Behaviour,
    Connection,
    FaultServer,
    answer,
    close_before_status,
    fault_server_in_thread,
    response_head,
)
from tests.support.program import free_port
from tests.support.waiting import LIMIT_SECONDS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.full(reason="starts nginx")

_MB = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Front:
    """nginx on ``port``, with two API nodes and a node for live transcription behind it."""

    port: int
    nodes: tuple[FaultServer, FaultServer]
    live: FaultServer

    @property
    def client(self) -> httpx.Client:
        return httpx.Client(base_url=f"http://127.0.0.1:{self.port}", trust_env=False, timeout=LIMIT_SECONDS)

    @property
    def request_counts(self) -> tuple[int, int]:
        first, second = self.nodes
        return len(first.requests), len(second.requests)


def configured(folder: Path, *, port: str, nodes: tuple[str, str], live: str) -> Path:
    """Write the configuration with these ports of the loopback, and return its path."""
    text = CLUSTER_NGINX.read_text(encoding="utf-8")
    before, _, after = text.partition("upstream transcription_live {")
    for name, node in zip(("api-1:8000", "api-2:8000"), nodes, strict=True):
        assert before.count(name) == after.count(name) == 1
        before = before.replace(name, f"127.0.0.1:{node}")
        after = after.replace(name, f"127.0.0.1:{live}")
    text = f"{before}upstream transcription_live {{{after}"
    assert text.count("listen 8080;") == 1
    return configuration_of(text.replace("listen 8080;", f"listen 127.0.0.1:{port};"), folder)


@contextmanager
def front(folder: Path, *behaviours: Behaviour) -> Iterator[Front]:
    """Run nginx in front of nodes that all behave in this way."""
    tool("nginx")
    with ExitStack() as stack:
        first, second, live = (stack.enter_context(fault_server_in_thread(*behaviours)) for _ in range(3))
        port = free_port()
        configuration = configured(folder, port=port, nodes=(str(first.port), str(second.port)), live=str(live.port))
        stack.enter_context(running_nginx(configuration, port))
        yield Front(port=int(port), nodes=(first, second), live=live)


@pytest.mark.smoke
def test_nginx_accepts_the_configuration_of_a_cluster(tmp_path: Path) -> None:
    check(configured(tmp_path, port=free_port(), nodes=(free_port(), free_port()), live=free_port()))


def test_both_nodes_are_used(tmp_path: Path) -> None:
    with front(tmp_path, answer(200, b"{}", Connection="close")) as proxy, proxy.client as client:
        for _ in range(8):
            assert client.get("/v1/models").status_code == 200
        assert all(count > 0 for count in proxy.request_counts)


def test_requests_go_to_the_other_node_when_one_is_down(tmp_path: Path) -> None:
    tool("nginx")
    port = free_port()
    with fault_server_in_thread(answer(200, b"{}", Connection="close")) as node:
        configuration = configured(tmp_path, port=port, nodes=(free_port(), str(node.port)), live=free_port())
        with running_nginx(configuration, port):
            statuses = [
                httpx.post(
                    f"http://127.0.0.1:{port}/v1/audio/transcriptions", content=b"x" * 100_000, trust_env=False
                ).status_code
                for _ in range(4)
            ]
    assert statuses == [200] * 4


def test_submission_that_a_node_has_read_is_not_sent_to_the_other(tmp_path: Path) -> None:
    with front(tmp_path, close_before_status()) as proxy, proxy.client as client:
        assert client.post("/v1/audio/transcriptions", content=b"audio").status_code == 502
        assert sum(proxy.request_counts) == 1


def test_events_are_not_buffered(tmp_path: Path) -> None:
    received = threading.Event()

    async def two_events(connection: Connection) -> None:
        await connection.read_request()
        await connection.send(response_head(200, {"Content-Type": "text/event-stream", "Connection": "close"}))
        await connection.send(b"data: first\n\n")
        await asyncio.to_thread(received.wait, LIMIT_SECONDS)
        await connection.send(b"data: second\n\n")

    with (
        front(tmp_path, two_events) as proxy,
        proxy.client as client,
        client.stream("GET", "/v1/jobs/job/events") as response,
    ):
        pieces = response.iter_raw()
        first = next(pieces)
        received.set()
        rest = b"".join(pieces)
    assert (first, rest) == (b"data: first\n\n", b"data: second\n\n")


def test_upload_is_not_buffered(tmp_path: Path) -> None:
    arrived = threading.Event()

    async def read_half(connection: Connection) -> None:
        await connection.reader.readuntil(b"\r\n\r\n")
        await connection.reader.readexactly(5 * _MB)
        arrived.set()
        await connection.reader.readexactly(5 * _MB)
        await connection.send(response_head(200, {"Content-Length": "2", "Connection": "close"}) + b"{}")

    with (
        front(tmp_path, read_half) as proxy,
        closing(http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=LIMIT_SECONDS)) as connection,
    ):
        connection.putrequest("POST", "/v1/audio/transcriptions")
        connection.putheader("Content-Length", str(10 * _MB))
        connection.endheaders()
        connection.send(bytes(6 * _MB))
        assert arrived.wait(LIMIT_SECONDS)
        connection.send(bytes(4 * _MB))
        assert connection.getresponse().status == 200


def test_live_sessions_go_to_the_nodes_with_a_model(tmp_path: Path) -> None:
    with front(tmp_path, answer(200, b"{}", Connection="close")) as proxy, proxy.client as client:
        client.get("/v1/realtime?intent=transcription", headers={"Upgrade": "websocket", "Connection": "Upgrade"})
        assert proxy.request_counts == (0, 0)
        (request,) = proxy.live.requests
    assert (request.headers["upgrade"], request.headers["connection"]) == ("websocket", "upgrade")
    assert request.target == "/v1/realtime?intent=transcription"


def test_nodes_receive_the_address_that_nginx_saw(tmp_path: Path) -> None:
    claimed = {"X-Forwarded-For": "203.0.113.7", "Forwarded": "for=203.0.113.7", "X-Forwarded-Proto": "https"}
    with front(tmp_path, answer(200, b"{}", Connection="close")) as proxy, proxy.client as client:
        client.get("/v1/models", headers=claimed)
        (request,) = (*proxy.nodes[0].requests, *proxy.nodes[1].requests)
        assert request.headers["host"] == f"127.0.0.1:{proxy.port}"
    assert request.headers["x-forwarded-for"] == "127.0.0.1"
    assert request.headers["x-forwarded-proto"] == "http"
    assert "forwarded" not in request.headers


def test_metrics_of_nodes_are_not_public(tmp_path: Path) -> None:
    with front(tmp_path, answer(200, b"{}", Connection="close")) as proxy, proxy.client as client:
        assert client.get("/metrics").status_code == 404
        assert proxy.request_counts == (0, 0)
