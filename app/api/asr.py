"""``/asr`` and ``/detect-language``, as whisper-asr-webservice has them, for programs that support no other API.

Their parameters are in the query. They become the fields of a synchronous transcription, and its transcript becomes
the response that these programs expect. Source: ``app/webservice.py`` of whisper-asr-webservice at ea12224.

Bazarr saves whatever it receives as subtitles, unless its parsers refuse it. They refuse every error, which is one line
of JSON.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from fastapi import APIRouter, Request
from fastapi.responses import Response

from app.api.dependencies import ServiceParts
from app.api.fields import Choice, Flag, Form, Text
from app.api.forms import (
    DIARIZE,
    LANGUAGE,
    MAX_SPEAKERS,
    MIN_SPEAKERS,
    MODEL,
    PROMPT,
    RESPONSE_FORMAT,
    VAD_FILTER,
)
from app.api.openapi import PLAIN_TEXT, json_body, query_operation, responses
from app.api.renderings import json_response
from app.api.requests import ASR_PATH, LANGUAGE_PATH
from app.api.schemas import DetectedLanguage
from app.api.submission import Operation
from app.api.transcriptions import respond
from app.domain.formats import PLAIN_TEXT as TEXT_TYPE
from app.domain.formats import Granularity, ResponseFormat
from app.domain.languages import language_code
from app.domain.transcript import Task
from app.domain.whisper_files import whisper_json, whisper_text, with_numbered_speakers
from app.jobs.serializers import body, extras, to_json

if TYPE_CHECKING:
    from app.api.fields import Field
    from app.domain.job import Job
    from app.jobs.spool import Spool


class _Output(StrEnum):
    """The values of ``output``. The documentation of whisper-asr-webservice says ``text``, its code ``txt``."""

    TXT = "txt"
    TEXT = "text"
    VTT = "vtt"
    SRT = "srt"
    TSV = "tsv"
    JSON = "json"


#: The format of a transcription with everything that an output needs.
_FORMATS: Final = {
    _Output.TXT: ResponseFormat.TEXT,
    _Output.TEXT: ResponseFormat.TEXT,
    _Output.VTT: ResponseFormat.VTT,
    _Output.SRT: ResponseFormat.SRT,
    _Output.TSV: ResponseFormat.VERBOSE_JSON,
    _Output.JSON: ResponseFormat.VERBOSE_JSON,
}
#: What whisper-asr-webservice calls its engine on CTranslate2.
_ENGINE: Final = "faster_whisper"

_ENCODE: Final = Flag(
    "encode",
    value_if_absent=True,
    description="`false`: the file holds samples without a header, s16le at 16 kHz of one channel.",
    default="`true`: the file is in any common format",
)
_TASK: Final = Choice(
    "task",
    choices=tuple(Task),
    description="Transcribe, or translate into English. A translation starts from `language`, if that is given.",
    default="`transcribe`",
)
_OUTPUT: Final = Choice(
    "output",
    choices=tuple(_Output),
    description="The format of the response. `txt`, or `text`, has a line for each segment.",
    default="`txt`",
)
_INITIAL_PROMPT: Final = replace(PROMPT, name="initial_prompt", aliases=())
_DIARIZE: Final = replace(
    DIARIZE,
    description="Tell speakers apart by their voices: SPEAKER_00, SPEAKER_01 and so on. `enable_diarization` is an "
    "alias.",
    default="`false`",
)
_WORD_TIMESTAMPS: Final = Flag(
    "word_timestamps", description="Words with their times in the segments of `json`.", default="`false`"
)
_HOTWORDS: Final = Text("hotwords", description="Words to expect in the audio, separated by commas.", default="none")

_FIELDS: Final[tuple[Field[Any], ...]] = (
    _ENCODE,
    _TASK,
    LANGUAGE,
    _INITIAL_PROMPT,
    VAD_FILTER,
    _WORD_TIMESTAMPS,
    _DIARIZE,
    MIN_SPEAKERS,
    MAX_SPEAKERS,
    _OUTPUT,
    MODEL,
    _HOTWORDS,
)
#: The parameters that are passed on as they are. Others are ignored, like Bazarr's ``video_file``.
_PASSED: Final = frozenset(
    (
        *(LANGUAGE.name, _INITIAL_PROMPT.name, VAD_FILTER.name, *_DIARIZE.names, MIN_SPEAKERS.name, MAX_SPEAKERS.name),
        *(MODEL.name, _HOTWORDS.name, "return_speaker_embeddings"),
    )
)
_ERRORS: Final = (400, 401, 404, 413, 429, 500, 503, 507)
_AUDIO_FORM: Final = {"schema": {"$ref": "#/components/schemas/AudioForm"}}

router = APIRouter(tags=["whisper-asr-webservice"])


@router.post(
    ASR_PATH,
    operation_id="create_asr",
    summary="Transcribe audio, with parameters in the query",
    response_model=None,
    responses=responses("The transcript as `output`; JSON is text/plain, too.", PLAIN_TEXT, *_ERRORS),
    openapi_extra=query_operation(_FIELDS, _AUDIO_FORM),
)
async def create_asr(request: Request, parts: ServiceParts) -> Response:
    """Return the transcript as whisper-asr-webservice does. New programs should use `/v1/audio/transcriptions`."""
    sent = _query(request)
    form = Form(sent)
    output = form[_OUTPUT] or _Output.TXT
    fields = {name: values for name, values in sent.items() if name in _PASSED}
    fields[RESPONSE_FORMAT.name] = [_FORMATS[output].value]
    if form[_WORD_TIMESTAMPS] and output is _Output.JSON:
        fields[_WORD_TIMESTAMPS.name] = ["true"]
    operation = Operation(name="asr", task=form[_TASK] or Task.TRANSCRIBE, fields=fields, is_pcm=not form[_ENCODE])
    return await respond(request, parts, operation, render=partial(_attachment, output=output))


@router.post(
    LANGUAGE_PATH,
    operation_id="detect_language",
    summary="Detect the language of audio",
    response_model=None,
    responses=responses("The language.", json_body(DetectedLanguage), *_ERRORS),
    openapi_extra=query_operation((_ENCODE,), _AUDIO_FORM),
)
async def detect_language(request: Request, parts: ServiceParts) -> Response:
    """Return the language that is spoken first, which takes up to 30 s of speech, or more if that is uncertain."""
    form = Form(_query(request))
    operation = Operation(
        name="detect_language", fields={"beam_size": ["1"]}, is_pcm=not form[_ENCODE], only_language=True
    )
    return await respond(request, parts, operation, render=_language)


def _query(request: Request) -> dict[str, list[str]]:
    return {name: request.query_params.getlist(name) for name in request.query_params}


async def _attachment(spool: Spool, job: Job, *, output: _Output) -> Response:
    content = await asyncio.to_thread(_body, spool, job, output)
    headers = {
        "Asr-Engine": _ENGINE,
        "Content-Disposition": f'attachment; filename="{quote(job.name or "audio", safe="")}.{output}"',
    }
    return Response(content, media_type=TEXT_TYPE, headers=headers)


def _body(spool: Spool, job: Job, output: _Output) -> bytes:
    """Return the stored transcript of a job as whisper-asr-webservice writes it. Blocks."""
    stored, processing_time = spool.result(job.id)
    transcript = with_numbered_speakers(stored)
    match output:
        case _Output.TXT | _Output.TEXT:
            return whisper_text(transcript).encode()
        case _Output.JSON:
            has_words = Granularity.WORD in job.rendering.granularities
            return to_json({**whisper_json(transcript, has_words=has_words), **extras(job)})
        case _Output.TSV:
            rendering = replace(job.rendering, format=ResponseFormat.TSV)
        case _:
            rendering = job.rendering
    return body(job, rendering, transcript, processing_time=processing_time)


async def _language(spool: Spool, job: Job) -> Response:
    transcript, _ = await asyncio.to_thread(spool.result, job.id)
    return await json_response(
        {
            "detected_language": transcript.language,
            "language_code": language_code(transcript.language),
            "confidence": transcript.language_probability or 0.0,
        }
    )
