"""A client of a live session learns that the service was killed; only what was transcribed stays counted."""

from __future__ import annotations

import base64
import json
import sqlite3
import time
from contextlib import closing
from typing import TYPE_CHECKING, Any, Final

import pytest
from websockets.exceptions import ConnectionClosedError
from websockets.sync.client import connect

from app.domain.usage import DAY_SECONDS
from tests.faults.forked_program import forked_program
from tests.support.waiting import LIMIT_SECONDS

if TYPE_CHECKING:
    from pathlib import Path

    from websockets.sync.connection import Connection

    from tests.support.program import Program

pytestmark = pytest.mark.full(reason="starts the service twice")

_PATH: Final = "/v1/realtime?intent=transcription"
_USAGE: Final = "/v1/organization/usage/audio_transcriptions"
_MANUAL: Final = {"type": "transcription", "audio": {"input": {"turn_detection": None}}}


def session_of(service: Program) -> Connection:
    return connect(str(service.client.base_url).replace("http", "ws").rstrip("/") + _PATH, compression=None)


def send(session: Connection, kind: str, /, **members: Any) -> None:
    session.send(json.dumps({"type": kind, **members}))


def until(session: Connection, kind: str) -> dict[str, Any]:
    """Return the next event of this type."""
    while (event := json.loads(session.recv(LIMIT_SECONDS)))["type"] != kind:
        assert event["type"] != "error", event
    return dict(event)


def counted(service: Program) -> list[tuple[int, int]]:
    """Return the seconds and the requests of all days that have any."""
    page = service.client.get(_USAGE, params={"start_time": int(time.time()) - DAY_SECONDS}).json()
    return [
        (result["seconds"], result["num_model_requests"]) for bucket in page["data"] for result in bucket["results"]
    ]


def test_kill_closes_the_connection_and_leaves_what_was_counted(tmp_path: Path, samples: Path) -> None:
    audio = base64.b64encode((samples / "hello.wav").read_bytes()[44:]).decode()
    with forked_program(tmp_path) as service:
        service.until_ready()
        with session_of(service) as session:
            send(session, "session.update", session=_MANUAL)
            until(session, "session.updated")
            send(session, "input_audio_buffer.append", audio=audio)
            send(session, "input_audio_buffer.commit")
            completed = until(session, "conversation.item.input_audio_transcription.completed")
            (journal,) = tmp_path.rglob("journal.sqlite3")
            service.eventually(lambda: has_usage(journal))
            send(session, "input_audio_buffer.append", audio=audio)  # not committed
            send(session, "session.update", session=_MANUAL)
            until(session, "session.updated")
            service.kill()
            with pytest.raises(ConnectionClosedError):
                until(session, "none")
    with forked_program(tmp_path) as service:
        service.until_ready()
        assert service.jobs() == {}
        assert counted(service) == [(round(completed["usage"]["seconds"]), 1)]
        with session_of(service) as session:
            until(session, "session.created")
            assert service.stop() == 0
            assert json.loads(session.recv(LIMIT_SECONDS))["error"]["code"] == "draining"


def has_usage(journal: Path) -> bool:
    """Return True if usage is on the disk."""
    with closing(sqlite3.connect(f"file:{journal}?mode=ro", uri=True)) as connection:
        return bool(connection.execute("SELECT count(*) FROM usage").fetchone()[0])
