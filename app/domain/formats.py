"""A transcript in each format that clients ask for.

Source: the OpenAI OpenAPI description for the JSON bodies. Subtitles are written in :mod:`app.domain.subtitles`.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

from app.domain.subtitles import CUE_PER_SEGMENT, SubtitleLayout, srt, vtt

if TYPE_CHECKING:
    from collections.abc import Mapping

    from app.domain.transcript import Segment, TokenLogprob, Transcript, Word


class ResponseFormat(StrEnum):
    JSON = "json"
    TEXT = "text"
    SRT = "srt"
    VTT = "vtt"
    VERBOSE_JSON = "verbose_json"
    DIARIZED_JSON = "diarized_json"
    DOCUMENT = "document"


class Include(StrEnum):
    LOGPROBS = "logprobs"


class Granularity(StrEnum):
    SEGMENT = "segment"
    WORD = "word"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendering:
    """How a transcript is to be written down; ``logprobs`` says that each token's probability is to stand in JSON."""

    format: ResponseFormat = ResponseFormat.JSON
    granularities: frozenset[Granularity] = frozenset({Granularity.SEGMENT})
    subtitles: SubtitleLayout = CUE_PER_SEGMENT
    logprobs: bool = False


#: The type of every answer that is not JSON.
PLAIN_TEXT: Final = "text/plain; charset=utf-8"
#: The type of each body as an upload.
MEDIA_TYPES: Final = {
    ResponseFormat.JSON: "application/json",
    ResponseFormat.VERBOSE_JSON: "application/json",
    ResponseFormat.DIARIZED_JSON: "application/json",
    ResponseFormat.DOCUMENT: "application/json",
    ResponseFormat.TEXT: PLAIN_TEXT,
    ResponseFormat.SRT: PLAIN_TEXT,
    ResponseFormat.VTT: "text/vtt; charset=utf-8",
}


def render(transcript: Transcript, rendering: Rendering, *, extras: Mapping[str, Any]) -> bytes:
    """The body in any format but ``document``, which needs the job (see :mod:`app.jobs.serializers`).

    ``extras`` are added to bodies that are JSON.
    """
    match rendering.format:
        case ResponseFormat.JSON:
            return to_json(
                {"text": transcript.text, "usage": usage(transcript), **logprobs(transcript, rendering), **extras}
            )
        case ResponseFormat.VERBOSE_JSON:
            body = verbose(transcript, rendering.granularities)
            return to_json({**body, **logprobs(transcript, rendering), **extras})
        case ResponseFormat.DIARIZED_JSON:
            return to_json({**diarized(transcript), **extras})
        case ResponseFormat.TEXT:
            return (transcript.text + "\n").encode()
        case ResponseFormat.SRT:
            return srt(transcript, rendering.subtitles).encode()
        case ResponseFormat.VTT:
            return vtt(transcript, rendering.subtitles).encode()
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


def diarized(transcript: Transcript) -> dict[str, Any]:
    """The ``diarized_json`` body, in which the channels are the speakers."""
    return {
        "task": transcript.task.value,
        "duration": transcript.duration,
        "text": transcript.text,
        "segments": [diarized_segment(segment) for segment in transcript.segments],
        "usage": usage(transcript),
    }


def diarized_segment(segment: Segment) -> dict[str, Any]:
    """OpenAI's ``transcript.text.segment``, of a body and of a stream alike."""
    return {
        "type": "transcript.text.segment",
        "id": f"seg_{segment.id + 1:03d}",
        "start": segment.start,
        "end": segment.end,
        "text": segment.text.strip(),
        "speaker": speaker(segment.channel or 0),
    }


def speaker(channel: int) -> str:
    """``A`` for the first channel."""
    return chr(ord("A") + channel)


def logprobs(transcript: Transcript, rendering: Rendering) -> dict[str, Any]:
    """The ``logprobs`` of a JSON body; nothing where they were not asked for."""
    return {"logprobs": [logprob_object(one) for one in transcript.logprobs]} if rendering.logprobs else {}


def logprob_object(one: TokenLogprob) -> dict[str, Any]:
    return {"token": one.token, "logprob": one.logprob, "bytes": list(one.bytes)}


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
