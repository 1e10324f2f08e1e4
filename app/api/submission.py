"""Translation of a received form into a validated request, or into the error that says why not."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from app.api.fields import Field, Form, quoted
from app.api.forms import (
    AUDIO_TRACK,
    BEAM_SIZE,
    CHUNKING_STRATEGY,
    COMPRESSION_RATIO_THRESHOLD,
    CONDITION_ON_PREVIOUS_TEXT,
    FILE,
    KEEP_AUDIO,
    KEYWORDS,
    LANGUAGE,
    LANGUAGES,
    LOG_PROB_THRESHOLD,
    METADATA,
    MODEL,
    MULTICHANNEL,
    NAME,
    NO_SPEECH_THRESHOLD,
    NOT_IN_TRANSLATIONS,
    PROMPT,
    REPLACE,
    RETENTION_SECONDS,
    SOURCE_URL,
    STORED_OUTPUT,
    STREAM,
    TASK,
    TEMPERATURE,
    UNSUPPORTED,
    VAD_FILTER,
    VAD_PARAMETERS,
    WEBHOOK_URL,
)
from app.api.renderings import STREAMED, rendering_warnings, requested_rendering
from app.api.speakers import requested_speakers
from app.api.uploads import UploadReader, upload_warnings
from app.delivery.presigned_urls import PresignedUrl
from app.domain.errors import InvalidRequest
from app.domain.formats import Rendering, ResponseFormat
from app.domain.languages import CHINESE, chinese_script, language_code
from app.domain.names import clean_name, name_of_file, name_of_url
from app.domain.replacements import checked_rules
from app.domain.transcript import Task, TranscriptionOptions

if TYPE_CHECKING:
    from app.delivery.url_rules import UrlRules
    from app.domain.job import Upload
    from app.domain.transcript import Script, SpeechDetection
    from app.transcription.models import ModelRegistry


#: Values of ``language`` with which other servers ask for detection.
_DETECT: Final = frozenset({"auto", "detect"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """The part of a request that is not in its form: an operation with a ``name`` of its own.

    ``ignored`` are fields of the form that do not apply. Clients of other servers send ``fields`` elsewhere, which then
    replace those of the form. With ``is_pcm`` the file is s16le at 16 kHz of one channel, without a header. With
    ``only_language`` the transcript ends where the language of the recording is known.
    """

    name: str
    task: Task = Task.TRANSCRIBE
    ignored: tuple[Field[Any], ...] = ()
    fields: dict[str, list[str]] | None = None
    is_pcm: bool = False
    only_language: bool = False


TRANSCRIPTION: Final = Operation(name="transcribe")
TRANSLATION: Final = Operation(name="translate", task=Task.TRANSLATE, ignored=NOT_IN_TRANSLATIONS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """A valid request. If ``synchronous``, the client waits for the transcript."""

    model: str
    options: TranscriptionOptions
    rendering: Rendering
    source_url: str | None
    uploads: tuple[Upload, ...]
    webhook_url: str | None
    synchronous: bool
    streamed: bool
    keep_audio: bool
    retention_seconds: float | None
    name: str | None
    metadata: dict[str, str] | None
    warnings: tuple[str, ...]


class SubmissionReader:
    """Validates forms by the rules of this server.

    Webhooks are available if ``has_webhook_secret``. A job can be kept for ``max_retention_seconds`` after its end.
    Without ``diarization_available``, speakers can be told apart only by their channels. ``uploads`` reads the upload
    URLs of forms and redeliveries.
    """

    def __init__(
        self,
        rules: UrlRules,
        *,
        has_webhook_secret: bool,
        max_retention_seconds: float,
        diarization_available: bool = True,
    ) -> None:
        self.uploads = UploadReader(rules)
        self._rules = rules
        self._diarization_available = diarization_available
        self._has_webhook_secret = has_webhook_secret
        self._max_retention_seconds = max_retention_seconds

    def read(
        self,
        received: dict[str, list[str]],
        *,
        has_file: bool,
        file_name: str = "",
        ignored_file: str | None = None,
        reference_count: int = 0,
        models: ModelRegistry,
        operation: Operation = TRANSCRIPTION,
    ) -> Submission:
        """Return the request that a form describes.

        ``file_name`` is the one that the client sent. ``ignored_file`` is the name of a part that holds a file and is
        none of the form's. ``reference_count`` is the number of known speakers' voices that came with it.

        Raises:
            InvalidRequest: a field is not allowed; ``param`` names it.
        """
        sent = Form(received)
        form = sent.without(operation.ignored)
        task = operation.task
        _check_task(form, task)
        model, model_warnings = models.choose(form[MODEL])
        spoken = _spoken_languages(form)
        model.require(task=task, language=spoken.language, languages=spoken.languages)
        multichannel = form[MULTICHANNEL]
        has_speakers = multichannel or self._diarization_available
        rendering = requested_rendering(form, has_speakers=has_speakers)
        if operation.fields is not None and not has_file:
            raise InvalidRequest(
                "The form has no audio: send it as the part `audio_file`, with a file name, for example with curl -F "
                "audio_file=@audio.mp3.",
                param="audio_file",
            )
        source_url = self._source_url(form, has_file=has_file, ignored_file=ignored_file)
        uploads = self.uploads.requested(form, rendering, has_speakers=has_speakers)
        webhook_url = self._webhook_url(form)
        synchronous = not form[STORED_OUTPUT] and not uploads and webhook_url is None
        streamed = _is_streamed(form, rendering, synchronous=synchronous)
        if synchronous:
            _check_kept(form)
        speakers = requested_speakers(
            form,
            formats={rendering.format, *(upload.format for upload in uploads)},
            multichannel=multichannel,
            reference_count=reference_count,
            obstacle=self._obstacle_to_speakers(
                rendering, multichannel=multichannel, synchronous=synchronous, streamed=streamed
            ),
        )
        options = replace(
            _options(form, rendering, needs_words=speakers.diarization is not None),
            diarization=speakers.diarization,
            known_speakers=speakers.names,
            model=model.name,
            task=task,
            language=spoken.language,
            languages=spoken.languages,
            script=spoken.script,
            multichannel=multichannel,
            only_language=operation.only_language,
        )
        return Submission(
            model=model.name,
            options=options,
            rendering=rendering,
            source_url=source_url,
            uploads=uploads,
            webhook_url=webhook_url,
            synchronous=synchronous,
            streamed=streamed,
            keep_audio=form[KEEP_AUDIO],
            retention_seconds=self._retention_seconds(form),
            name=clean_name(form[NAME] or "") or (name_of_url(source_url) if source_url else name_of_file(file_name)),
            metadata=form[METADATA],
            warnings=(
                *model_warnings,
                *speakers.warnings,
                *_unsupported(form),
                *upload_warnings(uploads),
                *(
                    f"`{field.name}` does not apply to translations and was ignored."
                    for field in operation.ignored
                    if sent.has(field)
                ),
                *(rendering_warnings(form, rendering, streamed=streamed) if synchronous else ()),
            ),
        )

    def _source_url(self, form: Form, *, has_file: bool, ignored_file: str | None) -> str | None:
        names = form.names_of(SOURCE_URL)
        if form.has(FILE) and not has_file:
            raise InvalidRequest(
                "`file` must be a file, got text: send the audio itself, for example with curl -F file=@audio.mp3.",
                param=FILE.name,
            )
        if len(names) + has_file != 1:
            problem = "more than one" if names or has_file else "none"
            hint = "" if ignored_file is None else f" The part `{quoted(ignored_file)}` holds a file: name it `file`."
            raise InvalidRequest(
                f"Send exactly one of `file` and `s3_presigned_url` as the audio, got {problem}.{hint}",
                param=FILE.name,
            )
        if has_file:
            return None
        (name,) = names
        url = self._rules.check(form[SOURCE_URL] or "", param=name)
        PresignedUrl.parse(url, param=name).check_not_expired(now=time.time())
        return url

    def _obstacle_to_speakers(
        self, rendering: Rendering, *, multichannel: bool, synchronous: bool, streamed: bool
    ) -> str | None:
        """Return the reason why it would be of no use to ask for speakers, or None."""
        if not multichannel and not self._diarization_available:
            return "this server can't tell voices apart (DIARIZATION_MODEL=none)"
        plain = (ResponseFormat.JSON, ResponseFormat.TEXT) if streamed else (ResponseFormat.JSON,)
        if synchronous and rendering.format in plain:
            kind = "a stream of " if streamed else ""
            return f"{kind}{rendering.format.value} has no place for speakers, use `response_format=diarized_json`"
        return None

    def _retention_seconds(self, form: Form) -> float | None:
        seconds = form[RETENTION_SECONDS]
        if seconds is not None and seconds > self._max_retention_seconds:
            raise InvalidRequest(
                f"`{RETENTION_SECONDS.name}` must be at most {self._max_retention_seconds:.15g} here, got "
                f"{seconds:.15g}: ask for less, or raise MAX_RETENTION_SECONDS.",
                param=RETENTION_SECONDS.name,
            )
        return seconds

    def _webhook_url(self, form: Form) -> str | None:
        url = form[WEBHOOK_URL]
        if url is None:
            return None
        if not self._has_webhook_secret:
            raise InvalidRequest(
                "`webhook_url` is not available: this server has no WEBHOOK_SECRET to sign events with. Set it, or "
                "poll /v1/jobs/<id>.",
                param=WEBHOOK_URL.name,
            )
        return self._rules.check(url, param=WEBHOOK_URL.name)


def _unsupported(form: Form) -> list[str]:
    names = [*(name for name in UNSUPPORTED if form.requests(name)), *VAD_PARAMETERS.ignored(form)]
    return [f"`{name}` is not supported and was ignored." for name in names]


def _is_streamed(form: Form, rendering: Rendering, *, synchronous: bool) -> bool:
    if not form[STREAM]:
        return False
    if not synchronous:
        raise InvalidRequest(
            "`stream` is for synchronous requests: leave out `upload_presigned_url`, `webhook_url` and "
            "`stored_output`, or leave out `stream` and follow the job at /v1/jobs/<id>/events.",
            param=STREAM.name,
        )
    return rendering.format in STREAMED


def _check_kept(form: Form) -> None:
    """Reject fields about what is kept in a synchronous request, which keeps nothing."""
    fields: tuple[Field[Any], ...] = (KEEP_AUDIO, RETENTION_SECONDS)
    for field in fields:
        if form[field]:
            raise InvalidRequest(
                f"`{field.name}` is for jobs: add `stored_output=true`, or leave it out. A synchronous request ends "
                "with its response, and keeps nothing.",
                param=field.name,
            )


def _check_task(form: Form, task: Task) -> None:
    value = form[TASK]
    if value is not None and value.strip().lower() != task.value:
        raise InvalidRequest(
            f"`task` must be {task.value} here, got {quoted(value)}: POST to /v1/audio/transcriptions to transcribe, "
            "or to /v1/audio/translations to translate into English.",
            param=TASK.name,
        )


def _options(form: Form, rendering: Rendering, *, needs_words: bool) -> TranscriptionOptions:
    return TranscriptionOptions(
        prompt=form[PROMPT],
        hotwords=_hotwords(form),
        temperature=form[TEMPERATURE] or 0.0,
        beam_size=form[BEAM_SIZE],
        audio_track=form[AUDIO_TRACK],
        word_timestamps=needs_words or rendering.needs_words,
        token_logprobs=rendering.logprobs,
        replacements=_replacements(form),
        condition_on_previous_text=form[CONDITION_ON_PREVIOUS_TEXT],
        vad_filter=form[VAD_FILTER],
        no_speech_threshold=form[NO_SPEECH_THRESHOLD],
        log_prob_threshold=form[LOG_PROB_THRESHOLD],
        compression_ratio_threshold=form[COMPRESSION_RATIO_THRESHOLD],
        speech_detection=_speech_detection(form),
    )


def _replacements(form: Form) -> tuple[tuple[str, str], ...]:
    rules = form[REPLACE]
    return checked_rules(rules) if rules else ()


def _speech_detection(form: Form) -> SpeechDetection:
    strategy, parameters = form[CHUNKING_STRATEGY], form[VAD_PARAMETERS]
    if parameters is None:
        return strategy
    if form.members(CHUNKING_STRATEGY) or (form.text(CHUNKING_STRATEGY) or "auto").strip() != "auto":
        raise InvalidRequest(
            f"`{VAD_PARAMETERS.name}` can't be combined with a `{CHUNKING_STRATEGY.name}` other than auto: both tune "
            "voice activity detection, so send one of them.",
            param=VAD_PARAMETERS.name,
        )
    return parameters


def _hotwords(form: Form) -> str | None:
    keywords = form[KEYWORDS]
    return ", ".join(keywords) if keywords else None


@dataclass(frozen=True, slots=True, kw_only=True)
class _SpokenLanguages:
    """The code of the spoken language, those of the candidates, and the script of Chinese, as far as they are named."""

    language: str | None
    languages: tuple[str, ...]
    script: Script | None


def _spoken_languages(form: Form) -> _SpokenLanguages:
    named, candidates = _without_detection([form[LANGUAGE] or ""]), _without_detection(form[LANGUAGES])
    codes, languages = _codes(named, LANGUAGE), _codes(candidates, LANGUAGES)
    if codes and languages and codes != languages:
        raise InvalidRequest(
            f"`{LANGUAGES.name}` can't be combined with another `{LANGUAGE.name}`: send `{LANGUAGE.name}` if one "
            f"language is spoken, or `{LANGUAGES.name}` to choose among several.",
            param=LANGUAGES.name,
        )
    known = codes or languages
    return _SpokenLanguages(
        language=known[0] if len(known) == 1 else None,
        languages=languages,
        script=next(filter(None, map(_script, (*named, *candidates))), None),
    )


def _script(value: str) -> Script | None:
    return chinese_script(value) if language_code(value) in CHINESE else None


def _without_detection(values: list[str]) -> list[str]:
    """Return the values that name a language."""
    return [value for value in values if value.strip() and value.strip().lower() not in _DETECT]


def _codes(values: list[str], field: Field[Any]) -> tuple[str, ...]:
    """Return the codes of languages, each once."""
    return tuple(dict.fromkeys(_code(value, field) for value in values))


def _code(value: str, field: Field[Any]) -> str:
    code = language_code(value)
    if code is None:
        raise InvalidRequest(
            f"`{field.name}` must be an ISO-639-1 code such as en or de, got {quoted(value)}. Leave it out to detect "
            "the language.",
            param=field.name,
        )
    return code
