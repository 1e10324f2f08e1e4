"""Live models in place of real ones: loud audio is speech, and texts are scripted."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from app.domain.transcript import Segment, Task, Transcript
from app.realtime.audio import RATE
from app.realtime.detection import FRAME_SAMPLES
from app.transcription.live import GuessedWord
from app.transcription.models import ModelRegistry

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from app.domain.transcript import TranscriptionOptions
    from app.realtime.audio import Samples
    from app.transcription.live_context import LiveContext


def speech(seconds: float) -> Samples:
    """Return loud samples at 16 kHz."""
    return np.full(round(seconds * RATE), 10_000, np.int16)


def silence(seconds: float) -> Samples:
    return np.zeros(round(seconds * RATE), np.int16)


def words(text: str) -> tuple[GuessedWord, ...]:
    """Return a guess of these words, whose tokens are their numbers, from 0."""
    parts = [f" {part}" for part in text.split()]
    return tuple(GuessedWord(part, tuple(range(number + 1))) for number, part in enumerate(parts))


def transcript(text: str, *, seconds: float = 1.0, **fields: Any) -> Transcript:
    segment = Segment(
        id=0,
        seek=0,
        start=0.0,
        end=seconds,
        text=f" {text}",
        tokens=(),
        temperature=0.0,
        avg_logprob=-0.1,
        compression_ratio=1.0,
        no_speech_prob=0.0,
    )
    return Transcript(
        task=Task.TRANSCRIBE,
        language="english",
        duration=seconds,
        segments=(segment,) if text else (),
        **fields,
    )


class LoudFrames:
    """Voice activity detection that takes loud frames for speech."""

    def __init__(self) -> None:
        self._rest = np.zeros(0, np.int16)

    async def feed(self, samples: Samples) -> list[float]:
        await asyncio.sleep(0)
        samples = np.concatenate([self._rest, samples])
        complete = len(samples) - len(samples) % FRAME_SAMPLES
        self._rest = samples[complete:]
        frames = samples[:complete].reshape(-1, FRAME_SAMPLES).astype(np.float64)
        return [1.0 if np.abs(frame).mean() > 1_000 else 0.0 for frame in frames]


class ScriptedModel:
    """Returns scripted guesses and transcripts, one after the other, and the last ones for ever.

    A text can be an exception, which is raised. ``guesses_may_end`` holds guesses back while it is not set, and
    ``may_end`` transcripts.
    """

    def __init__(self, guesses: Sequence[str] = (), texts: Sequence[str | Exception] = ("",)) -> None:
        self.registry = ModelRegistry("demo")
        self.guessed: list[tuple[int, tuple[int, ...]]] = []
        self.transcribed: list[Samples] = []
        self.contexts: list[LiveContext] = []
        self.options: list[TranscriptionOptions] = []
        self.guesses_may_end, self.may_end = asyncio.Event(), asyncio.Event()
        self.guesses_may_end.set()
        self.may_end.set()
        self.on_guess: Callable[[], None] = lambda: None
        self._guesses = list(guesses)
        self._texts = list(texts)

    @property
    def model_registry(self) -> ModelRegistry:
        return self.registry

    @asynccontextmanager
    async def live(self, options: TranscriptionOptions) -> AsyncIterator[ScriptedModel]:
        self.options.append(options)
        yield self

    def live_detector(self) -> LoudFrames:
        return LoudFrames()

    async def guess(
        self, samples: Samples, options: TranscriptionOptions, *, beginning: Sequence[int] = ()
    ) -> tuple[GuessedWord, ...]:
        assert options in self.options
        self.guessed.append((len(samples), tuple(beginning)))
        self.on_guess()
        await self.guesses_may_end.wait()
        return words(_next(self._guesses)) if self._guesses else ()

    async def transcribe(self, samples: Samples, options: TranscriptionOptions, *, context: LiveContext) -> Transcript:
        assert options in self.options
        self.transcribed.append(samples)
        self.contexts.append(context)
        await self.may_end.wait()
        text = _next(self._texts)
        if isinstance(text, Exception):
            raise text
        return transcript(text, seconds=len(samples) / RATE)


def _next(script: list[Any]) -> Any:
    return script.pop(0) if len(script) > 1 else script[0]
