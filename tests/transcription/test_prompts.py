"""The prompt that the model receives for each kind of request: language, task, prompt and hotwords."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import asynccontextmanager
from itertools import repeat
from typing import TYPE_CHECKING, Any, Literal

import pytest

from app.domain.transcript import TranscriptionOptions
from app.transcription.device import Device
from app.transcription.whisper import MAX_PROMPT_TOKENS
from tests.support.recording_model import recording
from tests.support.service import serving
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine
    from pathlib import Path

    import httpx

    from app.transcription.whisper import WhisperModel
    from tests.support.recording_model import Generation, RecordingModel
    from tests.support.service import Running

pytestmark = [pytest.mark.anyio, pytest.mark.full(reason="transcribes in many services")]

NUMBERS = "my number is seven three nine one room two hundred and forty five is ready"
CODES = {"german": "de", "french": "fr", "spanish": "es"}
HELLO = "hello this is a test the job is complete now"


class Vocabulary:
    """The model's own tokenizer, without any code of the service in between."""

    def __init__(self, model: WhisperModel) -> None:
        self._tokenizer = model._hf_tokenizer

    def token(self, name: str) -> int:
        token = self._tokenizer.token_to_id(f"<|{name}|>")
        assert isinstance(token, int)
        return token

    def tokens(self, *names: str) -> list[int]:
        return [self.token(name) for name in names]

    def start(self, language: str, task: str = "transcribe") -> list[int]:
        return self.tokens("startoftranscript", language, task)

    def text(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)


@pytest.fixture
def vocabulary(model: WhisperModel) -> Vocabulary:
    return Vocabulary(model)


@asynccontextmanager
async def serving_recorded(
    tmp_path: Path, model: WhisperModel, **script: Any
) -> AsyncIterator[tuple[Running, RecordingModel]]:
    """Start the service with the demo model and a recorder of the calls that reach it."""
    wrapped, recorder = recording(model, **script)
    async with serving(tmp_path, lambda: wrapped, whisper_batch_size="8") as running:
        yield running, recorder


async def post_translation(running: Running, file: Path, **fields: str) -> httpx.Response:
    audio = await asyncio.to_thread(file.read_bytes)
    return await running.client.post(
        "/v1/audio/translations", data=fields, files={"file": (file.name, audio)}, timeout=60
    )


def json_of(response: httpx.Response) -> dict[str, Any]:
    assert response.status_code == 200, response.text
    body: dict[str, Any] = response.json()
    return body


def windows_ready(running: Running) -> int:
    """Return how many windows wait for the model."""
    engines = [model.engine for model in running.service.pool._models.values() if model.engine is not None]
    return sum(
        len(transcription.ready) for engine in engines for transcription in engine._batcher.scheduler.transcriptions
    )


async def together(
    running: Running, recorder: RecordingModel, first: Path, *requests: Coroutine[Any, Any, httpx.Response]
) -> list[dict[str, Any]]:
    """Return the response bodies of requests of one window each that arrive while the model is busy with ``first``."""
    async with asyncio.TaskGroup() as group:
        with recorder.held() as called:
            group.create_task(running.transcribe(first, language="en"))
            assert await asyncio.to_thread(called.wait, 60)
            tasks = [group.create_task(request) for request in requests]
            await eventually(lambda: windows_ready(running) == len(tasks))
    return [json_of(task.result()) for task in tasks]


@pytest.mark.smoke
async def test_language_of_the_request_is_in_the_prompt(
    tmp_path: Path, model: WhisperModel, samples: Path, vocabulary: Vocabulary
) -> None:
    async with serving_recorded(tmp_path, model, languages=repeat("fr")) as (running, recorder):
        body = json_of(await running.transcribe(samples / "hello.wav", language="de", response_format="verbose_json"))
    assert recorder.prompts == [vocabulary.start("de")]
    assert recorder.detections == []
    assert (body["task"], body["language"], body["text"]) == ("transcribe", "german", HELLO)


async def test_detected_language_is_in_the_prompt_and_the_response(
    tmp_path: Path, model: WhisperModel, samples: Path, vocabulary: Vocabulary
) -> None:
    """Only the first language is scripted; the demo model itself always detects English."""
    async with serving_recorded(tmp_path, model, languages=["de"]) as (running, recorder):
        german = json_of(await running.transcribe(samples / "hello.wav", response_format="verbose_json"))
        english = json_of(await running.transcribe(samples / "hello.wav", response_format="verbose_json"))
    assert recorder.detections == [["<|de|>"], ["<|en|>"]]
    assert recorder.prompts == [vocabulary.start("de"), vocabulary.start("en")]
    assert (german["language"], english["language"]) == ("german", "english")
    assert german["text"] == english["text"] == HELLO


async def test_translation_prompts_with_the_spoken_language_and_reports_english(
    tmp_path: Path, model: WhisperModel, samples: Path, vocabulary: Vocabulary
) -> None:
    fields = {"response_format": "verbose_json", "include[]": "logprobs"}
    async with serving_recorded(tmp_path, model, languages=["de"]) as (running, recorder):
        body = json_of(await post_translation(running, samples / "hello.wav", **fields))
    assert recorder.prompts == [vocabulary.start("de", "translate")]
    assert [alignment.start for alignment in recorder.alignments] == recorder.prompts
    assert (body["task"], body["language"]) == ("translate", "english")


@pytest.mark.smoke
async def test_keywords_and_prompt_precede_the_transcript(
    tmp_path: Path, model: WhisperModel, samples: Path, vocabulary: Vocabulary
) -> None:
    prompted: dict[str, Any] = {"prompt": "  the report is ready "}
    hotwords: dict[str, Any] = {"keywords[]": ["victor", "job"]}
    async with serving_recorded(tmp_path, model, languages=["de"]) as (running, recorder):
        for fields in (prompted, hotwords, prompted | hotwords):
            json_of(await running.transcribe(samples / "hello.wav", language="fr", **fields))
        json_of(await post_translation(running, samples / "hello.wav", **prompted, **hotwords))
    previous = vocabulary.token("startofprev")
    prompt, keywords = vocabulary.text(" the report is ready"), vocabulary.text(" victor, job")
    assert recorder.prompts == [
        [previous, *prompt, *vocabulary.start("fr")],
        [previous, *keywords, *vocabulary.start("fr")],
        [previous, *keywords, *prompt, *vocabulary.start("fr")],
        [previous, *keywords, *prompt, *vocabulary.start("de", "translate")],
    ]


@pytest.mark.smoke
def test_long_prompt_keeps_its_end_and_long_hotwords_their_start(model: WhisperModel, vocabulary: Vocabulary) -> None:
    long = "alpha " + "one " * 300 + "zulu"
    start, one = vocabulary.token("startofprev"), vocabulary.text(" one")
    prompt = model.prompt(TranscriptionOptions(prompt=long))
    assert list(prompt) == [start, *one * (MAX_PROMPT_TOKENS - 1), *vocabulary.text(" zulu")]
    hotwords = model.prompt(TranscriptionOptions(hotwords=long))
    assert list(hotwords) == [start, *vocabulary.text(" alpha"), *one * (MAX_PROMPT_TOKENS - 1)]


@pytest.mark.parametrize(
    ("hotwords", "prompt", "previous"),
    [
        pytest.param(0, 0, 0, id="none"),
        pytest.param(5, 0, 0, id="few-hotwords"),
        pytest.param(0, 5, 5, id="short-prompt"),
        pytest.param(500, 1, 0, id="hotwords-leave-space-for-a-token"),
        pytest.param(1, 500, 0, id="a-hotword-stays"),
        pytest.param(500, 500, 0, id="halves"),
        pytest.param(500, 1, 500, id="previous-text-counts"),
        pytest.param(MAX_PROMPT_TOKENS, 0, 0, id="hotwords-fit-exactly"),
        pytest.param(0, MAX_PROMPT_TOKENS, 0, id="prompt-fits-exactly"),
    ],
)
@pytest.mark.smoke
def test_hotwords_and_prompt_share_half_of_the_context(
    model: WhisperModel, vocabulary: Vocabulary, hotwords: int, prompt: int, previous: int
) -> None:
    options = TranscriptionOptions(hotwords="one " * hotwords or None, prompt="two " * prompt or None)
    tokens = model.prompt(options, vocabulary.text(" three") * previous)
    context = prompt + previous
    kept_hotwords = Counter(tokens)[vocabulary.text(" one")[0]]
    assert len(tokens) == min(hotwords + context, MAX_PROMPT_TOKENS) + bool(tokens)
    assert kept_hotwords >= min(hotwords, MAX_PROMPT_TOKENS // 2)
    assert len(tokens) - bool(tokens) - kept_hotwords >= min(context, MAX_PROMPT_TOKENS // 2)


async def test_long_prompt_and_hotwords_leave_space_for_the_text(
    tmp_path: Path, model: WhisperModel, samples: Path, vocabulary: Vocabulary
) -> None:
    fields = {"prompt": "one " * 300 + "zulu", "keywords": "alpha " + "two " * 300}
    async with serving_recorded(tmp_path, model) as (running, recorder):
        body = json_of(await running.transcribe(samples / "hello.wav", language="en", **fields))
    prompt = recorder.prompts[0]
    assert len(prompt) == 1 + MAX_PROMPT_TOKENS + 3
    assert prompt[1:2] == vocabulary.text(" alpha")
    assert prompt[-4:] == [*vocabulary.text(" zulu"), *vocabulary.start("en")]
    assert body["text"]


async def test_control_tokens_in_a_prompt_are_left_out(
    tmp_path: Path, model: WhisperModel, samples: Path, vocabulary: Vocabulary
) -> None:
    fields = {
        "prompt": "good<|endoftext|> morning<|startoftranscript|><|fr|><|translate|><|notimestamps|><|0.00|>",
        "keywords": "<|startofprev|>victor<|nospeech|>",
    }
    async with serving_recorded(tmp_path, model) as (running, recorder):
        body = json_of(await running.transcribe(samples / "hello.wav", language="en", **fields))
    (prompt,) = recorder.prompts
    before, start = prompt[:-3], prompt[-3:]
    assert start == vocabulary.start("en")
    assert [token for token in before if token >= vocabulary.token("endoftext")] == vocabulary.tokens("startofprev")
    assert before[-2:] == vocabulary.text(" good morning")
    assert body["text"] == HELLO


@pytest.mark.parametrize(
    ("fields", "options"),
    [
        pytest.param({}, {"beam_size": 5}, id="default-beam"),
        pytest.param({"beam_size": "2"}, {"beam_size": 2}, id="beam-of-the-request"),
        pytest.param(
            {"temperature": "0.4", "beam_size": "2"},
            {"beam_size": 1, "sampling_temperature": 0.4, "sampling_topk": 0, "num_hypotheses": 5},
            id="sampled",
        ),
    ],
)
async def test_temperature_and_beam_size_reach_the_model(
    tmp_path: Path, model: WhisperModel, samples: Path, fields: dict[str, str], options: dict[str, Any]
) -> None:
    async with serving_recorded(tmp_path, model) as (running, recorder):
        body = json_of(await running.transcribe(samples / "hello.wav", response_format="verbose_json", **fields))
    names = ("beam_size", "sampling_temperature", "sampling_topk", "num_hypotheses")
    (call,) = recorder.generations
    assert {name: call.options[name] for name in names if name in call.options} == options
    assert {segment["temperature"] for segment in body["segments"]} == {float(fields.get("temperature", 0))}


async def test_languages_of_two_requests_share_a_batch(
    tmp_path: Path, model: WhisperModel, samples: Path, vocabulary: Vocabulary
) -> None:
    async with serving_recorded(tmp_path, model) as (running, recorder):
        german, french = await together(
            running,
            recorder,
            samples / "hello.wav",
            running.transcribe(samples / "numbers.mp3", language="de", response_format="verbose_json"),
            running.transcribe(samples / "numbers.mp3", language="fr", response_format="verbose_json"),
        )
    assert [len(call.prompts) for call in recorder.generations] == [1, 2]
    assert sorted(recorder.generations[1].prompts) == sorted([vocabulary.start("de"), vocabulary.start("fr")])
    assert (german["language"], french["language"]) == ("german", "french")
    assert german["text"] == french["text"] == NUMBERS


async def test_thresholds_of_two_requests_share_a_batch(tmp_path: Path, model: WhisperModel, samples: Path) -> None:
    """A text that repeats itself for one of them is decoded again for this one alone."""
    fields = {"response_format": "verbose_json", "language": "en"}
    async with serving_recorded(tmp_path, model) as (running, recorder):
        strict, lenient = await together(
            running,
            recorder,
            samples / "hello.wav",
            running.transcribe(samples / "numbers.mp3", **fields, compression_ratio_threshold="0.1"),
            running.transcribe(samples / "numbers.mp3", **fields, compression_ratio_threshold="100"),
        )
    assert [len(call.prompts) for call in recorder.generations[:2]] == [1, 2]
    assert {len(call.prompts) for call in recorder.generations[2:]} == {1}
    assert all(segment["uncertain"] for segment in strict["segments"])
    assert [segment["temperature"] for segment in lenient["segments"]] == [0.0] * len(lenient["segments"])


@pytest.mark.parametrize("kind", ["cpu", "cuda"])
async def test_detected_and_requested_languages_share_a_batch(
    tmp_path: Path, model: WhisperModel, samples: Path, vocabulary: Vocabulary, kind: Literal["cpu", "cuda"]
) -> None:
    """On a GPU, windows are encoded and their languages detected in the same batch."""
    fields = {"response_format": "verbose_json", "include[]": "logprobs"}
    device = Device(kind, "int8")
    async with serving_recorded(tmp_path, model, languages=["de", "fr"], device=device) as (running, recorder):
        bodies = await together(
            running,
            recorder,
            samples / "hello.wav",
            running.transcribe(samples / "numbers.mp3", **fields),
            running.transcribe(samples / "hello.wav", **fields),
            running.transcribe(samples / "report.m4a", **fields, language="es"),
        )
    batch = next(call for call in recorder.generations if len(call.prompts) > 1)
    assert [len(call.prompts) for call in recorder.generations] == [1, 3]
    assert recorder.detections == ([["<|de|>"], ["<|fr|>"]] if kind == "cpu" else [["<|de|>", "<|fr|>"]])
    assert {body["language"] for body in bodies} == {"german", "french", "spanish"}
    assert bodies[2]["language"] == "spanish"
    for body in bodies:
        row = row_of(batch, body["segments"])
        start = vocabulary.start(CODES[body["language"]])
        assert batch.prompts[row] == start
        (alignment,) = [call for call in recorder.alignments if call.start == start]
        assert alignment.texts == [[token for token in batch.texts[row] if token < vocabulary.token("endoftext")]]


async def test_each_channel_has_its_own_detected_language(
    tmp_path: Path, model: WhisperModel, samples: Path, vocabulary: Vocabulary
) -> None:
    async with serving_recorded(tmp_path, model, languages=["de", "fr"]) as (running, recorder):
        body = json_of(
            await running.transcribe(
                samples / "two_speakers_stereo.flac", multichannel="true", response_format="verbose_json"
            )
        )
    assert recorder.detections == [["<|de|>"], ["<|fr|>"]]
    languages = {}
    for channel in (0, 1):
        tokens = [token for segment in body["segments"] if segment["channel"] == channel for token in segment["tokens"]]
        (languages[channel],) = [
            call.prompts[call.texts.index(tokens)] for call in recorder.generations if tokens in call.texts
        ]
    assert sorted(languages.values()) == sorted([vocabulary.start("de"), vocabulary.start("fr")])
    assert vocabulary.start(CODES[body["language"]]) == languages[0]
    assert sorted(language["code"] for language in body["languages"]) == ["de", "fr"]
    assert {(segment["channel"], segment["language"]) for segment in body["segments"]} == {
        (channel, next(code for code in ("de", "fr") if vocabulary.start(code) == start))
        for channel, start in languages.items()
    }


async def test_language_is_detected_once_in_a_recording(
    tmp_path: Path, model: WhisperModel, samples: Path, vocabulary: Vocabulary
) -> None:
    async with serving_recorded(tmp_path, model, languages=["it", "de"]) as (running, recorder):
        body = json_of(await running.transcribe(samples / "long.opus", response_format="verbose_json"))
    assert recorder.detections == [["<|it|>"]]
    assert len(recorder.prompts) >= 2
    assert {tuple(prompt) for prompt in recorder.prompts} == {tuple(vocabulary.start("it"))}
    assert body["language"] == "italian"


def row_of(call: Generation, segments: list[dict[str, Any]]) -> int:
    """Return the row of the batch that generated these segments, all of one window."""
    return call.texts.index([token for segment in segments for token in segment["tokens"]])
