"""Live audio on the model: guesses at what is being said, and the text of what was said.

Both go through the batches of all transcriptions, ahead of files. A guess is decoded greedily, without fallbacks, and
continues the text that earlier guesses agree on, so that it never contradicts it. The text of what was said is
transcribed like a short file, in one window with what was said before (see :mod:`app.transcription.live_context`).
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from app.domain.concurrency import first_error_only
from app.transcription.file_transcription import FileTranscription
from app.transcription.live_context import NO_CONTEXT, LiveContext
from app.transcription.recording import Recording
from app.transcription.transcriber import Listener
from app.transcription.transcription import Rank, Transcription
from app.transcription.vad import WINDOW_SAMPLES, Span, SpeechDetector, as_float
from app.transcription.window import Window
from app.transcription.word_times import split_words

if TYPE_CHECKING:
    from collections.abc import Sequence
    from concurrent.futures import Executor

    from app.domain.transcript import Transcript, TranscriptionOptions
    from app.transcription.accepted_decoding import AcceptedDecoding
    from app.transcription.admission import FrontEnd
    from app.transcription.batcher import Batcher
    from app.transcription.recording import Samples
    from app.transcription.vad import WindowSpan
    from app.transcription.whisper import WhisperModel


@dataclass(frozen=True, slots=True)
class GuessedWord:
    """A word or punctuation mark as it is written, with its leading space.

    ``tokens`` are all of the guess up to its end, timestamps included: the beginning of a guess that continues it.
    """

    text: str
    tokens: tuple[int, ...]


class LiveDetector:
    """Voice activity detection on live audio, in the threads of the front end."""

    def __init__(self, front_end: FrontEnd) -> None:
        self._front_end = front_end
        self._detector: SpeechDetector | None = None

    async def feed(self, samples: Samples) -> list[float]:
        """Return the probabilities that the frames (32 ms) that are complete with these samples hold speech."""
        if self._detector is None:
            self._detector = await self._front_end.run(SpeechDetector)
        return await self._front_end.run_soon(self._detector.feed, samples)


class LiveTranscriber:
    """Transcribes the live audio of one model's clients. Samples are 16 kHz s16, shape ``(samples,)``."""

    def __init__(self, batcher: Batcher, front_end: FrontEnd, model: WhisperModel, *, text_thread: Executor) -> None:
        self._batcher = batcher
        self._front_end = front_end
        self._model = model
        self._text_thread = text_thread

    async def guess(
        self, samples: Samples, options: TranscriptionOptions, *, beginning: Sequence[int] = ()
    ) -> tuple[GuessedWord, ...]:
        """Return the words of at most 30 s that may end within one, none if no text can be trusted.

        ``beginning`` are the tokens of the last word that is certain.

        Raises:
            TranscriptionFailed: The model raised an error, and again when the window was retried alone.
            EngineFailed: The engine has died.
        """
        window = await self._run(
            samples,
            Rank.LIVE_GUESS,
            task=options.task,
            prompt=self._model.prompt(options),
            beginning=tuple(beginning),
            language=options.known_language,
            candidates=options.languages,
        )
        return await asyncio.get_running_loop().run_in_executor(self._text_thread, _words, window.accepted[0])

    async def _run(self, samples: Samples, rank: Rank, **fields: Any) -> Window:
        """Return a window of these samples once it is decoded greedily, or only heard."""
        features = await self._front_end.run_soon(lambda: self._model.features(as_float(samples)))
        window = Window(
            channel=0,
            number=0,
            spans=(Span(0, len(samples)),),
            features=features,
            beam_size=1,
            temperatures=(0.0,),
            guess=True,
            **fields,
        )
        transcription = _OneWindow(rank)
        self._batcher.open(transcription)
        try:
            self._batcher.submit(transcription, window)
            self._batcher.complete(transcription)
            await transcription.wait_until_ended()
        finally:
            self._batcher.drop(transcription)
        return window

    async def transcribe(
        self, samples: Samples, options: TranscriptionOptions, *, context: LiveContext = NO_CONTEXT
    ) -> Transcript:
        """Return the transcript of what was said after ``context``.

        If the text is uncertain as a continuation of the context, the samples are transcribed alone.

        Raises:
            TranscriptionFailed: The model raised an error, and again when the window was retried alone.
            EngineFailed: The engine has died.
        """
        if context.options == options and await self._may_continue(samples, context):
            transcript = await self._transcribe(samples, options, context)
            if context.is_continued_by(transcript):
                return transcript
        return await self._transcribe(samples, options, NO_CONTEXT)

    async def _may_continue(self, samples: Samples, context: LiveContext) -> bool:
        """Return False if the samples are certainly in another language than the context."""
        options = context.options
        assert options is not None  # noqa: S101  # checked by the caller
        if options.known_language is not None or not self._model.is_multilingual:
            return True
        window = await self._run(
            samples, Rank.LIVE, task=options.task, candidates=options.languages, only_language=True
        )
        return len(window.guesses) > 1 or window.language == context.language

    async def _transcribe(self, samples: Samples, options: TranscriptionOptions, context: LiveContext) -> Transcript:
        transcription = _LiveTranscription(
            self._batcher,
            self._front_end,
            self._model,
            _LiveRecording(samples, context),
            options,
            Listener(),
            text_thread=self._text_thread,
            synchronous=True,
        )
        with first_error_only():
            async with asyncio.TaskGroup() as group:
                return await transcription.run(group)


class _OneWindow(Transcription):
    """The transcription of one window."""

    def __init__(self, rank: Rank) -> None:
        super().__init__(synchronous=True)
        self._rank = rank

    @property
    def rank(self) -> Rank:
        return self._rank


class _LiveTranscription(FileTranscription):
    """The transcription of what was said. Only a short one goes first, as with files.

    Its first window also holds the context of the recording, whose text is the beginning of its own.
    """

    _recording: _LiveRecording

    @property
    def rank(self) -> Rank:
        rank = super().rank
        return Rank.LIVE if rank.is_short else rank

    async def _submit(self, channel: int, number: int, window_span: WindowSpan, **others: Any) -> None:
        if number == 0:
            context = self._recording.keep_context(WINDOW_SAMPLES - window_span.samples)
            window_span = context.span.joined(window_span) if context.phrases else window_span
        await super()._submit(channel, number, window_span, **others)

    def _prepared(self, window: Window) -> Window:
        """Let the text of the first window continue the context, without fallbacks, which are for it alone."""
        context = self._recording.context
        if window.number > 0 or not context.phrases:
            return window
        return replace(
            window,
            beginning=self._model.beginning(context.phrases_from_start, end=context.seconds),
            new_seconds=context.seconds,
            temperatures=window.temperatures[:1],
            language=window.language or context.language,
        )


class _LiveRecording(Recording):
    """A recording in memory. Its context has the positions before 0."""

    def __init__(self, samples: Samples, context: LiveContext) -> None:
        super().__init__(Path())
        self._samples = samples
        self.context = context
        self.complete(len(samples), 1)

    def keep_context(self, count: int) -> LiveContext:
        """Keep at most this many samples of the context, and return it."""
        self.context = self.context.last(count)
        return self.context

    def read(self, channel: int, start: int, end: int) -> Samples:  # noqa: ARG002  # as in the base class
        context, count = self.context.samples, len(self.context.samples)
        return np.concatenate([context[count + start : count + end], self._samples[max(0, start) : max(0, end)]])


def _words(accepted: AcceptedDecoding) -> tuple[GuessedWord, ...]:
    """Return the words of a guess."""
    if accepted.uncertain:
        return ()
    tokens, end_of_text = accepted.decoding.tokens, accepted.tokenizer.eot
    positions = [position for position, token in enumerate(tokens) if token < end_of_text]
    words: list[GuessedWord] = []
    last = -1
    for text, count in zip(*split_words(accepted.tokenizer, [tokens[at] for at in positions]), strict=True):
        last += count
        words.append(GuessedWord(text, tokens[: positions[last] + 1]))
    return tuple(words)
