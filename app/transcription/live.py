"""Live audio on the model: guesses at what is being said, and the text of what was said.

Both go through the batches of all transcriptions, ahead of files. A guess is decoded greedily, without fallbacks, and
continues the text that earlier guesses agree on, so that it never contradicts it. The text of what was said is
transcribed like a short file.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from app.domain.concurrency import first_error_only
from app.transcription.file_transcription import FileTranscription
from app.transcription.recording import Recording
from app.transcription.transcriber import Listener
from app.transcription.transcription import Rank, Transcription
from app.transcription.vad import Span, SpeechDetector, as_float
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
        features = await self._front_end.run_soon(lambda: self._model.features(as_float(samples)))
        window = Window(
            channel=0,
            number=0,
            spans=(Span(0, len(samples)),),
            features=features,
            task=options.task,
            beam_size=1,
            temperatures=(0.0,),
            prompt=self._model.prompt(options),
            guess=True,
            beginning=tuple(beginning),
            language=options.known_language,
            candidates=options.languages,
        )
        transcription = _Guess(synchronous=True)
        self._batcher.open(transcription)
        try:
            self._batcher.submit(transcription, window)
            self._batcher.complete(transcription)
            await transcription.wait_until_ended()
        finally:
            self._batcher.drop(transcription)
        return await asyncio.get_running_loop().run_in_executor(self._text_thread, _words, window.accepted[0])

    async def transcribe(self, samples: Samples, options: TranscriptionOptions) -> Transcript:
        """Return the transcript of what was said.

        Raises:
            TranscriptionFailed: The model raised an error, and again when the window was retried alone.
            EngineFailed: The engine has died.
        """
        transcription = _LiveTranscription(
            self._batcher,
            self._front_end,
            self._model,
            _LiveRecording(samples),
            options,
            Listener(),
            text_thread=self._text_thread,
            synchronous=True,
        )
        with first_error_only():
            async with asyncio.TaskGroup() as group:
                return await transcription.run(group)


class _Guess(Transcription):
    """The transcription of a guess: one window."""

    @property
    def rank(self) -> Rank:
        return Rank.LIVE_GUESS


class _LiveTranscription(FileTranscription):
    """The transcription of what was said. Only a short one goes first, as with files."""

    @property
    def rank(self) -> Rank:
        rank = super().rank
        return Rank.LIVE if rank.is_short else rank


class _LiveRecording(Recording):
    """A recording in memory."""

    def __init__(self, samples: Samples) -> None:
        super().__init__(Path())
        self._samples = samples
        self.complete(len(samples), 1)

    def read(self, channel: int, start: int, end: int) -> Samples:  # noqa: ARG002  # as in the base class
        return np.array(self._samples[start:end])


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
