"""Messages of clients: events of the protocol, and a sentence for everything else."""

from __future__ import annotations

import base64
import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.errors import InvalidRequest
from app.realtime.client_events import (
    Append,
    Clear,
    ClientEvent,
    Commit,
    Update,
    event_id_of,
    parse_event,
    parse_message,
)

_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
_TYPES = ("session.update", "input_audio_buffer.append", "input_audio_buffer.commit", "response.create")


def parsed(**message: Any) -> ClientEvent:
    return parse_event(parse_message(json.dumps(message)))


def test_events_of_the_protocol() -> None:
    audio = base64.b64encode(b"\x01\x02").decode()
    assert parsed(type="input_audio_buffer.append", audio=audio) == Append(b"\x01\x02")
    assert parsed(type="input_audio_buffer.commit") == Commit()
    assert parsed(type="input_audio_buffer.clear") == Clear()
    assert parsed(type="session.update", session={"type": "transcription"}) == Update({"type": "transcription"})


@pytest.mark.parametrize("message", ["", "hello", "[]", "{}", '{"type": 1}', "[" * 50_000, b"\x00binary", '"text"'])
def test_message_that_is_no_event_gets_a_sentence(message: str | bytes) -> None:
    with pytest.raises(InvalidRequest, match="A message must be text, a JSON object with a `type`"):
        parse_message(message)


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ({"type": "response.create"}, "got response.create"),
        ({"type": "transcription_session.update"}, "send `session.update`"),
        ({"type": "input_audio_buffer.append"}, "`audio` must be base64"),
        ({"type": "input_audio_buffer.append", "audio": "%%"}, "`audio` must be base64"),
        ({"type": "input_audio_buffer.append", "audio": "ä"}, "`audio` must be base64"),
        ({"type": "input_audio_buffer.append", "audio": 3}, "`audio` must be base64"),
    ],
)
def test_event_that_is_not_valid_gets_a_sentence(message: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        parsed(**message)


@given(members=st.dictionaries(st.sampled_from(["audio", "session", "event_id"]), _JSON), kind=st.sampled_from(_TYPES))
def test_any_json_is_an_event_or_an_error(members: dict[str, Any], kind: str) -> None:
    message = parse_message(json.dumps({**members, "type": kind}))
    assert isinstance(event_id_of(message), str | None)
    with suppress(InvalidRequest):
        assert isinstance(parse_event(message), ClientEvent)


def test_event_id_is_one_of_the_client() -> None:
    assert event_id_of({"event_id": "mine"}) == "mine"
    assert event_id_of({"event_id": 3}) is None
    assert len(event_id_of({"event_id": "x" * 10_000}) or "") == 512
