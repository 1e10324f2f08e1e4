"""The format in which a request wants its transcript, the rules that concern several fields, and its response."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from fastapi.responses import Response

from app.api.forms import (
    ALWAYS_INCLUDE_HOURS,
    HIGHLIGHT_WORDS,
    INCLUDE,
    MAX_LINE_COUNT,
    MAX_LINE_WIDTH,
    RESPONSE_FORMAT,
    RESULT_FORMAT,
    STREAM,
    TIMESTAMP_GRANULARITIES,
    UPLOAD_FORMAT,
    UTTERANCES,
    WORD_TIMESTAMPS,
)
from app.domain.errors import InvalidRequest
from app.domain.formats import (
    MEDIA_TYPES,
    OF_SPEAKERS,
    PLAIN_TEXT,
    WITH_UTTERANCES,
    Granularity,
    Include,
    Rendering,
    ResponseFormat,
)
from app.domain.subtitles import CUE_PER_SEGMENT, SubtitleLayout
from app.jobs.serializers import stored_body, to_json

if TYPE_CHECKING:
    from app.api.fields import Field, Form
    from app.domain.job import Job
    from app.jobs.spool import Spool


#: The formats that can be streamed.
STREAMED: Final = frozenset({ResponseFormat.JSON, ResponseFormat.TEXT, ResponseFormat.DIARIZED_JSON})
_SUBTITLES: Final = frozenset({ResponseFormat.SRT, ResponseFormat.VTT})
_LAYOUT: Final[tuple[Field[Any], ...]] = (MAX_LINE_WIDTH, MAX_LINE_COUNT, HIGHLIGHT_WORDS, ALWAYS_INCLUDE_HOURS)
#: With ``highlight_words`` a cue is repeated for each of its words, so its size grows with the square of this.
_MAX_HIGHLIGHTED_CHARACTERS: Final = 1000


def requested_rendering(form: Form, *, has_speakers: bool) -> Rendering:
    """Return the rendering of the response. Without ``has_speakers`` they can't be told apart.

    Raises:
        InvalidRequest: a value is not allowed.
    """
    granularities = form[TIMESTAMP_GRANULARITIES]
    if not granularities and form[WORD_TIMESTAMPS]:
        granularities = frozenset(Granularity)
    rendering = Rendering(
        format=form[RESPONSE_FORMAT] or ResponseFormat.JSON,
        granularities=granularities or frozenset({Granularity.SEGMENT}),
        subtitles=_layout(form, CUE_PER_SEGMENT),
        logprobs=Include.LOGPROBS in form[INCLUDE],
        utterances=form[UTTERANCES],
    )
    _check_speakers(rendering.format, RESPONSE_FORMAT, has_speakers=has_speakers)
    return rendering


def upload_formats(form: Form, rendering: Rendering, *, has_speakers: bool) -> list[ResponseFormat]:
    """Return the formats of the uploads as they were sent, given the rendering of the response; at least one."""
    formats = form[UPLOAD_FORMAT] or [default_upload_format(rendering)]
    for chosen in formats:
        _check_speakers(chosen, UPLOAD_FORMAT, has_speakers=has_speakers)
    return formats


def default_upload_format(rendering: Rendering) -> ResponseFormat:
    """Return the format of an upload without ``upload_format``."""
    is_json = MEDIA_TYPES[rendering.format] == "application/json"
    return ResponseFormat.DOCUMENT if is_json else rendering.format


def result_rendering(query: Form, job: Job) -> Rendering:
    """Return the rendering of a stored result. What the query leaves out is as in the job's own form.

    Raises:
        InvalidRequest: a value is not allowed, or needs word times or speakers that the job does not have.
    """
    chosen = query[RESULT_FORMAT] or ResponseFormat.JSON
    if chosen in OF_SPEAKERS and not (job.options.multichannel or job.options.diarization):
        raise InvalidRequest(
            f"`{RESULT_FORMAT.name}` {chosen.value} needs speakers, which this job was submitted without: use "
            "verbose_json, or submit a new job with `diarize=true`.",
            param=RESULT_FORMAT.name,
        )
    layout = _layout(query, job.rendering.subtitles)
    if chosen in _SUBTITLES and layout.needs_words and not job.options.word_timestamps:
        sent = next(field for field in _LAYOUT if query.has(field))
        raise InvalidRequest(
            f"`{sent.name}` needs word timestamps, which this job was submitted without: leave it out, or submit a new "
            "job with `timestamp_granularities[]=word`.",
            param=sent.name,
        )
    utterances = _flag(query, UTTERANCES, default=job.rendering.utterances)
    return replace(job.rendering, format=chosen, subtitles=layout, utterances=utterances)


def rendering_warnings(form: Form, rendering: Rendering, *, streamed: bool) -> tuple[str, ...]:
    """Return a sentence for each field that has no effect on this response."""
    warnings = []
    if form.has(TIMESTAMP_GRANULARITIES) and rendering.format is not ResponseFormat.VERBOSE_JSON:
        warnings.append("`timestamp_granularities` requires `response_format=verbose_json` and was ignored.")
    if rendering.utterances and (streamed or rendering.format not in WITH_UTTERANCES):
        warnings.append("`utterances` requires verbose_json, or diarized_json without `stream`, and was ignored.")
    if form[STREAM] and rendering.format not in STREAMED:
        warnings.append("`stream` requires `response_format` json, text or diarized_json and was ignored.")
    if rendering.format not in _SUBTITLES:
        warnings += [f"`{field.name}` requires srt or vtt and was ignored." for field in _LAYOUT if form.has(field)]
    return tuple(warnings)


def _layout(form: Form, default: SubtitleLayout) -> SubtitleLayout:
    width, count = form[MAX_LINE_WIDTH], form[MAX_LINE_COUNT]
    layout = SubtitleLayout(
        max_line_width=default.max_line_width if width is None else width,
        max_line_count=default.max_line_count if count is None else count,
        highlight_words=_flag(form, HIGHLIGHT_WORDS, default=default.highlight_words),
        always_include_hours=_flag(form, ALWAYS_INCLUDE_HOURS, default=default.always_include_hours),
    )
    characters = (layout.max_line_width or 0) * (layout.max_line_count or 0)  # 0: cues end with their segments
    if layout.highlight_words and characters > _MAX_HIGHLIGHTED_CHARACTERS:
        raise InvalidRequest(
            f"`highlight_words` allows cues of at most {_MAX_HIGHLIGHTED_CHARACTERS} characters, got "
            f"{layout.max_line_count} lines of {layout.max_line_width}: use fewer or shorter lines, such as 2 lines of "
            "42.",
            param=HIGHLIGHT_WORDS.name,
        )
    return layout


def _flag(form: Form, field: Field[bool], *, default: bool) -> bool:
    return form[field] if form.has(field) else default


def _check_speakers(chosen: ResponseFormat, field: Field[Any], *, has_speakers: bool) -> None:
    if chosen in OF_SPEAKERS and not has_speakers:
        raise InvalidRequest(
            f"`{field.name}` {chosen.value} requires `multichannel=true` on this server, which has "
            "DIARIZATION_MODEL=none: record each speaker on a channel, or use verbose_json.",
            param=field.name,
        )


async def json_response(content: dict[str, Any]) -> Response:
    """Return ``content`` as JSON."""
    return Response(await asyncio.to_thread(to_json, content), media_type="application/json")


async def transcript_response(spool: Spool, job: Job, rendering: Rendering, *, original: bool = False) -> Response:
    """Return the job's transcript in any format. As in OpenAI's API, WebVTT is plain text."""
    content = await asyncio.to_thread(stored_body, spool, job, rendering, original=original)
    media_type = MEDIA_TYPES[rendering.format]
    return Response(content, media_type=PLAIN_TEXT if media_type.startswith("text/") else media_type)
