"""JSON bodies of the responses, for the OpenAPI description only: the routes write their JSON themselves.

A field that does not apply is absent. None of them is null, except where its type says so.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, NotRequired

from pydantic import Field, TypeAdapter
from typing_extensions import TypedDict

Metadata = Annotated[dict[str, str], Field(description="The `metadata` of the request.")]
Warnings = Annotated[
    list[str],
    Field(description="Sentences about what was ignored or may go wrong; absent if there are none."),
]
Seconds = Annotated[float, Field(description="Seconds from the start of the audio.", examples=[1.28])]
UnixTime = Annotated[float, Field(description="Unix time.", examples=[1790000000.0])]
Channel = Annotated[int, Field(description="The audio channel, from 0; with `multichannel=true`.", examples=[0])]
Speaker = Annotated[
    str, Field(description="The speaker, if speakers are told apart: `A`, `B`, … or a name.", examples=["A"])
]
Text = Annotated[str, Field(description="The whole transcript.", examples=["hello this is a test"])]
LanguageName = Annotated[
    str, Field(description="The language's full English name in lower case.", examples=["english"])
]
LanguageCode = Annotated[str, Field(description="The code of the language.", examples=["en"])]
Duration = Annotated[float, Field(description="The length of the audio in seconds.", examples=[5.22])]
TaskName = Annotated[
    Literal["transcribe", "translate"], Field(description="`translate` for a translation into English.")
]


class ErrorCause(TypedDict):
    message: Annotated[str, Field(description="A sentence that says what is wrong, what is allowed, and what to do.")]
    type: Annotated[str, Field(description="OpenAI's category of the error.", examples=["invalid_request_error"])]
    param: Annotated[str | None, Field(description="The field that caused the error.", examples=["temperature"])]
    code: Annotated[str | None, Field(description="A stable identifier for programs.", examples=["queue_full"])]


class ErrorBody(TypedDict):
    """The body of every error on every route."""

    error: ErrorCause


class Usage(TypedDict):
    type: Literal["duration"]
    seconds: Annotated[
        int, Field(description="The length of the audio in seconds, rounded up to a whole number.", examples=[6])
    ]


class SpokenLanguage(TypedDict):
    code: LanguageCode


SpokenLanguages = Annotated[
    list[SpokenLanguage],
    Field(
        description="The languages that are spoken, the most spoken first. Present if the request has `languages[]`, "
        "or if there are several; empty if nobody speaks."
    ),
]


class TokenLogprob(TypedDict):
    """The log probability of one token, given the audio and the preceding text."""

    token: Annotated[str, Field(examples=[" hello"])]
    logprob: Annotated[float, Field(description="The natural logarithm of the probability.", examples=[-0.001])]
    bytes: Annotated[
        list[int],
        Field(description="The token in UTF-8; possibly only a part of a character.", examples=[[32, 104]]),
    ]


Logprobs = Annotated[list[TokenLogprob], Field(description="Present with `include[]=logprobs`.")]


class Word(TypedDict):
    word: Annotated[str, Field(examples=["hello"])]
    start: Seconds
    end: Seconds
    probability: Annotated[float, Field(description="The model's confidence, from 0 to 1.", examples=[0.98])]
    channel: NotRequired[Channel]
    speaker: NotRequired[Speaker]


class PlacedWord(Word):
    """A word with its place in the text."""

    segment: Annotated[int, Field(description="The `id` of the word's segment.", examples=[0])]
    offset: Annotated[
        int,
        Field(
            description="The position of the word in the `text` of its segment, in Unicode code points.", examples=[1]
        ),
    ]


class Segment(TypedDict):
    """A phrase of the transcript, as divided by the model."""

    id: Annotated[int, Field(description="The segment's number, from 0.", examples=[0])]
    seek: Annotated[int, Field(description="The start of the segment's window, in units of 10 ms.", examples=[0])]
    start: Seconds
    end: Seconds
    text: Annotated[str, Field(examples=[" hello this is a test"])]
    tokens: Annotated[list[int], Field(description="Token ids, including timestamps.", examples=[[50364, 7751, 50464]])]
    temperature: Annotated[float, Field(description="The temperature of the last decoding.", examples=[0.0])]
    avg_logprob: Annotated[
        float, Field(description="The mean log probability of the window's tokens.", examples=[-0.31])
    ]
    compression_ratio: Annotated[float, Field(description="High if the text repeats itself.", examples=[0.9])]
    no_speech_prob: Annotated[
        float, Field(description="The probability that the window holds no speech, from 0 to 1.", examples=[0.01])
    ]
    channel: NotRequired[Channel]
    speaker: NotRequired[Speaker]
    uncertain: NotRequired[
        Annotated[
            bool, Field(description="True if the model found every text for this part improbable.", examples=[True])
        ]
    ]
    language: NotRequired[
        Annotated[str, Field(description="The code of the spoken language, if several are spoken.", examples=["en"])]
    ]


Words = Annotated[list[Word], Field(description="Present with `timestamp_granularities[]=word`.")]
PlacedWords = Annotated[list[PlacedWord], Field(description="Present with `timestamp_granularities[]=word`.")]


class Sentence(TypedDict):
    start: Seconds
    end: Seconds
    text: Annotated[str, Field(examples=["Hello, this is a test."])]


class Utterance(TypedDict):
    """A paragraph of one speaker. It ends with the speaker, with a pause, or with a sentence after 30 s."""

    start: Seconds
    end: Seconds
    text: Annotated[str, Field(examples=["Hello, this is a test. Can you hear me?"])]
    channel: NotRequired[Channel]
    speaker: NotRequired[Speaker]
    sentences: list[Sentence]


Utterances = Annotated[list[Utterance], Field(description="Present with `utterances=true`.")]


class Transcription(TypedDict):
    """The response with `response_format=json`."""

    text: Text
    languages: NotRequired[SpokenLanguages]
    usage: Usage
    logprobs: NotRequired[Logprobs]
    metadata: NotRequired[Metadata]
    warnings: NotRequired[Warnings]


class VerboseTranscription(TypedDict):
    """The response with `response_format=verbose_json`."""

    task: TaskName
    language: LanguageName
    duration: Duration
    text: Text
    segments: NotRequired[list[Segment]]
    words: NotRequired[Words]
    languages: NotRequired[SpokenLanguages]
    usage: Usage
    logprobs: NotRequired[Logprobs]
    utterances: NotRequired[Utterances]
    metadata: NotRequired[Metadata]
    warnings: NotRequired[Warnings]


class DiarizedSegment(TypedDict):
    type: Literal["transcript.text.segment"]
    id: Annotated[
        str,
        Field(
            description="The segment's number, from 001. If its speaker changes, the other parts end in `_2`, `_3`, …",
            examples=["seg_001"],
        ),
    ]
    start: Seconds
    end: Seconds
    text: Annotated[str, Field(examples=["hello this is a test"])]
    speaker: Annotated[
        str,
        Field(
            description="`A` for the first channel or voice, `B` for the second, `AA` after `Z`; or a name.",
            examples=["A"],
        ),
    ]


class DiarizedTranscription(TypedDict):
    """The response with `response_format=diarized_json`. Each segment has one speaker: a voice or a channel."""

    task: TaskName
    duration: Duration
    text: Text
    segments: list[DiarizedSegment]
    usage: Usage
    utterances: NotRequired[Utterances]
    metadata: NotRequired[Metadata]
    warnings: NotRequired[Warnings]


class Document(TypedDict):
    """The result of a completed job, as it is uploaded and as `result` of the job."""

    job_id: Annotated[str, Field(description="A UUID.")]
    status: Literal["completed"]
    task: TaskName
    language: LanguageName
    languages: NotRequired[SpokenLanguages]
    duration: Duration
    text: Text
    segments: list[Segment]
    words: NotRequired[PlacedWords]
    usage: Usage
    logprobs: NotRequired[Logprobs]
    utterances: NotRequired[Utterances]
    model: Annotated[str, Field(examples=["large-v3-turbo"])]
    processing_time: Annotated[float, Field(description="Seconds since the job first had a GPU slot.", examples=[1.2])]
    metadata: NotRequired[Metadata]
    warnings: NotRequired[Warnings]


class JobAccepted(TypedDict):
    """The response to an asynchronous request."""

    job_id: Annotated[str, Field(description="A UUID.")]
    status: Literal["in_progress"]
    message: str
    status_url: Annotated[str, Field(examples=["/v1/jobs/3fa85f64-5717-4562-b3fc-2c963f66afa6"])]
    warnings: NotRequired[Warnings]


class UploadState(TypedDict):
    """The state of one of several uploads."""

    format: Annotated[str, Field(description="Its `upload_format`.", examples=["srt"])]
    status: Literal["pending", "delivered", "failed"]
    attempts: Annotated[int, Field(description="The number of attempts in all rounds.", examples=[1])]
    last_error: NotRequired[Annotated[str, Field(examples=["HTTP 503 (attempt 1/3) to https://bucket.example/key"])]]
    expires_at: NotRequired[Annotated[float, Field(description="When its URL expires, in Unix time.")]]


class Delivery(TypedDict):
    """The state of the uploads or of a webhook."""

    status: Literal["pending", "delivered", "failed"]
    attempts: Annotated[int, Field(description="The number of attempts in all rounds.", examples=[1])]
    next_attempt_at: NotRequired[
        Annotated[float, Field(description="When the next round of attempts begins, in Unix time.")]
    ]
    last_error: NotRequired[Annotated[str, Field(examples=["HTTP 503 (attempt 1/3) to https://bucket.example/key"])]]
    expires_at: NotRequired[
        Annotated[float, Field(description="When the upload URL, or the first of several, expires, in Unix time.")]
    ]
    uploads: NotRequired[
        Annotated[
            list[UploadState], Field(description="Each upload, if there are several, in the order of their URLs.")
        ]
    ]


class Job(TypedDict):
    job_id: Annotated[str, Field(description="A UUID.")]
    name: NotRequired[Annotated[str, Field(description="A name for people.", examples=["interview.mp3"])]]
    status: Literal["queued", "processing", "completed", "failed", "cancelled"]
    progress: Literal[
        "Waiting for GPU availability",
        "Downloading audio",
        "Transcribing audio",
        "Telling speakers apart",
        "Uploading results",
        "Done",
        "Failed",
        "Cancelled",
    ]
    progress_percent: Annotated[
        float, Field(description="The finished share of the audio, from 0 to 100.", examples=[40.0])
    ]
    start_time: Annotated[float, Field(description="When the job was accepted, in Unix time.", examples=[1790000000.0])]
    elapsed_time: Annotated[
        float, Field(description="Seconds from `start_time` until now, or until the job ended.", examples=[2.5])
    ]
    end_time: NotRequired[UnixTime]
    queue_position: NotRequired[
        Annotated[int, Field(description="The job's place in the queue, from 1; while it is queued.", examples=[1])]
    ]
    eta_seconds: NotRequired[
        Annotated[
            float, Field(description="An estimate of the seconds until the transcript is ready.", examples=[12.5])
        ]
    ]
    input_source: Literal["file", "url"]
    audio_duration: NotRequired[Duration]
    language: NotRequired[LanguageName]
    model: Annotated[str, Field(examples=["large-v3-turbo"])]
    task: TaskName
    timestamp_granularities: Annotated[
        list[Literal["segment", "word"]], Field(description="Those that were asked for.", examples=[["segment"]])
    ]
    multichannel: NotRequired[Annotated[bool, Field(description="True if each channel is transcribed on its own.")]]
    diarize: NotRequired[Annotated[bool, Field(description="True if segments and words have their speakers.")]]
    processing_time: NotRequired[
        Annotated[float, Field(description="Seconds of the transcription, once there is a result.", examples=[1.2])]
    ]
    attempts: NotRequired[Annotated[int, Field(description="How often the transcription was started.", examples=[1])]]
    delivery: NotRequired[Annotated[Delivery, Field(description="The upload; present with an upload URL.")]]
    webhook: NotRequired[
        Annotated[Delivery, Field(description="The webhook; present with a webhook URL once the job has ended.")]
    ]
    error: NotRequired[Annotated[str, Field(description="The reason for the failure.")]]
    error_type: NotRequired[Annotated[str, Field(examples=["DeliveryFailed"])]]
    audio_available: NotRequired[
        Annotated[
            Literal[True],
            Field(description="Present while the recording can be fetched, for a job with `keep_audio=true`."),
        ]
    ]
    result_available: bool
    edited_at: NotRequired[
        Annotated[
            float, Field(description="When the transcript was last corrected, in Unix time; absent if it was not.")
        ]
    ]
    result_expires_at: NotRequired[
        Annotated[float, Field(description="When the job and its result are deleted, in Unix time.")]
    ]
    metadata: NotRequired[Metadata]
    warnings: NotRequired[Warnings]
    result: NotRequired[
        Annotated[Document, Field(description="The transcript; present with `include_result=true` once available.")]
    ]


class JobList(TypedDict):
    total_jobs: Annotated[
        int, Field(description="The number of all jobs that match, not only those of this page.", examples=[1])
    ]
    jobs: Annotated[dict[str, Job], Field(description="The jobs of this page by id, newest first.")]


class PartialTranscript(TypedDict):
    """The transcript of a running job so far, or of its result."""

    job_id: Annotated[str, Field(description="A UUID.")]
    start: Annotated[int, Field(description="The number of the first segment here.", examples=[0])]
    next: Annotated[int, Field(description="What to send as `start` the next time.", examples=[1])]
    is_final: Annotated[bool, Field(description="True if these are the segments of the result.")]
    attempt: Annotated[
        int, Field(description="The job's `attempts`. If it changes, segments begin again from 0.", examples=[1])
    ]
    segments: list[Segment]
    words: NotRequired[PlacedWords]


class JobDeleted(TypedDict):
    job_id: str
    deleted: Literal[True]


class CorrectedTranscript(TypedDict):
    job_id: str
    edited_at: NotRequired[Annotated[float, Field(description="The time of the last edit, in Unix time.")]]
    segments: Annotated[
        list[Segment], Field(description="The corrected segments. Those that were removed have an empty `text`.")
    ]
    words: Annotated[list[PlacedWord], Field(description="Their words, if the job has word times.")]
    speakers: Annotated[
        dict[str, str], Field(description="The names of speakers by their labels.", examples=[{"A": "Anna"}])
    ]


class Waveform(TypedDict):
    duration: Duration
    points: Annotated[int, Field(description="The number of points of each channel.", examples=[3])]
    channels: Annotated[
        list[list[int]],
        Field(
            description="The level of equal parts of the recording, from 0 to 255 for the loudest; with "
            "`multichannel=true` for each channel.",
            examples=[[[12, 255, 80]]],
        ),
    ]


class AudioTicket(TypedDict):
    url: Annotated[
        str,
        Field(
            description="The path and query of the recording, which can be requested without an API key.",
            examples=["/v1/jobs/3fa85f64-5717-4562-b3fc-2c963f66afa6/audio?ticket=1790043200.…"],
        ),
    ]
    expires_at: UnixTime


class Model(TypedDict):
    id: Annotated[str, Field(examples=["large-v3-turbo"])]
    object: Literal["model"]
    created: Annotated[int, Field(description="When the server started, in Unix time.", examples=[1790000000])]
    owned_by: str
    loaded: Annotated[bool, Field(description="Whether the model is in memory. If not, a request loads it.")]


class ModelList(TypedDict):
    object: Literal["list"]
    data: list[Model]


class TranscriptionUsage(TypedDict):
    object: Literal["organization.usage.audio_transcriptions.result"]
    seconds: Annotated[int, Field(description="Seconds of audio.", examples=[3600])]
    num_model_requests: Annotated[int, Field(description="Jobs and synchronous requests.", examples=[12])]
    project_id: None
    user_id: None
    api_key_id: Annotated[
        str | None,
        Field(description="With `group_by=api_key_id`: the name of the key in the settings, or its fingerprint."),
    ]
    model: Annotated[str | None, Field(description="With `group_by=model`.")]


class UsageBucket(TypedDict):
    object: Literal["bucket"]
    start_time: Annotated[int, Field(description="The beginning of a day in UTC, in Unix time.", examples=[1789948800])]
    end_time: int
    results: list[TranscriptionUsage]


class UsagePage(TypedDict):
    object: Literal["page"]
    data: list[UsageBucket]
    has_more: bool
    next_page: Annotated[str | None, Field(description="What to send as `page`, if there is more.")]


class RetentionSeconds(TypedDict):
    default: Annotated[float, Field(description="How long a finished job is kept.", examples=[3600.0])]
    max: Annotated[float, Field(description="The longest time that a job can be kept.", examples=[3600.0])]


class ServedModel(TypedDict):
    id: Annotated[str, Field(description="What to send as `model`; never a path.", examples=["large-v3-turbo"])]
    is_default: bool
    multilingual: NotRequired[Annotated[bool, Field(description="Absent until the model has been loaded.")]]
    can_translate: NotRequired[Annotated[bool, Field(description="Likewise.")]]
    languages: NotRequired[
        Annotated[list[str], Field(description="The codes of its languages; likewise.", examples=[["en"]])]
    ]


class Features(TypedDict):
    diarization: Annotated[bool, Field(description="Speakers can be told apart by their voices: `diarize=true`.")]
    edits: Annotated[Literal[True], Field(description="Transcripts can be corrected.")]
    keep_audio: Annotated[Literal[True], Field(description="Jobs can keep their recordings: `keep_audio=true`.")]
    realtime: Annotated[bool, Field(description="Audio is transcribed while it is spoken: `/v1/realtime`.")]
    webhooks: Annotated[bool, Field(description="`webhook_url` is accepted.")]


class Realtime(TypedDict):
    max_sessions: Annotated[int, Field(description="Sessions at the same time.", examples=[8])]
    session_seconds: Annotated[float, Field(description="The longest session.", examples=[3600.0])]
    idle_seconds: Annotated[
        float, Field(description="How long the client of a session can send nothing; 0 is no limit.", examples=[300.0])
    ]


class Server(TypedDict):
    version: str
    requires_key: Annotated[bool, Field(description="All other routes under `/v1` need an API key.")]
    max_upload_bytes: Annotated[int, Field(examples=[2147483648])]
    max_audio_seconds: Annotated[float, Field(examples=[43200.0])]
    retention_seconds: RetentionSeconds
    models: Annotated[list[ServedModel], Field(description="The default model first.")]
    result_formats: Annotated[list[str], Field(description="The formats of results.", examples=[["json", "srt"]])]
    realtime: NotRequired[Annotated[Realtime, Field(description="Limits of live transcription, if there is any.")]]
    features: Features


class DefaultModel(TypedDict):
    name: str
    compute_type: Annotated[str, Field(examples=["float16"])]
    loaded: bool


class ModelInMemory(TypedDict):
    name: str
    loaded: bool


class Concurrency(TypedDict):
    max_concurrent_requests: Annotated[
        int, Field(description="The setting `MAX_CONCURRENT_REQUESTS`, or its sum over the workers of a cluster.")
    ]
    active_transcriptions: Annotated[int, Field(description="GPU slots in use, by jobs and synchronous requests.")]
    active_jobs: Annotated[int, Field(description="Queued and processing jobs.")]
    processing: int
    queued: int
    completed: int
    failed: int
    available_slots: int


class UnservedModel(TypedDict):
    name: str
    waiting: Annotated[int, Field(description="The jobs and synchronous requests that wait for it.", examples=[3])]


class Cluster(TypedDict):
    workers: Annotated[int, Field(description="The nodes that transcribe and give signs of life.", examples=[2])]
    unserved_models: Annotated[
        list[UnservedModel], Field(description="Models that are waited for, and that none of these nodes has now.")
    ]


class Timeouts(TypedDict):
    upload_timeout_seconds: float
    upload_timeout_minutes: float
    connect_timeout_seconds: float
    pool_timeout_seconds: float
    upload_max_attempts: int
    note: str


class Recovery(TypedDict):
    """Jobs of an earlier process that were found when the server started."""

    jobs: Annotated[int, Field(description="All of them, including finished ones.")]
    requeued: Annotated[int, Field(description="Those that were put back into the queue.")]
    undelivered: Annotated[int, Field(description="Those with a result, a failure or a webhook event to deliver.")]


class DeviceShares(TypedDict):
    busy: Annotated[float, Field(description="The device computed.")]
    starved: Annotated[float, Field(description="Transcriptions were there and no window was ready for it.")]
    waiting: Annotated[float, Field(description="Windows were ready and the service was not.")]
    idle: Annotated[float, Field(description="There was nothing to do.")]


class HealthReport(TypedDict):
    status: Literal["healthy", "loading", "draining", "failing"]
    gpu_available: bool
    device: Literal["cuda", "cpu"]
    version: str
    model: DefaultModel
    models: Annotated[list[ModelInMemory], Field(description="All served models, the default one first.")]
    devices: Annotated[
        list[DeviceShares],
        Field(description="What each device did for the default model in the last minute, in shares that add up to 1."),
    ]
    concurrency: Concurrency
    cluster: NotRequired[Annotated[Cluster, Field(description="Only from nodes of a cluster that serve clients.")]]
    recovered: Recovery
    timeouts: Timeouts


class Readiness(TypedDict):
    status: Literal["healthy", "loading", "draining", "failing"]


class DetectedLanguage(TypedDict):
    """The language of a recording, as whisper-asr-webservice returns it."""

    detected_language: LanguageName
    language_code: Annotated[str, Field(description="The language's code.", examples=["en"])]
    confidence: Annotated[
        float, Field(description="The probability of the language, from 0 to 1; 0 if nobody speaks.", examples=[0.98])
    ]


class RealtimeClientSecret(TypedDict):
    """A secret that opens realtime sessions."""

    value: Annotated[str, Field(description="The secret: send it like an API key.", examples=["ek_68af…"])]
    expires_at: Annotated[int, Field(description="Unix time.", examples=[1790000600])]
    session: Annotated[dict[str, Any], Field(description="The configuration with which sessions begin.")]


#: Every body that a route names. Bodies inside them follow by themselves.
_AnyBody = (
    ErrorBody
    | Transcription
    | VerboseTranscription
    | DiarizedTranscription
    | DetectedLanguage
    | Document
    | JobAccepted
    | Job
    | JobList
    | PartialTranscript
    | JobDeleted
    | AudioTicket
    | Waveform
    | CorrectedTranscript
    | Model
    | ModelList
    | UsagePage
    | RealtimeClientSecret
    | Server
    | HealthReport
    | Readiness
)
_REF_TEMPLATE: Final = "#/components/schemas/{model}"


def json_schemas() -> dict[str, Any]:
    """Return the JSON schema of every body by name. This takes tens of milliseconds, so it is done on demand."""
    schema = TypeAdapter(_AnyBody).json_schema(ref_template=_REF_TEMPLATE, mode="serialization")
    definitions: dict[str, Any] = schema["$defs"]
    return definitions


def reference(body: type) -> dict[str, str]:
    """Return the OpenAPI reference to a body's schema."""
    return {"$ref": _REF_TEMPLATE.format(model=body.__name__)}
