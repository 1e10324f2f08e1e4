"""A client of a live session learns that the service was killed, and the service starts again without a trace of it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

import pytest
from websockets.exceptions import ConnectionClosedError
from websockets.sync.client import connect

from tests.support.program import program
from tests.support.waiting import LIMIT_SECONDS

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.full(reason="starts the service twice")

_PATH: Final = "/v1/realtime?intent=transcription"


def test_kill_closes_the_connection_and_leaves_nothing(tmp_path: Path) -> None:
    with program(tmp_path) as service:
        service.until_ready()
        address = str(service.client.base_url).replace("http", "ws").rstrip("/") + _PATH
        with connect(address, compression=None) as session:
            assert json.loads(session.recv(LIMIT_SECONDS))["type"] == "session.created"
            service.kill()
            with pytest.raises(ConnectionClosedError):
                session.recv(LIMIT_SECONDS)
    with program(tmp_path) as service:
        service.until_ready()
        assert service.jobs() == {}
        address = str(service.client.base_url).replace("http", "ws").rstrip("/") + _PATH
        with connect(address, compression=None) as session:
            assert json.loads(session.recv(LIMIT_SECONDS))["type"] == "session.created"
            assert service.stop() == 0
            assert json.loads(session.recv(LIMIT_SECONDS))["error"]["code"] == "draining"
