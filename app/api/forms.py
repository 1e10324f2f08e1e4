"""The fields of the forms for transcriptions and translations, each declared once.

Parsing, validation messages and the OpenAPI schemas of both forms follow from this table. Rules that concern several
fields are in ``submission.py`` and ``renderings.py``.
"""

from __future__ import annotations

from typing import Any, Final

from app.api.fields import (
    Choice,
    ChoiceList,
    DataUrls,
    Field,
    File,
    Flag,
    Form,
    NameList,
    Number,
    Repeated,
    StringObject,
    Text,
    TextList,
    Url,
    WholeNumber,
    parse_json,
    quoted,
)
from app.domain.errors import InvalidRequest
from app.domain.formats import Granularity, Include, ResponseFormat
from app.domain.transcript import SpeechDetection

_MAX_JSON_BYTES: Final = 4096
#: Far more than the 224 tokens that the model uses.
_MAX_HINT_BYTES: Final = 16_384
#: The formats of responses. Uploads and stored results can also be documents.
_RESPONSE_FORMATS: Final = tuple(chosen for chosen in ResponseFormat if chosen is not ResponseFormat.DOCUMENT)
_MAX_SPEAKERS: Final = 32
_MAX_RULES_BYTES: Final = 16_384
_MAX_UPLOADS: Final = 8


class ChunkingStrategy(Field[SpeechDetection]):
    """``auto``, or an object of the type ``server_vad``, as JSON or as ``chunking_strategy[key]`` fields."""

    def parse(self, form: Form) -> SpeechDetection:
        members = form.members(self)
        text = form.text(self)
        if text is not None and text.strip() != "auto":
            value = parse_json(self.name, text) if text.lstrip().startswith("{") else {"type": text.strip()}
            members = {str(key): str(item) for key, item in value.items()}
        if members and members.get("type") not in ("server_vad", "auto"):
            raise InvalidRequest(
                f"`{self.name}` must be `auto`, or a JSON object whose `type` is `server_vad`.", param=self.name
            )
        tuning = Form({f"{self.name}[{key}]": [item] for key, item in members.items()})
        threshold = tuning[Number(f"{self.name}[threshold]", minimum=0, maximum=1)]
        padding = tuning[WholeNumber(f"{self.name}[prefix_padding_ms]", minimum=0, maximum=5000)]
        silence = tuning[WholeNumber(f"{self.name}[silence_duration_ms]", minimum=0, maximum=30_000)]
        default = SpeechDetection()
        return SpeechDetection(
            threshold=default.threshold if threshold is None else threshold,
            padding_ms=default.padding_ms if padding is None else padding,
            min_silence_ms=default.min_silence_ms if silence is None else silence,
        )


#: faster-whisper's parameters of voice activity detection that have a counterpart here.
_VAD_PARAMETERS: Final = (
    "threshold",
    "neg_threshold",
    "min_speech_duration_ms",
    "min_silence_duration_ms",
    "speech_pad_ms",
)


class VadParameters(Field[SpeechDetection | None]):
    """Parameters of faster-whisper's ``VadOptions``, as JSON or as ``vad_parameters[key]`` fields; None if absent."""

    def parse(self, form: Form) -> SpeechDetection | None:
        if not form.has(self):
            return None
        self._check_size(form.text(self) or "", _MAX_JSON_BYTES)
        tuning = Form({f"{self.name}[{key}]": [item] for key, item in form.object(self).items()})
        threshold = tuning[Number(f"{self.name}[threshold]", minimum=0, maximum=1)]
        end_threshold = tuning[Number(f"{self.name}[neg_threshold]", minimum=0, maximum=1)]
        min_speech = tuning[WholeNumber(f"{self.name}[min_speech_duration_ms]", minimum=0, maximum=30_000)]
        min_silence = tuning[WholeNumber(f"{self.name}[min_silence_duration_ms]", minimum=0, maximum=30_000)]
        padding = tuning[WholeNumber(f"{self.name}[speech_pad_ms]", minimum=0, maximum=5000)]
        default = SpeechDetection()
        detection = SpeechDetection(
            threshold=default.threshold if threshold is None else threshold,
            end_threshold=end_threshold,
            min_speech_ms=default.min_speech_ms if min_speech is None else min_speech,
            min_silence_ms=default.min_silence_ms if min_silence is None else min_silence,
            padding_ms=default.padding_ms if padding is None else padding,
        )
        if end_threshold is not None and end_threshold > detection.threshold:
            raise InvalidRequest(
                f"`{self.name}[neg_threshold]` must be at most the threshold, {detection.threshold:g}, got "
                f"{end_threshold:g}.",
                param=f"{self.name}[neg_threshold]",
            )
        return detection

    def ignored(self, form: Form) -> list[str]:
        """Return the names of the parameters that have no effect here."""
        members = form.object(self) if form.has(self) else {}
        return [f"{self.name}[{quoted(key)}]" for key in members if key not in _VAD_PARAMETERS]


FILE: Final = File(
    "file", description="The audio, in any common format. Send exactly one of `file` and `s3_presigned_url`."
)
SOURCE_URL: Final = Url(
    "s3_presigned_url",
    aliases=("url", "audio_url"),
    description="A URL to download the audio from, instead of `file`. `url` and `audio_url` are aliases.",
    example="https://bucket.s3.amazonaws.com/call.mp3?X-Amz-Signature=…",
)
MODEL: Final = Text(
    "model",
    description="The name or alias of a served model; see `GET /v1/models`.",
    default="the model of the setting WHISPER_MODEL, which also has OpenAI's names as aliases, such as `whisper-1`",
    example="whisper-1",
)
LANGUAGE: Final = Text(
    "language",
    description="The spoken language, as an ISO-639-1 code or an English name.",
    default="detected",
    example="en",
)
LANGUAGES: Final = TextList(
    "languages",
    max_bytes=_MAX_JSON_BYTES,
    description="The languages that can be spoken, as ISO-639-1 codes or English names. If there are several, each "
    "window of up to 30 s of speech is transcribed in the likeliest of them. One is the same as `language`.",
    default="all that the model knows, one of them for the whole recording",
    example="en",
)
PROMPT: Final = Text(
    "prompt",
    aliases=("initial_prompt",),
    max_bytes=_MAX_HINT_BYTES,
    description="Text that guides the model: names, spelling, style. The model uses its last 224 tokens, about 1000 "
    "characters.",
    default="none",
    example="Kubernetes, gRPC, etcd.",
)
RESPONSE_FORMAT: Final = Choice(
    "response_format",
    choices=_RESPONSE_FORMATS,
    description="The format of the response. `diarized_json` and `rttm` tell speakers apart, as `diarize=true` does; "
    "with `multichannel=true` each channel is one.",
    default="`json`",
)
TIMESTAMP_GRANULARITIES: Final = ChoiceList(
    "timestamp_granularities",
    choices=tuple(Granularity),
    description="Timestamps for segments, words or both, in `verbose_json` and in uploaded documents.",
    default="`segment`",
    example="word",
)
UTTERANCES: Final = Flag(
    "utterances",
    description="Add `utterances` to `verbose_json`, `diarized_json` and documents: paragraphs of one speaker each, "
    "with their sentences and times.",
    default="`false`",
)
TEMPERATURE: Final = Number(
    "temperature",
    minimum=0,
    maximum=1,
    description="The sampling temperature, from 0 to 1. With 0, a higher temperature is used only for windows whose "
    "text looks wrong.",
    default="`0`",
)
STREAM: Final = Flag(
    "stream",
    description="Respond with server-sent events: `transcript.text.delta` for each finished window and "
    "`transcript.text.done` at the end. Ignored with other values of `response_format` than json, text and "
    "diarized_json.",
    default="`false`",
)
INCLUDE: Final = ChoiceList(
    "include",
    choices=tuple(Include),
    description="`logprobs` adds the log probability of each token to JSON responses.",
    default="nothing",
)
KEYWORDS: Final = TextList(
    "keywords",
    aliases=("hotwords",),
    max_bytes=_MAX_HINT_BYTES,
    description="Words to expect in the audio. `hotwords` is an alias.",
    default="none",
    example="etcd",
)
CHUNKING_STRATEGY: Final = ChunkingStrategy(
    "chunking_strategy",
    description='`auto`, or a JSON object such as `{"type": "server_vad", "threshold": 0.5, "prefix_padding_ms": 400, '
    '"silence_duration_ms": 500}` that tunes voice activity detection.',
    default="`auto`",
)
VAD_FILTER: Final = Flag(
    "vad_filter", value_if_absent=True, description="Leave out parts without speech.", default="`true`"
)
VAD_PARAMETERS: Final = VadParameters(
    "vad_parameters",
    description="faster-whisper's parameters of voice activity detection, as a JSON object or as `vad_parameters[key]` "
    "fields: `threshold`, `neg_threshold`, `min_speech_duration_ms`, `min_silence_duration_ms`, `speech_pad_ms`.",
    default="a threshold of 0.5, which is 0.15 lower at the end of speech, 500 ms of silence, and 400 ms around speech",
    example='{"min_silence_duration_ms": 1000}',
)
NO_SPEECH_THRESHOLD: Final = Number(
    "no_speech_threshold",
    minimum=0,
    maximum=1,
    description="The probability of no speech above which an improbable text is taken for silence and left out.",
    default="`0.6`, unless the model has its own",
)
LOG_PROB_THRESHOLD: Final = Number(
    "log_prob_threshold",
    minimum=-1000,
    maximum=0,
    description="The mean log probability of tokens below which a text is improbable. It is decoded again at a higher "
    "temperature then.",
    default="`-1`, unless the model has its own",
)
COMPRESSION_RATIO_THRESHOLD: Final = Number(
    "compression_ratio_threshold",
    minimum=0,
    maximum=1000,
    description="The compression ratio above which a text repeats itself too much. It is decoded again at a higher "
    "temperature then.",
    default="`2.4`, unless the model has its own",
)
BEAM_SIZE: Final = WholeNumber(
    "beam_size",
    minimum=1,
    maximum=10,
    description="The number of beams, from 1 to 10. More are slower and slightly more accurate.",
    default="the setting WHISPER_BEAM_SIZE, which is 5 by default",
)
AUDIO_TRACK: Final = WholeNumber(
    "audio_track",
    minimum=1,
    maximum=64,
    description="The audio track to transcribe, from 1, of a file that has several.",
    default="the one that the file marks as its default, or the first with speech if that has none",
)
MULTICHANNEL: Final = Flag(
    "multichannel",
    description="Transcribe each channel on its own, up to 32. Segments and words have their `channel`, from 0, and "
    "are sorted by time.",
    default="`false`",
)
DIARIZE: Final = Flag(
    "diarize",
    aliases=("enable_diarization",),
    description="Tell speakers apart by their voices: segments and words have their `speaker`, A, B and so on. With "
    "`multichannel=true`, each channel is a speaker. `enable_diarization` is an alias.",
    default="`true` with diarized_json and rttm, unless `multichannel=true`; else `false`",
)
NUM_SPEAKERS: Final = WholeNumber(
    "num_speakers",
    minimum=1,
    maximum=_MAX_SPEAKERS,
    description="The number of speakers, from 1 to 32, if it is known.",
    default="found out",
    example="2",
)
MIN_SPEAKERS: Final = WholeNumber(
    "min_speakers",
    minimum=1,
    maximum=_MAX_SPEAKERS,
    description="The least number of speakers, from 1 to 32.",
    default="`1`",
)
MAX_SPEAKERS: Final = WholeNumber(
    "max_speakers",
    minimum=1,
    maximum=_MAX_SPEAKERS,
    description="The greatest number of speakers, from 1 to 32.",
    default="no limit",
)
KNOWN_SPEAKER_NAMES: Final = NameList(
    "known_speaker_names",
    max_bytes=_MAX_HINT_BYTES,
    max_length=64,
    description="The names of speakers whose voices are in `known_speaker_references[]`, in the same order. With "
    "`multichannel=true`, the names of the first channels.",
    default="none",
    example="Anna",
)
KNOWN_SPEAKER_REFERENCES: Final = DataUrls(
    "known_speaker_references",
    description="Up to 4 recordings of known speakers, of 2 to 10 s and at most 4 MiB each, as data URLs or as files.",
    default="none",
    example="data:audio/wav;base64,UklGR…",
)
REPLACE: Final = StringObject(
    "replace",
    max_bytes=_MAX_RULES_BYTES,
    description="Words and phrases to replace in the transcript, such as names that the model spells wrong: a JSON "
    "object, or `replace[words]` fields, of up to 500 rules. Whole words in any case match, and of several matches the "
    "longest.",
    default="none",
    example='{"Cooper Netties": "Kubernetes"}',
)
CONDITION_ON_PREVIOUS_TEXT: Final = Flag(
    "condition_on_previous_text",
    description="Continue each 30 s window from the text of the previous one. The text is slightly more consistent, "
    "but errors may repeat, and transcription is slower because the windows cannot be decoded together.",
    default="`false`",
)
MAX_LINE_WIDTH: Final = WholeNumber(
    "max_line_width",
    minimum=1,
    maximum=1000,
    description="The most columns in a line of srt and vtt; wide characters, such as Chinese ones, take two.",
    default="no limit",
    example="42",
)
MAX_LINE_COUNT: Final = WholeNumber(
    "max_line_count",
    minimum=1,
    maximum=100,
    description="The most lines in a cue of srt and vtt. Together with `max_line_width`, cues no longer end with their "
    "segments.",
    default="no limit",
    example="2",
)
HIGHLIGHT_WORDS: Final = Flag(
    "highlight_words", description="Underline each word in srt and vtt while it is spoken.", default="`false`"
)
ALWAYS_INCLUDE_HOURS: Final = Flag(
    "always_include_hours",
    description="Write the hours of all times in vtt, also in the first one. srt always has them.",
    default="`false`",
)
NAME: Final = Text(
    "name",
    description="A name for the job, shown in lists. Control characters are removed, and all but 255 characters.",
    default="the name of the file, or the last part of the URL's path",
    example="Interview",
)
METADATA: Final = StringObject(
    "metadata",
    max_bytes=_MAX_JSON_BYTES,
    description="A JSON object of strings, at most 4 KiB, that is returned with the job and its result.",
    default="none",
    example='{"call": "4711"}',
)
STORED_OUTPUT: Final = Flag(
    "stored_output",
    description="Respond with a job id at once and keep the result on the server.",
    default="`false`",
)
KEEP_AUDIO: Final = Flag(
    "keep_audio",
    description="Keep the recording of a job as long as its result: see `GET /v1/jobs/{job_id}/audio`.",
    default="`false`: the recording is deleted when the result is there",
)
RETENTION_SECONDS: Final = Number(
    "retention_seconds",
    minimum=0,
    maximum=315_360_000,  # ten years
    description="How long to keep a job with its result after its end, up to the setting MAX_RETENTION_SECONDS.",
    default="the setting JOB_RETENTION_SECONDS",
    example="86400",
)
UPLOAD_URL: Final = Repeated(
    "upload_presigned_url",
    item=Url("upload_presigned_url"),
    maximum=_MAX_UPLOADS,
    description="Respond with a job id at once and PUT the result to this URL. Sign it for at least an hour. Send up "
    f"to {_MAX_UPLOADS} different ones to have the result in several formats.",
    default="none",
    example="https://bucket.s3.amazonaws.com/call.json?X-Amz-Signature=…",
)
WEBHOOK_URL: Final = Url(
    "webhook_url",
    description="Respond with a job id at once and POST the job to this URL when it ends, signed with the setting "
    "WEBHOOK_SECRET according to Standard Webhooks.",
    default="none",
    example="https://example.com/hooks/transcripts",
)
UPLOAD_FORMAT: Final = Repeated(
    "upload_format",
    item=Choice("upload_format", choices=(ResponseFormat.DOCUMENT, *_RESPONSE_FORMATS)),
    maximum=_MAX_UPLOADS,
    description="The format of the uploaded result. With several URLs, send one format for all, or one for each in the "
    "order of the URLs.",
    default="`response_format` if that is not JSON, else `document`",
)
#: The headers of one upload.
SIGNED_HEADERS: Final = StringObject("upload_headers", max_bytes=_MAX_JSON_BYTES)
UPLOAD_HEADERS: Final = Repeated(
    SIGNED_HEADERS.name,
    item=SIGNED_HEADERS,
    maximum=_MAX_UPLOADS,
    description="A JSON object of the headers that were signed into the upload URL. With several URLs, send one object "
    "for all, or one for each in the order of the URLs.",
    default="none",
    example='{"x-amz-acl": "private"}',
)

#: The published fields, in the order in which ``/docs`` shows them.
TRANSCRIPTION_FIELDS: Final[tuple[Field[Any], ...]] = (
    FILE,
    SOURCE_URL,
    MODEL,
    LANGUAGE,
    LANGUAGES,
    PROMPT,
    RESPONSE_FORMAT,
    TIMESTAMP_GRANULARITIES,
    UTTERANCES,
    TEMPERATURE,
    STREAM,
    INCLUDE,
    KEYWORDS,
    CHUNKING_STRATEGY,
    VAD_FILTER,
    VAD_PARAMETERS,
    NO_SPEECH_THRESHOLD,
    LOG_PROB_THRESHOLD,
    COMPRESSION_RATIO_THRESHOLD,
    BEAM_SIZE,
    AUDIO_TRACK,
    MULTICHANNEL,
    DIARIZE,
    NUM_SPEAKERS,
    MIN_SPEAKERS,
    MAX_SPEAKERS,
    KNOWN_SPEAKER_NAMES,
    KNOWN_SPEAKER_REFERENCES,
    REPLACE,
    CONDITION_ON_PREVIOUS_TEXT,
    MAX_LINE_WIDTH,
    MAX_LINE_COUNT,
    HIGHLIGHT_WORDS,
    ALWAYS_INCLUDE_HOURS,
    NAME,
    METADATA,
    STORED_OUTPUT,
    KEEP_AUDIO,
    RETENTION_SECONDS,
    UPLOAD_URL,
    WEBHOOK_URL,
    UPLOAD_FORMAT,
    UPLOAD_HEADERS,
)

#: The only field of the forms of whisper-asr-webservice.
AUDIO_FILE: Final = File("audio_file", description="The audio, in any common format, or samples with `encode=false`.")

# Fields of other servers, accepted for compatibility and not published.
TASK: Final = Text("task")
WORD_TIMESTAMPS: Final = Flag("word_timestamps")

#: Fields that do not apply to a translation into English.
NOT_IN_TRANSLATIONS: Final[tuple[Field[Any], ...]] = (LANGUAGE, LANGUAGES, TIMESTAMP_GRANULARITIES)
#: Names of fields of OpenAI and other servers that are ignored with a warning. None of them changes the transcript.
UNSUPPORTED: Final = (
    *("return_speaker_embeddings", "without_timestamps", "output", "best_of", "patience", "length_penalty"),
    *("chunk_length", "suppress_tokens"),
)
#: Names of fields that hold URLs. Clients sign these again for each attempt, which changes their queries.
URL_NAMES: Final = frozenset(
    name
    for field in TRANSCRIPTION_FIELDS
    if isinstance(field.item if isinstance(field, Repeated) else field, Url)
    for name in field.names
)

#: The format in which to read the stored result of a job: a query parameter, like
#: ``utterances`` and those of subtitles.
RESULT_FORMAT: Final = Choice("response_format", choices=tuple(ResponseFormat))


def form_schemas() -> dict[str, Any]:
    """Return the OpenAPI schemas of the forms by name."""
    translation_fields = tuple(field for field in TRANSCRIPTION_FIELDS if field not in NOT_IN_TRANSLATIONS)
    return {
        "TranscriptionForm": _form_schema("TranscriptionForm", TRANSCRIPTION_FIELDS),
        "TranslationForm": _form_schema("TranslationForm", translation_fields),
        "AudioForm": {**_form_schema("AudioForm", (AUDIO_FILE,)), "required": [AUDIO_FILE.name]},
    }


def _form_schema(title: str, fields: tuple[Field[Any], ...]) -> dict[str, Any]:
    return {"title": title, "type": "object", "properties": {field.schema_name: field.schema() for field in fields}}
