"""The events that clients receive, as JSON values."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any, Final

from app.domain.formats import logprob_object
from app.domain.redaction import without_queries
from app.realtime.audio import RATE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from app.domain.transcript import TokenLogprob
    from app.realtime.config import SessionConfig

_TRANSCRIPTION: Final = "conversation.item.input_audio_transcription"
_BUFFER: Final = "input_audio_buffer"

ServerEvent = dict[str, Any]


def new_id(prefix: str) -> str:
    """Return a new id of 20 random digits and letters, such as ``item_…``."""
    return f"{prefix}_{secrets.token_hex(10)}"


def milliseconds(position: int) -> int:
    """Return the milliseconds of a position in samples."""
    return position * 1000 // RATE


def session_object(config: SessionConfig, *, session_id: str, expires_at: int) -> dict[str, Any]:
    """Return the session with its whole configuration; ``expires_at`` is in Unix seconds."""
    return {
        "object": "realtime.transcription_session",
        "id": session_id,
        "expires_at": expires_at,
        **config.model_dump(),
    }


def session_created(session: dict[str, Any], warnings: Sequence[str] = ()) -> ServerEvent:
    return _event("session.created", session=session, **_warnings(warnings))


def session_updated(session: dict[str, Any], warnings: Sequence[str] = ()) -> ServerEvent:
    """Return the event for a new configuration, with sentences about what has no effect."""
    return _event("session.updated", session=session, **_warnings(warnings))


def error(
    message: str,
    *,
    kind: str = "invalid_request_error",
    code: str | None = None,
    param: str | None = None,
    event_id: str | None = None,
) -> ServerEvent:
    """Return an error; ``event_id`` is that of the client's event that caused it."""
    return _event(
        "error",
        error={
            "type": kind,
            "code": code,
            "message": without_queries(message),
            "param": param,
            "event_id": event_id,
        },
    )


def speech_started(item_id: str, position: int) -> ServerEvent:
    return _event(f"{_BUFFER}.speech_started", item_id=item_id, audio_start_ms=milliseconds(position))


def speech_stopped(item_id: str, position: int) -> ServerEvent:
    return _event(f"{_BUFFER}.speech_stopped", item_id=item_id, audio_end_ms=milliseconds(position))


def cleared() -> ServerEvent:
    return _event(f"{_BUFFER}.cleared")


def committed(item_id: str, previous_item_id: str | None) -> list[ServerEvent]:
    """Return the events for audio that has become an item of the conversation."""
    item = {
        "id": item_id,
        "object": "realtime.item",
        "type": "message",
        "status": "completed",
        "role": "user",
        "content": [{"type": "input_audio", "transcript": None}],
    }
    return [
        _event(f"{_BUFFER}.committed", item_id=item_id, previous_item_id=previous_item_id),
        _event("conversation.item.added", previous_item_id=previous_item_id, item=item),
        _event("conversation.item.done", previous_item_id=previous_item_id, item=item),
    ]


def delta(item_id: str, text: str) -> ServerEvent:
    return _event(f"{_TRANSCRIPTION}.delta", item_id=item_id, content_index=0, delta=text)


def completed(
    item_id: str,
    text: str,
    *,
    seconds: float,
    languages: Sequence[str] = (),
    logprobs: Sequence[TokenLogprob] | None = None,
    warnings: Sequence[str] = (),
) -> ServerEvent:
    """Return the event for the final text of an item.

    ``seconds`` are those of its audio. ``languages`` are codes, ``logprobs`` None unless they are asked for.
    """
    return _event(
        f"{_TRANSCRIPTION}.completed",
        item_id=item_id,
        content_index=0,
        transcript=text,
        usage={"type": "duration", "seconds": round(seconds, 3)},
        languages=[{"code": code} for code in languages],
        **({} if logprobs is None else {"logprobs": [logprob_object(logprob) for logprob in logprobs]}),
        **_warnings(warnings),
    )


def failed(item_id: str, message: str, *, code: str | None = None, kind: str = "server_error") -> ServerEvent:
    return _event(
        f"{_TRANSCRIPTION}.failed",
        item_id=item_id,
        content_index=0,
        error={"type": kind, "code": code, "message": without_queries(message), "param": None},
    )


def _event(kind: str, **members: Any) -> ServerEvent:
    return {"type": kind, "event_id": new_id("event"), **members}


def _warnings(warnings: Sequence[str]) -> dict[str, Any]:
    return {"warnings": list(warnings)} if warnings else {}
