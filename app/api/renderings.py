"""How the transcript is to be written down: formats, granularities, log probabilities and the layout of subtitles."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from app.domain.errors import InvalidRequest
from app.domain.formats import Granularity, Include, Rendering, ResponseFormat
from app.domain.subtitles import CUE_PER_SEGMENT, SubtitleLayout

if TYPE_CHECKING:
    from app.api.fields import Fields
    from app.domain.job import Job

_NO_DOCUMENT: Final = frozenset({ResponseFormat.DOCUMENT})
_PLAIN: Final = frozenset({ResponseFormat.TEXT, ResponseFormat.SRT, ResponseFormat.VTT})
_SUBTITLES: Final = frozenset({ResponseFormat.SRT, ResponseFormat.VTT})
_LAYOUT: Final = ("max_line_width", "max_line_count", "highlight_words")
_MAX_LINE_WIDTH: Final = 1000
_MAX_LINE_COUNT: Final = 100
#: With ``highlight_words`` a cue is written once for each of its words: it grows with the square of this.
_MAX_HIGHLIGHTED: Final = 1000


def requested_rendering(fields: Fields, *, multichannel: bool) -> Rendering:
    """What a form asks for, ``response_format`` above all.

    Raises:
        InvalidRequest: a value is not allowed.
    """
    granularities = fields.choices("timestamp_granularities", Granularity)
    if not granularities and fields.flag("word_timestamps", default=False):  # what other servers call it
        granularities = frozenset(Granularity)
    rendering = Rendering(
        format=fields.choice("response_format", ResponseFormat, without=_NO_DOCUMENT) or ResponseFormat.JSON,
        granularities=granularities or frozenset({Granularity.SEGMENT}),
        subtitles=_layout(fields, CUE_PER_SEGMENT),
        logprobs=Include.LOGPROBS in fields.choices("include", Include),
    )
    _check_speakers(rendering.format, "response_format", multichannel=multichannel)
    return rendering


def upload_rendering(fields: Fields, rendering: Rendering, *, multichannel: bool) -> Rendering:
    """The same as it is uploaded, in ``upload_format`` if that is given."""
    chosen = fields.choice("upload_format", ResponseFormat) or default_upload(rendering).format
    _check_speakers(chosen, "upload_format", multichannel=multichannel)
    return replace(rendering, format=chosen)


def default_upload(rendering: Rendering) -> Rendering:
    """What is uploaded where nothing was said of it."""
    return rendering if rendering.format in _PLAIN else replace(rendering, format=ResponseFormat.DOCUMENT)


def later_rendering(fields: Fields, job: Job) -> Rendering:
    """What a query asks for of a stored result; what it does not name is as the job's own form said.

    Raises:
        InvalidRequest: a value is not allowed, or the job was not made for it.
    """
    chosen = fields.choice("response_format", ResponseFormat) or ResponseFormat.JSON
    _check_speakers(chosen, "response_format", multichannel=job.options.multichannel)
    layout = _layout(fields, job.rendering.subtitles)
    if chosen in _SUBTITLES and layout.needs_words and not job.options.word_timestamps:
        named = next(name for name in _LAYOUT if fields.has(name))
        raise InvalidRequest(
            f"{named} needs the times of words, which this job was not asked for: submit with "
            "timestamp_granularities[]=word, or leave it out.",
            param=named,
        )
    return replace(job.rendering, format=chosen, subtitles=layout)


def rendering_warnings(fields: Fields, rendering: Rendering) -> tuple[str, ...]:
    """What was asked for and can't be seen in the answer."""
    warnings = []
    if fields.has("timestamp_granularities") and rendering.format is not ResponseFormat.VERBOSE_JSON:
        warnings.append("timestamp_granularities is for response_format=verbose_json and was ignored.")
    if rendering.format not in _SUBTITLES:
        warnings += [f"{name} is for srt and vtt and was ignored." for name in _LAYOUT if fields.has(name)]
    return tuple(warnings)


def _layout(fields: Fields, default: SubtitleLayout) -> SubtitleLayout:
    width = fields.whole_number("max_line_width", least=1, most=_MAX_LINE_WIDTH)
    count = fields.whole_number("max_line_count", least=1, most=_MAX_LINE_COUNT)
    layout = SubtitleLayout(
        max_line_width=default.max_line_width if width is None else width,
        max_line_count=default.max_line_count if count is None else count,
        highlight_words=fields.flag("highlight_words", default=default.highlight_words),
    )
    characters = (layout.max_line_width or 0) * (layout.max_line_count or 0)  # else cues end with their segments
    if layout.highlight_words and characters > _MAX_HIGHLIGHTED:
        raise InvalidRequest(
            f"highlight_words with cues of {layout.max_line_count} lines of {layout.max_line_width} characters is not "
            f"allowed: they may have {_MAX_HIGHLIGHTED} characters in all, such as 2 lines of 42.",
            param="highlight_words",
        )
    return layout


def _check_speakers(chosen: ResponseFormat, name: str, *, multichannel: bool) -> None:
    if chosen is ResponseFormat.DIARIZED_JSON and not multichannel:
        raise InvalidRequest(
            f"{name}=diarized_json is not available for this request: this server has no way to tell speakers apart "
            "but by their channels. Set multichannel=true where each speaker has a channel, or use verbose_json.",
            param=name,
        )
