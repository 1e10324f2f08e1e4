"""A received form → what is to be done, or the one sentence that says why not."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from app.api.forms import Fields, json_value
from app.delivery.presigned_urls import PresignedUrl
from app.domain.errors import InvalidRequest
from app.domain.formats import Granularity, Include, Rendering, ResponseFormat
from app.domain.job import Upload
from app.domain.languages import language_code
from app.domain.subtitles import CUE_PER_SEGMENT, SubtitleLayout
from app.domain.transcript import SpeechDetection, Task, TranscriptionOptions

if TYPE_CHECKING:
    from app.delivery.url_rules import UrlRules
    from app.domain.job import Job
    from app.transcription.models import ModelRegistry


_UPLOAD_URL: Final = "upload_presigned_url"
_WEBHOOK_URL: Final = "webhook_url"
_SOURCE_URLS: Final = ("s3_presigned_url", "url", "audio_url")
_MAX_JSON_BYTES: Final = 4096
#: Of ``prompt``, and of all ``keywords``: more than the model looks at, which are some 220 tokens.
_MAX_HINT_BYTES: Final = 16_384
_STREAMED: Final = (ResponseFormat.JSON, ResponseFormat.TEXT, ResponseFormat.DIARIZED_JSON)
#: Fields of OpenAI's or of other servers that can't be honoured, which changes nothing of the transcript.
_IGNORED: Final = (
    *("enable_diarization", "diarize", "known_speaker_names", "known_speaker_references"),
    *("num_speakers", "min_speakers", "max_speakers", "return_speaker_embeddings"),
    *("without_timestamps", "output", "best_of", "patience", "length_penalty", "chunk_length", "vad_parameters"),
    *("no_speech_threshold", "log_prob_threshold", "compression_ratio_threshold", "suppress_tokens"),
)
#: What other servers call fields that are known here.
_OTHER_NAMES: Final = {"hotwords": "keywords", "initial_prompt": "prompt"}

#: Values of ``language`` that other servers take for none.
_DETECT: Final = frozenset({"auto", "detect"})
#: What says nothing about a translation into English.
NOT_IN_TRANSLATIONS: Final = ("language", "languages", "timestamp_granularities")


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """A valid request. ``synchronous`` says that its client waits for the transcript."""

    model: str
    options: TranscriptionOptions
    rendering: Rendering
    source_url: str | None
    upload: Upload | None
    webhook_url: str | None
    synchronous: bool
    streamed: bool
    metadata: dict[str, str] | None
    warnings: tuple[str, ...]


class SubmissionReader:
    """Reads forms by the rules of this server, which signs events if ``has_webhook_secret``."""

    def __init__(self, rules: UrlRules, *, has_webhook_secret: bool) -> None:
        self._rules = rules
        self._has_webhook_secret = has_webhook_secret

    def read(
        self,
        received: dict[str, list[str]],
        *,
        has_file: bool,
        models: ModelRegistry,
        task: Task = Task.TRANSCRIBE,
    ) -> Submission:
        """What the form asks for.

        Raises:
            InvalidRequest: with a sentence, naming the field at fault.
        """
        without = NOT_IN_TRANSLATIONS if task is Task.TRANSLATE else ()
        given = Fields(received, other_names=_OTHER_NAMES)
        fields = given.without(*without)
        _refuse_other_task(fields, task)
        model = models.find(fields.text("model"))
        language = _language(fields)
        model.require(task=task, language=language)
        multichannel = fields.flag("multichannel", default=False)
        rendering = requested_rendering(fields, multichannel=multichannel)
        source_url = self._source_url(fields, has_file=has_file)
        upload = self._upload(fields, rendering, multichannel=multichannel)
        webhook_url = self._webhook_url(fields)
        stored = fields.flag("stored_output", default=False)
        synchronous = upload is None and webhook_url is None and not stored
        return Submission(
            model=model.name,
            options=replace(
                _options(fields, rendering),
                model=model.name,
                task=task,
                language=language,
                multichannel=multichannel,
            ),
            rendering=rendering,
            source_url=source_url,
            upload=upload,
            webhook_url=webhook_url,
            synchronous=synchronous,
            streamed=_is_streamed(fields, rendering, synchronous=synchronous),
            metadata=fields.strings_object("metadata", max_bytes=_MAX_JSON_BYTES),
            warnings=(
                *_ignored(fields),
                *(f"{name} has no meaning for translations and was ignored." for name in without if given.has(name)),
                *(rendering_warnings(fields, rendering) if synchronous else ()),
            ),
        )

    def _source_url(self, fields: Fields, *, has_file: bool) -> str | None:
        named = [name for name in _SOURCE_URLS if fields.text(name) is not None]
        if fields.has("file") and not has_file:
            raise InvalidRequest(
                "The field file holds text: send the audio itself as a file, as curl -F file=@audio.mp3 does.",
                param="file",
            )
        if len(named) + has_file != 1:
            problem = "There is no audio" if not named and not has_file else "There is more than one audio"
            raise InvalidRequest(f"{problem}: send exactly one of file and s3_presigned_url.", param="file")
        if has_file:
            return None
        (name,) = named
        url = self._rules.check(fields.text(name) or "", param=name)
        PresignedUrl.parse(url, param=name).check_not_expired(now=time.time())
        return url

    def _upload(self, fields: Fields, rendering: Rendering, *, multichannel: bool) -> Upload | None:
        given = fields.text(_UPLOAD_URL)
        headers = fields.strings_object("upload_headers", max_bytes=_MAX_JSON_BYTES) or {}
        uploaded = upload_rendering(fields, rendering, multichannel=multichannel)
        if given is None:
            for name in ("upload_headers", "upload_format"):
                if fields.has(name):
                    raise InvalidRequest(f"{name} goes with {_UPLOAD_URL}: send both or neither.", param=name)
            return None
        return self._checked(given, headers, uploaded)

    def fresh_upload(self, body: bytes, job: Job) -> Upload | None:
        """Where a stored result is to be delivered instead, from a JSON body; None where that does not say.

        Raises:
            InvalidRequest: with a sentence, naming the member at fault.
        """
        if not body.strip():
            return None
        value = _json_object(body)
        given, headers = value.get(_UPLOAD_URL), value.get("upload_headers", {})
        if given is None and not headers:
            return None
        if given is None:
            raise InvalidRequest(
                f"upload_headers goes with {_UPLOAD_URL}: send both or neither.", param="upload_headers"
            )
        if not isinstance(given, str):
            raise InvalidRequest(f"{_UPLOAD_URL} is not allowed: it must be a string.", param=_UPLOAD_URL)
        if not isinstance(headers, dict) or not all(isinstance(one, str) for one in headers.values()):
            raise InvalidRequest(
                "upload_headers is not allowed: it must be an object of strings.", param="upload_headers"
            )
        if len(json.dumps(headers)) > _MAX_JSON_BYTES:
            raise InvalidRequest(
                f"upload_headers is not allowed: it may have {_MAX_JSON_BYTES} bytes.", param="upload_headers"
            )
        return self._checked(given, headers, job.upload.rendering if job.upload else default_upload(job.rendering))

    def _checked(self, given: str, headers: dict[str, str], rendering: Rendering) -> Upload:
        url = PresignedUrl.parse(self._rules.check(given, param=_UPLOAD_URL), param=_UPLOAD_URL)
        url.check_upload(headers, now=time.time())
        return Upload(url=url.url, headers=tuple(headers.items()), rendering=rendering, expires_at=url.expires_at)

    def _webhook_url(self, fields: Fields) -> str | None:
        given = fields.text(_WEBHOOK_URL)
        if given is None:
            return None
        if not self._has_webhook_secret:
            raise InvalidRequest(
                f"{_WEBHOOK_URL} is not available on this server: have WEBHOOK_SECRET set, which events are signed "
                "with, or poll /v1/jobs/<id>.",
                param=_WEBHOOK_URL,
            )
        return self._rules.check(given, param=_WEBHOOK_URL)


def _json_object(body: bytes) -> dict[str, Any]:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise InvalidRequest(
            f'The body is not a JSON object: send one such as {{"{_UPLOAD_URL}": "https://…"}}, or none at all.'
        )
    return value


def _ignored(fields: Fields) -> list[str]:
    warnings = [f"{name} is not supported and was ignored." for name in _IGNORED if fields.asks_for(name)]
    if len(fields.items("languages")) > 1:
        warnings.append("languages names several and was ignored: send one.")
    return warnings


def _is_streamed(fields: Fields, rendering: Rendering, *, synchronous: bool) -> bool:
    if not fields.flag("stream", default=False):
        return False
    if not synchronous:
        raise InvalidRequest(
            "stream=true is for a client that waits: leave out upload_presigned_url, webhook_url and stored_output, or "
            "poll the job.",
            param="stream",
        )
    if rendering.format not in _STREAMED:
        raise InvalidRequest(
            f"stream=true gives text, not {rendering.format.value}: set response_format to json, text or "
            "diarized_json, or leave stream out.",
            param="stream",
        )
    return True


def _refuse_other_task(fields: Fields, task: Task) -> None:
    if fields.has("task") and (fields.text("task") or "").strip().lower() != task.value:
        raise InvalidRequest(
            f"task={(fields.text('task') or '')[:20]} is not allowed here: POST to /v1/audio/transcriptions to "
            "transcribe, or to /v1/audio/translations to translate into English.",
            param="task",
        )


def _options(fields: Fields, rendering: Rendering) -> TranscriptionOptions:
    keywords = fields.items("keywords")
    return TranscriptionOptions(
        prompt=_hint("prompt", fields.text("prompt")),
        hotwords=_hint("keywords", ", ".join(keywords) if keywords else None),
        temperature=fields.number("temperature", least=0, most=1) or 0.0,
        beam_size=fields.whole_number("beam_size", least=1, most=10),
        word_timestamps=Granularity.WORD in rendering.granularities or rendering.subtitles.needs_words,
        token_logprobs=rendering.logprobs,
        condition_on_previous_text=fields.flag("condition_on_previous_text", default=False),
        vad_filter=fields.flag("vad_filter", default=True),
        speech_detection=_speech_detection(fields),
    )


def _hint(name: str, text: str | None) -> str | None:
    if text is not None and len(text.encode("utf-8", "replace")) > _MAX_HINT_BYTES:
        raise InvalidRequest(
            f"{name} has more than {_MAX_HINT_BYTES} bytes: the model looks at the last 224 tokens of it, some 1000 "
            "characters, so send less.",
            param=name,
        )
    return text


def _language(fields: Fields) -> str | None:
    given = fields.text("language")
    languages = fields.items("languages")
    if given is None and len(languages) == 1:
        given = languages[0]
    if given is None or given.strip().lower() in _DETECT:
        return None
    code = language_code(given)
    if code is None:
        raise InvalidRequest(
            f"language={given[:20]} is not known: send an ISO-639-1 code such as en or de, or leave it out to have "
            "the language detected.",
            param="language",
        )
    return code


def _speech_detection(fields: Fields) -> SpeechDetection:
    """``chunking_strategy``: ``auto``, or an object of the type ``server_vad``, as JSON or in brackets."""
    name = "chunking_strategy"
    members = fields.members(name)
    given = fields.text(name)
    if given is not None and given.strip() != "auto":
        value = json_value(name, given) if given.lstrip().startswith("{") else {"type": given.strip()}
        members = {str(key): str(item) for key, item in value.items()}
    if members and members.get("type") not in ("server_vad", "auto"):
        raise InvalidRequest(
            "chunking_strategy is not allowed: it must be auto, or an object of the type server_vad.",
            param=name,
        )
    tuning = Fields({f"{name}[{key}]": [item] for key, item in members.items()})
    default = SpeechDetection()
    threshold = tuning.number(f"{name}[threshold]", least=0, most=1)
    padding = tuning.whole_number(f"{name}[prefix_padding_ms]", least=0, most=5000)
    silence = tuning.whole_number(f"{name}[silence_duration_ms]", least=0, most=30_000)
    return SpeechDetection(
        threshold=default.threshold if threshold is None else threshold,
        padding_ms=default.padding_ms if padding is None else padding,
        min_silence_ms=default.min_silence_ms if silence is None else silence,
    )


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
