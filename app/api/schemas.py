"""What the answers look like, for the description of the API. Absent means absent: no field is ever null but where it
says so."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

Metadata = Annotated[dict[str, str], Field(description="What the client gave along as `metadata`.")]
Warnings = Annotated[
    list[str], Field(description="What could not be honoured, or may go wrong, a sentence each; absent where nothing.")
]
Seconds = Annotated[float, Field(description="Seconds from the start of the audio.", examples=[1.28])]
UnixTime = Annotated[float, Field(description="Unix time.", examples=[1790000000.0])]
Channel = Annotated[int, Field(description="From 0, with `multichannel=true`.", examples=[0])]
Text = Annotated[str, Field(description="The whole text.", examples=["hello this is a test"])]
LanguageName = Annotated[str, Field(description="Full English name, in lower case.", examples=["english"])]
Duration = Annotated[float, Field(description="Of the audio, in seconds.", examples=[5.22])]
TaskName = Annotated[Literal["transcribe", "translate"], Field(description="What was done.")]


class ErrorCause(TypedDict):
    message: Annotated[str, Field(description="What was wrong, what is allowed, and what to do.")]
    type: Annotated[str, Field(description="OpenAI's word for the kind.", examples=["invalid_request_error"])]
    param: Annotated[str | None, Field(description="The field at fault.", examples=["temperature"])]
    code: Annotated[str | None, Field(description="A stable word for programs.", examples=["queue_full"])]


class ErrorBody(TypedDict):
    """Every error of every route."""

    error: ErrorCause


class Usage(TypedDict):
    type: Literal["duration"]
    seconds: Annotated[int, Field(description="The duration in whole seconds, rounded up.", examples=[6])]


class TokenLogprob(TypedDict):
    """How probable the model finds one token of the text, given the audio and the text before it."""

    token: Annotated[str, Field(examples=[" hello"])]
    logprob: Annotated[float, Field(description="Natural logarithm of the probability.", examples=[-0.001])]
    bytes: Annotated[list[int], Field(description="In UTF-8, perhaps a part of a character.", examples=[[32, 104]])]


Logprobs = Annotated[list[TokenLogprob], Field(description="With `include[]=logprobs`.")]


class Word(TypedDict):
    word: Annotated[str, Field(examples=["hello"])]
    start: Seconds
    end: Seconds
    probability: Annotated[float, Field(description="0 to 1.", examples=[0.98])]
    channel: NotRequired[Channel]


class Segment(TypedDict):
    """A phrase, as the model divides the text."""

    id: Annotated[int, Field(description="Counted from 0.", examples=[0])]
    seek: Annotated[int, Field(description="Where its window begins, in units of 10 ms.", examples=[0])]
    start: Seconds
    end: Seconds
    text: Annotated[str, Field(examples=[" hello this is a test"])]
    tokens: Annotated[list[int], Field(description="Token ids, timestamps included.", examples=[[50364, 7751, 50464]])]
    temperature: Annotated[float, Field(description="Of the last attempt.", examples=[0.0])]
    avg_logprob: Annotated[float, Field(description="Mean over the window's tokens.", examples=[-0.31])]
    compression_ratio: Annotated[float, Field(description="High where text repeats itself.", examples=[0.9])]
    no_speech_prob: Annotated[float, Field(description="0 to 1, of the window.", examples=[0.01])]
    channel: NotRequired[Channel]


Words = Annotated[list[Word], Field(description="With `timestamp_granularities[]=word`.")]


class Transcription(TypedDict):
    """`response_format=json`."""

    text: Text
    usage: Usage
    logprobs: NotRequired[Logprobs]
    metadata: NotRequired[Metadata]
    warnings: NotRequired[Warnings]


class VerboseTranscription(TypedDict):
    """`response_format=verbose_json`."""

    task: TaskName
    language: LanguageName
    duration: Duration
    text: Text
    segments: NotRequired[list[Segment]]
    words: NotRequired[Words]
    usage: Usage
    logprobs: NotRequired[Logprobs]
    metadata: NotRequired[Metadata]
    warnings: NotRequired[Warnings]


class DiarizedSegment(TypedDict):
    type: Literal["transcript.text.segment"]
    id: Annotated[str, Field(examples=["seg_001"])]
    start: Seconds
    end: Seconds
    text: Annotated[str, Field(examples=["hello this is a test"])]
    speaker: Annotated[str, Field(description="A for the first channel.", examples=["A"])]


class DiarizedTranscription(TypedDict):
    """`response_format=diarized_json`, with `multichannel=true`: the channels are the speakers."""

    task: TaskName
    duration: Duration
    text: Text
    segments: list[DiarizedSegment]
    usage: Usage
    metadata: NotRequired[Metadata]
    warnings: NotRequired[Warnings]


class Document(TypedDict):
    """What is uploaded for a finished job, and its `result`."""

    job_id: Annotated[str, Field(description="A UUID.")]
    status: Literal["completed"]
    task: TaskName
    language: LanguageName
    duration: Duration
    text: Text
    segments: list[Segment]
    words: NotRequired[Words]
    usage: Usage
    logprobs: NotRequired[Logprobs]
    model: Annotated[str, Field(examples=["large-v3-turbo"])]
    processing_time: Annotated[float, Field(description="Seconds since the first turn on the model.", examples=[1.2])]
    metadata: NotRequired[Metadata]
    warnings: NotRequired[Warnings]


class JobAccepted(TypedDict):
    """The answer of an asynchronous request."""

    job_id: Annotated[str, Field(description="A UUID.")]
    status: Literal["in_progress"]
    message: str
    status_url: Annotated[str, Field(examples=["/v1/jobs/3fa85f64-5717-4562-b3fc-2c963f66afa6"])]
    warnings: NotRequired[Warnings]


class Delivery(TypedDict):
    """How far an upload, or the telling of a webhook, has come."""

    status: Literal["pending", "delivered", "failed"]
    attempts: Annotated[int, Field(description="In all rounds.", examples=[1])]
    next_attempt_at: NotRequired[Annotated[float, Field(description="When the next round begins, in Unix time.")]]
    last_error: NotRequired[Annotated[str, Field(examples=["HTTP 503 (attempt 1/3) to https://bucket.example/key"])]]
    expires_at: NotRequired[Annotated[float, Field(description="When the upload URL expires, in Unix time.")]]


class Job(TypedDict):
    job_id: Annotated[str, Field(description="A UUID.")]
    status: Literal["queued", "processing", "completed", "failed", "cancelled"]
    progress: Literal[
        "Waiting for GPU availability",
        "Downloading audio",
        "Transcribing audio",
        "Uploading results",
        "Done",
        "Failed",
        "Cancelled",
    ]
    progress_percent: Annotated[float, Field(description="Seconds of audio finished, over all.", examples=[40.0])]
    start_time: Annotated[float, Field(description="When it was accepted, in Unix time.", examples=[1790000000.0])]
    elapsed_time: Annotated[float, Field(description="Seconds since then, or from then to its end.", examples=[2.5])]
    end_time: NotRequired[UnixTime]
    queue_position: NotRequired[Annotated[int, Field(description="From 1, while it is queued.", examples=[1])]]
    eta_seconds: NotRequired[Annotated[float, Field(description="Until its transcript is there.", examples=[12.5])]]
    input_source: Literal["file", "url"]
    audio_duration: NotRequired[Duration]
    language: NotRequired[LanguageName]
    model: Annotated[str, Field(examples=["large-v3-turbo"])]
    attempts: NotRequired[Annotated[int, Field(description="How often work on the audio has begun.", examples=[1])]]
    delivery: NotRequired[Annotated[Delivery, Field(description="With an upload URL.")]]
    webhook: NotRequired[Annotated[Delivery, Field(description="With a webhook, once the job has ended.")]]
    error: NotRequired[Annotated[str, Field(description="Why it failed.")]]
    error_type: NotRequired[Annotated[str, Field(examples=["DeliveryFailed"])]]
    result_available: bool
    result_expires_at: NotRequired[Annotated[float, Field(description="When it will be forgotten, in Unix time.")]]
    metadata: NotRequired[Metadata]
    warnings: NotRequired[Warnings]
    result: NotRequired[Annotated[Document, Field(description="With `include_result=true`, once it is there.")]]


class JobList(TypedDict):
    total_jobs: Annotated[int, Field(description="How many there are in all, not on this page.", examples=[1])]
    jobs: Annotated[dict[str, Job], Field(description="Keyed by their ids, newest first.")]


class JobDeleted(TypedDict):
    job_id: str
    deleted: Literal[True]


class Model(TypedDict):
    id: Annotated[str, Field(examples=["large-v3-turbo"])]
    object: Literal["model"]
    created: Annotated[int, Field(description="When the server was started, in Unix time.", examples=[1790000000])]
    owned_by: str


class ModelList(TypedDict):
    object: Literal["list"]
    data: list[Model]


class DefaultModel(TypedDict):
    name: str
    compute_type: Annotated[str, Field(examples=["float16"])]
    loaded: bool


class ModelInMemory(TypedDict):
    name: str
    loaded: bool


class Concurrency(TypedDict):
    max_concurrent_requests: Annotated[int, Field(description="`MAX_CONCURRENT_REQUESTS`.")]
    active_transcriptions: Annotated[int, Field(description="Requests on the model, synchronous ones too.")]
    active_jobs: Annotated[int, Field(description="Queued and processing jobs.")]
    processing: int
    queued: int
    completed: int
    failed: int
    available_slots: int


class Timeouts(TypedDict):
    upload_timeout_seconds: float
    upload_timeout_minutes: float
    connect_timeout_seconds: float
    pool_timeout_seconds: float
    upload_max_attempts: int
    note: str


class Recovery(TypedDict):
    """What an earlier process left, when this one was started."""

    jobs: Annotated[int, Field(description="All of them, those that had ended too.")]
    requeued: Annotated[int, Field(description="Went back to the queue.")]
    undelivered: Annotated[int, Field(description="Had a result, a failure or an event to deliver.")]


class HealthReport(TypedDict):
    status: Literal["healthy", "loading", "draining", "failing"]
    gpu_available: bool
    device: Literal["cuda", "cpu"]
    version: str
    model: DefaultModel
    models: Annotated[list[ModelInMemory], Field(description="All that are served, the default first.")]
    concurrency: Concurrency
    recovered: Recovery
    timeouts: Timeouts


class Readiness(TypedDict):
    status: Literal["healthy", "loading", "draining", "failing"]


def answers(model: Any, *errors: int, description: str, example: Any = None) -> dict[int | str, dict[str, Any]]:
    """What FastAPI's ``responses`` takes: the answer of success, and the errors that may come instead.

    ``model`` None is a stream of events.
    """
    success: dict[str, Any] = {"description": description}
    if model is None:
        success["content"] = {"text/event-stream": {"schema": {}}}
    else:
        success["model"] = model
    if example is not None:
        success["content"] = {"application/json": {"example": example}}
    return {200: success, **failures(*errors)}


def failures(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The errors that may come in place of an answer."""
    return {status: _failure(status) for status in statuses}


def _failure(status: int) -> dict[str, Any]:
    meaning, kind, message, param, code = _FAILURES[status]
    example = {"error": {"message": message, "type": kind, "param": param, "code": code}}
    return {"model": ErrorBody, "description": meaning, "content": {"application/json": {"example": example}}}


#: What it means, and an example of each: type, message, param, code.
_FAILURES: Final[dict[int, tuple[str, str, str, str | None, str | None]]] = {
    400: (
        "A field is wrong, contradictory or can't be honoured; the audio can't be decoded.",
        "invalid_request_error",
        "temperature=7 is not allowed: it must be a number from 0 to 1.",
        "temperature",
        None,
    ),
    401: (
        "The key is missing or wrong.",
        "invalid_request_error",
        "The API key is wrong: send the header 'Authorization: Bearer KEY' with one of the keys in API_KEYS.",
        None,
        "invalid_api_key",
    ),
    404: (
        "There is no such job or model.",
        "invalid_request_error",
        "There is no job '1f0c': it never existed, it was forgotten after its retention time, or it was made with "
        "another API key.",
        None,
        "job_not_found",
    ),
    413: (
        "The file or the audio is over the limit.",
        "invalid_request_error",
        "The file is too large: MAX_UPLOAD_BYTES allows 2147483648 bytes. Send compressed audio (Opus, MP3), or split "
        "it.",
        "file",
        "too_large",
    ),
    429: (
        "The queue is full; `Retry-After` says when to try again.",
        "rate_limit_error",
        "The queue is full: 1000 requests wait and MAX_QUEUED_JOBS allows 1000. Try again later.",
        None,
        "queue_full",
    ),
    500: (
        "The server failed. Trying again won't help (`x-should-retry: false`).",
        "server_error",
        "The server failed; its log says why.",
        None,
        None,
    ),
    503: (
        "The model is being loaded, or the server is shutting down; `Retry-After` says when to try again.",
        "server_error",
        "The service is shutting down and takes no new work: try again in a while.",
        None,
        "draining",
    ),
    507: (
        "The server has no disk space left; `Retry-After` says when to try again.",
        "server_error",
        "The server has no disk space left for this request: try again later, or have its operator free some.",
        None,
        "disk_full",
    ),
}
