"""Transcribing the utterances of a session, one after the other, while they are spoken.

While a window is spoken, the model guesses at its text again and again, and the words that guesses agree on are sent.
When it has ended, its final text is transcribed as a file's would be, and continues what was said before. A guess
begins only after the one before it has come back, and then waits twice as long: a busy machine makes the pauses longer,
and nothing queues.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol

from app.domain.errors import InvalidRequest, ServiceError
from app.domain.events import UtteranceTranscribed
from app.domain.languages import language_code
from app.realtime import server_events
from app.realtime.agreement import Agreement, text_after
from app.realtime.audio import RATE
from app.transcription.live_context import NO_CONTEXT

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractAsyncContextManager

    from app.domain.events import EventSink
    from app.domain.transcript import TokenLogprob, Transcript, TranscriptionOptions
    from app.realtime.audio import Samples
    from app.realtime.server_events import ServerEvent
    from app.realtime.utterance import LiveWindow, Utterance
    from app.transcription.live import GuessedWord
    from app.transcription.live_context import LiveContext
    from app.transcription.models import ModelRegistry

logger = logging.getLogger(__name__)

#: The least new speech between two guesses.
_GUESS_SAMPLES: Final = RATE // 2
#: The share of the time in which a session has a guess on the model is at most 1 over this.
_REST: Final = 3
#: A guess that covers more than this is followed, after a pause, by one that begins there.
_LONG_GUESS_SAMPLES: Final = 6 * RATE

#: If more than this waits behind a window, it is transcribed without its context, in about two thirds of the time.
_LATE_SAMPLES: Final = 30 * RATE


class SpeechSearch(Protocol):
    """Voice activity detection for one stream. See :class:`app.transcription.live.LiveDetector`."""

    async def feed(self, samples: Samples) -> list[float]:
        """Return the probabilities of speech in the frames that are complete with these samples."""


class LiveModel(Protocol):
    """A model for live audio. See :class:`app.transcription.live.LiveTranscriber`."""

    async def guess(
        self, samples: Samples, options: TranscriptionOptions, *, beginning: Sequence[int] = ()
    ) -> tuple[GuessedWord, ...]:
        """Return the words of audio that may end within one."""

    async def transcribe(self, samples: Samples, options: TranscriptionOptions, *, context: LiveContext) -> Transcript:
        """Return the transcript of what was said after the context."""


class LiveModels(Protocol):
    """The models for live audio. See :class:`app.transcription.pool.ModelPool`."""

    @property
    def model_registry(self) -> ModelRegistry: ...

    def live(self, options: TranscriptionOptions) -> AbstractAsyncContextManager[LiveModel]:
        """Keep the requested model while the context lasts."""

    def live_detector(self) -> SpeechSearch:
        """Return voice activity detection for one stream."""


@dataclass(slots=True)
class _Result:
    """The final text of an utterance, so far."""

    text: str = ""
    logprobs: list[TokenLogprob] = field(default_factory=list)
    languages: dict[str, None] = field(default_factory=dict)
    warnings: dict[str, None] = field(default_factory=dict)

    def add(self, transcript: Transcript) -> str:
        """Add the transcript of a window and return its text, with its leading space."""
        text = "".join(segment.text for segment in transcript.segments)
        self.text += text
        self.logprobs += transcript.logprobs
        self.warnings |= dict.fromkeys(transcript.warnings)
        if text and (code := language_code(transcript.language)) is not None:
            self.languages[code] = None
        return text


class UtteranceTranscriber:
    """Transcribes utterances in order and sends their events with ``send``.

    ``count`` is called with an utterance and the position up to which its text is final.
    """

    def __init__(
        self,
        models: LiveModels,
        *,
        send: Callable[[ServerEvent], None],
        count: Callable[[Utterance, int], None],
        emit: EventSink,
    ) -> None:
        self._models = models
        self._send = send
        self._count = count
        self._emit = emit
        self._utterances: list[Utterance] = []
        self._context = NO_CONTEXT
        self._changed = asyncio.Event()

    @property
    def waiting_samples(self) -> int:
        """The samples that were said and are not transcribed yet."""
        return sum(utterance.waiting_samples for utterance in self._utterances)

    @property
    def unfinished(self) -> tuple[Utterance, ...]:
        """The utterances that are not completed, the oldest first."""
        return tuple(self._utterances)

    def add(self, utterance: Utterance) -> None:
        """Take an utterance at its beginning."""
        self._utterances.append(utterance)
        self._changed.set()

    async def run(self) -> None:
        """Transcribe utterances until cancelled."""
        while True:
            await self.wait_until(lambda: bool(self._utterances))
            await self._transcribe(self._utterances[0])
            del self._utterances[0]
            self._changed.set()

    async def wait_until_done(self) -> None:
        """Wait until all utterances are transcribed."""
        await self.wait_until(lambda: not self._utterances)

    async def wait_until(self, condition: Callable[[], bool]) -> None:
        """Wait until the beginning of an utterance, or the text of a window, makes the condition true."""
        while not condition():
            self._changed.clear()
            await self._changed.wait()

    async def _transcribe(self, utterance: Utterance) -> None:
        """Transcribe an utterance. If that fails, the client receives the reason, and the next one has its turn."""
        item_id, result = utterance.item_id, _Result()
        try:
            await self._transcribe_windows(utterance, result)
        except ServiceError as exc:
            await utterance.wait_until(lambda: utterance.has_ended)
            kind = "invalid_request_error" if isinstance(exc, InvalidRequest) else "server_error"
            self._send_of(utterance, server_events.failed(item_id, str(exc), code=_code(exc), kind=kind))
        except Exception:  # a bug of ours fails one item, not the session
            logger.exception("An utterance could not be transcribed")
            await utterance.wait_until(lambda: utterance.has_ended)
            self._send_of(
                utterance, server_events.failed(item_id, "Internal error: see the server's log for its cause.")
            )
        else:
            self._send_of(
                utterance,
                server_events.completed(
                    item_id,
                    result.text.strip(),
                    seconds=utterance.samples / RATE,
                    languages=list(result.languages),
                    logprobs=result.logprobs if utterance.config.includes_logprobs else None,
                    warnings=list(result.warnings),
                ),
            )

    async def _transcribe_windows(self, utterance: Utterance, result: _Result) -> None:
        async with self._models.live(utterance.options) as model:
            while (window := utterance.window) is not None:
                shown = await self._guess(model, utterance, window)
                if utterance.is_discarded:
                    return
                began = time.monotonic()
                is_late = self.waiting_samples - window.samples > _LATE_SAMPLES
                context = NO_CONTEXT if is_late else self._context
                transcript = await model.transcribe(window.audio, utterance.options, context=context)
                self._context = self._context.followed_by(window.audio, transcript, utterance.options)
                self._emit(UtteranceTranscribed(transcript.duration, time.monotonic() - began))
                self._count(utterance, window.end)
                self._show(utterance, text_after(shown, result.add(transcript)))
                utterance.forget(window)
                self._changed.set()

    async def _guess(self, model: LiveModel, utterance: Utterance, window: LiveWindow) -> str:
        """Send the words that guesses agree on until the window ends, and return them."""
        agreement, shown = Agreement(), ""
        start, guess_at = window.start, window.start + _GUESS_SAMPLES
        while True:
            await utterance.wait_until(partial(window.is_due, guess_at))
            if window.has_ended:
                return shown
            guessed_to, began = window.spoken_to, time.monotonic()
            pause = window.resumed_at if window.resumed_at - start >= _LONG_GUESS_SAMPLES else None
            audio = window.audio_between(start, pause or window.end)
            guess = asyncio.create_task(model.guess(audio, utterance.options, beginning=agreement.tokens), name="guess")
            if not await _ends_first(guess, utterance, window):
                return shown
            text = agreement.add(guess.result()) if pause is None else agreement.finish(guess.result())
            self._show(utterance, text)
            shown += text
            if pause is not None:
                agreement, start = Agreement(), pause
            guess_at = guessed_to + max(_GUESS_SAMPLES, round(_REST * (time.monotonic() - began) * RATE))

    def _show(self, utterance: Utterance, text: str) -> None:
        """Send text as a delta; the first one has no leading space."""
        text = text if utterance.shown else text.lstrip()
        if text:
            utterance.shown += text
            self._send_of(utterance, server_events.delta(utterance.item_id, text))

    def _send_of(self, utterance: Utterance, event: ServerEvent) -> None:
        if not utterance.is_discarded:
            self._send(event)


async def _ends_first(guess: asyncio.Task[tuple[GuessedWord, ...]], utterance: Utterance, window: LiveWindow) -> bool:
    """Return True when the guess is there, or cancel it and return False if the window ends before."""
    ended = asyncio.create_task(utterance.wait_until(lambda: window.has_ended), name="end of window")
    try:
        await asyncio.wait({guess, ended}, return_when=asyncio.FIRST_COMPLETED)
        return guess.done()
    finally:
        for task in (guess, ended):
            task.cancel()
        await asyncio.wait({guess, ended})


def _code(exc: ServiceError) -> str | None:
    return exc.code if isinstance(exc, InvalidRequest) else None
