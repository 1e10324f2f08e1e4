"""OpenAI's Python client, blocking and asynchronous, with the service: every method and format."""

from __future__ import annotations

import asyncio
import base64
import threading
from asyncio import gather
from collections.abc import AsyncIterable
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import anyio.to_thread
import openai
import pytest
from openai.types.audio import (
    Transcription,
    TranscriptionDiarized,
    TranscriptionSegment,
    TranscriptionTextDeltaEvent,
    TranscriptionTextDoneEvent,
    TranscriptionTextSegmentEvent,
    TranscriptionVerbose,
    Translation,
    TranslationVerbose,
)

from app.transcription.models import MODEL_ALIASES
from tests.clients.test_openai_node import HELLO, HELLO_JSON, NUMBERS, SIX_SECONDS, spoken_lines
from tests.support.service import serving
from tests.support.waiting import LIMIT_SECONDS, eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Sequence
    from pathlib import Path

    import httpx2
    from openai import BaseModel

    from app.transcription.whisper import WhisperModel
    from app.transcription.window import Window
    from tests.support.service import Running

T = TypeVar("T")
Kind: TypeAlias = type[openai.OpenAI] | type[openai.AsyncOpenAI]

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.contract,
    pytest.mark.full(reason="repeats every request with both clients"),
]

#: Milliseconds that the client waits instead of the service's ``Retry-After``.
SHORTER = "1"


class Client:
    """OpenAI's client of either kind, with its default retries; calls of the blocking one run in a thread.

    ``sent`` counts its HTTP requests. ``waits`` are the seconds of all ``Retry-After`` headers.
    """

    def __init__(self, kind: Kind, address: str, key: str, **options: Any) -> None:
        self.sent = 0
        self.waits: list[float] = []
        self._blocks = kind is openai.OpenAI
        request_hook, response_hook, client_class = (
            (self._on_request, self._on_response, openai.DefaultHttpxClient)
            if self._blocks
            else (self._on_request_async, self._on_response_async, openai.DefaultAsyncHttpxClient)
        )
        http_client = client_class(event_hooks={"request": [request_hook], "response": [response_hook]})
        self.own: Any = kind(base_url=f"{address}/v1", api_key=key, http_client=http_client, **options)  # type: ignore[arg-type]  # of the same kind

    def _on_request(self, _: httpx2.Request) -> None:
        self.sent += 1

    def _on_response(self, response: httpx2.Response) -> None:
        if "retry-after" in response.headers:
            self.waits.append(float(response.headers["retry-after"]))
            response.headers["retry-after-ms"] = SHORTER

    async def _on_request_async(self, request: httpx2.Request) -> None:
        self._on_request(request)

    async def _on_response_async(self, response: httpx2.Response) -> None:
        self._on_response(response)

    async def call(self, method: Callable[..., Any], *args: Any, **fields: Any) -> Any:
        return await in_thread(method, *args, **fields) if self._blocks else await method(*args, **fields)

    async def transcribe(self, file: Any, **fields: Any) -> Any:
        return await self.call(self.own.audio.transcriptions.create, **{"file": file, "model": "whisper-1", **fields})

    async def translate(self, file: Any, **fields: Any) -> Any:
        return await self.call(self.own.audio.translations.create, file=file, model="whisper-1", **fields)

    async def events(self, file: Any, **fields: Any) -> list[Any]:
        return await everything(await self.transcribe(file, stream=True, **fields))

    @asynccontextmanager
    async def opened(self, method: Callable[..., Any], **fields: Any) -> AsyncIterator[Any]:
        """Yield the response of a method of ``with_streaming_response``."""
        manager = method(**fields)
        if not self._blocks:
            async with manager as response:
                yield response
            return
        response = await in_thread(manager.__enter__)
        try:
            yield response
        finally:
            await in_thread(manager.__exit__, None, None, None)

    async def refusal(self, method: Callable[..., Any], *args: Any, **fields: Any) -> openai.APIStatusError:
        """Return the error of a call. Check that the client sent one request only."""
        before = self.sent
        with pytest.raises(openai.APIStatusError) as caught:
            await self.call(method, *args, **fields)
        assert self.sent == before + 1
        assert caught.value.response.headers.get("x-should-retry", "false") == "false"
        return caught.value


async def in_thread(method: Callable[..., T], *args: Any, **fields: Any) -> T:
    """Run a blocking call in a thread outside asyncio's default executor, which the service in this loop uses."""
    return await anyio.to_thread.run_sync(partial(method, *args, **fields))


async def everything(items: Any) -> list[Any]:
    """Return all items of a blocking or an asynchronous iterator."""
    return [item async for item in items] if isinstance(items, AsyncIterable) else await in_thread(list, items)


def strictly(response: BaseModel) -> dict[str, Any]:
    """Return the body of a response after validating it strictly, which the client does not do."""
    type(response).model_validate_json(response.to_json(), strict=True)
    body = response.to_dict()
    assert None not in body.values()
    return body


@pytest.fixture(params=[openai.OpenAI, openai.AsyncOpenAI], ids=["blocking", "asynchronous"])
def kind(request: pytest.FixtureRequest) -> Kind:
    chosen: Kind = request.param
    return chosen


@asynccontextmanager
async def client_of(running: Running, kind: Kind, key: str = "any", **options: Any) -> AsyncIterator[Client]:
    client = Client(kind, running.address, key, **options)
    try:
        yield client
    finally:
        await client.call(client.own.close)


@pytest.fixture
async def client(running: Running, kind: Kind, key: str) -> AsyncIterator[Client]:
    async with client_of(running, kind, key) as made:
        yield made


@pytest.fixture(scope="module", autouse=True)
def encoder_results_are_cached(model: WhisperModel) -> Iterator[None]:
    """Encode each recording once: these tests send the same few, and the encoder takes most of the time."""
    encode, results = model._encode, {}

    def cached(windows: Sequence[Window]) -> Any:
        key = tuple(window.features.tobytes() for window in windows)
        if key not in results:
            results[key] = encode(windows)
        return results[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model, "_encode", cached)
        yield


@pytest.fixture(scope="session")
def hello(samples: Path) -> tuple[str, bytes]:
    return "hello.wav", (samples / "hello.wav").read_bytes()


@pytest.fixture
def gate(model: WhisperModel, monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """An event that the model waits for before it decodes."""
    opened, decode = threading.Event(), model.decode

    def held(windows: Any) -> Any:
        opened.wait(LIMIT_SECONDS)
        return decode(windows)

    monkeypatch.setattr(model, "decode", held)
    return opened


def break_model(model: WhisperModel, monkeypatch: pytest.MonkeyPatch, *, after: int = 0) -> None:
    """Make the model raise at every window of a recording after the first ``after``."""
    decode = model.decode

    def failing(windows: Any) -> Any:
        if any(window.number >= after for window in windows):
            raise RuntimeError("cuBLAS")
        return decode(windows)

    monkeypatch.setattr(model, "decode", failing)


def test_every_method_of_the_client_is_tested(kind: Kind) -> None:
    own: Any = kind(api_key="any")
    ways = {"with_raw_response", "with_streaming_response"}
    for resource, methods in (
        (own.audio.transcriptions, {"create"}),
        (own.audio.translations, {"create"}),
        (own.models, {"list", "retrieve", "delete"}),
    ):
        assert {name for name in dir(type(resource)) if not name.startswith("_")} == ways | methods


async def test_models_are_listed_and_retrieved_by_name_and_alias(client: Client) -> None:
    models = client.own.models
    page = await client.call(models.list)
    names = ["demo", *MODEL_ALIASES]
    assert [model.id for model in page.data] == names
    assert await everything(page) == page.data
    assert [await client.call(models.retrieve, name) for name in names] == page.data
    assert all(strictly(model)["object"] == "model" for model in page.data)
    raw = await client.call(models.with_raw_response.retrieve, "demo")
    assert raw.parse() == page.data[0]
    async with client.opened(models.with_streaming_response.list) as response:
        assert (await client.call(response.parse)).data == page.data
    refused = await client.refusal(models.delete, "demo")
    assert refused.status_code == 405
    assert refused.response.headers["allow"] == "GET"
    assert "DELETE is not allowed" in refused.message


@pytest.mark.smoke
async def test_every_transcription_format_has_its_type(client: Client, samples: Path, hello: tuple[str, bytes]) -> None:
    plain, numbers, text, srt, vtt, verbose = await gather(
        client.transcribe(hello),
        client.transcribe(samples / "numbers.mp3", model="demo", response_format="json", prompt=""),
        *(client.transcribe(hello, response_format=name) for name in ("text", "srt", "vtt")),
        client.transcribe(hello, response_format="verbose_json", language="en", temperature=0),
    )
    assert {type(plain), type(numbers)} == {Transcription}
    assert strictly(plain) == HELLO_JSON
    assert strictly(numbers) == {"text": NUMBERS, "usage": {"type": "duration", "seconds": 8}}
    assert text == f"{HELLO}\n"
    for cues, beginning in ((srt, "1\n00:00:0"), (vtt, "WEBVTT\n\n")):
        assert cues.startswith(beginning)
        assert spoken_lines(cues) == ["hello this is a test", "the job is complete now"]
    assert {type(text), type(srt), type(vtt)} == {str}
    assert type(verbose) is TranscriptionVerbose
    _assert_is_verbose(verbose, task="transcribe")


@pytest.mark.filterwarnings("ignore:deprecated:DeprecationWarning")  # OpenAI's client warns of retired features
async def test_every_translation_format_has_its_type(client: Client, hello: tuple[str, bytes]) -> None:
    translations = client.own.audio.translations
    plain, prompted, srt, vtt, verbose, raw = await gather(
        client.translate(hello),
        client.translate(hello, response_format="json", prompt="a test", temperature=0),
        *(client.translate(hello, response_format=name) for name in ("srt", "vtt")),
        client.translate(hello, response_format="verbose_json"),
        client.call(translations.with_raw_response.create, file=hello, model="whisper-1"),
    )
    assert {type(one) for one in (plain, prompted, raw.parse())} == {Translation}
    assert strictly(plain) == strictly(prompted) == strictly(raw.parse()) == HELLO_JSON
    assert {type(srt), type(vtt)} == {str}
    assert [" ".join(spoken_lines(cues)) for cues in (srt, vtt)] == [HELLO] * 2
    assert type(verbose) is TranslationVerbose
    _assert_is_verbose(verbose, task="translate")
    create = translations.with_streaming_response.create
    async with client.opened(create, file=hello, model="whisper-1", response_format="text") as response:
        assert await client.call(response.parse) == f"{HELLO}\n"


def _assert_is_verbose(verbose: TranscriptionVerbose | TranslationVerbose, *, task: str) -> None:
    body = strictly(verbose)
    assert body.keys() == {"task", "language", "duration", "text", "segments", "usage"}
    assert (body["task"], verbose.language, verbose.text) == (task, "english", HELLO)
    assert verbose.duration == pytest.approx(5.22, abs=0.01)
    assert body["usage"] == SIX_SECONDS
    assert verbose.segments is not None
    assert [segment.id for segment in verbose.segments] == [0, 1]
    assert "".join(segment.text for segment in verbose.segments).strip() == HELLO
    for segment in verbose.segments:
        assert strictly(segment).keys() == TranscriptionSegment.model_fields.keys()
        assert all(type(number) is int for number in (segment.id, segment.seek, *segment.tokens))
        assert 0 <= segment.start < segment.end <= verbose.duration
        assert 0 <= segment.no_speech_prob <= 1
        assert segment.avg_logprob <= 0 < segment.compression_ratio


async def test_granularities_select_words_and_segments(client: Client, hello: tuple[str, bytes]) -> None:
    choices = (["segment"], ["word"], ["word", "segment"])
    verbose = partial(client.transcribe, hello, response_format="verbose_json")
    responses = await gather(*(verbose(timestamp_granularities=choice) for choice in choices))
    for granularities, response in zip(choices, responses, strict=True):
        strictly(response)
        assert (response.segments is not None) == ("segment" in granularities)
        assert (response.words is not None) == ("word" in granularities)
        if response.words is not None:
            assert [word.word for word in response.words] == HELLO.split()
            times = [time for word in response.words for time in (word.start, word.end)]
            assert times == sorted(times)
            assert 0 <= times[0] <= times[-1] <= response.duration


async def test_every_kind_of_file_is_accepted(client: Client, samples: Path, hello: tuple[str, bytes]) -> None:
    name, content = hello
    with (samples / name).open("rb") as opened:
        responses = await gather(
            client.transcribe(samples / name),
            client.transcribe(content),
            client.transcribe(opened),
            client.transcribe((name, samples / name)),
            client.transcribe((name, content, "audio/wav")),
            client.transcribe(('grüße "1"; 你好', content, "application/octet-stream", {"X-Of-The-Part": "1"})),
        )
    assert [strictly(response) for response in responses] == [HELLO_JSON] * 6


async def test_log_probabilities_are_included_on_request(client: Client, hello: tuple[str, bytes]) -> None:
    response, events = await gather(
        client.transcribe(hello, include=["logprobs"], response_format="json"),
        client.events(hello, include=["logprobs"]),
    )
    logprobs = strictly(response)["logprobs"]
    assert "".join(token["token"] for token in logprobs).strip() == HELLO
    assert all(token.logprob <= 0 for token in response.logprobs)
    *deltas, done = events
    assert (
        [token for delta in deltas for token in strictly(delta)["logprobs"]] == done.to_dict()["logprobs"] == logprobs
    )
    assert all(bytes(token.bytes).decode() == token.token for token in done.logprobs)


async def test_fields_are_parsed_as_the_client_encodes_them(client: Client, hello: tuple[str, bytes]) -> None:
    vad = {"type": "server_vad", "threshold": 0.5, "prefix_padding_ms": 300, "silence_duration_ms": 600}
    names = {"known_speaker_names": ["agent"], "known_speaker_references": ["data:audio/wav;base64,UklGRg=="]}
    auto = {"chunking_strategy": "auto", "prompt": "a test", "stream": False}
    own = {"vad_filter": False, "beam_size": 2, "hotwords": "hello", "unheard_of": [1, {"a": None}]}
    first, second, third = await gather(
        client.transcribe(hello, keywords=["hello", "job"], languages=["en"], **auto),
        client.transcribe(hello, chunking_strategy=vad, extra_body=own),
        client.transcribe(hello, languages=["en", "de"], extra_body={"metadata": {"ticket": "42"}}, **names),
    )
    assert strictly(first) == {**HELLO_JSON, "languages": [{"code": "en"}]}
    assert strictly(second) == HELLO_JSON
    assert [language.code for language in third.languages] == ["en"]
    warnings = strictly(third)["warnings"]
    extras = {"languages": [{"code": "en"}], "metadata": {"ticket": "42"}, "warnings": warnings}
    assert strictly(third) == HELLO_JSON | extras
    assert [warning.partition(" ")[0].strip("`") for warning in warnings] == list(names)


async def test_channels_become_speakers(client: Client, samples: Path, references: dict[str, dict[str, Any]]) -> None:
    recording = references["two_speakers_stereo.flac"]
    expected = [(segment["text"], "AB"[segment["channel"]]) for segment in recording["segments"]]
    fields = {"response_format": "diarized_json", "extra_body": {"multichannel": True}, "chunking_strategy": "auto"}
    diarized, (*events, done) = await gather(
        client.transcribe(samples / recording["file"], **fields), client.events(samples / recording["file"], **fields)
    )
    assert type(diarized) is TranscriptionDiarized
    assert strictly(diarized).keys() == {"task", "duration", "text", "segments", "usage"}
    assert diarized.text == recording["text"]
    assert [(segment.text, segment.speaker) for segment in diarized.segments] == expected
    assert all(strictly(event) for event in events)
    assert {type(event) for event in events} == {TranscriptionTextDeltaEvent, TranscriptionTextSegmentEvent}
    segments = [event for event in events if isinstance(event, TranscriptionTextSegmentEvent)]
    assert [segment.to_dict() for segment in segments] == [segment.to_dict() for segment in diarized.segments]
    assert type(done) is TranscriptionTextDoneEvent
    assert "".join(event.delta for event in events if event.type == "transcript.text.delta") == done.text
    assert done.text == recording["text"]


async def test_known_speakers_are_sent_as_the_client_encodes_them(
    client: Client, samples: Path, hello: tuple[str, bytes]
) -> None:
    fields = {
        "model": "gpt-4o-transcribe-diarize",
        "response_format": "diarized_json",
        "chunking_strategy": "auto",
        "known_speaker_names": ["agent"],
        "known_speaker_references": ["data:audio/wav;base64," + base64.b64encode(hello[1]).decode()],
    }
    audio = samples / "numbers.mp3"
    diarized, (*events, done) = await gather(client.transcribe(audio, **fields), client.events(audio, **fields))
    assert type(diarized) is TranscriptionDiarized
    assert "warnings" not in strictly(diarized)
    assert all(strictly(event) for event in events)
    deltas = [event for event in events if isinstance(event, TranscriptionTextDeltaEvent)]
    segments = [event for event in events if isinstance(event, TranscriptionTextSegmentEvent)]
    assert events == [*deltas, *segments]
    assert [segment.to_dict() for segment in segments] == [segment.to_dict() for segment in diarized.segments]
    assert "".join(delta.delta for delta in deltas) == done.text == diarized.text
    assert {delta.segment_id for delta in deltas} <= {segment.id for segment in segments}
    counted = await client.transcribe(audio, extra_body={"num_speakers": 2, "diarize": True}, **fields)
    assert "warnings" not in strictly(counted)
    error = await client.refusal(
        client.own.audio.transcriptions.create,
        file=audio,
        **{**fields, "known_speaker_names": ["agent", "caller"]},
    )
    assert (error.status_code, error.param) == (400, "known_speaker_references")


async def test_deltas_of_a_stream_add_up_to_its_text(client: Client, samples: Path, hello: tuple[str, bytes]) -> None:
    streams = await gather(
        client.events(hello, response_format="text"), client.events(samples / "numbers.mp3", response_format="json")
    )
    for (*deltas, done), text, tokens in zip(streams, (HELLO, NUMBERS), (53, 76), strict=True):
        assert {type(delta) for delta in deltas} == {TranscriptionTextDeltaEvent}
        assert "".join(strictly(delta)["delta"] for delta in deltas) == done.text == text
        assert type(done) is TranscriptionTextDoneEvent
        assert strictly(done)["usage"]["input_token_details"] == {"audio_tokens": tokens, "text_tokens": 0}


async def test_stream_can_be_closed_before_its_end(
    client: Client, running: Running, samples: Path, hello: tuple[str, bytes]
) -> None:
    stream = await client.transcribe(samples / "long.opus", stream=True)
    first = await client.call(anext if isinstance(stream, openai.AsyncStream) else next, stream)
    assert type(first) is TranscriptionTextDeltaEvent
    await client.call(stream.close)
    await eventually(lambda: not any(live.job.is_active for live in running.service.jobs.store.live_jobs()))
    assert (await client.transcribe(hello)).text == HELLO


async def test_raw_responses_have_headers_and_are_parsed(client: Client, hello: tuple[str, bytes]) -> None:
    create = client.own.audio.transcriptions.with_raw_response.create
    fields = {"file": hello, "model": "whisper-1"}
    plain, verbose, text, stream = await gather(
        client.call(create, **fields),
        client.call(create, **fields, response_format="verbose_json"),
        client.call(create, **fields, response_format="text"),
        client.call(create, **fields, stream=True),
    )
    assert (plain.status_code, plain.retries_taken, plain.headers["content-type"]) == (200, 0, "application/json")
    assert (plain.http_response.json(), strictly(plain.parse())) == (HELLO_JSON, HELLO_JSON)
    assert type(verbose.parse()) is TranscriptionVerbose
    assert text.headers["content-type"] == "text/plain; charset=utf-8"
    assert text.text == text.parse() == f"{HELLO}\n"
    assert stream.headers["content-type"].startswith("text/event-stream")
    assert (await everything(stream.parse()))[-1].text == HELLO


async def test_streamed_responses_are_read_as_bytes_lines_and_objects(client: Client, hello: tuple[str, bytes]) -> None:
    create = partial(client.own.audio.transcriptions.with_streaming_response.create, file=hello, model="whisper-1")
    async with client.opened(create) as parsed, client.opened(create, response_format="text") as text:
        assert parsed.headers["content-type"] == "application/json"
        assert strictly(await client.call(parsed.parse)) == HELLO_JSON
        assert b"".join(await everything(text.iter_bytes())) == f"{HELLO}\n".encode()
    async with client.opened(create, response_format="vtt") as vtt, client.opened(create, stream=True) as events:
        lines = await everything(vtt.iter_lines())
        assert (lines[0], " ".join(spoken_lines("\n".join(lines)))) == ("WEBVTT", HELLO)
        assert (await everything(await client.call(events.parse)))[-1].text == HELLO


async def test_job_is_followed_with_the_same_client(client: Client, hello: tuple[str, bytes]) -> None:
    create = client.own.audio.transcriptions.with_raw_response.create
    raw = await client.call(create, file=hello, model="whisper-1", extra_body={"stored_output": True})
    accepted = raw.http_response.json()
    assert accepted["status"] == "in_progress"
    assert raw.headers["location"] == accepted["status_url"]
    path = raw.headers["location"].removeprefix("/v1")
    stream = openai.Stream if isinstance(client.own, openai.OpenAI) else openai.AsyncStream
    states = await everything(
        await client.call(client.own.get, f"{path}/events", cast_to=object, stream=True, stream_cls=stream[object])
    )
    assert (states[-1]["job_id"], states[-1]["status"]) == (accepted["job_id"], "completed")
    assert strictly(await client.call(client.own.get, f"{path}/result", cast_to=Transcription)) == HELLO_JSON


@pytest.mark.filterwarnings("ignore:deprecated:DeprecationWarning")  # OpenAI's client warns of retired features
async def test_errors_have_the_right_class_and_are_not_retried(client: Client, hello: tuple[str, bytes]) -> None:
    own = client.own
    transcribe, translate = own.audio.transcriptions.create, own.audio.translations.create
    wrong = own.with_options(api_key="wrong")
    unknown = "/jobs/3fa85f64-5717-4562-b3fc-2c963f66afa6"
    fields: dict[str, Any] = {"file": hello, "model": "whisper-1"}
    vad = {"type": "server_vad", "threshold": 2}
    bad, lost, locked = openai.BadRequestError, openai.NotFoundError, openai.AuthenticationError
    for error, code, param, words, refused in (
        (bad, None, "temperature", "between 0 and 1", (transcribe, {**fields, "temperature": 7})),
        (bad, None, "temperature", "between 0 and 1", (transcribe, {**fields, "extra_body": {"temperature": 7}})),
        (bad, None, "temperature", "between 0 and 1", (transcribe, {**fields, "temperature": 7, "stream": True})),
        (bad, None, "temperature", "between 0 and 1", (translate, {**fields, "temperature": 7})),
        (bad, None, "response_format", "verbose_json", (transcribe, {**fields, "response_format": "docx"})),
        (
            bad,
            None,
            "known_speaker_names",
            "`known_speaker_references`, a recording of each voice",
            (transcribe, {**fields, "response_format": "diarized_json", "known_speaker_names": ["agent"]}),
        ),
        (
            bad,
            None,
            "chunking_strategy[threshold]",
            "between 0 and 1",
            (transcribe, {**fields, "chunking_strategy": vad}),
        ),
        (bad, None, "file", "curl -F file=@", (transcribe, {**fields, "file": (None, hello[1])})),  # without a name
        (bad, "invalid_audio", "file", "empty", (transcribe, {**fields, "file": ("empty.wav", b"")})),
        (bad, "invalid_audio", "file", "", (transcribe, {**fields, "file": ("song.mp3", b"no frames\n" * 100)})),
        (bad, "invalid_audio", "file", "", (translate, {**fields, "file": ("song.mp3", b"no frames\n" * 100)})),
        (lost, "model_not_found", "model", "whisper-1", (transcribe, {**fields, "model": "large-v9"})),
        (lost, "model_not_found", "model", "whisper-1", (own.models.retrieve, {"model": "openai/whisper-large-v3"})),
        (lost, "job_not_found", None, unknown[-36:], (own.get, {"path": unknown, "cast_to": object})),
        (locked, "invalid_api_key", None, "", (wrong.models.list, {})),
        (locked, "invalid_api_key", None, "", (wrong.audio.transcriptions.create, fields)),
    ):
        caught = await client.refusal(refused[0], **refused[1])
        assert (type(caught), caught.code, caught.param) == (error, code, param)
        assert caught.type == "invalid_request_error"
        assert isinstance(caught.body, dict)
        assert words in caught.body["message"]
        assert caught.body["message"] in caught.message


async def test_too_large_audio_is_413_and_not_retried(
    tmp_path: Path, model: WhisperModel, samples: Path, kind: Kind
) -> None:
    limits: dict[str, Any] = {"max_upload_bytes": 300_000, "max_audio_seconds": 30, "api_keys": "sk-test"}
    async with (
        serving(tmp_path / "data", lambda: model, **limits) as running,
        client_of(running, kind, "sk-test") as it,
    ):
        create = it.own.audio.transcriptions.create
        for file, code in (
            (samples / "meeting_44k_stereo.wav", "too_large"),
            (bytes(20_000_000), "too_large"),  # more than the buffers between the two hold
            (samples / "long.opus", "audio_too_long"),
        ):
            refused = await it.refusal(create, file=file, model="whisper-1")
            assert (type(refused), refused.status_code, refused.code) == (openai.APIStatusError, 413, code)
        wrong = it.own.with_options(api_key="wrong").audio.transcriptions.create
        assert (await it.refusal(wrong, file=bytes(20_000_000), model="whisper-1")).status_code == 401
        assert (await it.transcribe(samples / "hello.wav")).text == HELLO


async def test_failed_transcription_is_500_and_not_retried(
    client: Client, hello: tuple[str, bytes], model: WhisperModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_model(model, monkeypatch)
    for fields in ({}, {"stream": True}):
        failed = await client.refusal(client.own.audio.transcriptions.create, file=hello, model="whisper-1", **fields)
        assert (type(failed), failed.status_code, failed.type) == (openai.InternalServerError, 500, "server_error")
        assert failed.response.headers["x-should-retry"] == "false"
        assert "cuBLAS" not in failed.message


async def test_failure_during_a_stream_raises_in_the_client(
    tmp_path: Path,
    model: WhisperModel,
    samples: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: Kind,
) -> None:
    break_model(model, monkeypatch, after=1)
    async with (
        serving(tmp_path / "data", lambda: model, whisper_batch_size="1") as running,
        client_of(running, kind) as it,
    ):
        with pytest.raises(openai.APIError) as caught:
            await it.events(samples / "long.opus")
        assert (type(caught.value), caught.value.type, it.sent) == (openai.APIError, "server_error", 1)
        assert "cuBLAS" not in caught.value.message


async def test_full_queue_is_retried_after_its_retry_after(
    tmp_path: Path,
    model: WhisperModel,
    hello: tuple[str, bytes],
    samples: Path,
    kind: Kind,
    gate: threading.Event,
) -> None:
    limits: dict[str, Any] = {"max_queued_jobs": 1, "max_concurrent_requests": 1}
    async with serving(tmp_path / "data", lambda: model, **limits) as running, client_of(running, kind) as it:
        first = await running.submit(samples / "hello.wav", stored_output="true")
        await running.until(first, "processing")
        await running.until_waiting(0)
        second = await running.submit(samples / "hello.wav", stored_output="true")
        await running.until_waiting(1)
        with pytest.raises(openai.RateLimitError) as caught:
            await it.transcribe(hello)
        assert (caught.value.code, caught.value.type) == ("queue_full", "rate_limit_error")
        assert it.sent == len(it.waits) == 3
        assert all(1 <= wait <= 120 for wait in it.waits)
        gate.set()
        await running.until(second, "completed")
        await running.until_waiting(0)
        assert (await it.transcribe(hello)).text == HELLO


async def test_loading_model_is_retried_after_its_retry_after(
    tmp_path: Path, model: WhisperModel, hello: tuple[str, bytes], kind: Kind
) -> None:
    loaded = threading.Event()

    def load() -> WhisperModel:
        loaded.wait(LIMIT_SECONDS)
        return model

    async with serving(tmp_path / "data", load, wait_for_model=False) as running, client_of(running, kind) as it:
        for method, fields in (
            (it.own.audio.transcriptions.create, {"file": hello, "model": "whisper-1"}),
            (it.own.models.list, {}),
        ):
            it.sent, it.waits = 0, []
            with pytest.raises(openai.InternalServerError) as caught:
                await it.call(method, **fields)
            assert (caught.value.status_code, caught.value.code) == (503, "model_loading")
            assert it.sent == len(it.waits) == 3
            assert all(1 <= wait <= 120 for wait in it.waits)
        loaded.set()
        await eventually(running.is_ready)
        assert (await it.transcribe(hello)).text == HELLO


async def test_client_that_timed_out_joins_its_own_transcription(
    running: Running, samples: Path, key: str, gate: threading.Event
) -> None:
    async with client_of(running, openai.OpenAI, key, max_retries=20, timeout=2.0) as client:
        asking = asyncio.create_task(client.transcribe(samples / "hello.wav"))
        work = running.service.sync_requests._requests
        await eventually(lambda: any(one.deadline is not None for one in work.values()))  # it has gone away
        await eventually(lambda: any(one.clients for one in work.values()))  # it has come again
        assert len(work) == 1
        gate.set()
        assert (await asking).text == HELLO
        assert client.sent >= 2
        await eventually(lambda: not any(live.job.is_active for live in running.service.jobs.store.live_jobs()))


@pytest.mark.parametrize("deployment", ["whisper-1", None])
async def test_azures_client_names_the_model_in_its_path(
    running: Running, key: str, samples: Path, deployment: str | None
) -> None:
    async with openai.AsyncAzureOpenAI(
        azure_endpoint=running.address, api_key=key, api_version="2024-06-01", azure_deployment=deployment
    ) as client:
        content = await asyncio.to_thread((samples / "hello.wav").read_bytes)
        transcription = await client.audio.transcriptions.create(model="whisper-1", file=("hello.wav", content))
    assert transcription.text == HELLO
