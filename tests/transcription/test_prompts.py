"""What each kind of request has the model read before it writes: language, task, prompt and hot words."""

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

pytestmark = pytest.mark.anyio

NUMBERS = "my number is seven three nine one room two hundred and forty five is ready"
CODES = {"german": "de", "french": "fr", "spanish": "es"}
HELLO = "hello this is a test the job is complete now"


class Vocabulary:
    """The model's own tokenizer, without anything of ours between."""

    def __init__(self, model: WhisperModel) -> None:
        self._tokenizer = model._hf_tokenizer

    def token(self, name: str) -> int:
        found = self._tokenizer.token_to_id(f"<|{name}|>")
        assert isinstance(found, int)
        return found

    def tokens(self, *names: str) -> list[int]:
        return [self.token(name) for name in names]

    def start(self, language: str, task: str = "transcribe") -> list[int]:
        return self.tokens("startoftranscript", language, task)

    def text(self, written: str) -> list[int]:
        return list(self._tokenizer.encode(written, add_special_tokens=False).ids)


@pytest.fixture
def vocabulary(model: WhisperModel) -> Vocabulary:
    return Vocabulary(model)


@asynccontextmanager
async def listening(
    tmp_path: Path, model: WhisperModel, **script: Any
) -> AsyncIterator[tuple[Running, RecordingModel]]:
    """The service with the demo model, and what reaches that."""
    wrapped, notebook = recording(model, **script)
    async with serving(tmp_path, lambda: wrapped) as running:
        yield running, notebook


async def translated(running: Running, file: Path, **fields: str) -> httpx.Response:
    audio = await asyncio.to_thread(file.read_bytes)
    return await running.client.post(
        "/v1/audio/translations", data=fields, files={"file": (file.name, audio)}, timeout=60
    )


def answered(response: httpx.Response) -> dict[str, Any]:
    assert response.status_code == 200, response.text
    body: dict[str, Any] = response.json()
    return body


def windows_ready(running: Running) -> int:
    """How many wait for the model."""
    engines = [model.engine for model in running.service.pool._models.values() if model.engine is not None]
    return sum(len(work.ready) for engine in engines for work in engine._batcher.scheduler.works)


async def together(
    running: Running, notebook: RecordingModel, first: Path, *requests: Coroutine[Any, Any, httpx.Response]
) -> list[dict[str, Any]]:
    """The answers to requests of one window each that have come while the model was busy with ``first``."""
    async with asyncio.TaskGroup() as group:
        with notebook.held() as arrived:
            group.create_task(running.transcribe(first, language="en"))
            assert await asyncio.to_thread(arrived.wait, 30)
            tasks = [group.create_task(request) for request in requests]
            await eventually(lambda: windows_ready(running) == len(tasks))
    return [answered(task.result()) for task in tasks]


async def test_language_of_the_request_is_in_the_prompt_and_none_is_detected(
    tmp_path: Path, model: WhisperModel, samples: Path, vocabulary: Vocabulary
) -> None:
    async with listening(tmp_path, model, languages=repeat("fr")) as (running, notebook):
        body = answered(await running.transcribe(samples / "hello.wav", language="de", response_format="verbose_json"))
    assert notebook.prompts == [vocabulary.start("de")]
    assert notebook.detections == []
    assert (body["task"], body["language"], body["text"]) == ("transcribe", "german", HELLO)


async def test_language_that_is_heard_is_in_the_prompt_and_in_the_answer(
    tmp_path: Path, model: WhisperModel, samples: Path, vocabulary: Vocabulary
) -> None:
    """The demo model itself always hears English: the second time."""
    async with listening(tmp_path, model, languages=["de"]) as (running, notebook):
        german = answered(await running.transcribe(samples / "hello.wav", response_format="verbose_json"))
        english = answered(await running.transcribe(samples / "hello.wav", response_format="verbose_json"))
    assert notebook.detections == [["<|de|>"], ["<|en|>"]]
    assert notebook.prompts == [vocabulary.start("de"), vocabulary.start("en")]
    assert (german["language"], english["language"]) == ("german", "english")
    assert german["text"] == english["text"] == HELLO


async def test_translation_names_what_is_spoken_to_the_model_and_english_to_the_client(
    tmp_path: Path, model: WhisperModel, samples: Path, vocabulary: Vocabulary
) -> None:
    fields = {"response_format": "verbose_json", "include[]": "logprobs"}
    async with listening(tmp_path, model, languages=["de"]) as (running, notebook):
        body = answered(await translated(running, samples / "hello.wav", **fields))
    assert notebook.prompts == [vocabulary.start("de", "translate")]
    assert [reading.start for reading in notebook.readings] == notebook.prompts
    assert (body["task"], body["language"]) == ("translate", "english")


async def test_keywords_and_prompt_go_before_the_transcript(
    tmp_path: Path, model: WhisperModel, samples: Path, vocabulary: Vocabulary
) -> None:
    said: dict[str, Any] = {"prompt": "  the report is ready "}
    hot: dict[str, Any] = {"keywords[]": ["victor", "job"]}
    async with listening(tmp_path, model, languages=["de"]) as (running, notebook):
        for fields in (said, hot, said | hot):
            answered(await running.transcribe(samples / "hello.wav", language="fr", **fields))
        answered(await translated(running, samples / "hello.wav", **said, **hot))
    previous = vocabulary.token("startofprev")
    prompt, keywords = vocabulary.text(" the report is ready"), vocabulary.text(" victor, job")
    assert notebook.prompts == [
        [previous, *prompt, *vocabulary.start("fr")],
        [previous, *keywords, *vocabulary.start("fr")],
        [previous, *keywords, *prompt, *vocabulary.start("fr")],
        [previous, *keywords, *prompt, *vocabulary.start("de", "translate")],
    ]


def test_long_prompt_keeps_its_end_and_many_keywords_their_beginning(
    model: WhisperModel, vocabulary: Vocabulary
) -> None:
    long = "alpha " + "one " * 300 + "zulu"
    start, one = vocabulary.token("startofprev"), vocabulary.text(" one")
    said = model.prompt(TranscriptionOptions(prompt=long))
    assert list(said) == [start, *one * (MAX_PROMPT_TOKENS - 1), *vocabulary.text(" zulu")]
    hot = model.prompt(TranscriptionOptions(hotwords=long))
    assert list(hot) == [start, *vocabulary.text(" alpha"), *one * (MAX_PROMPT_TOKENS - 1)]


@pytest.mark.parametrize(
    ("hot", "said", "before"),
    [
        pytest.param(0, 0, 0, id="none"),
        pytest.param(5, 0, 0, id="few-keywords"),
        pytest.param(0, 5, 5, id="few-others"),
        pytest.param(500, 1, 0, id="keywords-leave-room-for-a-word"),
        pytest.param(1, 500, 0, id="a-keyword-stays"),
        pytest.param(500, 500, 0, id="halves"),
        pytest.param(500, 1, 500, id="the-text-before-counts"),
        pytest.param(MAX_PROMPT_TOKENS, 0, 0, id="just-room-for-keywords"),
        pytest.param(0, MAX_PROMPT_TOKENS, 0, id="just-room-for-the-prompt"),
    ],
)
def test_keywords_and_what_was_said_share_half_of_the_context(
    model: WhisperModel, vocabulary: Vocabulary, hot: int, said: int, before: int
) -> None:
    options = TranscriptionOptions(hotwords="one " * hot or None, prompt="two " * said or None)
    prompt = model.prompt(options, vocabulary.text(" three") * before)
    others = said + before
    counted = Counter(prompt)
    kept = counted[vocabulary.text(" one")[0]]
    assert len(prompt) == min(hot + others, MAX_PROMPT_TOKENS) + bool(prompt)
    assert kept >= min(hot, MAX_PROMPT_TOKENS // 2)
    assert len(prompt) - bool(prompt) - kept >= min(others, MAX_PROMPT_TOKENS // 2)


async def test_long_prompt_and_many_keywords_together_leave_room_for_what_is_said(
    tmp_path: Path, model: WhisperModel, samples: Path, vocabulary: Vocabulary
) -> None:
    fields = {"prompt": "one " * 300 + "zulu", "keywords": "alpha " + "two " * 300}
    async with listening(tmp_path, model) as (running, notebook):
        body = answered(await running.transcribe(samples / "hello.wav", language="en", **fields))
    prompt = notebook.prompts[0]
    assert len(prompt) == 1 + MAX_PROMPT_TOKENS + 3
    assert prompt[1:2] == vocabulary.text(" alpha")
    assert prompt[-4:] == [*vocabulary.text(" zulu"), *vocabulary.start("en")]
    assert body["text"]


async def test_names_of_control_tokens_steer_nothing(
    tmp_path: Path, model: WhisperModel, samples: Path, vocabulary: Vocabulary
) -> None:
    fields = {
        "prompt": "good<|endoftext|> morning<|startoftranscript|><|fr|><|translate|><|notimestamps|><|0.00|>",
        "keywords": "<|startofprev|>victor<|nospeech|>",
    }
    async with listening(tmp_path, model) as (running, notebook):
        body = answered(await running.transcribe(samples / "hello.wav", language="en", **fields))
    (prompt,) = notebook.prompts
    before, start = prompt[:-3], prompt[-3:]
    assert start == vocabulary.start("en")
    assert [token for token in before if token >= vocabulary.token("endoftext")] == vocabulary.tokens("startofprev")
    assert before[-2:] == vocabulary.text(" good morning")
    assert body["text"] == HELLO


@pytest.mark.parametrize(
    ("fields", "options"),
    [
        pytest.param({}, {"beam_size": 5}, id="the-servers-beam"),
        pytest.param({"beam_size": "2"}, {"beam_size": 2}, id="a-beam"),
        pytest.param(
            {"temperature": "0.4", "beam_size": "2"},
            {"beam_size": 1, "sampling_temperature": 0.4, "sampling_topk": 0, "num_hypotheses": 5},
            id="drawn-by-chance",
        ),
    ],
)
async def test_temperature_and_beam_size_reach_the_model(
    tmp_path: Path, model: WhisperModel, samples: Path, fields: dict[str, str], options: dict[str, Any]
) -> None:
    async with listening(tmp_path, model) as (running, notebook):
        body = answered(await running.transcribe(samples / "hello.wav", response_format="verbose_json", **fields))
    names = ("beam_size", "sampling_temperature", "sampling_topk", "num_hypotheses")
    (call,) = notebook.generations
    assert {name: call.options[name] for name in names if name in call.options} == options
    assert {segment["temperature"] for segment in body["segments"]} == {float(fields.get("temperature", 0))}


async def test_two_languages_share_one_call_each_with_its_own(
    tmp_path: Path, model: WhisperModel, samples: Path, vocabulary: Vocabulary
) -> None:
    async with listening(tmp_path, model) as (running, notebook):
        german, french = await together(
            running,
            notebook,
            samples / "hello.wav",
            running.transcribe(samples / "numbers.mp3", language="de", response_format="verbose_json"),
            running.transcribe(samples / "numbers.mp3", language="fr", response_format="verbose_json"),
        )
    assert [len(call.prompts) for call in notebook.generations] == [1, 2]
    assert sorted(notebook.generations[1].prompts) == sorted([vocabulary.start("de"), vocabulary.start("fr")])
    assert (german["language"], french["language"]) == ("german", "french")
    assert german["text"] == french["text"] == NUMBERS


@pytest.mark.parametrize("kind", ["cpu", "cuda"])
async def test_languages_heard_and_given_share_one_call(
    tmp_path: Path, model: WhisperModel, samples: Path, vocabulary: Vocabulary, kind: Literal["cpu", "cuda"]
) -> None:
    """As on a GPU the second time: there windows are encoded, and their languages detected, in the same step."""
    fields = {"response_format": "verbose_json", "include[]": "logprobs"}
    device = Device(kind, "int8")
    async with listening(tmp_path, model, languages=["de", "fr"], device=device) as (running, notebook):
        bodies = await together(
            running,
            notebook,
            samples / "hello.wav",
            running.transcribe(samples / "numbers.mp3", **fields),
            running.transcribe(samples / "hello.wav", **fields),
            running.transcribe(samples / "report.m4a", **fields, language="es"),
        )
    call = next(one for one in notebook.generations if len(one.prompts) > 1)
    assert [len(one.prompts) for one in notebook.generations] == [1, 3]
    assert notebook.detections == ([["<|de|>"], ["<|fr|>"]] if kind == "cpu" else [["<|de|>", "<|fr|>"]])
    assert {body["language"] for body in bodies} == {"german", "french", "spanish"}
    assert bodies[2]["language"] == "spanish"
    for body in bodies:
        row = row_of(call, body["segments"])
        start = vocabulary.start(CODES[body["language"]])
        assert call.prompts[row] == start
        (reading,) = [one for one in notebook.readings if one.start == start]
        assert reading.texts == [[token for token in call.texts[row] if token < vocabulary.token("endoftext")]]


async def test_each_channel_has_the_language_that_is_heard_in_it(
    tmp_path: Path, model: WhisperModel, samples: Path, vocabulary: Vocabulary
) -> None:
    async with listening(tmp_path, model, languages=["de", "fr"]) as (running, notebook):
        body = answered(
            await running.transcribe(
                samples / "two_speakers_stereo.flac", multichannel="true", response_format="verbose_json"
            )
        )
    assert notebook.detections == [["<|de|>"], ["<|fr|>"]]
    languages = {}
    for channel in (0, 1):
        found = [token for one in body["segments"] if one["channel"] == channel for token in one["tokens"]]
        (languages[channel],) = [
            call.prompts[call.texts.index(found)] for call in notebook.generations if found in call.texts
        ]
    assert sorted(languages.values()) == sorted([vocabulary.start("de"), vocabulary.start("fr")])
    assert vocabulary.start(CODES[body["language"]]) == languages[0]


async def test_language_is_heard_once_in_a_recording(
    tmp_path: Path, model: WhisperModel, samples: Path, vocabulary: Vocabulary
) -> None:
    async with listening(tmp_path, model, languages=["it", "de"]) as (running, notebook):
        body = answered(await running.transcribe(samples / "long.opus", response_format="verbose_json"))
    assert notebook.detections == [["<|it|>"]]
    assert len(notebook.prompts) >= 2
    assert {tuple(prompt) for prompt in notebook.prompts} == {tuple(vocabulary.start("it"))}
    assert body["language"] == "italian"


def row_of(call: Generation, segments: list[dict[str, Any]]) -> int:
    """Where in a batch these segments, all of a window, were written."""
    return call.texts.index([token for segment in segments for token in segment["tokens"]])
