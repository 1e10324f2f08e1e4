"""The server's events are those that OpenAI's client declares."""

from __future__ import annotations

import pytest

from app.domain.transcript import TokenLogprob
from app.realtime import server_events
from app.realtime.config import SessionConfig
from tests.support.realtime_events import checked

SESSION = server_events.session_object(SessionConfig(), session_id="sess_1", expires_at=1_790_000_000)
LOGPROB = TokenLogprob(token=" a", logprob=-0.5, bytes=(32, 97))


@pytest.mark.parametrize(
    "event",
    [
        server_events.session_created(SESSION),
        server_events.session_updated(SESSION, ["A warning."]),
        server_events.error("A sentence.", code="invalid_value", param="session", event_id="mine"),
        server_events.speech_started("item_1", 16_000),
        server_events.speech_stopped("item_1", 32_000),
        server_events.cleared(),
        *server_events.committed("item_2", "item_1"),
        *server_events.committed("item_1", None),
        server_events.delta("item_1", "hello"),
        server_events.completed("item_1", "hello", seconds=1.5, languages=["en"], logprobs=[LOGPROB]),
        server_events.completed("item_1", "hello", seconds=1.5, warnings=["A warning."]),
        server_events.failed("item_1", "A sentence.", code="model_not_found"),
    ],
    ids=lambda event: event["type"],
)
def test_event_is_valid_for_openai(event: dict[str, object]) -> None:
    checked(event)


def test_ids_are_unique() -> None:
    events = [server_events.cleared() for _ in range(1_000)]
    assert len({event["event_id"] for event in events}) == len(events)


def test_times_are_milliseconds() -> None:
    assert server_events.speech_started("item_1", 24_000)["audio_start_ms"] == 1_500


def test_no_query_of_a_url_is_echoed() -> None:
    event = server_events.error("`model` is https://a.example/x?X-Amz-Signature=abc.")
    assert "abc" not in event["error"]["message"]
