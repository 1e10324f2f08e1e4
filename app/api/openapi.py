"""The form of ``POST /v1/audio/transcriptions``, described by hand: its body is streamed, not parsed by FastAPI."""

from __future__ import annotations

from typing import Any, Final

from app.api.submission import NOT_IN_TRANSLATIONS


def _field(kind: str, description: str, **more: Any) -> dict[str, Any]:
    return {"type": kind, "description": description, **more}


_FIELDS: Final = {
    "file": _field(
        "string",
        "The audio, in any common format. Exactly one of this and `s3_presigned_url`.",
        format="binary",
    ),
    "s3_presigned_url": _field(
        "string", "Download the audio from here instead. Aliases: `url`, `audio_url`.", format="uri"
    ),
    "model": _field("string", "The served model's name, or its alias `whisper-1`.", default="whisper-1"),
    "language": _field("string", "ISO-639-1 code of what is spoken; detected where it is absent.", examples=["en"]),
    "prompt": _field("string", "Text that leads the way: names, spelling, style."),
    "response_format": _field(
        "string",
        "What the answer looks like.",
        enum=["json", "text", "srt", "vtt", "verbose_json"],
        default="json",
    ),
    "temperature": _field(
        "number",
        "0 falls back to hotter decoding where the text looks wrong.",
        minimum=0,
        maximum=1,
        default=0,
    ),
    "timestamp_granularities[]": {
        "type": "array",
        "items": {"type": "string", "enum": ["segment", "word"]},
        "description": "Times of segments, of words, or of both, in `verbose_json` and in documents.",
        "default": ["segment"],
    },
    "keywords[]": {
        "type": "array",
        "items": {"type": "string"},
        "description": "Words to expect (hotwords).",
    },
    "chunking_strategy": _field(
        "string",
        '`auto`, or a JSON object `{"type": "server_vad", "threshold": 0.5, "prefix_padding_ms": 400, '
        '"silence_duration_ms": 500}` that tunes the speech detection.',
        default="auto",
    ),
    "vad_filter": _field("boolean", "Leave out what holds no speech.", default=True),
    "stream": _field(
        "boolean",
        "Answer with server-sent events, `transcript.text.delta` as windows are finished and `transcript.text.done` at "
        "the end; with `response_format` json or text.",
        default=False,
    ),
    "multichannel": _field(
        "boolean",
        "Transcribe each channel alone, with `channel` (from 0) on every segment and word, in the order of time.",
        default=False,
    ),
    "condition_on_previous_text": _field(
        "boolean",
        "Have each window of 30 s go on from the text of the one before: a little more consistent, slower, as windows "
        "can't go onto the model together, and errors may repeat.",
        default=False,
    ),
    "beam_size": _field("integer", "Beams; more are slower and a little better.", minimum=1, maximum=10),
    "metadata": _field("string", "JSON object of strings, at most 4 KiB, given back with the job and its result."),
    "stored_output": _field("boolean", "Answer with a job id at once and keep the result here.", default=False),
    "upload_presigned_url": _field(
        "string",
        "Answer with a job id at once and PUT the result there. Sign it for at least an hour.",
        format="uri",
    ),
    "upload_format": _field(
        "string",
        "What is PUT there; the default is `response_format` where that is text, srt or vtt, else `document`.",
        enum=["document", "json", "text", "srt", "vtt", "verbose_json"],
    ),
    "upload_headers": _field("string", "JSON object of the headers that were signed into the URL."),
}

_ERROR: Final = {
    "description": "What was wrong, what is allowed, and what to do.",
    "content": {
        "application/json": {
            "schema": {
                "type": "object",
                "required": ["error"],
                "properties": {
                    "error": {
                        "type": "object",
                        "required": ["message", "type", "param", "code"],
                        "properties": {
                            "message": {"type": "string"},
                            "type": {"type": "string"},
                            "param": {"type": ["string", "null"]},
                            "code": {"type": ["string", "null"]},
                        },
                    }
                },
            }
        }
    },
}


def _operation(fields: dict[str, Any]) -> dict[str, Any]:
    return {
        "requestBody": {
            "required": True,
            "content": {"multipart/form-data": {"schema": {"type": "object", "properties": fields}}},
        },
        "responses": {
            "200": {
                "description": "The transcript, or for an asynchronous request the job's id.",
                "content": {
                    "application/json": {"schema": {"type": "object"}},
                    "text/plain": {"schema": {"type": "string"}},
                    "text/event-stream": {"schema": {"type": "string"}},
                },
            },
            **dict.fromkeys(("400", "401", "404", "413", "429", "503", "507"), _ERROR),
        },
    }


TRANSCRIPTION: Final = _operation(_FIELDS)
TRANSLATION: Final = _operation(
    {name: value for name, value in _FIELDS.items() if name.removesuffix("[]") not in NOT_IN_TRANSLATIONS}
)
