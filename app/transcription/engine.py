"""The Transcriber: decode, wait for a permit, then window after window through the model."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import numpy as np

from app.domain.languages import language_name
from app.domain.transcript import Transcript
from app.transcription.speech import SAMPLE_RATE, WINDOW_SAMPLES, Span, as_float, windows
from app.transcription.transcriber import FinishedWindow, Turn

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from threading import Event

    from app.domain.transcript import Segment, TranscriptionOptions
    from app.transcription.decoding import Decoded, Decoder
    from app.transcription.gate import Gate
    from app.transcription.speech import Samples
    from app.transcription.transcriber import Listener
    from app.transcription.whisper import WhisperModel

#: So many jobs at most are being decoded, or are decoded and wait for a permit: what bounds the PCM on disk.
DECODERS: Final = 4


class WhisperTranscriber:
    """Transcribes with one model; ``gate`` says how many jobs are on it at a time."""

    def __init__(self, model: WhisperModel, *, decoder: Decoder, gate: Gate) -> None:
        self.model = model
        self._decoder = decoder
        self._gate = gate
        self._ahead = asyncio.Semaphore(DECODERS)

    @property
    def active(self) -> int:
        return self._gate.held

    def close(self) -> None:
        """Takes no more work; a window on the model is not waited for."""
        self._gate.close()

    async def transcribe(self, source: Path, options: TranscriptionOptions, *, listener: Listener) -> Transcript:
        """See :class:`app.transcription.transcriber.Transcriber`."""
        listener.on_turn(Turn.WAITING)
        pcm = source.with_name(source.name + ".pcm")
        loop = asyncio.get_running_loop()

        def emit(window: FinishedWindow) -> None:
            loop.call_soon_threadsafe(listener.on_window, window)

        async with AsyncExitStack() as stack:
            async with self._ahead:
                decoded = await self._decoder.decode(source, pcm)
                listener.on_decoded(decoded.duration)
                permit = await stack.enter_async_context(self._gate.permit())
            listener.on_turn(Turn.ACTIVE)
            run = _Run(self.model, decoded, options, emit)
            return await permit.run(run)


class Stopped(Exception):
    """The work was not wanted any more."""


class _Run:
    """The blocking part, in one thread: looks between windows whether it is still wanted."""

    def __init__(
        self,
        model: WhisperModel,
        decoded: Decoded,
        options: TranscriptionOptions,
        emit: Callable[[FinishedWindow], None],
    ) -> None:
        self._model = model
        self._decoded = decoded
        self._options = options
        self._emit = emit
        self._language = options.language
        self._segments: list[Segment] = []

    def __call__(self, stop: Event) -> Transcript:
        pcm: Samples = np.memmap(self._decoded.pcm, dtype="<i2", mode="r")
        self._decoded.pcm.unlink()  # what is mapped stays readable, and nothing is left behind however this ends
        spans = windows(pcm, self._options.speech_detection, only_speech=self._options.vad_filter)
        for span in spans:
            if stop.is_set():
                raise Stopped
            self._transcribe(pcm, span)
        language = self._language or self._model.detect_language(as_float(pcm, Span(0, WINDOW_SAMPLES)))
        return Transcript(
            task=self._options.task,
            language=language_name(language),
            duration=self._decoded.duration,
            segments=tuple(self._segments),
        )

    def _transcribe(self, pcm: Samples, span: Span) -> None:
        found = self._model.transcribe_window(
            as_float(pcm, span),
            self._options,
            language=self._language,
            offset_seconds=span.start / SAMPLE_RATE,
        )
        self._language = found.language
        count = len(self._segments)
        segments = tuple(replace(segment, id=count + segment.id) for segment in found.segments)
        self._segments += segments
        self._emit(
            FinishedWindow(
                segments=segments,
                seconds_done=span.end / SAMPLE_RATE,
                duration=self._decoded.duration,
                language=language_name(found.language),
            )
        )
