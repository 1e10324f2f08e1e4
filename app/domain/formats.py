"""A transcript in each format that clients ask for.

Sources: the OpenAI OpenAPI description for the JSON bodies, ``whisper/utils.py`` of OpenAI's release for SubRip
and WebVTT.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from app.domain.transcript import Segment, Transcript, Word


#: What would end a cue's times once more.
_ARROW: Final = re.compile("-{2,}>")


class ResponseFormat(StrEnum):
    JSON = "json"
    TEXT = "text"
    SRT = "srt"
    VTT = "vtt"
    VERBOSE_JSON = "verbose_json"
    DOCUMENT = "document"


class Granularity(StrEnum):
    SEGMENT = "segment"
    WORD = "word"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendering:
    """How a transcript is to be written down."""

    format: ResponseFormat = ResponseFormat.JSON
    granularities: frozenset[Granularity] = frozenset({Granularity.SEGMENT})


#: The type of every answer that is not JSON.
PLAIN_TEXT: Final = "text/plain; charset=utf-8"
#: The type of each body as an upload.
MEDIA_TYPES: Final = {
    ResponseFormat.JSON: "application/json",
    ResponseFormat.VERBOSE_JSON: "application/json",
    ResponseFormat.DOCUMENT: "application/json",
    ResponseFormat.TEXT: PLAIN_TEXT,
    ResponseFormat.SRT: PLAIN_TEXT,
    ResponseFormat.VTT: "text/vtt; charset=utf-8",
}


def render(transcript: Transcript, rendering: Rendering, *, extras: Mapping[str, Any]) -> bytes:
    """The body in any format but ``document``, which needs the job (see :mod:`app.jobs.document`).

    ``extras`` are added to bodies that are JSON.
    """
    match rendering.format:
        case ResponseFormat.JSON:
            return to_json({"text": transcript.text, "usage": usage(transcript), **extras})
        case ResponseFormat.VERBOSE_JSON:
            return to_json({**verbose(transcript, rendering.granularities), **extras})
        case ResponseFormat.TEXT:
            return (transcript.text + "\n").encode()
        case ResponseFormat.SRT:
            return srt(transcript).encode()
        case ResponseFormat.VTT:
            return vtt(transcript).encode()
        case ResponseFormat.DOCUMENT:
            raise ValueError("A document is made of a job and its transcript.")


def to_json(value: dict[str, Any]) -> bytes:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def usage(transcript: Transcript) -> dict[str, Any]:
    """What OpenAI would bill: the duration in whole seconds, rounded up."""
    return {"type": "duration", "seconds": math.ceil(transcript.duration)}


def verbose(transcript: Transcript, granularities: frozenset[Granularity]) -> dict[str, Any]:
    """The ``verbose_json`` body; words stand at the top level, and what was not asked for is absent."""
    body: dict[str, Any] = {
        "task": transcript.task.value,
        "language": transcript.written_language,
        "duration": transcript.duration,
        "text": transcript.text,
    }
    if Granularity.WORD in granularities:
        body["words"] = [word_object(word) for word in transcript.words]
    if Granularity.SEGMENT in granularities:
        body["segments"] = [segment_object(segment) for segment in transcript.segments]
    return {**body, "usage": usage(transcript)}


def segment_object(segment: Segment) -> dict[str, Any]:
    return {
        "id": segment.id,
        "seek": segment.seek,
        "start": segment.start,
        "end": segment.end,
        "text": segment.text,
        "tokens": list(segment.tokens),
        "temperature": segment.temperature,
        "avg_logprob": segment.avg_logprob,
        "compression_ratio": segment.compression_ratio,
        "no_speech_prob": segment.no_speech_prob,
        **_channel(segment),
    }


def word_object(word: Word) -> dict[str, Any]:
    """OpenAI's shape, in which words carry no surrounding space, and the probability besides."""
    return {
        "word": word.word.strip(),
        "start": word.start,
        "end": word.end,
        "probability": word.probability,
        **_channel(word),
    }


def _channel(part: Segment | Word) -> dict[str, int]:
    return {} if part.channel is None else {"channel": part.channel}


def srt(transcript: Transcript) -> str:
    """SubRip. A transcript without text is an empty file."""
    cues = (
        f"{number}\n{timestamp(start, point=',', hours_always=True)} --> "
        f"{timestamp(end, point=',', hours_always=True)}\n{text}\n\n"
        for number, (start, end, text) in enumerate(_cues(transcript), start=1)
    )
    return "".join(cues)


def vtt(transcript: Transcript) -> str:
    """WebVTT. Hours appear once there are any."""
    cues = (
        f"{timestamp(start, point='.')} --> {timestamp(end, point='.')}\n{text}\n\n"
        for start, end, text in _cues(transcript)
    )
    return "WEBVTT\n\n" + "".join(cues)


def _cues(transcript: Transcript) -> Iterator[tuple[float, float, str]]:
    for segment in transcript.segments:
        text = _ARROW.sub("->", " ".join(segment.text.split()))
        if text:
            yield segment.start, max(segment.end, segment.start), text


def timestamp(seconds: float, *, point: str, hours_always: bool = False) -> str:
    """``HH:MM:SS,mmm``, rounded to the millisecond before it is split, so that 59.9996 s is a whole minute."""
    milliseconds = round(max(seconds, 0.0) * 1000)
    minutes, milliseconds = divmod(milliseconds, 60_000)
    hours, minutes = divmod(minutes, 60)
    whole, milliseconds = divmod(milliseconds, 1000)
    prefix = f"{hours:02d}:" if hours or hours_always else ""
    return f"{prefix}{minutes:02d}:{whole:02d}{point}{milliseconds:03d}"
