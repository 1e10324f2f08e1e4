"""The events that clients send: one JSON object in each text message."""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import dataclass
from typing import Any, Final

from app.domain.errors import InvalidRequest

_NAMES: Final = (
    "session.update",
    "input_audio_buffer.append",
    "input_audio_buffer.commit",
    "input_audio_buffer.clear",
)
#: Ids of clients are echoed in errors.
_MAX_ID_LENGTH: Final = 512


@dataclass(frozen=True, slots=True)
class Update:
    """``session.update``: ``session`` is a JSON value."""

    session: Any


@dataclass(frozen=True, slots=True)
class Append:
    """``input_audio_buffer.append``: bytes in the format of the session."""

    audio: bytes


@dataclass(frozen=True, slots=True)
class Commit:
    """``input_audio_buffer.commit``."""


@dataclass(frozen=True, slots=True)
class Clear:
    """``input_audio_buffer.clear``."""


ClientEvent = Update | Append | Commit | Clear


def event_id_of(message: dict[str, Any]) -> str | None:
    """Return the id that the client has given an event, if it is one."""
    event_id = message.get("event_id")
    return event_id[:_MAX_ID_LENGTH] if isinstance(event_id, str) else None


def parse_message(text: str | bytes) -> dict[str, Any]:
    """Return the JSON object of a message.

    Raises:
        InvalidRequest: it is something else.
    """
    try:
        message = json.loads(text) if isinstance(text, str) else None
    except (ValueError, RecursionError):
        message = None
    if not isinstance(message, dict) or not isinstance(message.get("type"), str):
        raise InvalidRequest(
            'A message must be text, a JSON object with a `type`, such as {"type": "input_audio_buffer.commit"}.',
            code="invalid_json",
        )
    return message


def parse_event(message: dict[str, Any]) -> ClientEvent:
    """Return the event that a message is.

    Raises:
        InvalidRequest: it is none that this server knows, or a member is not valid.
    """
    match message["type"]:
        case "session.update":
            return Update(message.get("session"))
        case "input_audio_buffer.append":
            return Append(_audio(message.get("audio")))
        case "input_audio_buffer.commit":
            return Commit()
        case "input_audio_buffer.clear":
            return Clear()
        case "transcription_session.update":
            raise InvalidRequest(
                "`transcription_session.update` belongs to the beta of the protocol: send `session.update`, whose "
                "`session` has the type transcription.",
                param="type",
                code="unknown_event",
            )
        case other:
            raise InvalidRequest(
                f"`type` must be {', '.join(_NAMES[:-1])} or {_NAMES[-1]}, got {other[:100]}.",
                param="type",
                code="unknown_event",
            )


def _audio(text: Any) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (TypeError, ValueError, binascii.Error):
        raise InvalidRequest(
            "`audio` must be base64 of audio in the format of the session.", param="audio", code="invalid_audio"
        ) from None
