"""A transcript in each response format.

The JSON bodies follow OpenAI's OpenAPI description. Subtitles are in :mod:`app.domain.subtitles`, and the formats that
change with the speaker in :mod:`app.domain.diarized`.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

from app.domain.diarized import diarized_segments, rttm, script
from app.domain.paragraphs import paragraphs
from app.domain.speakers import one_line, parts, speakers_of, with_channels
from app.domain.subtitles import CUE_PER_SEGMENT, SubtitleLayout, srt, vtt

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from app.domain.paragraphs import Paragraph, Sentence
    from app.domain.transcript import Segment, TokenLogprob, Transcript, Word


class ResponseFormat(StrEnum):
    JSON = "json"
    TEXT = "text"
    SRT = "srt"
    VTT = "vtt"
    LRC = "lrc"
    TSV = "tsv"
    VERBOSE_JSON = "verbose_json"
    DIARIZED_JSON = "diarized_json"
    RTTM = "rttm"
    DOCUMENT = "document"


#: The formats that can have ``utterances``.
WITH_UTTERANCES: Final = (ResponseFormat.VERBOSE_JSON, ResponseFormat.DIARIZED_JSON, ResponseFormat.DOCUMENT)
#: The formats that are about speakers.
OF_SPEAKERS: Final = frozenset({ResponseFormat.DIARIZED_JSON, ResponseFormat.RTTM})


class Include(StrEnum):
    LOGPROBS = "logprobs"


class Granularity(StrEnum):
    SEGMENT = "segment"
    WORD = "word"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendering:
    """A response format with its options; ``logprobs`` adds the log probability of each token to JSON bodies.

    ``utterances`` adds paragraphs with their sentences to the formats in :data:`WITH_UTTERANCES`.
    """

    format: ResponseFormat = ResponseFormat.JSON
    granularities: frozenset[Granularity] = frozenset({Granularity.SEGMENT})
    subtitles: SubtitleLayout = CUE_PER_SEGMENT
    logprobs: bool = False
    utterances: bool = False

    @property
    def needs_words(self) -> bool:
        """True if a format depends on the times of words."""
        return Granularity.WORD in self.granularities or self.subtitles.needs_words or self.utterances


#: What separates the columns and rows of a table, and what some programs take for it.
_SEPARATORS: Final = re.compile("[\t\n\x0b\x0c\r\x1c-\x1e\x85\u2028\u2029]")
#: Brackets, which LRC has for its times and has no escape for, become round ones.
_ROUND_BRACKETS: Final = str.maketrans("[]", "()")
#: See :func:`token_usage`.
_AUDIO_TOKENS_PER_SECOND: Final = 10
#: The media type of responses that are not JSON.
PLAIN_TEXT: Final = "text/plain; charset=utf-8"
#: The media type of each format when it is uploaded.
MEDIA_TYPES: Final = {
    ResponseFormat.JSON: "application/json",
    ResponseFormat.VERBOSE_JSON: "application/json",
    ResponseFormat.DIARIZED_JSON: "application/json",
    ResponseFormat.DOCUMENT: "application/json",
    ResponseFormat.TEXT: PLAIN_TEXT,
    ResponseFormat.SRT: PLAIN_TEXT,
    ResponseFormat.LRC: PLAIN_TEXT,
    ResponseFormat.RTTM: PLAIN_TEXT,
    ResponseFormat.VTT: "text/vtt; charset=utf-8",
    ResponseFormat.TSV: "text/tab-separated-values; charset=utf-8",
}


def render(transcript: Transcript, rendering: Rendering, *, extras: Mapping[str, Any]) -> dict[str, Any] | str:
    """Return the body in any format except ``document``, which needs the job: a JSON object, or text.

    ``extras`` are added to JSON objects. See :mod:`app.jobs.serializers` for documents.

    Raises:
        ValueError: The format is ``document``.
    """
    match rendering.format:
        case ResponseFormat.TEXT:
            return script(transcript) + "\n"
        case ResponseFormat.SRT:
            return srt(transcript, rendering.subtitles)
        case ResponseFormat.VTT:
            return vtt(transcript, rendering.subtitles)
        case ResponseFormat.LRC:
            return lrc(transcript)
        case ResponseFormat.TSV:
            return tsv(transcript)
        case ResponseFormat.RTTM:
            return rttm(transcript)
        case ResponseFormat.DOCUMENT:
            raise ValueError("A document needs the job as well as its transcript.")
        case _:
            return {**_json_body(transcript, rendering), **extras}


def _json_body(transcript: Transcript, rendering: Rendering) -> dict[str, Any]:
    match rendering.format:
        case ResponseFormat.VERBOSE_JSON:
            body = verbose(transcript, rendering.granularities) | languages(transcript)
            return body | logprobs(transcript, rendering) | utterances(transcript, rendering)
        case ResponseFormat.DIARIZED_JSON:
            spoken = transcript if speakers_of(transcript) else with_channels(transcript)
            return diarized(transcript) | utterances(spoken, rendering)
        case _:
            return {
                "text": transcript.text,
                **languages(transcript),
                "usage": usage(transcript),
                **logprobs(transcript, rendering),
            }


def tsv(transcript: Transcript) -> str:
    """Return a line for each segment: start and end in milliseconds, and the text, after a line with their names.

    Source: ``WriteTSV`` in OpenAI's ``whisper/utils.py``.
    """
    rows = (
        f"{round(1000 * segment.start)}\t{round(1000 * segment.end)}\t{_SEPARATORS.sub(' ', segment.text.strip())}\n"
        for segment in transcript.segments
    )
    return "start\tend\ttext\n" + "".join(rows)


def lrc(transcript: Transcript) -> str:
    """Return a line ``[mm:ss.xx]text`` for each segment that has text, and for each speaker in it.

    Minutes go on beyond 99. A line with a speaker begins with ``A: ``.
    """
    spoken = (part for segment in transcript.segments for part in parts(segment) if part.text.strip())
    return "".join(f"[{_minutes(part.start)}]{_lyrics(part)}\n" for part in spoken)


def _minutes(seconds: float) -> str:
    minutes, hundredths = divmod(round(100 * max(seconds, 0.0)), 6000)
    return f"{minutes:02d}:{hundredths // 100:02d}.{hundredths % 100:02d}"


def _lyrics(part: Segment) -> str:
    text = one_line(part.text if part.speaker is None else f"{part.speaker}: {part.text}")
    return text.translate(_ROUND_BRACKETS)


def usage(transcript: Transcript) -> dict[str, Any]:
    """Return the ``usage`` object: the duration in whole seconds, rounded up."""
    return {"type": "duration", "seconds": math.ceil(transcript.duration)}


def token_usage(transcript: Transcript) -> dict[str, Any]:
    """Return the ``usage`` object of streams, which OpenAI counts in tokens.

    A token of audio is 100 ms, as in OpenAI's models (https://developers.openai.com/api/docs/guides/realtime-costs);
    tokens of text are the model's own.
    """
    audio_tokens = math.ceil(transcript.duration * _AUDIO_TOKENS_PER_SECOND)
    input_tokens = audio_tokens + transcript.prompt_tokens
    return {
        "type": "tokens",
        "input_tokens": input_tokens,
        "input_token_details": {"audio_tokens": audio_tokens, "text_tokens": transcript.prompt_tokens},
        "output_tokens": transcript.output_tokens,
        "total_tokens": input_tokens + transcript.output_tokens,
    }


def languages(transcript: Transcript) -> dict[str, Any]:
    """Return the ``languages`` of a JSON body as ``gpt-transcribe`` does, or no field if the language is one."""
    if transcript.languages is None:
        return {}
    return {"languages": [{"code": code} for code in transcript.languages]}


def verbose(transcript: Transcript, granularities: frozenset[Granularity]) -> dict[str, Any]:
    """Return the ``verbose_json`` body, with words at the top level and only the requested granularities."""
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
    """Return the ``diarized_json`` body, in which each segment has one speaker: a voice, or else a channel."""
    return {
        "task": transcript.task.value,
        "duration": transcript.duration,
        "text": transcript.text,
        "segments": [spoken for segment in transcript.segments for spoken in diarized_segments(segment)],
        "usage": usage(transcript),
    }


def logprobs(transcript: Transcript, rendering: Rendering) -> dict[str, Any]:
    """Return the ``logprobs`` field of a JSON body, or no field if it was not requested."""
    return {"logprobs": [logprob_object(logprob) for logprob in transcript.logprobs]} if rendering.logprobs else {}


def utterances(transcript: Transcript, rendering: Rendering) -> dict[str, Any]:
    """Return the ``utterances`` of a JSON body, or no field if they were not requested."""
    if not rendering.utterances:
        return {}
    return {"utterances": [utterance_object(paragraph) for paragraph in paragraphs(transcript)]}


def utterance_object(paragraph: Paragraph) -> dict[str, Any]:
    """Return the object of a paragraph. Its texts have no surrounding space."""
    return {
        **_timed_text(paragraph),
        **_source(paragraph),
        "sentences": [_timed_text(sentence) for sentence in paragraph.sentences],
    }


def _timed_text(spoken: Paragraph | Sentence) -> dict[str, Any]:
    return {"start": spoken.start, "end": spoken.end, "text": spoken.text.strip()}


def logprob_object(logprob: TokenLogprob) -> dict[str, Any]:
    return {"token": logprob.token, "logprob": logprob.logprob, "bytes": list(logprob.bytes)}


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
        **_source(segment),
        **({"uncertain": True} if segment.uncertain else {}),
        **({"language": segment.language} if segment.language is not None else {}),
    }


def word_object(word: Word) -> dict[str, Any]:
    """Return OpenAI's object, in which words have no surrounding space, with the probability added."""
    return {
        "word": word.word.strip(),
        "start": word.start,
        "end": word.end,
        "probability": word.probability,
        **_source(word),
    }


def placed_words(segments: Iterable[Segment]) -> list[dict[str, Any]]:
    """Return the words of segments with the ``id`` of their ``segment`` and their ``offset`` in its text.

    The offset is in Unicode code points.
    """
    return [
        {**word_object(word), "segment": segment.id, "offset": offset}
        for segment in segments
        for word, offset in zip(segment.words, segment.word_offsets, strict=True)
    ]


def _source(spoken: Segment | Word | Paragraph) -> dict[str, Any]:
    """Return the channel and the speaker, as far as they are known."""
    source = {"channel": spoken.channel, "speaker": spoken.speaker}
    return {name: value for name, value in source.items() if value is not None}
