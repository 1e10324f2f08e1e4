"""Server events, checked against the types of OpenAI's client."""

from __future__ import annotations

from typing import Any

from openai.types.realtime import RealtimeServerEvent
from pydantic import TypeAdapter

_EVENTS: TypeAdapter[Any] = TypeAdapter(RealtimeServerEvent)
#: Members that OpenAI's events don't have: docs/realtime.md names them.
_EXTENSIONS = frozenset({"warnings", "object", "id", "expires_at"})


def checked(event: dict[str, Any]) -> dict[str, Any]:
    """Return an event that is valid as OpenAI's client declares it, with nothing that it would not know."""
    parsed = _EVENTS.validate_python(event)
    assert type(parsed).model_fields["type"].annotation.__args__ == (event["type"],)
    assert parsed.event_id == event["event_id"]
    assert _unknown(parsed) <= _EXTENSIONS, event
    return event


def _unknown(parsed: Any) -> set[str]:
    """Return the names of members that the client's types don't declare, at any depth."""
    if isinstance(parsed, list):
        return set().union(*map(_unknown, parsed))
    if not hasattr(parsed, "model_fields_set"):
        return set()
    inner = (_unknown(getattr(parsed, name)) for name in type(parsed).model_fields)
    return set(parsed.model_extra or ()).union(*inner)
